//! Bridges, taps and VMs come and go: does a network without its bridge say so, find it again, and leave the others alone?
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::{Value, json};
use vonic_tests::frames::{self, Mac, ip4, mac};
use vonic_tests::lan::{self, BRIDGE, Host, bridged, reaches, uplink, wait_reaches};
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader};
use vonic_tests::*;

/// Whether the kernel has an interface of this name in the test's namespace.
fn has_link(name: &str) -> bool {
    ip(&format!("link show dev {name}")).is_ok()
}

fn count(text: &str, words: &str) -> usize {
    text.matches(words).count()
}

#[test]
fn a_bridge_that_goes_and_comes_again_is_found_again() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    assert_eq!(
        uplink(&bed, "a").unwrap(),
        json!({ "kind": "tap:br0", "interface": "vonic-a", "error": null, "warnings": [] })
    );
    for round in 1..=2 {
        ip(&format!("link del {BRIDGE}")).unwrap();
        wait_until("the error", seconds(5), || {
            uplink(&bed, "a").unwrap()["error"]
                .as_str()
                .is_some_and(|error| error.contains("make it (ip link add br0 type bridge"))
        })
        .unwrap();
        // What was its port would be the host's own interface now: it is down, and takes nothing.
        let before = bed.vonicd.drops("a", "uplink_down").unwrap();
        assert!(!reaches(&mut a, 2, &hosts[0]));
        assert_eq!(bed.vonicd.drops("a", "uplink_down").unwrap(), before + 1);
        // The guests still have each other.
        a.send_frame(&VnetHeader::default(), &frames::arp_request(2, ip4(3))).unwrap();
        b.expect_frame("question", seconds(5), |frame| frame[12..14] == [8, 6] && frame[38..42] == ip4(3).octets())
            .unwrap();
        lan::bridge(1500).unwrap();
        hosts.iter().for_each(|host| host.plug().unwrap());
        wait_reaches(&mut a, 2, &hosts[0]).unwrap();
        wait_reaches(&mut b, 3, &hosts[1]).unwrap();
        assert_eq!(uplink(&bed, "a").unwrap()["error"], Value::Null);
        assert_eq!(count(&bed.vonicd.log(), "degraded, and tried again"), round, "once each time");
        assert_eq!(count(&bed.vonicd.log(), "its bridge is reached again"), round);
    }
    bed.vonicd.stop().unwrap();
    assert!(!has_link("vonic-a"), "taps go with vonicd");
}

#[test]
fn a_tap_that_is_deleted_or_moved_is_made_right_again() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    for change in ["link del vonic-a", "link set vonic-a nomaster", "link set vonic-a down"] {
        ip(change).unwrap();
        wait_until(change, seconds(10), || {
            reaches(&mut a, 2, &hosts[0]) && uplink(&bed, "a").unwrap()["error"] == Value::Null
        })
        .unwrap();
    }
    assert_eq!(uplink(&bed, "a").unwrap()["interface"], "vonic-a");
}

/// What `ip -d` says of an interface.
fn link(name: &str) -> String {
    let output = std::process::Command::new("ip").args(["-d", "link", "show", "dev", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_tap_is_an_isolated_port_that_operators_can_tell() {
    let (_bed, _hosts) = lan::start(9000, "", "").unwrap();
    let tap = link("vonic-a");
    for words in
        ["mtu 9000", "master br0", "isolated on", "alias vonic: a", "link/ether fe:", "addrgenmode none", ",UP,"]
    {
        assert!(tap.contains(words), "{words}: {tap}");
    }
    // The bridge's address stays that of a machine's port: a tap's is higher than any.
    let address = |text: &str| text.split("link/ether ").nth(1).unwrap()[..17].to_string();
    assert!([link("p10"), link("p11")].iter().any(|port| address(port) == address(&link(BRIDGE))));
}

/// A bridge that is not there yet, and an interface that is none.
#[test]
fn a_bridge_may_come_after_vonicd() {
    isolate().unwrap();
    let config = bridged().vm("a", 2, "").vm("with-a-long-name", 3, "");
    let bed = Bed::start_here(&config).unwrap();
    assert!(uplink(&bed, "a").unwrap()["error"].as_str().unwrap().starts_with("there is no bridge 'br0': make it"));
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    ip(&format!("link add {BRIDGE} type veth peer name other")).unwrap();
    let is_no_bridge = || {
        uplink(&bed, "a").unwrap()["error"].as_str().is_some_and(|error| error.contains("'br0' is no bridge (veth)"))
    };
    wait_until("the other error", seconds(5), is_no_bridge).unwrap();
    ip(&format!("link del {BRIDGE}")).unwrap();
    lan::bridge(1500).unwrap();
    let host = Host::new(10, 1500).unwrap();
    wait_reaches(&mut a, 2, &host).unwrap();
    // A name that is too long for an interface: the kernel gives one, and it is shown.
    let name = uplink(&bed, "with-a-long-name").unwrap()["interface"].as_str().unwrap().to_string();
    assert!(name.starts_with("vonic") && has_link(&name), "{name}");
}

fn write(bed: &Bed, name: &str, text: &str) {
    bed.directory.write(&format!("etc/vms.d/{name}.toml"), text).unwrap();
}

fn reload(bed: &Bed) -> [Value; 3] {
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!(report["errors"], json!([]), "{report}");
    ["added", "changed", "removed"].map(|key| report[key].clone())
}

#[test]
fn vms_come_and_go_by_reload_and_others_streams_stay_whole() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut a = lan::start_guest(&bed, "a", 2, Vmm::Uml, None).unwrap();
    lan::settle(&mut a, 2).unwrap();
    let _server = PeerServer::start("host", bed.directory.path(), "[::]:7", Some(&hosts[0].netns)).unwrap();
    let jobs: Vec<Job> = lan::servers(10)
        .iter()
        .map(|server| a.spawn(&format!("vonic-peer both {server} 400000009 5")).unwrap())
        .collect();
    for round in 0..5 {
        write(&bed, "d", &format!("mac = \"52:54:00:00:00:05\"\naddress4 = \"192.0.2.5\"\nmtu = {}\n", 1400 + round));
        assert_eq!(reload(&bed), [json!(["d"]), json!([]), json!([])]);
        let mut d = bed.mock("d", MockConfig::default()).unwrap();
        wait_reaches(&mut d, 5, &hosts[1]).unwrap();
        assert!(has_link("vonic-d"));
        std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/d.toml")).unwrap();
        assert_eq!(reload(&bed), [json!([]), json!([]), json!(["d"])]);
        assert!(!has_link("vonic-d"));
    }
    for job in jobs {
        let done = job.wait(&mut a, seconds(120)).unwrap();
        assert_eq!(done.status, 0, "{}", done.stdout);
    }
}

#[test]
fn a_reload_changes_a_networks_uplink() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    let service = std::fs::read_to_string(bed.vonicd.config_dir().join("vonic.toml")).unwrap();
    let with =
        |uplink: &str| bed.directory.write("etc/vonic.toml", service.replace("uplink = \"tap:br0\"", uplink)).unwrap();
    // Another bridge: the taps move there, the VMMs notice nothing.
    ip("link add br1 type bridge").unwrap();
    ip("link set br1 up").unwrap();
    ip("link set p11 master br1").unwrap();
    with("uplink = \"tap:br1\"");
    reload(&bed);
    wait_reaches(&mut a, 2, &hosts[1]).unwrap();
    assert!(!reaches(&mut a, 2, &hosts[0]));
    // vonic as the gateway, and back: another kind of network, for which the VMMs connect anew.
    with("uplink = \"sockets\"\nsubnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"");
    assert_eq!(reload(&bed), [json!([]), json!(["a", "b", "c"]), json!([])]);
    assert!(!has_link("vonic-a") && uplink(&bed, "a").unwrap()["interface"].is_null());
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    a.gateway_answers(2).unwrap();
    with("uplink = \"tap:br0\"");
    assert_eq!(reload(&bed), [json!([]), json!(["a", "b", "c"]), json!([])]);
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    assert!(a.gateway_answers(2).is_err(), "vonic is no gateway here");
}

/// A DHCP server among the bridge's machines; vonic's own keeps silent.
#[test]
fn a_server_on_the_bridge_gives_a_guest_its_address() {
    let (mut config, number) = (bridged(), 2);
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    let host = Host::new(10, 1500).unwrap();
    config.vms.insert("a".to_string(), "mac = \"52:54:00:00:00:02\"\n".to_string());
    let bed = Bed::start_here(&config).unwrap();
    let path = |name: &str| bed.directory.path().join(name).display().to_string();
    let lines = format!(
        "start 192.0.2.77\nend 192.0.2.77\ninterface eth0\nlease_file {}\npidfile {}\noption subnet 255.255.255.0\noption router 192.0.2.10\n",
        path("leases"),
        path("udhcpd.pid")
    );
    std::fs::write(path("leases"), "").unwrap();
    let file = bed.directory.write("udhcpd.conf", lines).unwrap();
    let mut command = std::process::Command::new(bed.lab.root().join("usr/bin/busybox"));
    command.args(["udhcpd", "-f"]).arg(file);
    let _server =
        Process::start("udhcpd", &mut command, Some(&host.netns), &bed.directory.path().join("udhcpd.log")).unwrap();
    let guest = GuestConfig { ip4: Ip4::Dhcp, ..GuestConfig::new("a", number, &bed.socket("a")) };
    let mut guest = Guest::boot(&bed.lab, &bed.directory, &guest).unwrap();
    let lease = guest.must("cat /run/lease", seconds(5)).unwrap();
    assert!(lease.contains("ip=192.0.2.77") && lease.contains("server=192.0.2.10"), "{lease}");
    guest.must("ping -c 2 -W 2 192.0.2.10", seconds(10)).unwrap();
}

/// Without the privilege the network is degraded, vonicd runs, and says what is missing.
#[test]
fn without_the_privilege_the_error_names_it() {
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    let mut config = bridged();
    config.service = "[network.own]\nsubnet4 = \"198.51.100.0/24\"\ngateway4 = \"198.51.100.1\"\n".to_string();
    let mut config = config.vm("a", 2, "");
    let b = "mac = \"52:54:00:00:00:03\"\nnetwork = \"own\"\naddress4 = \"198.51.100.3\"\n";
    config.vms.insert("b".to_string(), b.to_string());
    let directory = TempDir::new().unwrap();
    let less = ["setpriv", "--inh-caps", "-net_admin", "--bounding-set", "-net_admin"];
    let vonicd = Vonicd::start_with(&directory, &config, None, &less).unwrap();
    let error = vonicd.vm("a").unwrap()["uplink"]["error"].clone();
    assert_eq!(error, "vonicd may make no tap: give it CAP_NET_ADMIN");
    assert_eq!(count(&vonicd.log(), "network default: degraded, and tried again: vonicd may make no tap"), 1);
    // The other network works.
    let mut b = MockFrontend::start(&vonicd.socket("b"), MockConfig::default()).unwrap();
    let (own, gateway): (Mac, _) = (mac(3), std::net::Ipv4Addr::new(198, 51, 100, 1));
    let question = frames::arp(own, 1, (own, [198, 51, 100, 3].into()), ([0; 6], gateway));
    b.send_frame(&VnetHeader::default(), &question).unwrap();
    b.expect_frame("answer", seconds(5), |frame| frames::arp_answer(frame, gateway).is_some()).unwrap();
}
