//! Does anything stand still, spin, or end wrongly where events are few: a reset between two calls, a ring that is refilled one buffer at
//! a time, a socket that is nearly full, buffers that can hold nothing?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::mock::{Chain, MockConfig, VnetHeader, feature};
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, connect, listen, ramp, write_behind};
use vonic_tests::*;

fn start(config: MockConfig, more: &str) -> (Bed, HandGuest) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, more).vm("b", 3, "")).unwrap();
    let guest = HandGuest::start_configured(&bed, "a", 2, config).unwrap();
    (bed, guest)
}

fn tcp(bed: &Bed, counter: &str) -> u64 {
    bed.vonicd.vm("a").unwrap()["tcp"][counter].as_u64().unwrap()
}

/// Seconds of processor time that vonicd's engine has used (proc_pid_stat(5), fields 14 and 15, in hundredths).
fn processor_time(bed: &Bed) -> f64 {
    let pid = std::fs::read_to_string(bed.directory.path().join("run/engine.pid")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// How busy the engine is over a second in which nothing happens.
fn share_of_a_processor(bed: &Bed) -> f64 {
    let (before, start) = (processor_time(bed), Instant::now());
    std::thread::sleep(Duration::from_secs(1)); // The measure itself: nothing is waited for.
    (processor_time(bed) - before) / start.elapsed().as_secs_f64()
}

/// Segments that the device finds all at once.
fn send_together(guest: &mut HandGuest, conn: &mut Conn, texts: &[&[u8]]) {
    let memory = guest.mock.memory().clone();
    for text in texts {
        let frame = guest.frame(HOST, &conn.segment(Tcp::ACK | Tcp::PSH, text));
        conn.snd_nxt = conn.snd_nxt.wrapping_add(text.len() as u32);
        let content = [&VnetHeader::default().encode()[..], &frame].concat();
        let chain = Chain { lengths: vec![content.len() as u32], writable: false, indirect: false };
        guest.mock.ring(mock::GUEST_TO_HOST).add(&memory, &chain, &content).unwrap();
    }
    guest.mock.ring(mock::GUEST_TO_HOST).notify(&memory).unwrap();
    for _ in texts {
        guest.mock.wait_used(mock::GUEST_TO_HOST, seconds(5)).unwrap().unwrap();
    }
}

#[test]
fn a_reset_that_answers_the_guests_own_data_reaches_the_guest() {
    let (bed, mut guest) = start(MockConfig::default(), "");
    for round in 0..20 {
        let (mut conn, host) = Conn::new(HOST, (41_000 + round, 0)).connect(&mut guest).unwrap();
        drop(host);
        assert_eq!(conn.receive(&mut guest, 1).unwrap(), (Vec::new(), true));
        // The first segment provokes the peer's reset; the next ones, of the same burst, meet its error in the call.
        let text = ramp(1000);
        send_together(&mut guest, &mut conn, &[&text[..]; 8]);
        conn.expect_such(&mut guest, "reset", |tcp| tcp.flags & Tcp::RST != 0).unwrap();
    }
    assert_eq!(tcp(&bed, "open"), 0);
}

#[test]
fn a_ring_that_is_refilled_one_buffer_at_a_time_never_stands_still() {
    let sparse = MockConfig { posted: 1, buffer: vec![1600], ..MockConfig::default() };
    // Without polling: whatever is not signalled is not seen.
    let config = TestConfig { service: "poll_us = 0".into(), ..TestConfig::default() };
    let bed = Bed::start(&config.vm("a", 2, "")).unwrap();
    let mut guest = HandGuest::start_configured(&bed, "a", 2, sparse).unwrap();
    let (mut conn, mut host) = Conn::new(HOST, (40_000, 0)).connect(&mut guest).unwrap();
    // Nothing comes from the guest meanwhile: the buffers alone have to wake vonic.
    let quiet = ramp(40_000);
    host.write_all(&quiet).unwrap();
    let mut heard = Vec::new();
    while heard.len() < quiet.len() {
        heard.extend(conn.expect(&mut guest, "next segment").unwrap().text);
    }
    assert!(heard == quiet, "something came twice");
    conn.rcv_nxt = conn.rcv_nxt.wrapping_add(quiet.len() as u32);
    conn.ack(&mut guest).unwrap();
    let bytes = ramp(2_000_003);
    let writer = write_behind(&host, bytes.clone()).unwrap();
    let begin = Instant::now();
    let (received, _) = conn.receive(&mut guest, bytes.len()).unwrap();
    assert!(received == bytes);
    writer.join().unwrap().unwrap();
    assert!(tcp(&bed, "starved") > 100, "the ring was never short");
    assert_eq!(tcp(&bed, "retransmitted"), 0, "something waited for a timer");
    assert!(begin.elapsed() < seconds(20), "{:?}", begin.elapsed());
}

#[test]
fn an_application_that_does_not_read_costs_no_processor_time() {
    let (bed, mut guest) = start(MockConfig::default(), "");
    // Small buffers on both sides of the host's socket: nearly full means a few kilobytes.
    std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 65536 65536").unwrap();
    std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 65536 65536").unwrap();
    let (mut conn, mut host) = Conn::new(HOST, (40_000, 0)).connect(&mut guest).unwrap();
    let text = ramp(1448);
    let room = |conn: &Conn| conn.edge.wrapping_sub(conn.snd_nxt) as i32;
    let mut sent = 0;
    let mut busiest: f64 = 0.0;
    while room(&conn) >= text.len() as i32 && sent < 10_000_000 {
        conn.send(&mut guest, Tcp::PSH, &text).unwrap();
        sent += text.len();
        while conn.hear(&mut guest, Duration::from_millis(20)).unwrap().is_some() {}
        if sent % (16 * 1448) == 0 {
            busiest = busiest.max(share_of_a_processor(&bed));
        }
    }
    assert!(sent < 10_000_000, "the window never closed");
    busiest = busiest.max(share_of_a_processor(&bed));
    assert!(busiest < 0.2, "{:.0} % of a processor", busiest * 100.0);
    let mut buffer = vec![0; 1 << 20];
    assert!(host.read(&mut buffer).unwrap() > 0);
}

#[test]
fn buffers_that_can_hold_nothing_go_back_and_nobody_spins() {
    let tiny = MockConfig { features: feature::PLAIN, buffer: vec![20], posted: 64, ..MockConfig::default() };
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut a = bed.mock("a", tiny).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    for number in 0..200u16 {
        let frame = frames::ping((mac(3), mac(2)), ip4(3), ip4(2), number, b"too long for a");
        b.send_frame(&VnetHeader::default(), &frame).unwrap();
    }
    wait_until("the small buffers", seconds(5), || bed.vonicd.drops("a", "small_buffer").unwrap() >= 64).unwrap();
    while a.wait_used(mock::HOST_TO_GUEST, Duration::from_millis(100)).unwrap().is_some() {}
    b.gateway_answers(3).unwrap();
    let share = share_of_a_processor(&bed);
    assert!(share < 0.2, "{:.0} % of a processor", share * 100.0);
}

#[test]
fn connections_that_are_over_do_not_count_towards_the_limit() {
    let (bed, mut guest) = start(MockConfig::default(), "limits = { connections = 4 }");
    for round in 0..12 {
        let (mut conn, host) = Conn::new(HOST, (42_000 + round, 0)).connect(&mut guest).unwrap();
        // The host ends first: the leg goes to TIME-WAIT.
        host.shutdown(Shutdown::Write).unwrap();
        assert_eq!(conn.receive(&mut guest, 1).unwrap(), (Vec::new(), true));
        conn.send(&mut guest, Tcp::FIN | Tcp::ACK, &[]).unwrap();
        conn.expect_ack(&mut guest).unwrap();
    }
    assert_eq!(bed.vonicd.drops("a", "limit").unwrap(), 0);
}

#[test]
fn an_idle_vonicd_uses_no_processor_time() {
    let (bed, _guest) = start(MockConfig::default(), "");
    let share = share_of_a_processor(&bed);
    assert!(share <= 0.01, "{:.1} % of a processor", share * 100.0);
}

#[test]
fn the_worlds_connections_take_nothing_from_the_guests_allowance() {
    let more = "limits = { pending = 8 }\n[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7001\"\nport = 1";
    let (bed, mut guest) = start(MockConfig::default(), more);
    // Nobody answers at the guest's port: eight of these wait there, the others are reset.
    let waiting: Vec<_> = (0..20).map(|_| connect("127.0.0.1:7001".parse().unwrap())).collect();
    wait_until("the world's limit", seconds(5), || bed.vonicd.drops("a", "limit").unwrap() == 12).unwrap();
    let (listener, port) = listen().unwrap();
    let conn = Conn::new(HOST, (43_000, port)).open(&mut guest).unwrap();
    let mut host = accept(&listener).unwrap();
    host.write_all(b"here").unwrap();
    drop((waiting, conn));
}

/// An answer carries the acknowledgment of its question, though vonic sleeps in between. Where none comes the acknowledgment does, later once
/// and then at once, until an answer carries one again.
#[test]
fn an_acknowledgment_waits_for_an_answer_as_long_as_answers_come() {
    let config = TestConfig { service: "poll_us = 0".into(), ..TestConfig::default() };
    let bed = Bed::start(&config.vm("a", 2, "")).unwrap();
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let (mut conn, mut host) = Conn::new(HOST, (40_000, 0)).connect(&mut guest).unwrap();
    let mut question = [0; 8];
    // Microseconds from a question to what is heard next, and whether that is the answer.
    let mut ask = |answers: bool| {
        let begin = Instant::now();
        conn.send(&mut guest, Tcp::PSH, b"question").unwrap();
        host.read_exact(&mut question).unwrap();
        if answers {
            host.write_all(b"answer").unwrap();
        }
        let heard = conn.expect(&mut guest, "what is heard of it").unwrap();
        assert_eq!(heard.acknowledgment, conn.snd_nxt);
        let took = begin.elapsed();
        let answered = !heard.text.is_empty();
        if !answered && answers {
            assert_eq!(conn.expect(&mut guest, "answer").unwrap().text, b"answer");
        }
        if answers {
            conn.rcv_nxt = conn.rcv_nxt.wrapping_add(6);
            conn.ack(&mut guest).unwrap();
        }
        (took, answered)
    };
    let carried = (0..50).filter(|_| ask(true).1).count();
    assert!(carried > 40, "{carried} of 50 acknowledgments were carried");
    let mut in_vain = || {
        ask(true);
        ask(false).0
    };
    assert!((0..10).any(|_| in_vain() >= Duration::from_millis(5)), "none waited for an answer that did not come");
    let soonest = (0..20).map(|_| ask(false).0).min().unwrap();
    assert!(soonest < Duration::from_millis(4), "{soonest:?}: it goes on waiting in vain");
    // The answer is another frame then, and the next acknowledgment waits for its answer again.
    ask(true);
    let carried = (0..50).filter(|_| ask(true).1).count();
    assert!(carried > 40, "{carried} of 50 acknowledgments were carried later on");
}
