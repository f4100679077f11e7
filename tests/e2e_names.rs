//! Names: does the gateway answer guests by the host's resolvers, whoever of these is there, and are guests told so? `VONIC_LONG=1` asks
//! a guest of QEMU's, too.
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::mock::MockConfig;
use vonic_tests::*;

/// A guest of both families with the addresses of its file.
fn guest(bed: &Bed, name: &str, number: u8) -> Guest {
    guest_on(Vmm::Uml, bed, name, number)
}

fn guest_on(vmm: Vmm, bed: &Bed, name: &str, number: u8) -> Guest {
    let plain = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    let mut guest = bed.start_configured(&GuestConfig { ip6: true, ..plain }).unwrap();
    guest.wait_ready().unwrap();
    let address = format!(
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{number}/64 dev eth0 && \
         ip -6 route add default via 2001:db8::1 dev eth0 metric 100"
    );
    guest.must(&address, seconds(10)).unwrap();
    guest
}

/// What `dig` says of a question to the gateway: the data of the answer, or why there is none.
fn dig(guest: &mut Guest, question: &str) -> String {
    guest.run(&format!("dig +short +tries=1 +time=5 {question}"), seconds(20)).unwrap().stdout
}

/// The gateway's addresses, by which guests ask.
const GATEWAYS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A service that follows `resolv.conf` in its directory, which names `resolvers` at first.
fn service(resolvers: &[&str], more: &str) -> Bed {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let mut config = TestConfig::both_families().vm("a", 2, more);
    config.service = format!("resolv_conf = \"{}\"", directory.path().join("resolv.conf").display());
    directory.write("resolv.conf", resolv_conf(resolvers)).unwrap();
    let lab = Lab::open().unwrap();
    let vonicd = Vonicd::start(&directory, &config).unwrap();
    Bed { vonicd, lab, directory }
}

fn resolv_conf(resolvers: &[&str]) -> String {
    resolvers.iter().map(|address| format!("nameserver {address}\n")).collect()
}

/// Waits until the service asks these.
fn wait_for_resolvers(bed: &Bed, resolvers: &[&str]) {
    let wanted = serde_json::json!(resolvers);
    wait_until("other resolvers", seconds(5), || bed.vonicd.vm("a").unwrap()["resolvers"] == wanted).unwrap();
}

#[test]
fn the_hosts_resolvers_answer_over_udp_and_tcp_in_both_families() {
    // No rule keeps the guest from its gateway's own service; what lies behind it is out of reach.
    let bed = service(&["127.0.0.53"], "[[egress]]\naction = \"deny\"\nto = \"0.0.0.0/0\"\n");
    let server = DnsServer::start("127.0.0.53", 1).unwrap();
    let mut a = guest(&bed, "a", 2);
    for gateway in GATEWAYS {
        for way in ["+notcp", "+tcp"] {
            assert_eq!(dig(&mut a, &format!("@{gateway} {way} x.test A")), "203.0.113.1");
            assert_eq!(dig(&mut a, &format!("@{gateway} {way} x.test AAAA")), "2001:db8:53::1");
        }
        // 1100 bytes fit a datagram that EDNS has made room for, 4 KB do not, and come by TCP.
        let before = server.asked();
        assert_eq!(
            dig(&mut a, &format!("@{gateway} +bufsize=1232 middle.test TXT")).replace(['"', ' '], "").len(),
            1100
        );
        assert_eq!(server.asked(), (before.0 + 1, before.1));
        assert_eq!(dig(&mut a, &format!("@{gateway} +bufsize=1232 long.test TXT")).replace(['"', ' '], "").len(), 4096);
        assert_eq!(server.asked(), (before.0 + 2, before.1 + 1));
        let said = a.must(&format!("busybox nslookup x.test {gateway}"), seconds(20)).unwrap();
        assert!(said.contains("203.0.113.1") && said.contains("2001:db8:53::1"), "{said}");
        // As every program asks: by the C library, which looks into the domain first.
        let file = format!("printf 'nameserver {gateway}\\nsearch example.org\\n' >/run/resolv.conf");
        a.must(&format!("{file} && mount --bind /run/resolv.conf /etc/resolv.conf"), seconds(5)).unwrap();
        let said = a.must("getent ahostsv4 x", seconds(20)).unwrap();
        assert!(said.starts_with("203.0.113.1 ") && said.contains("x.example.org"), "{said}");
    }
    // By this way nothing else of the host's loopback is reached: with the next port it is the rules' matter.
    let before = (server.asked(), bed.vonicd.drops("a", "denied").unwrap());
    a.run("timeout 1 vonic-peer send 192.0.2.1:54 1 1; dig @192.0.2.1 -p 54 +tries=1 +time=1 x.test", seconds(10))
        .unwrap();
    assert_eq!(server.asked(), before.0);
    assert!(bed.vonicd.drops("a", "denied").unwrap() >= before.1 + 2);
    bed.vonicd.stop().unwrap();
}

#[test]
fn the_next_resolver_answers_when_one_does_not() {
    // Nobody listens at the first; to the second there is no way; the third is there.
    let bed = service(&["127.0.0.53", "2001:db8:7::53", "127.0.0.55"], "");
    let third = DnsServer::start("127.0.0.55", 3).unwrap();
    let mut a = guest(&bed, "a", 2);
    // By TCP the guest notices nothing; by UDP it is refused once, and asks again at once.
    assert_eq!(dig(&mut a, "@192.0.2.1 +tcp x.test"), "203.0.113.3");
    assert_eq!(dig(&mut a, "@192.0.2.1 +tcp x.test"), "203.0.113.3");
    let replace = |resolvers: &[&str]| {
        // As resolvconf and NetworkManager do it: a new file takes the old one's name.
        bed.directory.write("resolv.conf.new", resolv_conf(resolvers)).unwrap();
        std::fs::rename(bed.directory.path().join("resolv.conf.new"), bed.directory.path().join("resolv.conf"))
            .unwrap();
        wait_for_resolvers(&bed, resolvers);
    };
    replace(&["127.0.0.54", "2001:db8:7::53", "127.0.0.55"]);
    let said = dig(&mut a, "@192.0.2.1 +tries=3 +time=5 x.test");
    assert!(said.contains("refused") && said.ends_with("\n203.0.113.3"), "{said}");
    assert_eq!(dig(&mut a, "@2001:db8::1 x.test"), "203.0.113.3", "the guest's other family knows it, too");
    assert_eq!(third.asked(), (2, 2));
    // One that accepts and says nothing is passed over when the guest asks again.
    let silent = DnsServer::start("127.0.0.54", 2).unwrap();
    silent.set_silent(true);
    replace(&["127.0.0.54", "127.0.0.55"]);
    let began = std::time::Instant::now();
    let said = dig(&mut a, "@192.0.2.1 +tries=3 +time=3 x.test");
    assert!(said.contains("timed out") && said.ends_with("\n203.0.113.3"), "{said}");
    assert!(began.elapsed() < seconds(8), "{:?}", began.elapsed());
    assert_eq!(silent.asked().0, 1);
    // A black hole: the handshake goes on with the next one when the guest repeats its SYN.
    ip("link add hole type veth peer name hole1").unwrap();
    for command in [
        "addr add 198.51.100.1/24 dev hole",
        "link set hole up",
        "link set hole1 up",
        "neigh add 198.51.100.53 lladdr 02:00:00:00:00:53 dev hole",
    ] {
        ip(command).unwrap();
    }
    replace(&["198.51.100.53", "127.0.0.55"]);
    assert_eq!(dig(&mut a, "@192.0.2.1 +tcp +time=8 x.test"), "203.0.113.3");
    bed.vonicd.stop().unwrap();
}

#[test]
fn the_hosts_resolvers_may_change_and_be_none() {
    let bed = service(&["127.0.0.53"], "");
    let (_first, _second) = (DnsServer::start("127.0.0.53", 1).unwrap(), DnsServer::start("::1", 2).unwrap());
    let mut a = guest(&bed, "a", 2);
    assert_eq!(dig(&mut a, "@192.0.2.1 x.test"), "203.0.113.1");
    // Through two links, as systemd-resolved has it; the last file is replaced.
    let at = |name: &str| bed.directory.path().join(name);
    for name in ["run", "elsewhere"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::os::unix::fs::symlink("elsewhere/resolv.conf", at("link")).unwrap();
    bed.directory.write("elsewhere/resolv.conf", resolv_conf(&["127.0.0.53", "127.0.0.54"])).unwrap();
    std::fs::rename(at("link"), at("resolv.conf")).unwrap();
    wait_for_resolvers(&bed, &["127.0.0.53", "127.0.0.54"]);
    bed.directory.write("elsewhere/new", resolv_conf(&["::1"])).unwrap();
    std::fs::rename(at("elsewhere/new"), at("elsewhere/resolv.conf")).unwrap();
    wait_for_resolvers(&bed, &["::1"]);
    assert_eq!(dig(&mut a, "@192.0.2.1 x.test"), "203.0.113.2", "a guest's IPv4 and a resolver's IPv6");
    // A file that is of no use changes nothing, and is complained of once.
    bed.directory.write("elsewhere/resolv.conf", "nameserver nobody\n").unwrap();
    bed.directory.write("elsewhere/resolv.conf", "nameserver nobody\n\n").unwrap();
    wait_until("a complaint", seconds(5), || bed.vonicd.log().contains("nameserver nobody")).unwrap();
    wait_for_resolvers(&bed, &["::1"]);
    assert_eq!(dig(&mut a, "@2001:db8::1 +tcp x.test"), "203.0.113.2");
    assert_eq!(bed.vonicd.log().matches("nameserver nobody").count(), 1);
    // Switched off, the gateway refuses. What is asked under way stays; here nothing is.
    let file = bed.vonicd.config_dir().join("vonic.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("host_loopback", "# host_loopback");
    std::fs::write(&file, text + "dns = []\n").unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    for question in ["@192.0.2.1 +tcp x.test", "@192.0.2.1 x.test", "@2001:db8::1 x.test"] {
        let said = dig(&mut a, question);
        assert!(said.contains("refused"), "{question}: {said}");
    }
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
    told_of_names(Vmm::Uml);
    if std::env::var_os("VONIC_LONG").is_some() {
        told_of_names(Vmm::Qemu);
    }
}

fn told_of_names(vmm: Vmm) {
    let mut config = TestConfig::both_families().vm("web1", 2, "mtu = 1400").vm("b", 3, "hostname = \"db\"");
    config.network.push_str("search = [\"example.org\", \"lab.example\"]\ndns = [\"198.51.100.53\"]\n");
    let bed = Bed::start(&config).unwrap();
    let mut guest = guest_on(vmm, &bed, "web1", 2);
    let v4 = told(&mut guest, "udhcpc");
    expect_lines(
        &v4,
        &["dns=192.0.2.1", "hostname=web1", "domain=example.org", "search=example.org lab.example", "mtu=1400"],
    );
    wait_until("a link-local address", seconds(10), || {
        guest
            .must("ip -6 addr show dev eth0 scope link", seconds(5))
            .is_ok_and(|s| s.contains("fe80") && !s.contains("tent"))
    })
    .unwrap();
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
        guest.run(&format!("ping6 -c 1 -W 1 -I {address} 2001:db8:7::2"), seconds(20)).unwrap().stdout
    };
    let said = add(&mut guest, "2001:db8::77");
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert_eq!(bed.vonicd.drops("a", "spoofed_address").unwrap(), 0);
    guest.must("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad", seconds(5)).unwrap();
    let said = add(&mut guest, "2001:db8::78");
    assert!(said.contains(" 100% packet loss"), "{said}");
    assert!(bed.vonicd.drops("a", "spoofed_address").unwrap() >= 1);
    bed.vonicd.stop().unwrap();
}
