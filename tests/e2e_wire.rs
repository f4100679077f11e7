//! Segments made by hand: how does a connection begin and end, what is refused, and what is dropped?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::mock::{VnetHeader, feature};
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, connect, listen, reset};
use vonic_tests::*;

const QUIET: Duration = Duration::from_millis(300);

fn start(more: &str) -> (Bed, HandGuest) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, more)).unwrap();
    let guest = HandGuest::start(&bed, "a", 2, feature::PLAIN).unwrap();
    (bed, guest)
}

fn counted(bed: &Bed, reason: &str, count: u64) {
    let drops = || bed.vonicd.drops("a", reason).unwrap();
    wait_until(reason, seconds(5), || drops() >= count)
        .with_context(|| bed.vonicd.vm("a").unwrap().to_string())
        .unwrap();
    assert_eq!(drops(), count, "{reason}");
}

/// A listener whose queue is full: the kernel drops further SYNs until something is accepted (listen(2)).
fn full_listener() -> (TcpListener, u16, Vec<TcpStream>) {
    std::fs::write("/proc/sys/net/core/somaxconn", "1").unwrap();
    let (listener, port) = listen().unwrap();
    let mut fillers = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), Duration::from_millis(200)) {
        fillers.push(stream);
        assert!(fillers.len() < 20, "the queue does not fill");
    }
    (listener, port, fillers)
}

#[test]
fn a_syn_is_answered_only_after_the_host_accepted() {
    let (bed, mut guest) = start("");
    let (listener, port, fillers) = full_listener();
    let mut conn = Conn::new(HOST, (40_000, port));
    for _ in 0..3 {
        // Repeated SYNs change nothing: one connect is on its way.
        guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
        assert!(conn.hear(&mut guest, QUIET).unwrap().is_none(), "an answer before the host's connect was done");
    }
    let rows = bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["state"]), (1, &"SYN-RECEIVED".into()), "{rows}");
    for _ in &fillers {
        accept(&listener).unwrap();
    }
    // The kernel's SYN comes again after 1 s, 3 s, 7 s.
    let answer = conn.expect_such(&mut guest, "SYN-ACK", |_| true).unwrap();
    conn.synchronize(&answer).unwrap();
    conn.ack(&mut guest).unwrap();
    let mut host = accept(&listener).unwrap();
    conn.send(&mut guest, 0, b"hello").unwrap();
    let mut text = [0; 5];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[test]
fn options_are_offered_only_if_the_guest_did() {
    let (_bed, mut guest) = start("mtu = 1400");
    let (_listener, port) = listen().unwrap();
    for (at, scale) in [None, Some(0), Some(14)].into_iter().enumerate() {
        let mut conn = Conn { scale, ..Conn::new(HOST, (40_000 + at as u16, port)) };
        guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
        let answer = conn.expect(&mut guest, "SYN-ACK").unwrap();
        conn.synchronize(&answer).unwrap();
        assert_eq!(answer.options[..4], [2, 4, 5, 80], "MSS is the MTU less 40: {answer:?}");
        assert_eq!(answer.options.windows(2).filter(|pair| [[4, 2], [8, 10]].contains(&[pair[0], pair[1]])).count(), 0);
    }
}

#[test]
fn a_refused_syn_is_reset() {
    let (_bed, mut guest) = start("");
    let (listener, port) = listen().unwrap();
    drop(listener);
    let mut conn = Conn::new(HOST, (40_000, port));
    guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
    let answer = conn.expect(&mut guest, "RST").unwrap();
    assert_eq!((answer.flags, answer.sequence), (Tcp::RST | Tcp::ACK, 0));
    assert_eq!(answer.acknowledgment, conn.iss.wrapping_add(1));
}

#[test]
fn an_unreachable_destination_is_told_by_icmp() {
    let (_bed, mut guest) = start("");
    let nowhere = Ipv4Addr::new(203, 0, 113, 7);
    let conn = Conn::new(nowhere, (40_000, 80));
    let syn = guest.frame(nowhere, &conn.syn(Tcp::SYN));
    guest.mock.send_frame(&VnetHeader::default(), &syn).unwrap();
    let is_icmp = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 1;
    let (header, frame) = guest.mock.expect_frame("ICMP", seconds(5), is_icmp).unwrap();
    verify(&header, &frame).unwrap();
    assert_eq!(frame[26..34], [HOST.octets(), ip4(2).octets()].concat());
    // Destination unreachable, net unreachable (RFC 792): ENETUNREACH, since there is no route.
    let message = &frame[34..];
    assert_eq!((message[0], message[1], frames::checksum(message)), (3, 0, 0));
    let quoted = &message[8..];
    assert_eq!((quoted[0], quoted[9], &quoted[12..20]), (0x45, 6, &syn[26..34]), "the IP header");
    assert_eq!(quoted[20..28], syn[34..42], "ports and sequence number");
}

#[test]
fn denied_destinations_are_dropped_and_counted() {
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:18080\"\nport = 80\n\
        [[egress]]\naction = \"deny\"\nto = \"203.0.113.0/24\"\nports = \"1-1023\"\n\
        [[egress]]\naction = \"allow\"\nto = \"0.0.0.0/1\"\n[[egress]]\naction = \"allow\"\nto = \"128.0.0.0/1\"\n";
    let (bed, mut guest) = start(forward);
    ip("addr add 198.51.100.1/32 dev lo").unwrap();
    let (_listener, port) = listen().unwrap();
    let denied: [([u8; 4], u16); 10] = [
        ([203, 0, 113, 7], 1023),
        ([0, 1, 2, 3], 80),
        ([127, 0, 0, 1], port),
        ([127, 1, 2, 3], port),
        ([224, 0, 0, 1], 80),
        ([239, 255, 255, 250], 80),
        ([255, 255, 255, 255], 80),
        ([192, 0, 2, 77], 80),
        ([192, 0, 2, 1], 18_080),
        ([198, 51, 100, 1], port),
    ];
    // The host's new address is known once it is denied; a listener there would answer until then.
    let own = Ipv4Addr::new(198, 51, 100, 1);
    let mut tries = 0;
    wait_until("the host's address to be known", seconds(10), || {
        tries += 1;
        guest.send(own, &Conn::new(own, (39_000 + tries, 9)).syn(Tcp::SYN)).unwrap();
        bed.vonicd.drops("a", "denied").unwrap() > 0
    })
    .unwrap();
    let before = bed.vonicd.drops("a", "denied").unwrap();
    for (count, (address, port)) in denied.into_iter().enumerate() {
        let mut conn = Conn::new(address.into(), (40_000, port));
        guest.send(conn.remote, &conn.syn(Tcp::SYN)).unwrap();
        counted(&bed, "denied", before + count as u64 + 1);
        assert!(conn.hear(&mut guest, Duration::from_millis(50)).unwrap().is_none(), "{address:?} answered");
    }
    // The rules let these pass: one has no route, the other listens.
    let mut conn = Conn::new(HOST, (40_001, port));
    guest.send(Ipv4Addr::new(203, 0, 113, 7), &Conn::new(HOST, (40_000, 1024)).syn(Tcp::SYN)).unwrap();
    guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
    conn.expect(&mut guest, "SYN-ACK").unwrap();
    counted(&bed, "denied", before + denied.len() as u64);
}

#[test]
fn a_forward_opens_to_the_guest_and_shows_only_the_guests_refusal() {
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:18080\"\nport = 80\n";
    let (_bed, mut guest) = start(forward);
    let mut host = connect("127.0.0.1:18080".parse().unwrap()).unwrap();
    let mut conn = Conn::new(HOST, (80, host.local_addr().unwrap().port()));
    let syn = conn.expect(&mut guest, "SYN").unwrap();
    assert_eq!((syn.flags, &syn.options[..4]), (Tcp::SYN, &[2, 4, 5, 180][..]));
    conn.rcv_nxt = syn.sequence.wrapping_add(1);
    conn.note_scale(&syn.options).unwrap();
    guest.send(HOST, &conn.syn(Tcp::SYN | Tcp::ACK)).unwrap();
    conn.snd_nxt = conn.iss.wrapping_add(1);
    conn.expect_ack(&mut guest).unwrap();
    host.write_all(b"request").unwrap();
    assert_eq!(conn.receive(&mut guest, 7).unwrap().0, b"request");
    conn.send(&mut guest, Tcp::PSH, b"answer").unwrap();
    let mut text = [0; 6];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"answer");

    let mut host = connect("127.0.0.1:18080".parse().unwrap()).unwrap();
    let mut conn = Conn::new(HOST, (80, host.local_addr().unwrap().port()));
    let syn = conn.expect(&mut guest, "SYN").unwrap();
    conn.rcv_nxt = syn.sequence.wrapping_add(1);
    conn.snd_nxt = 0;
    guest.send(HOST, &conn.segment(Tcp::RST | Tcp::ACK, &[])).unwrap();
    assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_repeated_syn_gets_the_same_answer_and_a_late_one_a_challenge() {
    let (_bed, mut guest) = start("");
    let (listener, port) = listen().unwrap();
    let mut conn = Conn::new(HOST, (40_000, port));
    let syn = conn.syn(Tcp::SYN);
    let mut answers = Vec::new();
    for _ in 0..3 {
        guest.send(HOST, &syn).unwrap();
        answers.push(conn.expect(&mut guest, "SYN-ACK").unwrap());
    }
    let same = |a: &Tcp, b: &Tcp| (a.flags, a.sequence, a.acknowledgment) == (b.flags, b.sequence, b.acknowledgment);
    assert!(same(&answers[0], &answers[1]) && same(&answers[0], &answers[2]), "{answers:?}");
    conn.synchronize(&answers[0]).unwrap();
    conn.send(&mut guest, 0, b"x").unwrap();
    conn.expect_ack(&mut guest).unwrap();
    let mut host = accept(&listener).unwrap();
    // RFC 5961 §4.2.
    guest.send(HOST, &syn).unwrap();
    let challenge = conn.expect(&mut guest, "challenge ACK").unwrap();
    assert_eq!((challenge.flags, challenge.acknowledgment), (Tcp::ACK, conn.snd_nxt));
    conn.send(&mut guest, 0, b"y").unwrap();
    let mut text = [0; 2];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"xy");
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let (bed, mut guest) = start("");
    let mut conn = Conn { snd_nxt: 7000, rcv_nxt: 9000, ..Conn::new(HOST, (40_000, 9)) };
    guest.send(HOST, &conn.segment(Tcp::ACK, b"stray")).unwrap();
    // RFC 9293 §3.10.7.1: with an ACK, its number is the reset's; without, the reset acknowledges the segment.
    let answer = conn.expect(&mut guest, "RST").unwrap();
    assert_eq!((answer.flags, answer.sequence), (Tcp::RST, 9000));
    guest.send(HOST, &conn.segment(Tcp::FIN, b"stray")).unwrap();
    let answer = conn.expect(&mut guest, "RST").unwrap();
    assert_eq!((answer.flags, answer.sequence, answer.acknowledgment), (Tcp::RST | Tcp::ACK, 0, 7006));
    guest.send(HOST, &conn.segment(Tcp::RST, &[])).unwrap();
    assert!(conn.hear(&mut guest, QUIET).unwrap().is_none(), "a reset was answered");
    counted(&bed, "no_connection", 3);
}

#[test]
fn resets_pass_both_ways() {
    let (bed, mut guest) = start("");
    let (listener, port) = listen().unwrap();
    let conn = Conn::new(HOST, (40_000, port)).open(&mut guest).unwrap();
    let mut host = accept(&listener).unwrap();
    // Within the window but not next: only challenged (RFC 5961 §3.2).
    let mut inexact = conn.clone();
    inexact.snd_nxt = inexact.snd_nxt.wrapping_add(100);
    guest.send(HOST, &inexact.segment(Tcp::RST, &[])).unwrap();
    let challenge = inexact.expect_such(&mut guest, "challenge ACK", |_| true).unwrap();
    assert_eq!((challenge.flags, challenge.acknowledgment), (Tcp::ACK, conn.snd_nxt));
    guest.send(HOST, &conn.segment(Tcp::RST, &[])).unwrap();
    assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let mut conn = Conn::new(HOST, (40_001, port)).open(&mut guest).unwrap();
    let host = accept(&listener).unwrap();
    reset(host).unwrap();
    let answer = conn.expect_such(&mut guest, "RST", |segment| segment.flags & Tcp::RST != 0).unwrap();
    assert_eq!(answer.sequence, conn.rcv_nxt, "a guest takes no other reset");
    wait_until("both to be forgotten", seconds(5), || {
        bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap() == serde_json::json!([])
    })
    .unwrap();
}

#[test]
fn a_wrong_checksum_costs_one_segment() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let mut guest = HandGuest::start(&bed, "a", 2, feature::PLAIN | feature::CSUM).unwrap();
    let (listener, port) = listen().unwrap();
    let mut conn = Conn::new(HOST, (40_000, port)).open(&mut guest).unwrap();
    let mut host = accept(&listener).unwrap();
    let mut frame = guest.frame(HOST, &conn.segment(Tcp::ACK, b"wrong"));
    *frame.last_mut().unwrap() ^= 1;
    frame[55] ^= 4;
    guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
    counted(&bed, "bad_checksum", 1);
    // A partial checksum is TCP's, or the frame is not TCP as it should be.
    let good = guest.frame(HOST, &conn.segment(Tcp::ACK, b"wrong"));
    let header =
        |start, offset| VnetHeader { flags: 1, csum_start: start, csum_offset: offset, ..VnetHeader::default() };
    for (count, header) in [header(34, 6), header(34, 18), header(14, 16), header(35, 16)].iter().enumerate() {
        guest.mock.send_frame(header, &good).unwrap();
        counted(&bed, "bad_vnet_header", count as u64 + 1);
    }
    let mut partial = guest.frame(HOST, &conn.segment(Tcp::ACK, b"right"));
    let sum = !frames::checksum(&frames::pseudo_header(ip4(2), HOST, 6, 25));
    partial[50..52].copy_from_slice(&sum.to_be_bytes());
    guest.mock.send_frame(&header(34, 16), &partial).unwrap();
    conn.snd_nxt = conn.snd_nxt.wrapping_add(5);
    conn.expect_ack(&mut guest).unwrap();
    let mut text = [0; 5];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"right");
}

#[test]
fn pending_syns_are_limited() {
    let (bed, mut guest) = start("limits = { pending = 3, pending_per_destination = 2 }");
    let (listener, port, fillers) = full_listener();
    let (_second, other, _more) = full_listener();
    for at in 0..4 {
        guest.send(HOST, &Conn::new(HOST, (40_000 + at, port)).syn(Tcp::SYN)).unwrap();
    }
    counted(&bed, "limit", 2);
    for at in 0..3 {
        guest.send(HOST, &Conn::new(HOST, (41_000 + at, other)).syn(Tcp::SYN)).unwrap();
    }
    counted(&bed, "limit", 4);
    let reached = |bed: &Bed, limit: &str| bed.vonicd.stats().unwrap()["vms"]["a"]["limits"][limit].clone();
    assert_eq!([reached(&bed, "pending_per_destination"), reached(&bed, "pending")], [2, 2], "each by its name");
    // Once the first are connected there is room again.
    for _ in &fillers {
        accept(&listener).unwrap();
    }
    let mut first = Conn::new(HOST, (40_000, port));
    let answer = first.expect_such(&mut guest, "SYN-ACK", |_| true).unwrap();
    first.synchronize(&answer).unwrap();
}

#[test]
fn new_connections_per_second_are_limited() {
    let (bed, mut guest) = start("limits = { new_per_second = 2 }");
    let (listener, port) = listen().unwrap();
    drop(listener);
    let refused = |guest: &mut HandGuest, at: u16| {
        let mut conn = Conn::new(HOST, (at, port));
        guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
        conn.hear(guest, QUIET).unwrap().is_some_and(|(_, answer)| answer.flags & Tcp::RST != 0)
    };
    let burst: Vec<Conn> = (0..8).map(|at| Conn::new(HOST, (40_000 + at, port))).collect();
    for conn in &burst {
        guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
    }
    wait_until("the limit", seconds(5), || bed.vonicd.drops("a", "limit").unwrap() >= 4).unwrap();
    assert!(bed.vonicd.drops("a", "limit").unwrap() <= 6, "a bucket of two connections has let fewer than two pass");
    // The bucket fills again.
    let mut at = 41_000;
    wait_until("a token", seconds(5), || {
        at += 1;
        refused(&mut guest, at)
    })
    .unwrap();
}

#[test]
fn dhcp_gives_the_configured_address() {
    let (bed, mut guest) = start("mtu = 1400");
    let request = |kind: u8, options: &[u8]| {
        let mut message = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef];
        message.resize(28, 0);
        message.extend(mac(2));
        message.resize(236, 0);
        message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
        message.extend(options);
        message.push(255);
        frames::udp((mac(2), frames::BROADCAST), [0; 4].into(), [255; 4].into(), (68, 67), &message)
    };
    let mut ask = |kind: u8, options: &[u8]| {
        guest.mock.send_frame(&VnetHeader::default(), &request(kind, options)).unwrap();
        let is_answer = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 17 && frame[34..38] == [0, 67, 0, 68];
        let (header, frame) = guest.mock.expect_frame("DHCP answer", seconds(5), is_answer).unwrap();
        verify(&header, &frame).unwrap();
        let message = frame[42..].to_vec();
        assert_eq!((message[0], &message[4..8], &message[28..34]), (2, &[0xde, 0xad, 0xbe, 0xef][..], &mac(2)[..]));
        message
    };
    let option = |message: &[u8], wanted: u8| -> Option<Vec<u8>> {
        let mut rest = &message[240..];
        while let [kind, length, ..] = *rest {
            let length = usize::from(length);
            match kind {
                255 => return None,
                0 => rest = &rest[1..],
                _ if kind == wanted => return Some(rest[2..2 + length].to_vec()),
                _ => rest = &rest[2 + length..],
            }
        }
        None
    };
    // RFC 2132: 53 message type (offer 2, ack 5, nak 6), 1 mask, 3 router, 54 server, 51 lease, 26 MTU.
    for (kind, options, answer) in [(1, &[][..], 2), (3, &[50, 4, 192, 0, 2, 2, 54, 4, 192, 0, 2, 1][..], 5)] {
        let message = ask(kind, options);
        assert_eq!(message[16..20], ip4(2).octets(), "yiaddr");
        let facts: [(u8, &[u8]); 5] =
            [(53, &[answer]), (1, &[255, 255, 255, 0]), (3, &HOST.octets()), (54, &HOST.octets()), (26, &[5, 120])];
        for (number, value) in facts {
            assert_eq!(option(&message, number).as_deref(), Some(value), "option {number}");
        }
        assert!(option(&message, 51).is_some_and(|lease| lease != [0; 4]));
    }
    let refused = ask(3, &[50, 4, 192, 0, 2, 3, 54, 4, 192, 0, 2, 1]);
    assert_eq!((option(&refused, 53), &refused[16..20]), (Some(vec![6]), &[0; 4][..]));
    drop(bed);
}
