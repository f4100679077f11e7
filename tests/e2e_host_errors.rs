//! What goes wrong on one side is told to the other: refusals, unreachable and silent peers, resets, and a guest's own complaints. What may
//! pass ends nothing.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::mock::{VnetHeader, feature};
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, connect, ramp, reset, write_urgent};
use vonic_tests::*;

const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Behind the peer, which is a router to it.
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const FORWARD: &str = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:18080\"\nport = 80\n";

/// A guest, and a peer at the end of a cable that answers as its packet filter says.
struct World {
    bed: Bed,
    guest: HandGuest,
    outside: Netns,
    listener: TcpListener,
    port: u16,
}

fn start() -> World {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, FORWARD)).unwrap();
    let outside = Netns::new().unwrap();
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    ip("route add 203.0.113.0/24 via 198.51.100.2").unwrap();
    let listener = outside.run(|| Ok(TcpListener::bind((PEER, 0))?)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let world = World { bed, guest, outside, listener, port };
    world.nft("add table ip x; add chain ip x in { type filter hook input priority 0; }");
    world
}

impl World {
    /// Changes the peer's packet filter.
    fn nft(&self, script: &str) {
        let run = || Ok(std::process::Command::new("nft").arg(script).status()?);
        assert!(self.outside.run(run).unwrap().success(), "nft {script}");
    }

    fn open(&mut self, port: u16) -> (Conn, TcpStream) {
        let conn = Conn::new(PEER, (port, self.port)).open(&mut self.guest).unwrap();
        (conn, accept(&self.listener).unwrap())
    }

    fn tcp(&self, counter: &str) -> u64 {
        self.bed.vonicd.vm("a").unwrap()["tcp"][counter].as_u64().unwrap()
    }

    /// What a SYN is answered with, and how long that takes.
    fn answer(&mut self, to: Ipv4Addr, ports: (u16, u16)) -> (Answer, Duration) {
        let begin = Instant::now();
        let conn = Conn::new(to, ports);
        self.guest.send(to, &conn.syn(Tcp::SYN)).unwrap();
        let found = Cell::new(None);
        self.guest
            .mock
            .expect_frame("an answer to a SYN", seconds(15), |frame| {
                let quotes = |at: usize| frame.get(at..at + 4) == Some(&conn.segment(0, &[]).ports_as_sent());
                if frame[12..14] == [8, 0] && frame[23] == 1 && quotes(62) {
                    found.set(Some(Answer::Icmp(frame[34], frame[35])));
                } else if let Some(tcp) = Tcp::parse(frame).filter(|tcp| tcp.ports == (ports.1, ports.0)) {
                    let reset = tcp.flags & Tcp::RST != 0;
                    found.set(Some(if reset { Answer::Reset } else { Answer::Other(tcp.flags) }));
                }
                found.get().is_some()
            })
            .unwrap();
        (found.take().unwrap(), begin.elapsed())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Reset,
    /// Type and code.
    Icmp(u8, u8),
    /// Another segment, by its flags.
    Other(u8),
}

trait Ports {
    fn ports_as_sent(&self) -> [u8; 4];
}

impl Ports for Tcp {
    fn ports_as_sent(&self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        [a, b, c, d]
    }
}

#[test]
fn why_a_connect_failed_is_told_as_the_network_told_it() {
    let mut world = start();
    ip("route add unreachable 203.0.113.16/28").unwrap();
    ip("route add prohibit 203.0.113.32/28").unwrap();
    let local = |last| Ipv4Addr::new(203, 0, 113, last);
    for (number, to, rejected, expected) in [
        // The host itself knows: EHOSTUNREACH, EACCES, ENETUNREACH.
        (1, local(17), "", Answer::Icmp(3, 1)),
        (2, local(33), "", Answer::Icmp(3, 13)),
        (3, Ipv4Addr::new(192, 88, 99, 1), "", Answer::Icmp(3, 0)),
        // The peer's kernel, its filter, a router on the way.
        (4, PEER, "accept", Answer::Reset),
        (5, PEER, "reject with tcp reset", Answer::Reset),
        (6, PEER, "reject with icmp type port-unreachable", Answer::Reset),
        (7, PEER, "reject with icmp type host-unreachable", Answer::Icmp(3, 1)),
        (8, PEER, "reject with icmp type net-unreachable", Answer::Icmp(3, 0)),
        (9, PEER, "reject with icmp type admin-prohibited", Answer::Icmp(3, 1)),
        (10, FAR, "accept", Answer::Icmp(3, 0)),
    ] {
        world.nft("flush chain ip x in");
        if !rejected.is_empty() {
            world.nft(&format!("add rule ip x in meta l4proto tcp {rejected}"));
        }
        if to == FAR {
            // A router that has no way.
            world.outside.run(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)).unwrap();
        }
        let (answer, took) = world.answer(to, (40_000 + number, 9));
        assert_eq!(answer, expected, "{number}: {to} {rejected}");
        assert!(took < Duration::from_millis(500), "{number}: {took:?}");
    }
    // Nobody has the address, and nobody answers: these take the host's kernel its time.
    world.nft("flush chain ip x in; add rule ip x in meta l4proto tcp drop");
    let nobody = Ipv4Addr::new(198, 51, 100, 77);
    assert_eq!(world.answer(nobody, (40_100, 9)).0, Answer::Icmp(3, 1));
    std::fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").unwrap();
    let port = world.port;
    let (answer, took) = world.answer(PEER, (40_101, port));
    assert!(answer == Answer::Reset && took > seconds(2), "{answer:?} after {took:?}");
    assert_eq!(world.tcp("connect_failed"), 12);
    assert_eq!(world.tcp("open"), 0);
}

#[test]
fn a_peer_that_has_gone_is_noticed_and_one_that_may_come_back_is_waited_for() {
    let mut world = start();
    for (name, value) in [
        ("tcp_keepalive_time", "1"),
        ("tcp_keepalive_intvl", "1"),
        ("tcp_keepalive_probes", "2"),
        ("tcp_retries2", "3"),
    ] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
    }
    let text = ramp(1000);
    let mut got = vec![0; text.len()];
    // Soft errors (RFC 1122 §4.2.3.9): the network says that the peer cannot be reached, for a moment.
    let (mut conn, mut host) = world.open(40_000);
    for kind in ["host", "net", "port"] {
        world.nft(&format!(
            "flush chain ip x in; add rule ip x in meta l4proto tcp reject with icmp type {kind}-unreachable"
        ));
        conn.send(&mut world.guest, Tcp::PSH, &text).unwrap();
        conn.expect_ack(&mut world.guest).unwrap();
        let heard = conn.hear(&mut world.guest, Duration::from_millis(300)).unwrap();
        assert!(heard.is_none(), "{kind}: {heard:?}");
        world.nft("flush chain ip x in");
        host.read_exact(&mut got).unwrap();
        assert!(got == text);
    }
    host.write_all(&text).unwrap();
    assert_eq!(conn.receive(&mut world.guest, text.len()).unwrap().0, text);

    // Nobody answers any more: neither the probes of an idle connection nor its bytes.
    let (_, _idle) = world.open(40_001);
    let (mut busy, _busy) = world.open(40_002);
    world.nft("add rule ip x in meta l4proto tcp drop");
    busy.send(&mut world.guest, Tcp::PSH, &text).unwrap();
    busy.expect_ack(&mut world.guest).unwrap();
    wait_until("the end of all three", seconds(15), || world.tcp("reset") == 3).unwrap();
    let mut resets = Vec::new();
    while let Some((_, frame)) = world.guest.mock.receive_frame(Duration::from_millis(100)).unwrap() {
        resets.extend(Tcp::parse(&frame).filter(|tcp| tcp.flags & Tcp::RST != 0).map(|tcp| tcp.ports.1));
    }
    resets.sort_unstable();
    assert_eq!(resets, [40_000, 40_001, 40_002]);
}

#[test]
fn a_peers_reset_follows_what_it_sent_before() {
    let mut world = start();
    let text = ramp(50_000);
    // A guest that reads slowly: its window has room for a part only.
    for finished in [false, true] {
        let (mut conn, mut host) = world.open(40_000 + u16::from(finished));
        conn.window = 1000; // 16,000 bytes
        conn.ack(&mut world.guest).unwrap();
        host.write_all(&text).unwrap();
        if finished {
            host.shutdown(Shutdown::Write).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100)); // The peer's kernel must have delivered before it drops its queue.
        reset(host).unwrap();
        let (got, fin) = conn.receive(&mut world.guest, text.len()).unwrap();
        assert!(got == text, "{} bytes", got.len());
        if finished && !fin {
            assert_eq!(conn.receive(&mut world.guest, 1).unwrap(), (Vec::new(), true), "the stream is complete");
        }
        let last = conn.expect_such(&mut world.guest, "reset", |tcp| tcp.flags & Tcp::RST != 0).unwrap();
        assert_eq!(last.sequence, conn.rcv_nxt, "a guest takes no other reset");
    }
    // One that has no room and speaks to nobody hears so at once.
    let (mut conn, mut host) = world.open(40_002);
    conn.window = 100;
    conn.ack(&mut world.guest).unwrap();
    host.write_all(&text).unwrap();
    std::thread::sleep(Duration::from_millis(100)); // As above.
    reset(host).unwrap();
    let silent = Instant::now() + Duration::from_millis(300);
    while let Some((_, tcp)) = conn.hear(&mut world.guest, silent.saturating_duration_since(Instant::now())).unwrap() {
        assert_eq!(tcp.flags & Tcp::RST, 0, "there was more to read");
    }
    conn.send(&mut world.guest, Tcp::PSH, b"hello?").unwrap();
    conn.expect_such(&mut world.guest, "reset", |tcp| tcp.flags & Tcp::RST != 0).unwrap();
    assert_eq!(world.tcp("open"), 0);
}

#[test]
fn a_guests_reset_reaches_the_peer_in_every_state() {
    let mut world = start();
    let rst = |world: &mut World, conn: &Conn| world.guest.send(PEER, &conn.segment(Tcp::RST, &[])).unwrap();
    for (number, state) in ["SYN-RECEIVED", "ESTABLISHED", "CLOSE-WAIT", "FIN-WAIT-1", "FIN-WAIT-2"].iter().enumerate()
    {
        let mut conn = Conn::new(PEER, (40_000 + number as u16, world.port));
        world.guest.send(PEER, &conn.syn(Tcp::SYN)).unwrap();
        let answer = conn.expect(&mut world.guest, "SYN-ACK").unwrap();
        conn.synchronize(&answer).unwrap();
        let mut host = accept(&world.listener).unwrap();
        if *state != "SYN-RECEIVED" {
            conn.ack(&mut world.guest).unwrap();
        }
        if *state == "CLOSE-WAIT" {
            conn.send(&mut world.guest, Tcp::FIN, &[]).unwrap();
            conn.expect_ack(&mut world.guest).unwrap();
            assert_eq!(host.read(&mut [0]).unwrap(), 0);
        }
        if state.starts_with("FIN-WAIT") {
            host.shutdown(Shutdown::Write).unwrap();
            conn.expect_such(&mut world.guest, "FIN", |tcp| tcp.flags & Tcp::FIN != 0).unwrap();
        }
        if *state == "FIN-WAIT-2" {
            conn.rcv_nxt = conn.rcv_nxt.wrapping_add(1);
            conn.ack(&mut world.guest).unwrap();
        }
        wait_until(state, seconds(5), || {
            let rows = world.bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
            rows[0]["state"] == **state
        })
        .unwrap();
        rst(&mut world, &conn);
        let failed = || {
            let write = host.write(&[0]).map(drop).err();
            write.or_else(|| host.take_error().unwrap())
        };
        // After the guest's FIN the peer's reads end as they did; its writes say what has happened.
        let error = wait_for(state, seconds(5), {
            let mut failed = failed;
            move || Ok(failed())
        })
        .unwrap();
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{state}: {error}");
    }
    assert_eq!((world.tcp("open"), world.tcp("reset")), (0, 5));
}

/// An ICMP error of the guest's about a segment that it got from `remote`.
fn complaint(guest: &HandGuest, code: u8, remote: Ipv4Addr, segment: &Tcp) -> Vec<u8> {
    let own = segment.frame((guest.gateway, mac(2)), remote, ip4(2));
    let mut message = vec![3, code, 0, 0, 0, 0, 0, 0];
    message.extend(&own[14..14 + 28]);
    let sum = frames::checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    frames::ethernet(guest.gateway, mac(2), 0x0800, &frames::ipv4(ip4(2), remote, 1, &message))
}

#[test]
fn a_guests_icmp_refuses_what_is_being_opened_and_ends_nothing_else() {
    let mut world = start();
    for code in [0, 1, 2, 3, 9, 13] {
        let mut host = connect("127.0.0.1:18080".parse().unwrap()).unwrap();
        let mut conn = Conn::new(HOST, (80, host.local_addr().unwrap().port()));
        let syn = conn.expect(&mut world.guest, "SYN").unwrap();
        // About another segment, with a wrong sum, or about a size that does not fit: nothing happens.
        let other = Tcp { sequence: syn.sequence.wrapping_sub(1), ..syn.clone() };
        let mut wrong = complaint(&world.guest, code, HOST, &syn);
        wrong[36] ^= 1;
        for frame in [complaint(&world.guest, code, HOST, &other), wrong, complaint(&world.guest, 4, HOST, &syn)] {
            world.guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
        }
        host.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let begin = Instant::now();
        let frame = complaint(&world.guest, code, HOST, &syn);
        world.guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
        host.set_read_timeout(Some(seconds(5))).unwrap();
        assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{code}");
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    }
    let (mut conn, mut host) = world.open(40_000);
    host.write_all(b"first").unwrap();
    let segment = conn.expect(&mut world.guest, "data").unwrap();
    for code in 0..=15 {
        let frame = complaint(&world.guest, code, PEER, &segment);
        world.guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
    }
    conn.rcv_nxt = segment.sequence.wrapping_add(5);
    conn.ack(&mut world.guest).unwrap();
    host.write_all(b"second").unwrap();
    assert_eq!(conn.receive(&mut world.guest, 6).unwrap().0, b"second");
    assert_eq!(world.bed.vonicd.drops("a", "bad_checksum").unwrap(), 6);
}

/// A peer's urgent bytes are bytes of the stream (SO_OOBINLINE), whoever has opened.
#[test]
fn urgent_bytes_stay_in_the_stream() {
    let mut world = start();
    let (conn, host) = world.open(40_000);
    let stream = connect("127.0.0.1:18080".parse().unwrap()).unwrap();
    let mut forwarded = Conn::new(HOST, (80, stream.local_addr().unwrap().port()));
    let syn = forwarded.expect(&mut world.guest, "SYN").unwrap();
    forwarded.note_scale(&syn.options).unwrap();
    forwarded.rcv_nxt = syn.sequence.wrapping_add(1);
    world.guest.send(HOST, &forwarded.syn(Tcp::SYN | Tcp::ACK)).unwrap();
    forwarded.snd_nxt = forwarded.iss.wrapping_add(1);
    forwarded.expect_ack(&mut world.guest).unwrap();
    for (mut conn, mut host) in [(conn, host), (forwarded, stream)] {
        let text = ramp(30_000);
        for (n, piece) in text.chunks(1000).enumerate() {
            if n % 3 == 1 { write_urgent(&host, piece).unwrap() } else { host.write_all(piece).unwrap() }
        }
        let (got, _) = conn.receive(&mut world.guest, text.len()).unwrap();
        assert!(
            got == text,
            "{} bytes, first difference at {:?}",
            got.len(),
            got.iter().zip(&text).position(|(a, b)| a != b)
        );
    }
}

#[test]
fn challenges_are_counted_and_bounded() {
    let mut world = start();
    let (conn, _host) = world.open(40_000);
    let mut inexact = conn.clone();
    inexact.snd_nxt = inexact.snd_nxt.wrapping_add(100);
    for _ in 0..30 {
        world.guest.send(PEER, &inexact.segment(Tcp::RST, &[])).unwrap();
    }
    let mut heard = 0;
    while inexact.hear(&mut world.guest, Duration::from_millis(200)).unwrap().is_some() {
        heard += 1;
    }
    assert_eq!((heard, world.tcp("challenges"), world.tcp("challenges_withheld")), (10, 10, 20));
}
