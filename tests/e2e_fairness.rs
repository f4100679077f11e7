//! One guest with two thousand connections that all have something for it: does its neighbour's own connection wait for them? And one that
//! floods the switch: what is left to the others?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::fleet::Fleet;
use vonic_tests::flood::{Load, Neighbours};
use vonic_tests::frames::Tcp;
use vonic_tests::mock::{GUEST_TO_HOST, MockConfig, feature};
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, listen, ramp};
use vonic_tests::*;

/// Connections of the busy guest.
const CONNECTIONS: u16 = 2000;
/// What the host has for it on each.
const WAITING: usize = 200_000;
/// Questions and answers of the neighbour in one talk.
const QUESTIONS: usize = 100;
/// Talks: on a busy machine most of them may be disturbed by others than the neighbour.
const TALKS: usize = 8;
/// How much longer than alone the neighbour may wait beside the busy one. One pass over all of its connections takes more.
const FACTOR: u32 = 6;
/// How many connections may look for a buffer that another one gets, for each frame.
const HERD: u64 = 10;

/// The busy guest's connections, by its own port, and the host's ends, each with all that its socket takes.
fn fill(guest: &mut HandGuest) -> (HashMap<u16, Conn>, Vec<TcpStream>) {
    let (listener, port) = listen().unwrap();
    let bytes = ramp(WAITING);
    let mut held = (HashMap::new(), Vec::new());
    for own in 10_000..10_000 + CONNECTIONS {
        let conn = Conn { scale: Some(8), ..Conn::new(HOST, (own, port)) }.open(guest).unwrap();
        let stream = accept(&listener).unwrap();
        held.0.insert(own, conn);
        held.1.push(stream);
    }
    for stream in &mut held.1 {
        stream.set_nonblocking(true).unwrap();
        // What does not fit at once is not needed.
        drop(stream.write(&bytes));
    }
    held
}

/// The busy guest takes what comes and acknowledges each frame until it is told to stop; counts frames.
fn take(guest: &mut HandGuest, conns: &mut HashMap<u16, Conn>, taken: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some((_, frame)) = guest.mock.receive_frame(Duration::from_millis(20)).unwrap() else { continue };
        let Some(segment) = Tcp::parse(&frame) else { continue };
        let conn = conns.get_mut(&segment.ports.1).unwrap();
        if segment.sequence == conn.rcv_nxt {
            conn.rcv_nxt = conn.rcv_nxt.wrapping_add(segment.text.len() as u32);
        }
        conn.ack(guest).unwrap();
        taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// The neighbour asks a byte and is answered, again and again; the median time of the quickest talk.
fn converse(guest: &mut HandGuest, conn: &mut Conn) -> Duration {
    let mut ask = |at: usize| {
        let began = Instant::now();
        conn.send(guest, Tcp::PSH, &[at as u8]).unwrap();
        let (got, _) = conn.receive(guest, 1).unwrap();
        assert_eq!(got, [at as u8]);
        began.elapsed()
    };
    let mut talk = || {
        let mut times: Vec<Duration> = (0..QUESTIONS).map(&mut ask).collect();
        times.sort();
        times[QUESTIONS / 2]
    };
    (0..TALKS).map(|_| talk()).min().unwrap()
}

#[test]
fn a_neighbour_of_two_thousand_busy_connections_is_answered_soon() {
    let limits = "limits = { new_per_second = 100000 }";
    let bed = Bed::start(&TestConfig::default().vm("busy", 2, limits).vm("calm", 3, "")).unwrap();
    let mut calm = HandGuest::start(&bed, "calm", 3, feature::ALL).unwrap();
    let (mut talk, mut host) = Conn::new(HOST, (4000, 0)).connect(&mut calm).unwrap();
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while host.read_exact(&mut byte).is_ok() && host.write_all(&byte).is_ok() {}
    });
    let alone = converse(&mut calm, &mut talk);

    let config = MockConfig { features: feature::PLAIN, posted: 256, buffer: vec![1526], ..MockConfig::default() };
    let mut busy = HandGuest::start_configured(&bed, "busy", 2, config).unwrap();
    let (mut conns, streams) = fill(&mut busy);
    let waits = || bed.vonicd.vm("busy").unwrap()["tcp"]["starved"].as_u64().unwrap();
    let waited = waits();
    let (taken, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let beside = thread::scope(|scope| {
        scope.spawn(|| take(&mut busy, &mut conns, &taken, &stop));
        let beside = converse(&mut calm, &mut talk);
        stop.store(true, Ordering::Relaxed);
        beside
    });
    let (taken, waited) = (taken.into_inner(), waits() - waited);
    assert!(taken > 500, "the busy guest took {taken} frames meanwhile: it was not busy");
    assert!(beside < FACTOR * alone, "{alone:?} alone, {beside:?} beside a busy neighbour");
    // A buffer wakes the connection that waits longest, not all of them.
    assert!(waited < HERD * taken, "connections waited {waited} times for the {taken} frames that were taken");
    drop((streams, calm));
    bed.vonicd.stop().unwrap();
    echo.join().unwrap();
}

/// Frames a second of a flood: much, and less than a worker without optimisation can look at.
const FLOOD: u64 = 20_000;
/// Pairs of runs, in most of which others may disturb one of the two.
const PAIRS: usize = 8;

/// The same processor time is taken from everybody in both runs; in one of them by somebody who sends nothing.
#[test]
fn a_flood_leaves_nine_tenths_to_its_neighbours() {
    let mut neighbours = Neighbours::start().unwrap();
    let mut pair = || {
        let flooded = neighbours.beside(Load::Frames(FLOOD), Duration::from_millis(300)).unwrap();
        let burnt = neighbours.beside(Load::Burnt(flooded.share), Duration::from_millis(300)).unwrap();
        assert!(flooded.sent > 0.2 * FLOOD as f64, "that is no flood: {flooded:?}");
        flooded.rate / burnt.rate
    };
    let ratios: Vec<f64> = (0..PAIRS).map(|_| pair()).collect();
    let best = ratios.iter().copied().fold(0.0, f64::max);
    assert!(best >= 0.9, "{ratios:?} of what they have without the flood");
    let dropped = neighbours.bed().vonicd.drops("flooder", "unknown_destination").unwrap();
    assert!(dropped > 0, "the flood was not for nobody");
}

/// Chains of which nothing can come, as fast as the ring takes them, get a part of the worker's time, though nobody else has work; the neighbour is answered
/// meanwhile, and who stops flooding is heard again at once.
#[test]
fn what_is_dropped_leaves_the_processor_to_others() {
    let mut fleet = Fleet::start(3, [feature::ALL; 2]).unwrap();
    let window = seconds(1);
    let (before, began) = (fleet.taken().unwrap(), Instant::now());
    let (mut sent, mut asked) = (0_u64, 0);
    let mut worst = Duration::ZERO;
    while began.elapsed() < window {
        sent += fleet.flood(0).unwrap();
        if began.elapsed() > window * asked / 20 {
            asked += 1;
            worst = worst.max(fleet.send(1, 2, b"meanwhile").unwrap());
        }
    }
    let spent = fleet.taken().unwrap() - before;
    assert!(sent > 5_000, "{sent} chains are no flood");
    assert!(spent < window / 4, "{spent:?} of {window:?} were spent on {sent} chains for nothing");
    assert!(asked >= 20 && worst < Duration::from_millis(200), "{asked} times, at worst {worst:?}");
    let stats = fleet.bed.vonicd.stats().unwrap();
    let rests = |vm: &str| stats["vms"][vm]["limits"]["unforwarded"].as_u64().unwrap();
    assert!((10..=1000).contains(&rests("vm0")), "{} rests", rests("vm0"));
    assert_eq!([rests("vm1"), rests("vm2")], [0, 0]);
    wait_until("the end of the flood", seconds(2), || {
        while fleet.mocks[0].take_used(GUEST_TO_HOST).unwrap().is_some() {}
        fleet.mocks[0].ring(GUEST_TO_HOST).outstanding() == 0
    })
    .unwrap();
    fleet.send(0, 1, b"and now something else").unwrap();
    fleet.bed.vonicd.stop().unwrap();
}
