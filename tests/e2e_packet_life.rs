//! Interfaces, engines and VMs come and go: do guests with packet sockets keep what is theirs, does a network without its interface say
//! so and find it again?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::UdpSocket;

use serde_json::{Value, json};
use vonic_peer::packet::Wire;
use vonic_tests::frames::{self, BROADCAST, ip4, mac};
use vonic_tests::lan::{self, Host, JACK, MACVLAN, NIC, reaches, uplink, wait_reaches};
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader, code};
use vonic_tests::*;

fn wait_error(bed: &Bed, vm: &str, words: &str) {
    let has = || uplink(bed, vm).unwrap()["error"].as_str().is_some_and(|error| error.contains(words));
    wait_until(words, seconds(10), has).unwrap();
}

fn count(text: &str, words: &str) -> usize {
    text.matches(words).count()
}

#[test]
fn an_interface_that_goes_and_comes_again_is_found_again() {
    let (bed, hosts) = lan::start_at_nic(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    for round in 1..=2 {
        ip(&format!("link del {NIC}")).unwrap();
        wait_error(&bed, "a", "there is no interface 'nic0': make it");
        let before = bed.vonicd.drops("a", "uplink_down").unwrap();
        assert!(!reaches(&mut a, 2, &hosts[0]));
        assert_eq!(bed.vonicd.drops("a", "uplink_down").unwrap(), before + 1);
        // The guests still have each other.
        a.send_frame(&VnetHeader::default(), &frames::arp_request(2, ip4(3))).unwrap();
        b.expect_frame("question", seconds(5), |frame| frame[12..14] == [8, 6] && frame[38..42] == ip4(3).octets())
            .unwrap();
        lan::nic(1500).unwrap();
        wait_reaches(&mut a, 2, &hosts[0]).unwrap();
        wait_reaches(&mut b, 3, &hosts[1]).unwrap();
        // It was there before it was up, which may have been seen; frames pass before that is looked at again.
        wait_until("the end of the error", seconds(10), || uplink(&bed, "a").unwrap()["error"].is_null()).unwrap();
        wait_until("the log", seconds(5), || count(&bed.vonicd.log(), "its interface is reached again") == round)
            .unwrap();
        assert_eq!(
            count(&bed.vonicd.log(), "degraded, and tried again: there is no interface"),
            round,
            "once each time"
        );
    }
    // Down and up again, it is the same one, and so are the sockets.
    ip(&format!("link set {NIC} down")).unwrap();
    wait_error(&bed, "a", "'nic0' is down: put it up (ip link set nic0 up)");
    assert!(!reaches(&mut a, 2, &hosts[0]));
    ip(&format!("link set {NIC} up")).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    wait_until("the end of the error", seconds(5), || uplink(&bed, "a").unwrap()["error"].is_null()).unwrap();
    bed.vonicd.stop().unwrap();
}

/// An interface that is not there yet, some that guests cannot be at, and one with a smaller MTU.
#[test]
fn what_is_wrong_with_an_interface_is_said() {
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    let host = Host::new(10, 1500).unwrap();
    let bed = Bed::start_here(&lan::at("packet:x0").vm("a", 2, "mtu = 9000\n")).unwrap();
    wait_error(&bed, "a", "there is no interface 'x0'");
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    ip("link add x0 type bridge").unwrap();
    wait_error(&bed, "a", "'x0' is a bridge, which takes in nothing for guests: write uplink = \"tap:x0\"");
    ip("link del x0").unwrap();
    lan::nic(1500).unwrap();
    ip("link add link nic0 name x0 type macvlan mode bridge").unwrap();
    lan::quiet("x0").unwrap();
    ip("link set x0 up").unwrap();
    wait_error(&bed, "a", "'x0' is a macvlan that takes in nothing for other addresses than its own");
    // With the guest's address it is the guest's own, and not promiscuous either.
    ip("link set x0 down").unwrap();
    ip("link set x0 address 52:54:00:00:00:02 up").unwrap();
    wait_until("the end of the error", seconds(10), || uplink(&bed, "a").unwrap()["error"].is_null()).unwrap();
    wait_reaches(&mut a, 2, &host).unwrap();
    let warnings = uplink(&bed, "a").unwrap()["warnings"].clone();
    let mended = "ip link set x0 mtu 9000, or write mtu = 1500";
    assert!(warnings[0].as_str().unwrap().ends_with(mended) && warnings[1].is_null(), "{warnings}");
    // What is too long does not get as far as the kernel.
    let frame = frames::ethernet(mac(10), mac(2), 0x88b5, &[1; 1501]);
    a.send_frame(&VnetHeader::default(), &frame).unwrap();
    assert_eq!(bed.vonicd.drops("a", "oversized").unwrap(), 1);
    a.send_frame(&VnetHeader::default(), &frame[..1514]).unwrap();
    assert_eq!(bed.vonicd.drops("a", "oversized").unwrap(), 1);
}

/// Without CAP_NET_RAW the network is degraded, vonicd runs, and says what is missing. It needs no other privilege, but for more room
/// in the kernel than this host gives everybody.
#[test]
fn without_the_privilege_the_error_names_it() {
    let room: u32 = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    lan::nic(1500).unwrap();
    let host = Host::new(10, 1500).unwrap();
    let config = lan::at(&format!("packet:{NIC}")).vm("a", 2, "");
    for less in ["-net_raw", "-net_admin"] {
        let directory = TempDir::new().unwrap();
        let less_of = ["setpriv", "--inh-caps", less, "--bounding-set", less];
        let vonicd = Vonicd::start_with(&directory, &config, None, &less_of).unwrap();
        let uplink = vonicd.vm("a").unwrap()["uplink"].clone();
        let mut a = MockFrontend::start(&vonicd.socket("a"), MockConfig::default()).unwrap();
        if less == "-net_raw" {
            assert_eq!(uplink["error"], "vonicd may open no packet socket: give it CAP_NET_RAW");
        } else {
            wait_reaches(&mut a, 2, &host).unwrap();
            assert_eq!(uplink.to_string().contains("or give vonicd CAP_NET_ADMIN"), room < 4 << 20, "{uplink}");
        }
    }
}

fn kill_engine(bed: &Bed) -> u32 {
    let old = bed.vonicd.engine().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
    old
}

/// Waits for the engine that follows `old`.
fn wait_engine(bed: &Bed, old: u32) {
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
    wait_until("the API", seconds(10), || bed.vonicd.stats().is_ok()).unwrap();
}

/// Engines die, one is replaced in order, and vonicd is upgraded: the guest's socket stays, with what waits in it.
#[test]
fn a_socket_stays_with_its_frames() {
    let (mut bed, hosts) = lan::start_at_nic(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig { posted: 200, ..MockConfig::default() }).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    hosts[0].netns.ip("neigh replace 192.0.2.2 lladdr 52:54:00:00:00:02 dev eth0").unwrap();
    let machine = hosts[0].netns.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    let program = Vonicd::copy(&bed.directory).unwrap();
    for round in 0..4u8 {
        let send = || (0..20u8).for_each(|n| assert_eq!(machine.send_to(&[round, n], "192.0.2.2:9").unwrap(), 2));
        let old = bed.vonicd.engine().unwrap();
        match round {
            0 | 1 => {
                kill_engine(&bed);
                send();
            }
            2 => {
                send();
                bed.vonicd.vonic_text(&["engine", "restart"]).unwrap();
            }
            _ => {
                send();
                bed.vonicd.upgrade(&program).unwrap();
            }
        }
        wait_engine(&bed, old);
        for n in 0..20u8 {
            // UDP, whose checksum the machine has left to the guest.
            let mine = |frame: &[u8]| frame.len() == 44 && frame[23] == 17;
            let (_, frame) = a.expect_frame("datagram", seconds(5), mine).unwrap();
            assert_eq!(frame[42..], [round, n], "each comes, in order and once");
        }
        assert!(reaches(&mut a, 2, &hosts[0]), "round {round}");
        assert_eq!(uplink(&bed, "a").unwrap()["error"], Value::Null);
    }
    // A VMM may not come back with the next engine: nothing is kept for its guest then, and the next guest gets nothing of it.
    drop(a);
    let old = kill_engine(&bed);
    wait_engine(&bed, old);
    machine.send_to(b"old", "192.0.2.2:9").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    machine.send_to(b"new", "192.0.2.2:9").unwrap();
    let (_, frame) = a.expect_frame("datagram", seconds(5), |frame| frame[23] == 17).unwrap();
    assert_eq!(frame[42..45], *b"new");
}

/// A guest's streams, with the engine killed under them, VMs that come and go beside it, and an address by DHCP from the other side.
#[test]
fn streams_outlive_engines_and_reloads() {
    let (mut config, number) = (lan::at(&format!("packet:{NIC}")), 2);
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    lan::nic(1500).unwrap();
    let hosts = [10, 11].map(|number| Host::new(number, 1500).unwrap());
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
    let _dhcp = Process::start("udhcpd", &mut command, Some(&hosts[0].netns), &bed.directory.path().join("udhcpd.log"))
        .unwrap();
    let guest = GuestConfig { ip4: Ip4::Dhcp, ip6: true, ..GuestConfig::new("a", number, &bed.socket("a")) };
    let mut a = Guest::boot(&bed.lab, &bed.directory, &guest).unwrap();
    let lease = a.must("cat /run/lease", seconds(5)).unwrap();
    assert!(lease.contains("ip=192.0.2.77") && lease.contains("server=192.0.2.10"), "{lease}");
    // And one of IPv6, by a router's word.
    hosts[0].netns.run(|| Ok(Wire::open("eth0")?.send(&router_advertisement())?)).unwrap();
    let made = "ip addr show dev eth0 | grep 2001:db8:77:";
    wait_until("an address of the prefix", seconds(10), || a.run(made, seconds(5)).is_ok_and(|out| out.status == 0))
        .unwrap();
    lan::settle(&mut a, number).unwrap();
    let _server = PeerServer::start("host", bed.directory.path(), "[::]:7", Some(&hosts[0].netns)).unwrap();
    let jobs: Vec<Job> = lan::servers(10)
        .iter()
        .map(|server| a.spawn(&format!("vonic-peer both {server} 400000009 5")).unwrap())
        .collect();
    for round in 0..3 {
        let d = format!("mac = \"52:54:00:00:00:05\"\naddress4 = \"192.0.2.5\"\nmtu = {}\n", 1400 + round);
        bed.directory.write("etc/vms.d/d.toml", d).unwrap();
        assert_eq!(reload(&bed), [json!(["d"]), json!([]), json!([])]);
        let mut d = bed.mock("d", MockConfig::default()).unwrap();
        wait_reaches(&mut d, 5, &hosts[1]).unwrap();
        // Another MAC: another guest.
        bed.directory.write("etc/vms.d/d.toml", "mac = \"52:54:00:00:00:06\"\naddress4 = \"192.0.2.6\"\n").unwrap();
        assert_eq!(reload(&bed), [json!([]), json!(["d"]), json!([])]);
        let mut d = bed.mock("d", MockConfig::default()).unwrap();
        wait_reaches(&mut d, 6, &hosts[1]).unwrap();
        if round < 2 {
            let old = kill_engine(&bed);
            wait_engine(&bed, old);
        }
        std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/d.toml")).unwrap();
        assert_eq!(reload(&bed), [json!([]), json!([]), json!(["d"])]);
    }
    for job in jobs {
        let done = job.wait(&mut a, seconds(120)).unwrap();
        assert_eq!(done.status, 0, "{}", done.stdout);
    }
    for path in ["guest_to_uplink", "uplink_to_guest"] {
        assert_eq!(bed.vonicd.copied(path).unwrap(), 0, "{path}");
    }
}

/// Machine 10 says that it is a router, and that the prefix is 2001:db8:77::/64 (RFC 4861 §4.2 and §4.6.2).
fn router_advertisement() -> Vec<u8> {
    let from: [u8; 16] = "fe80::10".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let to: [u8; 16] = "ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let prefix: [u8; 16] = "2001:db8:77::".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    message.extend(prefix);
    let length = (message.len() as u16).to_be_bytes();
    let summed = [&from[..], &to, &[0, 0], &length, &[0, 0, 0, 58], &message].concat();
    let sum = frames::checksum(&summed);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = [&[0x60, 0, 0, 0][..], &length, &[58, 255], &from, &to, &message].concat();
    frames::ethernet([0x33, 0x33, 0, 0, 0, 1], mac(10), 0x86dd, &packet)
}

fn reload(bed: &Bed) -> [Value; 3] {
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!(report["errors"], json!([]), "{report}");
    ["added", "changed", "removed"].map(|key| report[key].clone())
}

#[test]
fn a_reload_changes_a_networks_uplink() {
    let (bed, hosts) = lan::start_at_nic(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    let service = std::fs::read_to_string(bed.vonicd.config_dir().join("vonic.toml")).unwrap();
    let write = |more: &str, uplink: &str| {
        let text = service.replace("uplink = \"packet:nic0\"", uplink);
        bed.directory.write("etc/vonic.toml", format!("{more}{text}")).unwrap()
    };
    // Another interface: the sockets are others, the VMMs notice nothing.
    lan::macvlan("passthru nopromisc").unwrap();
    write("", &format!("uplink = \"packet:{MACVLAN}\""));
    assert_eq!(reload(&bed), [json!([]), json!([]), json!([])]);
    wait_reaches(&mut a, 2, &hosts[1]).unwrap();
    assert_eq!(uplink(&bed, "a").unwrap()["interface"], MACVLAN);
    // Other kinds of network, for which the VMMs connect anew. With the first and without the last packet socket another engine goes on.
    let with = |uplink: &str| write("", uplink);
    ip(&format!("link del {MACVLAN}")).unwrap();
    let engine = bed.vonicd.engine().unwrap();
    with("uplink = \"tap:br0\"");
    assert_eq!(reload(&bed), [json!([]), json!(["a", "b", "c"]), json!([])]);
    wait_engine(&bed, engine);
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[1]).unwrap();
    let engine = bed.vonicd.engine().unwrap();
    with("uplink = \"packet:nic0\"");
    assert_eq!(reload(&bed), [json!([]), json!(["a", "b", "c"]), json!([])]);
    wait_engine(&bed, engine);
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    // A guest that has come from another host: its VMM has vonic tell the switches.
    let wire = Wire::open(JACK).unwrap();
    let mac_of_a = u64::from_le_bytes([0x52, 0x54, 0, 0, 0, 2, 0, 0]);
    let answer = a.raw().ask(code::SEND_RARP, &mac_of_a.to_le_bytes(), &[]).unwrap();
    assert_eq!(answer.acknowledged(), Some(true));
    let rarp =
        std::iter::from_fn(|| wire.receive(seconds(2)).unwrap()).find(|frame| frame[12..14] == [0x80, 0x35]).unwrap();
    assert_eq!((&rarp[..6], &rarp[6..12]), (&BROADCAST[..], &mac(2)[..]));
    // No engine has asked for a socket that it may not have.
    let log = bed.vonicd.log();
    assert!(!log.contains("not on its list") && !log.contains("may open no packet socket"), "{log}");
    bed.vonicd.stop().unwrap();
}
