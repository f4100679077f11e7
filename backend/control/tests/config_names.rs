//! Are resolvers, domains and hosts' names read as they are written, and everything else refused with what to write instead?
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]
use std::net::IpAddr;
use std::path::Path;

#[path = "support/files.rs"]
mod files;
use files::{Files, refused};

const MAC: &str = "mac = '52:54:00:00:00:02'\n";
const NETWORK: &str = "[network.default]\nsubnet6='2001:db8::/64'\ngateway6='2001:db8::1'\n";

#[test]
fn every_key_is_read_and_has_its_default() {
    let text = format!(
        "resolv_conf = '/run/resolv.conf'\n{NETWORK}dns = ['198.51.100.53', '2001:db8:7::53']\n\
         search = ['example.org', 'a.example']\nslaac = true\n[network.off]\nuplink = 'none'\ndns = []\nsearch = ['x']\n"
    );
    let files =
        [("vonic.toml", text.as_str()), ("web1.toml", MAC), ("b.toml", "mac = '52:54:00:00:00:03'\nhostname = 'db'\n")];
    let config = Files::new(&files).load().unwrap();
    assert_eq!(config.service.resolv_conf, Path::new("/run/resolv.conf"));
    let network = &config.networks["default"];
    let address = |s: &str| s.parse::<IpAddr>().unwrap();
    assert_eq!(network.dns, Some(vec![address("198.51.100.53"), address("2001:db8:7::53")]));
    assert_eq!((&network.search[..], network.slaac), (&["example.org".to_string(), "a.example".to_string()][..], true));
    assert_eq!(config.networks["off"].dns, Some(Vec::new()));
    assert_eq!(config.vms["b"].hostname.as_deref(), Some("db"));
    assert_eq!(config.vms["web1"].hostname.as_deref(), Some("web1"), "its file's name");
    // What cannot be a host's name is none; and who wants none says so.
    let config =
        Files::new(&[("a.b.toml", MAC), ("c.toml", "mac = '52:54:00:00:00:03'\nhostname = ''\n")]).load().unwrap();
    assert_eq!((&config.vms["a.b"].hostname, &config.vms["c"].hostname), (&None, &None));
    assert_eq!(config.service.resolv_conf, Path::new("/etc/resolv.conf"));
    let network = &config.networks["default"];
    assert_eq!((&network.dns, network.search.len(), network.slaac), (&None, 0, false));
}

#[test]
fn bad_values_are_refused_with_their_place() {
    let long = format!("search = ['{0}.{0}.{0}.{0}', 'y']", "x".repeat(62));
    for (text, words) in [
        ("dns = '198.51.100.53'", "write dns = [\"198.51.100.53\"]"),
        ("dns = [53]", "write dns = [\"198.51.100.53\"]"),
        ("dns = ['198.51.100.53:53']", "write it as \"198.51.100.53\", without a port"),
        ("dns = ['ns.example.org']", "write it as \"198.51.100.53\""),
        ("dns = ['0.0.0.0']", "write it as"),
        ("dns = ['198.51.100.53', 'ff02::fb']", "'ff02::fb' is no resolver's address"),
        ("dns = ['2001:db8::1']", "2001:db8::1 is in the guests' own subnet"),
        (
            "dns = ['1.1.1.1', '1.1.1.1', '1.1.1.1', '1.1.1.1', '1.1.1.1', '1.1.1.1', '1.1.1.1', '1.1.1.1', '1.1.1.1']",
            "write at most 8",
        ),
        ("search = 'example.org'", "write search = [\"example.org\"]"),
        ("search = ['example.org.']", "'example.org.' is no domain: write it as \"example.org\""),
        ("search = ['example.org', '']", "'' is no domain"),
        (&long, "have 256 bytes together, an option 255: write fewer"),
        ("slaac = 1", "write slaac = false"),
        ("resolvers = []", "unknown key 'resolvers'"),
    ] {
        refused(&[("vonic.toml", &format!("{NETWORK}{text}\n"))], "vonic.toml:4", words);
    }
    for (text, line, words) in [
        ("uplink = 'none'\ndns = ['198.51.100.53']", 3, "dns needs uplink = \"sockets\""),
        ("uplink = 'none'\nslaac = true", 3, "slaac needs subnet6"),
        ("uplink = 'tap:br0'\ndns = []", 3, "the bridge's own router is the gateway: leave dns out"),
        ("uplink = 'tap:br0'\nsearch = ['x']", 3, "leave search out"),
        ("uplink = 'tap:br0'\nslaac = true", 3, "leave slaac out"),
    ] {
        refused(&[("vonic.toml", &format!("[network.a]\n{text}\n"))], &format!("vonic.toml:{line}"), words);
    }
    refused(&[("vonic.toml", "resolv_conf = 'resolv.conf'\n")], "vonic.toml:1", "write it as /etc/resolv.conf");
    for hostname in ["a.example", "-a", "a_b", "ü", &"x".repeat(64)] {
        let words = "domains belong into the network's search";
        refused(&[("a.toml", &format!("{MAC}hostname = '{hostname}'\n"))], "vms.d/a.toml:2", words);
    }
}
