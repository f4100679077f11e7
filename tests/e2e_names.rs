//! Names: does the gateway answer guests by the host's resolvers, whoever of these is there, and are guests told so?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::mock::MockConfig;
use vonic_tests::*;

/// A guest of both families with the addresses of its file.
fn guest(bed: &Bed, name: &str, number: u8) -> Guest {
    let plain = GuestConfig::new(name, number, &bed.socket(name));
    let mut guest = bed.start_configured(&GuestConfig { ip6: true, ..plain }).unwrap();
    guest.wait_ready().unwrap();
    let address = format!(
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{number}/64 dev eth0 && \
         ip -6 route add default via 2001:db8::1 dev eth0 metric 100"
    );
    guest.must(&address, seconds(10)).unwrap();
    guest
}

/// What `dig` says of a question to the gateway.
fn dig(guest: &mut Guest, question: &str) -> String {
    let said = guest.run(&format!("dig +short +tries=1 +time=5 {question}"), seconds(20)).unwrap();
    said.stdout
}

#[test]
fn tcp_first() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.53\nnameserver 127.0.0.54\n").unwrap();
    let mut config = TestConfig::both_families().vm("a", 2, "");
    config.service = format!("resolv_conf = \"{}\"", file.display());
    let bed = Bed::start_here(&config).unwrap();
    let second = DnsServer::start("127.0.0.54", 2).unwrap();
    let mut a = guest(&bed, "a", 2);
    for gateway in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(dig(&mut a, &format!("@{gateway} +tcp x.test A")), "203.0.113.2");
        assert_eq!(dig(&mut a, &format!("@{gateway} +tcp x.test AAAA")), "2001:db8:53::2");
        assert!(dig(&mut a, &format!("@{gateway} +tcp long.test TXT")).len() > 4096);
    }
    assert_eq!(second.asked(), (0, 6));
    eprintln!("{}", bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
    bed.vonicd.stop().unwrap();
}

/// What a client's script was told, a line `key=value` each.
fn told(guest: &mut Guest, client: &str) -> String {
    let script = "printf '#!/bin/sh\\nenv >/run/told.$1\\n' >/run/script && chmod +x /run/script";
    guest.must(script, seconds(5)).unwrap();
    guest.must(&format!("busybox {client} -i eth0 -f -q -n -s /run/script"), seconds(30)).unwrap();
    guest.must("cat /run/told.bound", seconds(5)).unwrap()
}

/// Expects exactly these lines among what a script was told.
fn expect_lines(told: &str, lines: &[&str]) {
    for line in lines {
        assert!(told.lines().any(|other| other == *line), "{line} is not in\n{told}");
    }
}

#[test]
fn guests_are_told_of_names_and_again_after_a_reload() {
    let mut config = TestConfig::both_families().vm("web1", 2, "mtu = 1400").vm("b", 3, "hostname = \"db\"");
    config.network.push_str("search = [\"example.org\", \"lab.example\"]\ndns = [\"198.51.100.53\"]\n");
    let bed = Bed::start(&config).unwrap();
    let mut guest = guest(&bed, "web1", 2);
    let v4 = told(&mut guest, "udhcpc");
    expect_lines(
        &v4,
        &["dns=192.0.2.1", "hostname=web1", "domain=example.org", "search=example.org lab.example", "mtu=1400"],
    );
    let v6 = told(&mut guest, "udhcpc6 -O dns -O search");
    assert!(v6.contains("2001:db8::1") || v6.contains("2001:0db8:0000:0000:0000:0000:0000:0001"), "{v6}");
    assert!(v6.contains("example.org"), "{v6}");
    let routers = |bed: &Bed| {
        let mut mock = bed.mock("b", MockConfig::default()).unwrap();
        let (_, frame) = mock.expect_frame("router advertisement", seconds(5), is_advertisement).unwrap();
        frame
    };
    let heard = routers(&bed);
    assert_eq!((heard[59], heard[89]), (0xc0, 0x80), "addresses come by DHCPv6, none is made");
    assert_eq!(heard[118..142], [&[25, 3, 0, 0, 0, 0, 7, 8][..], &lies::ip6(1).octets()].concat());
    assert_eq!(heard[142..], *b"\x1f\x05\0\0\0\0\x07\x08\x07example\x03org\0\x03lab\x07example\0\0\0\0\0\0\0");
    // Other names, and nobody to ask: the connection that there is notices nothing.
    config.network = TestConfig::both_families().network + "search = [\"other.example\"]\ndns = []\n";
    config.vms.insert("web1".into(), config.vms["web1"].clone() + "hostname = \"renamed\"\n");
    let server = bed.server().unwrap();
    let job = guest.spawn(&format!("vonic-peer both 192.0.2.1:{} 50000000 1", server.address().port())).unwrap();
    config.write(&bed.directory).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    let v4 = told(&mut guest, "udhcpc");
    expect_lines(&v4, &["hostname=renamed", "domain=other.example", "search=other.example"]);
    assert!(!v4.contains("\ndns="), "{v4}");
    let heard = routers(&bed);
    assert_eq!(heard[118..126], [25, 3, 0, 0, 0, 0, 0, 0], "no longer");
    let done = job.wait(&mut guest, seconds(60)).unwrap();
    assert!(done.status == 0 && done.stdout.contains("\"failures\":[]"), "{done:?}");
    assert_eq!(bed.vonicd.vm("web1").unwrap()["hostname"], "renamed");
    bed.vonicd.stop().unwrap();
}

fn is_advertisement(frame: &[u8]) -> bool {
    frame.len() > 118 && frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 134
}

#[test]
fn a_guest_makes_its_own_address_and_is_reached_there() {
    isolate().unwrap();
    let far = Netns::new().unwrap();
    far.cable("far", "2001:db8:7::1/64 nodad", "2001:db8:7::2/64 nodad").unwrap();
    let mut config = TestConfig::both_families();
    config.network.push_str("slaac = true\n");
    config.vms.insert("a".into(), "mac = \"52:54:00:00:00:02\"\n".into());
    let bed = Bed::start_here(&config).unwrap();
    let plain = GuestConfig::new("a", 2, &bed.socket("a"));
    let mut guest = bed.start_configured(&GuestConfig { ip4: Ip4::None, ip6: true, ..plain }).unwrap();
    guest.wait_ready().unwrap();
    guest.must("ip link set eth0 up", seconds(5)).unwrap();
    let own = "2001:db8::5054:ff:fe00:2";
    wait_until("the guest's own address", seconds(15), || {
        guest.must("ip -6 addr show dev eth0", seconds(5)).is_ok_and(|s| s.contains(own) && !s.contains("tentative"))
    })
    .unwrap();
    let mut server = PeerServer::start("far", bed.directory.path(), "[2001:db8:7::2]:0", Some(&far)).unwrap();
    let port = server.address().port();
    let bytes = guest.must(&format!("vonic-peer both [2001:db8:7::2]:{port} 10000000 1"), seconds(60)).unwrap();
    assert!(bytes.contains("\"failures\":[]"), "{bytes}");
    assert!(server.report(seconds(10)).unwrap()["error"].is_null());
    for to in ["2001:db8::1", "2001:db8:7::2"] {
        let said = guest.must(&format!("ping6 -c 2 -W 5 -I {own} {to}"), seconds(20)).unwrap();
        assert!(said.contains(" 0% packet loss"), "{to}: {said}");
    }
    // A second one, claimed as the first was; a third, which nobody was asked about, is not the guest's.
    let add = |guest: &mut Guest, address: &str| {
        guest.must(&format!("ip addr add {address}/64 dev eth0"), seconds(5)).unwrap();
        wait_until("an address", seconds(10), || {
            guest
                .must("ip -6 addr show dev eth0", seconds(5))
                .is_ok_and(|s| s.contains(address) && !s.contains("tentative"))
        })
        .unwrap();
        guest.run(&format!("ping6 -c 2 -W 2 -I {address} 2001:db8:7::2"), seconds(20)).unwrap().stdout
    };
    let said = add(&mut guest, "2001:db8::77");
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert_eq!(bed.vonicd.drops("a", "spoofed_address").unwrap(), 0);
    guest.must("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad", seconds(5)).unwrap();
    let said = add(&mut guest, "2001:db8::78");
    assert!(said.contains(" 100% packet loss"), "{said}");
    assert!(bed.vonicd.drops("a", "spoofed_address").unwrap() >= 2);
    bed.vonicd.stop().unwrap();
}
