//! Are the keys of IPv6 read as those of IPv4 are, with what only IPv6 has?
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]
use serde_json::json;
use vonic_control::config::{Change, diff};

#[path = "support/files.rs"]
mod files;
use files::{Files, refused};

const NETWORK: &str = "[network.default]\nsubnet6='2001:db8::/64'\ngateway6='2001:db8::1'\n";
const MAC: &str = "mac = '52:54:00:00:00:02'\n";

fn forward(listen: &str) -> String {
    format!("[[forward]]\nproto = 'tcp'\nlisten = '{listen}'\nport = 80\n")
}

#[test]
fn a_network_of_ipv6_alone_loads() {
    let service = format!("{NETWORK}host_loopback6 = '2001:db8::1'\n");
    let forwards: String = ["[::1]:8080", "[2001:db8:7::1]:443", "*:81", "eth0:82"].map(forward).concat();
    let egress = "[[egress]]\naction = 'allow'\nto = '2001:db8:7::/48'\nproto = 'icmp'\n";
    let vm = format!("{MAC}address6 = '2001:db8:0:0::2'\n{forwards}{egress}");
    let files = Files::new(&[("vonic.toml", &service), ("a.toml", &vm)]);
    let config = files.load().unwrap();
    let network = json!(config.networks["default"]);
    for (key, value) in [("subnet6", "2001:db8::/64"), ("gateway6", "2001:db8::1"), ("host_loopback6", "2001:db8::1")] {
        assert_eq!(network[key], value);
    }
    assert_eq!((&network["subnet4"], &network["gateway4"]), (&json!(null), &json!(null)));
    let read = &config.vms["a"];
    assert_eq!((json!(read)["address6"].as_str(), read.address4), (Some("2001:db8::2"), None));
    assert_eq!(read.egress[0].to_string(), "allow 2001:db8:7::/48 icmp");
    let listens: Vec<String> = read.forwards.iter().map(|f| f.listen.to_string()).collect();
    assert_eq!(listens, ["[::1]:8080", "[2001:db8:7::1]:443", "*:81", "eth0:82"]);
    // A reload sees another address.
    files.write("a.toml", &vm.replace("0::2", "0::3"));
    let changed = files.load().unwrap();
    assert_eq!(diff(&config, &changed), [Change::Changed(Box::new(changed.vms["a"].clone()))]);
}

#[test]
fn the_network_that_nobody_names_has_ipv4_only() {
    let config = Files::new(&[("a.toml", MAC)]).load().unwrap();
    let network = &config.networks["default"];
    assert_eq!((network.subnet6, network.gateway6, network.host_loopback6), (None, None, None));
    assert_eq!(config.vms["a"].address6, None);
}

#[test]
fn bad_networks() {
    for (text, line, words) in [
        ("subnet6 = '2001:db8::/64'", 2, "subnet6 needs gateway6: write gateway6 = \"2001:db8::1\""),
        ("gateway6 = '2001:db8::1'", 2, "gateway6 needs subnet6: write both"),
        ("subnet6 = '192.0.2.0/24'\ngateway6 = '2001:db8::1'", 2, "not an IPv6 subnet: write it as 2001:db8::/64"),
        ("subnet4 = '2001:db8::/64'\ngateway4 = '192.0.2.1'", 2, "not an IPv4 subnet: write it as 192.0.2.0/24"),
        ("subnet6 = '2001:db8::/48'\ngateway6 = '2001:db8::1'", 2, "write a prefix of /64"),
        ("subnet6 = '2001:db8::1/64'\ngateway6 = '2001:db8::1'", 2, "write 2001:db8::/64"),
        ("subnet6 = 'fe80::/64'\ngateway6 = 'fe80::1'", 2, "holds link-local addresses (fe80::/10)"),
        ("subnet6 = 'ff02::/64'\ngateway6 = 'ff02::1'", 2, "holds multicast addresses (ff00::/8)"),
        // The loopback address and the IPv4-mapped ones lie there both.
        ("subnet6 = '::/64'\ngateway6 = '::2'", 2, "holds the unspecified, loopback"),
        ("subnet6 = '2001:db8::/64'\ngateway6 = '192.0.2.1'", 3, "not an IPv6 address: write it as 2001:db8::2"),
        ("subnet6 = '2001:db8::/64'\ngateway6 = '2001:db8::'", 3, "write gateway6 = \"2001:db8::1\""),
        ("subnet6 = '2001:db8::/64'\ngateway6 = '2001:db8:1::1'", 3, "write gateway6 = \"2001:db8::1\""),
        ("uplink = 'tap:br0'\ngateway6 = '2001:db8::1'", 3, "leave gateway6 out"),
        ("uplink = 'tap:br0'\nhost_loopback6 = '2001:db8::1'", 3, "leave host_loopback6 out"),
        ("uplink = 'none'\nhost_loopback6 = '2001:db8::1'", 3, "needs uplink = \"sockets\""),
        ("isolated = true", 1, "needs subnet4 and gateway4, or subnet6 and gateway6"),
    ] {
        refused(&[("vonic.toml", &format!("[network.a]\n{text}\n"))], &format!("vonic.toml:{line}"), words);
    }
    for (loopback, words) in [
        ("::1", "one of the unspecified, loopback or IPv4-compatible addresses"),
        ("::ffff:192.0.2.1", "one of IPv4-mapped addresses"),
        ("fe80::1", "one of link-local addresses"),
        ("2001:db8::", "is no host's address"),
    ] {
        let text = format!("{NETWORK}host_loopback6='{loopback}'\n");
        refused(&[("vonic.toml", &text)], "vonic.toml:4", words);
    }
    let overlap = format!("{NETWORK}[network.other]\nsubnet6='2001:db8::/64'\ngateway6='2001:db8::2'\n");
    refused(&[("vonic.toml", &overlap)], "vonic.toml:5", "subnet6 overlaps the one of network 'default' (");
}

#[test]
fn bad_vms() {
    let of_ipv6 = |text: &str, place: &str, words: &str| {
        let service = format!("{NETWORK}host_loopback6='2001:db8::9'\n");
        refused(&[("vonic.toml", &service), ("a.toml", &format!("{MAC}{text}\n"))], place, words);
    };
    for (address, words) in [
        ("2001:db8::1", "is the gateway's: write another address in 2001:db8::/64"),
        ("2001:db8::9", "is the network's host_loopback6"),
        // The subnet's routers, RFC 4291 §2.6.1.
        ("2001:db8::", "write one as 2001:db8::2"),
        ("2001:db8:0:1::2", "write one as 2001:db8::2"),
        ("fe80::2", "is no host's address in network 'default'"),
        ("192.0.2.2", "is not an IPv6 address: write it as 2001:db8::2"),
    ] {
        of_ipv6(&format!("address6 = '{address}'"), "vms.d/a.toml:2", words);
    }
    of_ipv6("address4 = '192.0.2.2'", "vms.d/a.toml:2", "network 'default' has no subnet4: leave 192.0.2.2 out");
    let with_address = |listen| format!("address6 = '2001:db8::2'\n{}", forward(listen));
    of_ipv6(&forward("[::1]:80"), "vms.d/a.toml:4", "needs the guest's address: write address6 above it");
    of_ipv6(&with_address("127.0.0.1:80"), "vms.d/a.toml:5", "needs the guest's address: write address4 above it");
    of_ipv6(&forward("*:80"), "vms.d/a.toml:4", "write address4 or address6 above it");
    of_ipv6(&with_address("[fe80::1]:80"), "vms.d/a.toml:5", "listen: 'fe80::1' has a meaning on one link only");
    of_ipv6("address6 = '2001:db8::2'\nmtu = 1279", "vms.d/a.toml:3", "write mtu = 1280 or more");
    let tap = "[network.default]\nuplink = 'tap:br0'\n";
    for address in ["fe80::2", "ff02::2", "::1", "::ffff:192.0.2.2"] {
        let vm = format!("{MAC}address6 = '{address}'\n");
        refused(&[("vonic.toml", tap), ("a.toml", &vm)], "vms.d/a.toml:2", "write an address that a guest can have");
    }
    let vm = format!("{MAC}address6 = '2001:db8::1'\n");
    assert!(Files::new(&[("vonic.toml", tap), ("a.toml", &vm)]).load().is_ok(), "no gateway has it");
}

#[test]
fn what_two_vms_claim() {
    let vm = |number: u8, listen: &str| {
        format!("mac='52:54:00:00:00:0{number}'\naddress4='192.0.2.{number}'\naddress6='2001:db8::{number}'\n{listen}")
    };
    let service = format!("{NETWORK}subnet4='192.0.2.0/24'\ngateway4='192.0.2.1'\n");
    for (first, second, clash) in [
        ("[::1]:80", "[::1]:80", true),
        ("[::]:80", "[::1]:80", true),
        ("*:80", "[::1]:80", true),
        ("[::]:80", "eth0:80", true),
        ("[::]:80", "0.0.0.0:80", false),
        ("[::1]:80", "127.0.0.1:80", false),
        ("[::1]:80", "0.0.0.0:80", false),
        ("[::1]:80", "[::1]:81", false),
    ] {
        let (a, b) = (vm(2, &forward(first)), vm(3, &forward(second)));
        let loaded = Files::new(&[("vonic.toml", &service), ("a.toml", &a), ("b.toml", &b)]).load();
        assert_eq!(loaded.is_err(), clash, "{first} and {second}: {loaded:?}");
    }
    let twice = vm(3, "").replace("::3", "::2");
    let files = [("vonic.toml", service.as_str()), ("a.toml", &vm(2, "")), ("b.toml", &twice)];
    refused(&files, "vms.d/b.toml:3", "address6: 2001:db8::2 is also a's (vms.d/a.toml:3): write another one");
}
