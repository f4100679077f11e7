//! Names: does the gateway answer guests by the host's resolvers, whoever of these is there, and are guests told so?
#![allow(clippy::unwrap_used, reason = "test code")]

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
