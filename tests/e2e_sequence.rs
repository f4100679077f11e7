//! Initial sequence numbers (RFC 6528, RFC 9293 §3.4.1): they grow with time on one pair of ends, say nothing about another pair, and a
//! connection that follows one in TIME-WAIT begins behind it.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use vonic_tests::frames::Tcp;
use vonic_tests::mock::feature;
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, listen, ramp, write_behind};
use vonic_tests::*;

fn start() -> (Bed, HandGuest) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    (bed, guest)
}

/// The ISS of a connection from `port`, which is reset at once.
fn iss(guest: &mut HandGuest, ports: (u16, u16)) -> u32 {
    let conn = Conn::new(HOST, ports).open(guest).unwrap();
    guest.send(HOST, &conn.segment(Tcp::RST, &[])).unwrap();
    conn.irs
}

#[test]
fn a_clock_of_four_microseconds_drives_them_on_one_pair_of_ends() {
    let (_bed, mut guest) = start();
    let (_listener, port) = listen().unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push((iss(&mut guest, (40_000, port)), Instant::now()));
        std::thread::sleep(Duration::from_millis(50)); // What is measured.
    }
    for pair in seen.windows(2) {
        let moved = Duration::from_micros(4 * u64::from(pair[1].0.wrapping_sub(pair[0].0)));
        let took = pair[1].1 - pair[0].1;
        let apart = moved.abs_diff(took);
        assert!(apart < Duration::from_millis(40), "{moved:?} by the numbers, {took:?} by the clock");
    }
}

#[test]
fn neighbours_tell_nothing() {
    let (_bed, mut guest) = start();
    let (_listener, port) = listen().unwrap();
    let seen: Vec<u32> = (0..64).map(|n| iss(&mut guest, (41_000 + n, port))).collect();
    // From a clock alone, or one with a step per connection, differences would be small or alike.
    let steps: Vec<u32> = seen.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert_eq!(steps.iter().collect::<BTreeSet<_>>().len(), steps.len(), "{steps:x?}");
    let small = steps.iter().filter(|step| **step < 1 << 24 || **step > u32::MAX - (1 << 24)).count();
    assert!(small < 8, "{small} of {} are small: {steps:x?}", steps.len());
    // Each bit is set about as often as not.
    for bit in 0..32 {
        let set = seen.iter().filter(|iss| *iss >> bit & 1 == 1).count();
        assert!((10..55).contains(&set), "bit {bit} is set in {set} of 64");
    }
}

#[test]
fn a_connection_after_one_in_time_wait_begins_behind_it() {
    let (bed, mut guest) = start();
    let (listener, port) = listen().unwrap();
    // More bytes in a moment than the clock has steps.
    let bytes = ramp(3_000_017);
    let mut conn = Conn::new(HOST, (40_000, port)).open(&mut guest).unwrap();
    let mut host = accept(&listener).unwrap();
    for round in 0..3 {
        let writer = write_behind(&host, bytes.clone()).unwrap();
        assert!(conn.receive(&mut guest, bytes.len()).unwrap().0 == bytes);
        writer.join().unwrap().unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        assert_eq!(conn.receive(&mut guest, 1).unwrap(), (Vec::new(), true));
        conn.send(&mut guest, Tcp::FIN, &[]).unwrap();
        conn.expect_ack(&mut guest).unwrap();
        let rows = bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
        assert_eq!(rows[0]["state"], "TIME-WAIT", "{rows}");
        let next = Conn { iss: conn.snd_nxt.wrapping_add(1000), ..Conn::new(HOST, (40_000, port)) };
        let behind = conn.rcv_nxt;
        conn = next.open(&mut guest).unwrap();
        host = accept(&listener).unwrap();
        let beyond = conn.irs.wrapping_sub(behind);
        assert!((1..1 << 30).contains(&beyond), "round {round}: {beyond} beyond the last one");
        // And it works.
        host.write_all(b"again").unwrap();
        assert_eq!(conn.receive(&mut guest, 5).unwrap().0, b"again");
    }
}
