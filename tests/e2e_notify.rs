//! Is a guest told of each of its connections, once, in batches and in time, when thousands are established in a burst?
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_tests::frames::Tcp;
use vonic_tests::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, VnetHeader, feature};
use vonic_tests::wire::{self, Conn, HOST, HandGuest};
use vonic_tests::*;

const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The guest's port of the connection that listens.
const LISTENER: u16 = 1000;
/// The guest's port of its first connection.
const FIRST_PORT: u16 = 20_000;
/// Handshakes that are under way at once: fewer than a VM may have pending.
const OPENING: usize = 256;
const BATCH: usize = 500;
const DELAY: Duration = Duration::from_millis(200);
/// What a slow machine may add to the stated delay: the engine's threads and this one share its processors.
const SLACK: Duration = Duration::from_secs(3);
const LIMITS: &str =
    "limits = { connections = 15000, pending = 512, pending_per_destination = 512, new_per_second = 1000000 }";

/// A guest that opens connections, and listens to what vonic says of them.
struct Crowd {
    guest: HandGuest,
    /// The connection that listens.
    listener: Conn,
    said: Vec<u8>,
    to_send: VecDeque<(Ipv4Addr, Tcp)>,
    /// When each connection's handshake was completed, by the guest's port.
    established: BTreeMap<u16, Instant>,
    /// Lines of the stream, with the moments at which they had come.
    batches: Vec<(Instant, Value)>,
}

impl Crowd {
    fn start(bed: &Bed) -> Crowd {
        let config = MockConfig { features: feature::ALL, posted: 256, ..MockConfig::default() };
        let mut guest = HandGuest::start_configured(bed, "a", 2, config).unwrap();
        let conn = Conn { scale: Some(6), ..Conn::new(SERVICE, (LISTENER, 80)) };
        let mut listener = conn.open(&mut guest).unwrap();
        let request = format!(
            "GET /v1/events?stream=1&batch={BATCH}&delay_ms={} HTTP/1.1\r\nhost: x\r\n\r\n",
            DELAY.as_millis()
        );
        listener.send(&mut guest, Tcp::ACK, request.as_bytes()).unwrap();
        let (to_send, established) = (VecDeque::new(), BTreeMap::new());
        let mut crowd = Crowd { guest, listener, said: Vec::new(), to_send, established, batches: Vec::new() };
        crowd.serve_until("the stream's beginning", |crowd| !crowd.batches.is_empty());
        let (_, first) = crowd.batches.remove(0);
        assert_eq!((&first["restarted"], &first["events"]), (&Value::from(true), &Value::from(Vec::<Value>::new())));
        crowd
    }

    /// Opens so many connections to the host's port, as fast as they go.
    fn open(&mut self, count: usize, port: u16) {
        let mut begun = 0;
        self.serve_until("every handshake", |crowd| {
            while begun < count && begun - crowd.established.len() < OPENING {
                let ports = (FIRST_PORT + begun as u16, port);
                let options = vec![2, 4, 5, 180];
                let syn = Tcp { ports, sequence: 7, window: 0xffff, flags: Tcp::SYN, options, ..Tcp::default() };
                crowd.to_send.push_back((HOST, syn));
                begun += 1;
            }
            crowd.established.len() == count
        });
    }

    fn events(&self) -> usize {
        self.batches.iter().map(|(_, batch)| batch["events"].as_array().unwrap().len()).sum()
    }

    fn serve_until(&mut self, what: &str, mut done: impl FnMut(&mut Crowd) -> bool) {
        let end = Instant::now() + seconds(60);
        while !done(self) {
            assert!(Instant::now() < end, "no {what}: {} open, {} told", self.established.len(), self.events());
            self.turn();
        }
    }

    /// Takes frames and answers them.
    fn turn(&mut self) {
        let mut taken = 0;
        while taken < 64
            && let Some((_, content)) = self.guest.mock.take_used(HOST_TO_GUEST).unwrap()
        {
            if let Some(segment) = content.get(VnetHeader::LENGTH..).and_then(Tcp::parse) {
                self.hear(&segment);
            }
            taken += 1;
        }
        if taken > 0 {
            self.guest.mock.post_buffers().unwrap();
        }
        self.send();
        if taken == 0 {
            let calls = [HOST_TO_GUEST, GUEST_TO_HOST].map(|index| self.guest.mock.ring(index).call.as_raw_fd());
            sys::wait_any_readable(&calls, Duration::from_millis(5)).unwrap();
            for index in [HOST_TO_GUEST, GUEST_TO_HOST] {
                drop(self.guest.mock.ring(index).call.read());
            }
        }
    }

    fn hear(&mut self, segment: &Tcp) {
        assert_eq!(segment.flags & Tcp::RST, 0, "{segment:?}");
        if segment.ports.1 == LISTENER {
            return self.listen(segment);
        }
        if segment.flags & Tcp::SYN != 0 {
            let ports = (segment.ports.1, segment.ports.0);
            let acknowledgment = segment.sequence.wrapping_add(1);
            let ack = Tcp { ports, sequence: 8, acknowledgment, window: 0xffff, flags: Tcp::ACK, ..Tcp::default() };
            self.to_send.push_back((HOST, ack));
        }
    }

    /// Takes what the stream says, in order: what is lost comes again.
    fn listen(&mut self, segment: &Tcp) {
        if segment.text.is_empty() {
            return;
        }
        if segment.sequence == self.listener.rcv_nxt {
            self.listener.rcv_nxt = segment.sequence.wrapping_add(segment.text.len() as u32);
            self.said.extend_from_slice(&segment.text);
            self.read_lines();
        }
        self.to_send.push_back((SERVICE, self.listener.segment(Tcp::ACK, &[])));
    }

    /// A batch is the line of a chunk: whatever else stands there, heads and sizes, is no JSON object.
    fn read_lines(&mut self) {
        while let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            if line.starts_with(b"{") {
                self.batches.push((Instant::now(), serde_json::from_slice(&line).unwrap()));
            }
        }
    }

    fn send(&mut self) {
        let mock = &mut self.guest.mock;
        while !self.to_send.is_empty() && mock.take_used(GUEST_TO_HOST).unwrap().is_some() {}
        let ring = mock.ring(GUEST_TO_HOST);
        let room = ring.size - ring.outstanding();
        for _ in 0..room {
            let Some((remote, segment)) = self.to_send.pop_front() else { break };
            let frame = self.guest.frame(remote, &segment);
            self.guest.mock.queue_frame_on(0, &VnetHeader::default(), &frame).unwrap();
            if remote == HOST && segment.flags == Tcp::ACK {
                self.established.insert(segment.ports.0, Instant::now());
            }
        }
        self.guest.mock.notify_on(0).unwrap();
    }
}

#[test]
fn ten_thousand_connections_are_told_once_each_in_batches_and_in_time() {
    const COUNT: usize = 10_000;
    sys::raise_descriptor_limit().unwrap();
    let bed = Bed::start(&TestConfig::default().vm("a", 2, LIMITS)).unwrap();
    let (listener, port) = wire::listen().unwrap();
    let mut crowd = Crowd::start(&bed);
    let accepting = std::thread::spawn(move || {
        (0..COUNT).map(|_| wire::accept(&listener).unwrap()).collect::<Vec<_>>()
    });
    let begin = Instant::now();
    crowd.open(COUNT, port);
    let opened = begin.elapsed();
    crowd.serve_until("event for each", |crowd| crowd.events() >= COUNT);
    let far = accepting.join().unwrap();
    // Whatever were told twice would come now.
    let end = Instant::now() + DELAY * 2;
    crowd.serve_until("pause", |_| Instant::now() >= end);
    check(&crowd, COUNT, opened);
    // And of all their ends, however they come.
    crowd.batches.clear();
    drop(far);
    bed.directory.write("etc/vms.d/a.toml", TestConfig::default().vm("a", 2, "").vms["a"].clone()).unwrap();
}

fn check(crowd: &Crowd, count: usize, opened: Duration) {
    let mut told: BTreeMap<u16, Duration> = BTreeMap::new();
    let (mut next, mut sizes, mut waits) = (1, Vec::new(), Vec::new());
    for (at, batch) in crowd.batches.iter().filter(|(_, batch)| batch["events"] != Value::from(Vec::<Value>::new())) {
        let events = batch["events"].as_array().unwrap();
        assert_eq!((&batch["missed"], &batch["restarted"]), (&Value::from(0), &Value::from(false)));
        assert!(events.len() <= BATCH, "{}", events.len());
        sizes.push(events.len());
        waits.push(Duration::from_micros(batch["waited_us"].as_u64().unwrap()));
        for event in events {
            assert_eq!((&event["number"], &event["event"]), (&Value::from(next), &Value::from("established")), "{event}");
            next += 1;
            let guest: std::net::SocketAddr = event["guest"].as_str().unwrap().parse().unwrap();
            let delay = at.duration_since(crowd.established[&guest.port()]);
            assert!(told.insert(guest.port(), delay).is_none(), "twice: {event}");
        }
    }
    assert_eq!(told.len(), count, "some are missing");
    let mut delays: Vec<Duration> = told.into_values().collect();
    delays.sort();
    waits.sort();
    let part = |all: &[Duration], percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
    eprintln!(
        "{count} connections in {opened:.1?}, told in {} batches of up to {}; delay at the guest: p50 {:.1?} p90 {:.1?} p99 {:.1?} most {:.1?}; \
        first event of a batch in vonic: p50 {:.1?} most {:.1?}; bound {DELAY:?}",
        sizes.len(),
        sizes.iter().max().unwrap(),
        part(&delays, 50),
        part(&delays, 90),
        part(&delays, 99),
        part(&delays, 100),
        part(&waits, 50),
        part(&waits, 100),
    );
    assert!(sizes.len() <= count / BATCH + opened.as_millis() as usize / DELAY.as_millis() as usize + 5, "{sizes:?}");
    assert!(part(&delays, 100) <= DELAY + SLACK, "{:?}", part(&delays, 100));
    assert!(part(&waits, 100) <= DELAY + SLACK, "{:?}", part(&waits, 100));
}
