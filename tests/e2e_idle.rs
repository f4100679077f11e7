//! 64 ports with started rings and nothing to do: what do they cost, and does the last of them wake at once?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature};
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

struct Fleet {
    mocks: Vec<MockFrontend>,
    bed: Bed,
    master: u32,
    engine: u32,
}

fn number(place: usize) -> u8 {
    2 + place as u8
}

fn name(place: usize) -> String {
    format!("vm{place}")
}

impl Fleet {
    /// Port `i` acknowledges `features[i % 2]`.
    fn start(features: [u64; 2]) -> Fleet {
        let places = 0..PORTS;
        let config = places.clone().fold(TestConfig::default(), |config, at| config.vm(&name(at), number(at), ""));
        let mut bed = Bed::start(&config).unwrap();
        let (master, engine) = (bed.vonicd.process().pid(), bed.vonicd.engine().unwrap());
        let start = |at: usize| bed.mock(&name(at), MockConfig { features: features[at % 2], ..MockConfig::default() });
        let mocks = places.map(|at| start(at).unwrap()).collect();
        Fleet { mocks, bed, master, engine }
    }

    /// Processor time of both processes so far.
    fn taken(&self) -> Duration {
        usage::processor_time(self.master).unwrap() + usage::processor_time(self.engine).unwrap()
    }

    /// Nothing happens: nothing is spent.
    fn idles(&self, when: &str) {
        thread::sleep(Duration::from_millis(500));
        let before = self.taken();
        thread::sleep(WINDOW);
        let spent = self.taken() - before;
        assert!(spent < IDLE, "{spent:?} of {WINDOW:?} were spent {when}");
    }

    /// Each port sends to its neighbour and hears from the other; it costs something, so the account is no blank.
    fn burst(&mut self) {
        let before = self.taken();
        for round in 0..32 {
            for from in 0..PORTS {
                self.send(from, (from + 1) % PORTS, &[round, from as u8]);
            }
        }
        assert!(self.taken() > before, "2,048 frames cost nothing?");
    }

    /// On a busy machine a single wake may be late: the median of five, the first of them after seconds of sleep.
    fn wakes(&mut self) {
        let wake = |round: u8| {
            let took = self.send(0, PORTS - 1, &[round; 100]);
            thread::sleep(Duration::from_millis(100));
            took
        };
        let mut times: Vec<Duration> = (0..5).map(wake).collect();
        times.sort();
        assert!(times[2] < WAKE, "{times:?}");
    }

    /// A frame from port `from` to port `to`; the time until it is there.
    fn send(&mut self, from: usize, to: usize, text: &[u8]) -> Duration {
        let (sender, receiver) = (number(from), number(to));
        let frame = frames::ping((mac(sender), mac(receiver)), ip4(sender), ip4(receiver), 1, text);
        let began = Instant::now();
        assert_eq!(self.mocks[from].send_frame(&VnetHeader::default(), &frame).unwrap(), 0);
        let got = self.mocks[to].receive_frame(seconds(5)).unwrap().unwrap().1;
        let took = began.elapsed();
        assert_eq!(got, frame, "{from} to {to}");
        took
    }
}

fn idle(features: [u64; 2]) {
    let mut fleet = Fleet::start(features);
    fleet.idles("by fresh ports");
    fleet.burst();
    fleet.idles("after traffic");
    fleet.wakes();
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
    let mut fleet = Fleet::start([feature::ALL; 2]);
    fleet.burst();
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
