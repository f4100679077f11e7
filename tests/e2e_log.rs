//! Does the log, however much of it is asked for, tell what guests send, what the world sends them, or what they call themselves?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use vonic_tests::frames::{self, BROADCAST, Tcp, ip4, mac};
use vonic_tests::lies::{self, Identity};
use vonic_tests::mock::{VnetHeader, feature};
use vonic_tests::wire::{Conn, HOST, HandGuest};
use vonic_tests::*;

/// What every message has in it somewhere, and nothing else in the world has. Short enough for a host's name.
const SECRET: &str = "Zq7xVonicSecret";
const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// It as it might be written: as text, in hexadecimal numbers, and as a list of numbers.
fn forms() -> [String; 4] {
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let listed = format!("{:?}", SECRET.as_bytes());
    let listed_hex = format!("{:x?}", SECRET.as_bytes());
    [SECRET.to_lowercase(), hex, listed[1..listed.len() - 1].into(), listed_hex[1..listed_hex.len() - 1].into()]
}

/// Every line that tells it.
fn told(log: &str) -> Vec<&str> {
    let forms = forms();
    log.lines().filter(|line| forms.iter().any(|form| line.to_lowercase().contains(form))).collect()
}

/// A VM whose vonicd writes down all that it and its libraries have to say.
fn bed() -> Bed {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let config = TestConfig::both_families().vm("a", 2, "").vm("b", 3, "");
    let vonicd = Vonicd::start_with(&directory, &config, None, &["env", "RUST_LOG=trace"]).unwrap();
    Bed { vonicd, lab: Lab::open().unwrap(), directory }
}

/// Frames of every kind, most of them with something wrong.
fn frames() -> Vec<Vec<u8>> {
    let (me, secret) = (Identity::of(2), SECRET.as_bytes());
    let (here, next) = ((me.mac, mac(1)), (me.mac, mac(3)));
    let option = |kind: u8| [&[kind, secret.len() as u8], secret].concat();
    let mut discover = vec![1, 1, 6, 0];
    discover.resize(236, 0);
    discover[28..34].copy_from_slice(&me.mac);
    discover[44..44 + secret.len()].copy_from_slice(secret);
    discover.extend([99, 130, 83, 99, 53, 1, 1]);
    // Its name, its class, its own identifier (RFC 2132), and its name once more (RFC 4702).
    discover.extend([option(12), option(60), option(61), option(81), vec![255]].concat());
    let mut solicit = vec![1, 0, 0, 1, 0, 1, 0, secret.len() as u8 + 4, 0, 2, 0, 0];
    solicit.extend(secret);
    solicit.extend([&[0, 39, 0, secret.len() as u8 + 2, 0, secret.len() as u8], secret].concat());
    solicit.extend([0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let name = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, secret.len() as u8], secret, &[0, 0, 1, 0, 1]].concat();
    let broadcast = (me.mac, BROADCAST);
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let mut all = vec![
        frames::udp(broadcast, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, (68, 67), &discover),
        lies::udp6(here, me.link_local(), servers, (546, 547), &solicit),
        frames::udp(here, me.ip4, ip4(1), (1024, 53), &name),
        frames::udp(here, me.ip4, ip4(1), (1024, 9), secret),
        frames::udp(next, me.ip4, ip4(3), (1024, 9), secret),
        frames::ping(here, me.ip4, ip4(1), 1, secret),
        lies::icmp6(here, (me.ip6, six), 128, secret),
        // Neighbours with options that nobody knows, and a type that nobody knows.
        lies::icmp6(here, (me.ip6, six), 135, &[&[0; 20][..], &[253, 3], secret, &[0; 7]].concat()),
        lies::icmp6(here, (me.ip6, six), 200, secret),
        frames::ethernet(mac(3), me.mac, 0x88b5, secret),
        // Lies: another's address, a length that is none, a protocol that is none.
        frames::udp((mac(9), mac(1)), me.ip4, ip4(1), (1, 2), secret),
        frames::udp(here, ip4(9), ip4(1), (1, 2), secret),
        frames::ethernet(mac(1), me.mac, 0x0800, secret),
        frames::ethernet(mac(1), me.mac, 0x86dd, secret),
        frames::ethernet(mac(1), me.mac, 0x0806, secret),
        frames::ethernet(mac(1), me.mac, 0x0800, &frames::ipv4(me.ip4, ip4(1), 253, secret)),
    ];
    let mut arp = frames::arp_request(2, ip4(1));
    arp.extend(secret);
    all.push(arp);
    all
}

/// The guest tells its story to the service: paths, heads, bodies, good and bad.
fn ask_the_service(guest: &mut HandGuest) {
    let report = format!("{{\"version\":2,\"agent\":\"{SECRET}\",\"hostname\":\"{SECRET}\"}}");
    let unknown = format!("{{\"version\":2,\"{SECRET}\":1,\"interfaces\":\"{SECRET}\"}}");
    let post = |body: &str| {
        format!(
            "POST /v1/stats HTTP/1.1\r\nHost: {SECRET}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let requests = [
        post(&report),
        post(&unknown),
        post(SECRET),
        format!(
            "GET /v1/labels/{SECRET}?{SECRET}={SECRET} HTTP/1.1\r\nHost: a\r\n{SECRET}: {SECRET}\r\nConnection: close\r\n\r\n"
        ),
        format!("GET /v1/events?after={SECRET} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!("{SECRET} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!("{SECRET}\r\n\r\n"),
    ];
    for (port, request) in (5000..).zip(requests) {
        let mut conn = Conn::new(SERVICE, (port, 80)).open(guest).unwrap();
        conn.send(guest, 0, request.as_bytes()).unwrap();
        let (answer, ended) = conn.receive(guest, 1 << 20).context(request.clone()).unwrap();
        assert!(ended && answer.starts_with(b"HTTP/1.1 "), "{request}: {}", String::from_utf8_lossy(&answer));
    }
}

/// Streams and datagrams both ways.
fn speak_with_the_world(guest: &mut HandGuest) {
    let (mut conn, mut stream) = Conn::new(HOST, (4000, 0)).connect(guest).unwrap();
    conn.send(guest, Tcp::PSH, SECRET.as_bytes()).unwrap();
    let mut got = vec![0; SECRET.len()];
    stream.set_nonblocking(false).unwrap();
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, SECRET.as_bytes());
    stream.write_all(SECRET.as_bytes()).unwrap();
    assert_eq!(conn.receive(guest, SECRET.len()).unwrap().0, SECRET.as_bytes());
    // And one that breaks off.
    guest.send(conn.remote, &conn.segment(Tcp::RST | Tcp::ACK, SECRET.as_bytes())).unwrap();
    let machine = UdpSocket::bind("127.0.0.1:0").unwrap();
    machine.set_read_timeout(Some(seconds(5))).unwrap();
    let port = machine.local_addr().unwrap().port();
    let link = (mac(2), guest.mock.gateway_answers(2).unwrap());
    let datagram = frames::udp(link, ip4(2), HOST, (4000, port), SECRET.as_bytes());
    guest.mock.send_frame(&VnetHeader::default(), &datagram).unwrap();
    let mut buffer = [0; 100];
    let (length, from): (usize, SocketAddr) = machine.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], SECRET.as_bytes());
    machine.send_to(SECRET.as_bytes(), from).unwrap();
    let is_answer = |frame: &[u8]| frame.get(23) == Some(&17) && frame.ends_with(SECRET.as_bytes());
    guest.mock.expect_frame("the answer", seconds(5), is_answer).unwrap();
}

#[test]
fn nothing_that_guests_send_or_are_sent_is_in_the_log() {
    let bed = bed();
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let gateway = guest.mock.gateway_answers(2).unwrap();
    for mut frame in frames() {
        if frame[..6] == mac(1) {
            frame[..6].copy_from_slice(&gateway);
        }
        guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
    }
    speak_with_the_world(&mut guest);
    ask_the_service(&mut guest);
    let shown = bed.vonicd.vm("a").unwrap()["agent"].to_string();
    assert!(shown.contains(SECRET), "what its agent has said was taken: {shown}");
    // It is told by whoever asks, and then by the next engine, and goes with the guest.
    bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap();
    bed.vonicd.vonic_text(&["engine", "restart"]).unwrap();
    guest.mock.gateway_answers(2).unwrap();
    drop(guest);
    wait_until("the end of the session", seconds(5), || bed.vonicd.log().contains("a: VMM disconnected")).unwrap();
    let log = bed.vonicd.log();
    assert!(log.contains(" TRACE] ") && log.contains(" DEBUG] "), "not much is written: {log}");
    assert!(told(&log).is_empty(), "{:#?}", told(&log));
    bed.vonicd.stop().unwrap();
}

/// The search finds what it looks for.
#[test]
fn it_would_be_found_in_any_form() {
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02X}")).collect();
    let lines = [
        format!("x {SECRET} y"),
        format!("frame {hex}"),
        format!("{:?}", SECRET.as_bytes()),
        format!("{:x?}", SECRET.as_bytes()),
    ];
    for line in lines {
        assert_eq!(told(&line), [&line]);
    }
    assert!(told("nothing of that").is_empty());
}
