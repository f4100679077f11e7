//! 64 ports with started rings and nothing to do: what do they cost, and does the last of them wake at once?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::fleet::Fleet;
use vonic_tests::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, feature};
use vonic_tests::*;

const PORTS: usize = 64;
/// Over which time processor time is measured.
const WINDOW: Duration = seconds(5);
/// 0.2 % of it: the engine gives signs of life once a second.
const IDLE: Duration = Duration::from_millis(10);
/// How long a frame may take to a port that slept.
const WAKE: Duration = Duration::from_millis(10);
/// Private_Dirty of the master.
const MASTER_BYTES: u64 = 8 << 20;
/// Threads of the engine beside the ports': main, worker, API, addresses, from-master, and some in passing.
const OWN_THREADS: usize = 8;
/// Threads of one VMM connection: the daemon, and who waits for its end.
const THREADS_A_PORT: usize = 2;
/// Descriptors of one started port in the table that master and engine share. Four event descriptors, each held by journal, daemon, session
/// and worker; two memory files, each held by journal and daemon; two connections and the daemon's own.
const DESCRIPTORS_A_PORT: usize = 24;

/// Private_Dirty of master and engine together, for each port.
const BYTES_A_PORT: u64 = 1 << 20;

/// Nothing happens: nothing is spent. A machine whose processor is taken away counts some of that as ours: one window of three is enough.
fn idles(fleet: &Fleet, when: &str) {
    let mut spent = Vec::new();
    while spent.len() < 3 && spent.last().is_none_or(|last| *last >= IDLE) {
        spent.push(fleet.idle(WINDOW).unwrap());
    }
    assert!(spent.iter().any(|spent| *spent < IDLE), "{spent:?} of {WINDOW:?} were spent {when}");
}

/// Each port sends to its neighbour; it costs something, so the account is no blank.
fn burst(fleet: &mut Fleet) {
    let before = fleet.taken().unwrap();
    fleet.burst().unwrap();
    assert!(fleet.taken().unwrap() > before, "2,048 frames cost nothing?");
}

/// On a busy machine some wakes may be late: the median of nine, the first of them after seconds of sleep.
fn wakes(fleet: &mut Fleet) {
    let wake = |round: u8| {
        let took = fleet.send(0, fleet.ports() - 1, &[round; 100]).unwrap();
        thread::sleep(Duration::from_millis(100));
        took
    };
    let mut times: Vec<Duration> = (0..9).map(wake).collect();
    times.sort();
    assert!(times[4] < WAKE, "{times:?}");
}

fn idle(features: [u64; 2]) {
    let mut fleet = Fleet::start(PORTS, features).unwrap();
    idles(&fleet, "by fresh ports");
    burst(&mut fleet);
    idles(&fleet, "after traffic");
    wakes(&mut fleet);
    fleet.bed.vonicd.stop().unwrap();
}

#[test]
fn idle_ports_cost_nothing_with_event_indices() {
    idle([feature::ALL; 2]);
}

#[test]
fn idle_ports_cost_nothing_without_event_indices() {
    idle([feature::ALL & !feature::RING_EVENT_IDX; 2]);
}

#[test]
fn one_port_in_two_with_event_indices_is_no_different() {
    idle([feature::ALL, feature::PLAIN]);
}

#[test]
fn ports_hold_a_bounded_share_and_give_it_back() {
    let mut fleet = Fleet::start(PORTS, [feature::ALL; 2]).unwrap();
    burst(&mut fleet);
    let each = fleet.memory().unwrap() / PORTS as u64;
    assert!(each < BYTES_A_PORT, "{each} bytes of memory for each port");
    let dirty = usage::private_dirty(fleet.master).unwrap();
    assert!(dirty < MASTER_BYTES, "{dirty} bytes of the master are its own");
    assert_eq!(usage::threads(fleet.master).unwrap().len(), 1);
    let threads = usage::threads(fleet.engine).unwrap();
    assert!(threads.len() <= OWN_THREADS + THREADS_A_PORT * PORTS, "{} threads: {threads:?}", threads.len());

    let held = usage::descriptors(fleet.engine).unwrap();
    fleet.mocks.clear();
    let left = || usage::threads(fleet.engine).unwrap().len();
    wait_until("the end of the ports' threads", seconds(10), || left() <= OWN_THREADS).unwrap();
    let free = usage::descriptors(fleet.engine).unwrap();
    assert!(held - free <= DESCRIPTORS_A_PORT * PORTS, "{held} descriptors with {PORTS} ports, {free} without");
    fleet.bed.vonicd.stop().unwrap();
}

/// vhost-user, VHOST_USER_SET_VRING_KICK: without a descriptor "polling should be used instead of waiting for the kick".
#[test]
fn a_ring_without_a_kick_descriptor_is_polled_and_stops_when_it_is_stopped() {
    let mut bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let (master, engine) = (bed.vonicd.process().pid(), bed.vonicd.engine().unwrap());
    let spent = || {
        let taken = || usage::processor_time(master).unwrap() + usage::processor_time(engine).unwrap();
        let before = taken();
        thread::sleep(seconds(2));
        taken() - before
    };
    let mut mock = MockFrontend::connect(&bed.socket("a"), MockConfig::default()).unwrap();
    mock.negotiate().unwrap();
    mock.share_memory().unwrap();
    mock.start_ring(HOST_TO_GUEST).unwrap();
    mock.start_ring_without_kick(GUEST_TO_HOST).unwrap();
    mock.post_buffers().unwrap();
    for _ in 0..5 {
        // The worker sleeps by then.
        thread::sleep(Duration::from_millis(100));
        mock.gateway_answers(2).unwrap();
    }
    let polling = spent();
    assert!(polling < Duration::from_millis(200), "{polling:?} of 2 s were spent on looking at one ring");

    assert_eq!(mock.stop_ring(GUEST_TO_HOST).unwrap(), 5);
    let stopped = spent();
    assert!(stopped < IDLE, "{stopped:?} of 2 s were spent on a stopped ring");
    mock.start_ring(GUEST_TO_HOST).unwrap();
    mock.gateway_answers(2).unwrap();
    assert!(spent() < IDLE);
    bed.vonicd.stop().unwrap();
}

/// A driver that kicks without end and posts nothing is heard now and then; who kicks for something is served at once, and so is this one again.
#[test]
fn kicks_for_nothing_wake_nobody() {
    let mut fleet = Fleet::start(2, [feature::ALL; 2]).unwrap();
    let window = seconds(1);
    let (before, began) = (fleet.taken().unwrap(), Instant::now());
    let mut kicks = 0_u64;
    while began.elapsed() < window {
        for ring in [HOST_TO_GUEST, GUEST_TO_HOST] {
            fleet.mocks[0].ring(ring).kick.write(1).unwrap();
        }
        kicks += 2;
    }
    let spent = fleet.taken().unwrap() - before;
    assert!(kicks > 50_000, "{kicks} kicks are no flood");
    assert!(spent < window / 4, "{spent:?} of {window:?} were spent on {kicks} kicks");
    let limits = |fleet: &Fleet, vm: &str| fleet.bed.vonicd.stats().unwrap()["vms"][vm]["limits"]["kicks"].as_u64();
    let reached = limits(&fleet, "vm0").unwrap();
    assert!((100..=2200).contains(&reached), "{reached} times");
    wakes(&mut fleet);
    idles(&fleet, "when the kicks have ended");
    assert_eq!(limits(&fleet, "vm0"), Some(reached));
    assert_eq!(limits(&fleet, "vm1"), Some(0));
    fleet.bed.vonicd.stop().unwrap();
}
