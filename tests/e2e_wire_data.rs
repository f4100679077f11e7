//! Segments made by hand: does every byte arrive once and in order, whatever is lost, closed or stalled, and is each frame what it says?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::frames::Tcp;
use vonic_tests::mock::feature;
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, listen, ramp, write_behind};
use vonic_tests::*;

const TSO: u64 = feature::PLAIN
    | feature::MRG_RXBUF
    | feature::CSUM
    | feature::GUEST_CSUM
    | feature::HOST_TSO4
    | feature::GUEST_TSO4;
const MEGABYTE: usize = 1_000_003;

fn start(features: u64, arguments: &[&str]) -> (Bed, HandGuest) {
    let arguments = arguments.iter().map(ToString::to_string).collect();
    let bed = Bed::start(&TestConfig { arguments, ..TestConfig::default() }.vm("a", 2, "")).unwrap();
    let guest = HandGuest::start(&bed, "a", 2, features).unwrap();
    (bed, guest)
}

fn new() -> Conn {
    Conn::new(HOST, (40_000, 0))
}

/// The guest sends `bytes` within the window that it was told, and waits for the acknowledgment of the last one.
fn send_all(guest: &mut HandGuest, conn: &mut Conn, bytes: &[u8]) {
    let mut una = conn.snd_nxt;
    for text in bytes.chunks(1460) {
        let end = conn.snd_nxt.wrapping_add(text.len() as u32);
        while (conn.edge.wrapping_sub(end) as i32) < 0 {
            let heard = conn.expect(guest, "window").unwrap();
            assert!((heard.acknowledgment.wrapping_sub(una) as i32) >= 0, "an acknowledgment went back");
            una = heard.acknowledgment;
        }
        conn.send(guest, Tcp::PSH, text).unwrap();
    }
    conn.expect_ack(guest).unwrap();
}

fn no_connections(bed: &Bed) {
    let rows = || bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
    wait_until("the end of the connection", seconds(5), || {
        rows().as_array().unwrap().iter().all(|row| row["state"] == "TIME-WAIT")
    })
    .with_context(|| rows().to_string())
    .unwrap();
}

/// Data both ways, then the guest's FIN; the host sends a megabyte more and ends.
fn the_guest_ends_first(guest: &mut HandGuest, bed: &Bed) {
    let (mut conn, mut host) = new().connect(guest).unwrap();
    let hello = ramp(5000);
    send_all(guest, &mut conn, &hello);
    let mut got = vec![0; hello.len()];
    host.read_exact(&mut got).unwrap();
    assert_eq!(got, hello);
    host.write_all(&hello).unwrap();
    assert_eq!(conn.receive(guest, hello.len()).unwrap(), (hello, false));
    conn.send(guest, Tcp::FIN, b"last").unwrap();
    conn.expect_ack(guest).unwrap();
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last");
    let writer = write_behind(&host, ramp(MEGABYTE)).unwrap();
    assert!(conn.receive(guest, MEGABYTE).unwrap().0 == ramp(MEGABYTE), "other bytes came");
    writer.join().unwrap().unwrap();
    drop(host);
    assert_eq!(conn.receive(guest, 1).unwrap(), (vec![], true), "the host's FIN");
    no_connections(bed);
}

/// The host's FIN; the guest sends a megabyte more and ends.
fn the_host_ends_first(guest: &mut HandGuest, bed: &Bed) {
    let (mut conn, mut host) = Conn { ports: (40_001, 0), ..new() }.connect(guest).unwrap();
    host.write_all(b"last").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(conn.receive(guest, 5).unwrap(), (b"last".to_vec(), true));
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        host.read_to_end(&mut got).map(|_| got)
    });
    send_all(guest, &mut conn, &ramp(MEGABYTE));
    conn.send(guest, Tcp::FIN, &[]).unwrap();
    conn.expect_ack(guest).unwrap();
    assert!(reader.join().unwrap().unwrap() == ramp(MEGABYTE), "other bytes arrived");
    no_connections(bed);
}

/// From an RTO of at least 200 ms on, each wait is twice as long (RFC 6298 §5.5, RFC 9293 §3.8.6.1). A busy machine only adds to it.
fn not_before(times: &[Duration]) {
    let earliest = [195, 595, 1395, 2995].map(Duration::from_millis);
    assert!(times.iter().zip(earliest).all(|(time, earliest)| *time >= earliest), "{times:?}");
}

/// What was not acknowledged goes again after the RTO, doubled each time, the same bytes; then the FIN behind it.
fn lost_data_comes_again(guest: &mut HandGuest, bed: &Bed) {
    let (mut conn, mut host) = Conn { ports: (40_002, 0), ..new() }.connect(guest).unwrap();
    let bytes = ramp(4000);
    let written = Instant::now();
    host.write_all(&bytes).unwrap();
    drop(host);
    let mut times = Vec::new();
    for round in 0..4 {
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let segment = conn.expect_such(guest, "the bytes", |segment| !segment.text.is_empty()).unwrap();
            let at = segment.sequence.wrapping_sub(conn.rcv_nxt) as usize;
            assert_eq!(at, got.len(), "round {round}: not in order from SND.UNA on");
            if got.is_empty() {
                times.push(written.elapsed());
            }
            got.extend(segment.text);
        }
        assert!(got == bytes, "round {round}: other bytes");
    }
    not_before(&times[1..]);
    assert!(bed.vonicd.vm("a").unwrap()["tcp"]["retransmitted"].as_u64().unwrap() >= 3);
    conn.rcv_nxt = conn.rcv_nxt.wrapping_add(4000);
    conn.ack(guest).unwrap();
    let (more, fin) = conn.receive(guest, 1).unwrap();
    assert!(more.is_empty() && fin, "no FIN behind the acknowledged bytes");
}

fn core(features: u64, arguments: &[&str]) {
    let (bed, mut guest) = start(features, arguments);
    the_guest_ends_first(&mut guest, &bed);
    the_host_ends_first(&mut guest, &bed);
    lost_data_comes_again(&mut guest, &bed);
    scratch_is_used_only_if_asked_for(&bed, arguments);
}

fn scratch_is_used_only_if_asked_for(bed: &Bed, arguments: &[&str]) {
    if arguments.is_empty() && !trace::tcp_peek_offset_works().unwrap() {
        return;
    }
    let peeks = bed.vonicd.vm("a").unwrap()["tcp"]["scratch_peeks"].as_u64().unwrap();
    assert_eq!(peeks > 0, !arguments.is_empty(), "{peeks} peeks over scratch memory");
}

#[test]
fn streams_are_exact_without_offloads() {
    core(feature::PLAIN, &[]);
}

#[test]
fn streams_are_exact_with_offloads() {
    core(TSO, &[]);
}

#[test]
fn streams_are_exact_without_peek_offsets() {
    core(feature::PLAIN, &["--peek", "scratch"]);
}

#[test]
fn streams_are_exact_without_peek_offsets_with_offloads() {
    core(TSO, &["--peek", "scratch"]);
}

/// The end of the host's stream is seen while bytes in front of it are not acknowledged, and after they are.
fn the_fin_is_behind_what_is_unacknowledged(arguments: &[&str]) {
    let (bed, mut guest) = start(feature::PLAIN, arguments);
    let (mut conn, mut host) = new().connect(&mut guest).unwrap();
    host.write_all(b"bytes").unwrap();
    let first = conn.expect_such(&mut guest, "data", |segment| !segment.text.is_empty()).unwrap();
    assert_eq!(first.text, b"bytes");
    conn.rcv_nxt = conn.rcv_nxt.wrapping_add(5);
    drop(host);
    // The service may send the FIN now, or see it only behind the bytes' acknowledgment.
    let early = conn.hear(&mut guest, Duration::from_millis(100)).unwrap();
    assert!(early.is_none_or(|(_, segment)| segment.flags & Tcp::FIN != 0 && segment.sequence == conn.rcv_nxt));
    conn.ack(&mut guest).unwrap();
    assert_eq!(conn.receive(&mut guest, 1).unwrap(), (vec![], true));
    scratch_is_used_only_if_asked_for(&bed, arguments);
}

#[test]
fn a_fin_follows_unacknowledged_bytes() {
    the_fin_is_behind_what_is_unacknowledged(&[]);
}

#[test]
fn a_fin_follows_unacknowledged_bytes_without_peek_offsets() {
    the_fin_is_behind_what_is_unacknowledged(&["--peek", "scratch"]);
}

fn three_duplicates(features: u64, arguments: &[&str]) {
    let (_bed, mut guest) = start(features, arguments);
    let (listener, port) = listen().unwrap();
    let mut conn = Conn::new(HOST, (40_000, port));
    guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
    let answer = conn.expect(&mut guest, "SYN-ACK").unwrap();
    conn.synchronize(&answer).unwrap();
    // This guest is 700 ms away, so that the RTO is 2.1 s (RFC 6298 §2.2) and no timeout is taken for a fast retransmit.
    assert!(conn.hear(&mut guest, Duration::from_millis(700)).unwrap().is_none());
    conn.ack(&mut guest).unwrap();
    let mut host = accept(&listener).unwrap();
    let bytes = ramp(1000);
    host.write_all(&bytes).unwrap();
    let first = conn.expect_such(&mut guest, "data", |segment| !segment.text.is_empty()).unwrap();
    let quiet = Duration::from_millis(300);
    for count in 0..2 {
        conn.ack(&mut guest).unwrap();
        assert!(conn.hear(&mut guest, quiet).unwrap().is_none(), "sent again after {} duplicate ACKs", count + 1);
    }
    conn.ack(&mut guest).unwrap();
    let again = conn.hear(&mut guest, Duration::from_millis(600)).unwrap().unwrap().1;
    assert_eq!((again.sequence, &again.text), (first.sequence, &first.text));
    assert_eq!(again.text, bytes);
}

#[test]
fn three_duplicate_acks_retransmit() {
    three_duplicates(feature::PLAIN, &[]);
}

#[test]
fn three_duplicate_acks_retransmit_without_peek_offsets() {
    three_duplicates(TSO, &["--peek", "scratch"]);
}

#[test]
fn a_closed_guest_window_is_probed_with_backoff_and_used_at_once() {
    let (_bed, mut guest) = start(feature::PLAIN, &[]);
    let (mut conn, mut host) = new().connect(&mut guest).unwrap();
    let bytes = ramp(20_000);
    host.write_all(&bytes[..4000]).unwrap();
    assert!(conn.receive(&mut guest, 4000).unwrap().0 == bytes[..4000]);
    conn.window = 0;
    conn.ack(&mut guest).unwrap();
    let written = Instant::now();
    host.write_all(&bytes[4000..]).unwrap();
    let mut times = vec![];
    for _ in 0..4 {
        let probe = conn.expect(&mut guest, "probe").unwrap();
        assert_eq!((probe.sequence, &probe.text[..]), (conn.rcv_nxt, &bytes[4000..4001]), "no window probe");
        times.push(written.elapsed());
        conn.ack(&mut guest).unwrap();
    }
    not_before(&times);
    // The next probe is seconds away.
    conn.window = 0xffff;
    let opened = Instant::now();
    conn.ack(&mut guest).unwrap();
    assert!(conn.receive(&mut guest, 16_000).unwrap().0 == bytes[4000..]);
    assert!(opened.elapsed() < Duration::from_secs(1), "resumed after {:?} only; probes: {times:?}", opened.elapsed());
}

#[test]
fn a_stalled_host_closes_the_window_without_shrinking_it() {
    let (bed, mut guest) = start(feature::PLAIN, &[]);
    // Small buffers on the host's loopback: the window closes soon.
    for name in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), "4096 65536 65536").unwrap();
    }
    let (mut conn, mut host) = new().connect(&mut guest).unwrap();
    let bytes = ramp(2_000_000);
    let (mut sent, mut duplicates) = (0, 0);
    // Conn::hear checks the right edge in every segment.
    loop {
        let room = conn.edge.wrapping_sub(conn.snd_nxt) as usize;
        if room == 0 {
            let Some((_, heard)) = conn.hear(&mut guest, Duration::from_millis(500)).unwrap() else { break };
            // What the socket had refused goes again when three duplicates ask for it (RFC 5681 §3.2).
            let missing = conn.snd_nxt.wrapping_sub(heard.acknowledgment);
            duplicates = if missing == 0 { 0 } else { duplicates + 1 };
            if duplicates >= 3 {
                conn.snd_nxt = heard.acknowledgment;
                sent -= missing as usize;
                duplicates = 0;
            }
            continue;
        }
        let text = &bytes[sent..sent + room.min(1460)];
        conn.send(&mut guest, Tcp::PSH, text).unwrap();
        sent += text.len();
        assert!(sent < 1_900_000, "the window never closes");
    }
    // A probe of the closed window is answered: the edge stays where it was, and nothing beyond it is taken.
    let mut probe = conn.clone();
    probe.send(&mut guest, 0, &bytes[sent..=sent]).unwrap();
    let answer = conn.expect(&mut guest, "answer to the probe").unwrap();
    assert_eq!(conn.edge, conn.snd_nxt, "{answer:?}");
    // Acknowledged is what the host's socket took, not more and not less.
    let taken = answer.acknowledgment.wrapping_sub(conn.iss).wrapping_sub(1) as usize;
    let mut got = vec![0; taken];
    host.read_exact(&mut got).unwrap();
    assert!(got == bytes[..taken], "other bytes arrived");
    // The application has read: the guest hears of it unasked, by a window that opens or, where the socket had refused part of a segment in
    // the window, by three duplicate acknowledgments.
    let (closed, mut duplicates) = (conn.edge, 0);
    while conn.edge == closed && duplicates < 3 {
        let heard = conn.expect(&mut guest, "open window").unwrap();
        duplicates += u32::from(closed != answer.acknowledgment && heard.acknowledgment == answer.acknowledgment);
    }
    host.set_nonblocking(true).unwrap();
    assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "more arrived than was acknowledged");
    host.set_nonblocking(false).unwrap();
    sent = taken;
    conn.snd_nxt = answer.acknowledgment;
    let rest = bytes[sent..sent + 100_000].to_vec();
    let reader = thread::spawn(move || {
        let mut got = vec![0; 100_000];
        host.read_exact(&mut got).map(|()| got)
    });
    send_all(&mut guest, &mut conn, &rest);
    assert!(reader.join().unwrap().unwrap() == rest, "other bytes arrived");
    assert_eq!(bed.vonicd.copied("guest_to_host").unwrap(), 0);
}

#[test]
fn data_is_taken_in_order_once_and_holes_are_acknowledged_again() {
    let (_bed, mut guest) = start(feature::PLAIN, &[]);
    let (mut conn, mut host) = new().connect(&mut guest).unwrap();
    let bytes = ramp(3000);
    let at = |conn: &Conn, from: usize, to: usize| {
        let mut segment = conn.segment(Tcp::ACK, &bytes[from..to]);
        segment.sequence = conn.iss.wrapping_add(1 + from as u32);
        segment
    };
    let base = conn.iss.wrapping_add(1);
    // From, to, and what is acknowledged then: new, old, partly old, hole, fill, partly new beyond.
    let cases = [
        (0, 1000, 1000),
        (0, 1000, 1000),
        (500, 1500, 1500),
        (2000, 3000, 1500),
        (1500, 2000, 2000),
        (1200, 3000, 3000),
    ];
    for (from, to, acknowledged) in cases {
        let segment = at(&conn, from, to);
        guest.send(HOST, &segment).unwrap();
        let answer = conn.expect(&mut guest, "acknowledgment").unwrap();
        assert_eq!(answer.acknowledgment.wrapping_sub(base), acknowledged, "{from}..{to}");
    }
    let mut fin = at(&conn, 3000, 3000);
    fin.flags |= Tcp::FIN;
    fin.sequence = fin.sequence.wrapping_add(1);
    guest.send(HOST, &fin).unwrap();
    assert_eq!(conn.expect(&mut guest, "acknowledgment").unwrap().acknowledgment.wrapping_sub(base), 3000);
    fin.sequence = fin.sequence.wrapping_sub(1);
    guest.send(HOST, &fin).unwrap();
    assert_eq!(conn.expect(&mut guest, "acknowledgment").unwrap().acknowledgment.wrapping_sub(base), 3001);
    let mut got = Vec::new();
    host.read_to_end(&mut got).unwrap();
    assert!(got == bytes, "other bytes arrived");
}

#[test]
fn an_acknowledgment_of_what_was_never_sent_is_challenged() {
    let (_bed, mut guest) = start(feature::PLAIN, &[]);
    let (mut conn, mut host) = new().connect(&mut guest).unwrap();
    let mut wrong = conn.clone();
    wrong.rcv_nxt = wrong.rcv_nxt.wrapping_add(1000);
    wrong.send(&mut guest, 0, b"wrong").unwrap();
    assert_eq!(conn.expect(&mut guest, "challenge ACK").unwrap().acknowledgment, conn.snd_nxt);
    host.write_all(b"right").unwrap();
    assert_eq!(conn.receive(&mut guest, 5).unwrap().0, b"right");
    host.set_nonblocking(true).unwrap();
    assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}
