//! A session on its own: what it answers, when it answers, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vmm_sys_util::tempdir::TempDir;
use vmm_sys_util::tempfile::TempFile;
use vonic_session::{EventSink, PortEvent, Session, SessionError, SessionEvent, SessionSpec, start};

const FEATURES: u64 = 1 << 32 | 1 << 30;
/// VHOST_F_LOG_ALL, which every session offers.
const LOG_ALL: u64 = 1 << 26;
const PATIENCE: Duration = Duration::from_secs(10);
const USER: u64 = 0x7000_0000;

#[derive(Clone)]
struct Sink(Arc<Mutex<Sender<SessionEvent>>>);

impl EventSink for Sink {
    fn event(&self, event: SessionEvent) {
        let _ = self.0.lock().unwrap().send(event);
    }
}

/// A session and the front's end of it.
struct Bench {
    front: UnixStream,
    events: Receiver<SessionEvent>,
    session: Option<Session>,
    scratch: TempDir,
}

fn spec() -> SessionSpec {
    let (mac, name) = ([0x52, 0x54, 0, 0, 0, 2], String::from("web1"));
    SessionSpec { port: 3, session: 9, name, features: FEATURES, queue_pairs: 2, mac, mtu: 1500 }
}

impl Bench {
    /// With protocol features (MQ, REPLY_ACK, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS) and features acknowledged.
    fn new() -> Bench {
        Bench::of(spec())
    }

    fn of(spec: SessionSpec) -> Bench {
        let offered = spec.features;
        let (sender, events) = mpsc::channel();
        let scratch = TempDir::new().unwrap();
        let sink = Sink(Arc::new(Mutex::new(sender)));
        let (session, front) = start(spec, scratch.as_path(), sink).unwrap();
        let mut bench = Bench { front: front.into(), events, session: Some(session), scratch };
        bench.front.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(bench.ask(1, &[], &[]), (offered | LOG_ALL).to_ne_bytes());
        assert_eq!(bench.ask(16, &0xa209_u64.to_ne_bytes(), &[]), [0; 8]);
        assert_eq!(bench.ask(2, &FEATURES.to_ne_bytes(), &[]), [0; 8]);
        assert!(matches!(bench.next(), PortEvent::Features(FEATURES)));
        bench
    }

    fn next(&self) -> PortEvent {
        let event = self.events.recv_timeout(PATIENCE).expect("no event");
        assert_eq!((event.port, event.session), (3, 9));
        event.event
    }

    fn none(&self) {
        assert!(self.events.try_recv().is_err());
    }

    /// Sends a message that asks for a reply.
    fn send(&self, code: u32, body: &[u8], fds: &[OwnedFd]) {
        let mut bytes = [code, 9, body.len() as u32].map(u32::to_ne_bytes).concat();
        bytes.extend(body);
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.front.send_with_fds(&[bytes.as_slice()], &fds).unwrap();
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut header = [0; 12];
        self.front.read_exact(&mut header).unwrap();
        let mut body = vec![0; u32::from_ne_bytes(header[8..].try_into().unwrap()) as usize];
        self.front.read_exact(&mut body).unwrap();
        body
    }

    fn ask(&mut self, code: u32, body: &[u8], fds: &[OwnedFd]) -> Vec<u8> {
        self.send(code, body, fds);
        self.answer()
    }

    /// No answer has come for a while.
    fn is_held_back(&mut self) -> bool {
        self.front.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let read = self.front.read(&mut [0; 1]);
        self.front.set_read_timeout(Some(PATIENCE)).unwrap();
        read.is_err()
    }

    fn ring(&mut self, code: u32, index: u32, value: u32) -> Vec<u8> {
        self.ask(code, &[index, value].map(u32::to_ne_bytes).concat(), &[])
    }

    /// A megabyte at guest address 0.
    fn memory(&mut self) {
        self.send_memory();
        let PortEvent::Memory(_, done) = self.next() else { panic!("not the memory") };
        done.done();
        assert_eq!(self.answer(), [0; 8]);
    }

    fn send_memory(&self) {
        let file = TempFile::new().unwrap().into_file();
        file.set_len(1 << 20).unwrap();
        self.send(5, &[1, 0, 1 << 20, USER, 0].map(u64::to_ne_bytes).concat(), &[file.into()]);
    }

    /// Size and addresses of a ring, and its kick: it starts.
    fn start_ring(&mut self, index: u32) -> PortEvent {
        self.ring(8, index, 64);
        let mut body = [index, 0].map(u32::to_ne_bytes).concat();
        body.extend([USER, USER + 0x3000, USER + 0x2000, 0].map(u64::to_ne_bytes).concat());
        self.ask(9, &body, &[]);
        self.none();
        self.kick(12, index);
        self.next()
    }

    fn kick(&mut self, code: u32, index: u32) {
        let fd = UnixStream::pair().unwrap().0.into();
        assert_eq!(self.ask(code, &u64::from(index).to_ne_bytes(), &[fd]), [0; 8]);
    }

    fn config(&mut self, offset: u32, size: u32) -> Vec<u8> {
        let mut body = [offset, size, 0].map(u32::to_ne_bytes).concat();
        body.resize(12 + size as usize, 0xee);
        self.ask(24, &body, &[]).split_off(12)
    }
}

#[test]
fn configuration_space_is_the_specs_and_zeros_follow() {
    let mut bench = Bench::new();
    // virtio 1.3 §5.1.4: mac, status (link up), max_virtqueue_pairs, mtu; little-endian.
    assert_eq!(bench.config(0, 12), [0x52, 0x54, 0, 0, 0, 2, 1, 0, 2, 0, 0xdc, 5]);
    assert_eq!(bench.config(10, 6), [0xdc, 5, 0, 0, 0, 0]);
    assert_eq!(bench.config(4000, 96), [0; 96]);
    assert_eq!(bench.ask(17, &[], &[]), 4_u64.to_ne_bytes(), "GET_QUEUE_NUM counts rings");
}

#[test]
fn a_memory_map_is_acknowledged_when_the_data_path_has_it() {
    let mut bench = Bench::new();
    bench.send_memory();
    let PortEvent::Memory(_, done) = bench.next() else { panic!("not the memory") };
    assert!(bench.is_held_back());
    drop(done);
    assert_eq!(bench.answer(), [0; 8]);
}

#[test]
fn regions_by_themselves_are_acknowledged_like_a_whole_map() {
    let mut bench = Bench::new();
    bench.memory();
    let region = [0, 1 << 30, 4096, USER + (1 << 30), 0].map(u64::to_ne_bytes).concat();
    let regions = |event: PortEvent| {
        let PortEvent::Memory(map, done) = event else { panic!("not the memory") };
        (format!("{map:?}").matches("..").count(), done)
    };
    for (code, left) in [(37, 2), (38, 1), (37, 2)] {
        let file = TempFile::new().unwrap().into_file();
        file.set_len(4096).unwrap();
        let fds: &[OwnedFd] = if code == 37 { &[file.into()] } else { &[] };
        bench.send(code, &region, fds);
        let (count, done) = regions(bench.next());
        assert_eq!(count, left, "request {code}");
        assert!(bench.is_held_back(), "request {code}");
        done.done();
        assert_eq!(bench.answer(), [0; 8]);
    }
}

#[test]
fn a_reset_of_stopped_rings_leaves_nothing_that_could_start() {
    let mut bench = Bench::new();
    bench.memory();
    bench.start_ring(1);
    for index in 0..4 {
        bench.send(11, &[index, 0].map(u32::to_ne_bytes).concat(), &[]);
        let PortEvent::RingStopped { done, .. } = bench.next() else { panic!("not stopped") };
        done.done();
        bench.answer();
    }
    assert_eq!(bench.ask(34, &[], &[]), [0; 8]);
    assert!(matches!(bench.next(), PortEvent::Reset));
    bench.ask(2, &FEATURES.to_ne_bytes(), &[]);
    assert!(matches!(bench.next(), PortEvent::Features(FEATURES)));
    bench.ring(18, 1, 1);
    bench.none();
    assert!(matches!(bench.start_ring(1), PortEvent::Ring { index: 1, enabled: true, call: None, .. }));
}

#[test]
fn rings_come_whole_and_in_order() {
    let mut bench = Bench::new();
    bench.memory();
    let PortEvent::Ring { index: 1, setup, kick: Some(kick), call: None, enabled: false, .. } = bench.start_ring(1)
    else {
        panic!("not the started ring")
    };
    assert_eq!((setup.size, setup.descriptors, setup.available, setup.used), (64, 0, 0x2000, 0x3000));
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", kick.as_raw_fd())).unwrap();
    let octal = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
    assert_ne!(i32::from_str_radix(&octal, 8).unwrap() & libc::O_NONBLOCK, 0, "a kick never blocks the data path");
    bench.kick(13, 1);
    assert!(matches!(bench.next(), PortEvent::Ring { index: 1, call: Some(_), enabled: false, .. }));
    bench.ring(18, 1, 1);
    assert!(matches!(bench.next(), PortEvent::Ring { index: 1, kick: Some(_), call: Some(_), enabled: true, .. }));

    // SET_VRING_BASE of a running ring: it begins anew, once the old one was let go.
    bench.send(10, &[1, 40].map(u32::to_ne_bytes).concat(), &[]);
    let PortEvent::RingStopped { index: 1, done } = bench.next() else { panic!("not stopped") };
    assert!(bench.is_held_back());
    done.done();
    assert_eq!(bench.answer(), [0; 8]);
    assert!(matches!(bench.start_ring(1), PortEvent::Ring { index: 1, call: Some(_), enabled: true, .. }));

    // GET_VRING_BASE: answered with the used index in memory, here 0, once the ring was let go.
    bench.send(11, &[1, 0, 0, 0, 0, 0, 0, 0], &[]);
    let PortEvent::RingStopped { index: 1, done } = bench.next() else { panic!("not stopped") };
    assert!(bench.is_held_back());
    done.done();
    assert_eq!(bench.answer(), [1, 0, 0, 0, 0, 0, 0, 0]);
    bench.ring(18, 1, 0);
    bench.none();
    assert!(matches!(bench.start_ring(1), PortEvent::Ring { index: 1, enabled: false, call: None, .. }));
}

#[test]
fn a_disabled_ring_is_acknowledged_when_the_data_path_has_let_go_of_it() {
    let mut bench = Bench::new();
    bench.memory();
    // One that was never started is nobody's.
    assert_eq!(bench.ring(18, 1, 0), [0; 8]);
    bench.none();
    bench.start_ring(1);
    bench.ring(18, 1, 1);
    assert!(matches!(bench.next(), PortEvent::Ring { index: 1, enabled: true, done: None, .. }));
    bench.send(18, &[1, 0, 0, 0, 0, 0, 0, 0], &[]);
    let PortEvent::Ring { index: 1, enabled: false, done: Some(done), .. } = bench.next() else {
        panic!("not the disabled ring")
    };
    assert!(bench.is_held_back());
    drop(done);
    assert_eq!(bench.answer(), [0; 8]);
}

#[test]
fn the_control_queue_comes_behind_the_pairs() {
    let offered = SessionSpec { features: FEATURES | 1 << 17, ..spec() };
    let mut bench = Bench::of(offered);
    assert_eq!(bench.ask(17, &[], &[]), 5_u64.to_ne_bytes());
}

#[test]
fn it_ends_with_either_side_and_closed_is_the_last_word() {
    let mut bench = Bench::new();
    drop(bench.session.take());
    assert!(matches!(bench.next(), PortEvent::Closed));
    assert!(matches!(bench.front.read(&mut [0; 1]), Ok(0)));
    assert!(bench.events.recv_timeout(PATIENCE).is_err(), "the sink is gone as well");

    let bench = Bench::new();
    bench.front.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(bench.next(), PortEvent::Closed));
}

#[test]
fn dropping_it_while_an_event_is_unanswered_does_not_hang() {
    let mut bench = Bench::new();
    bench.send_memory();
    let memory = bench.next();
    let session = bench.session.take();
    let dropping = std::thread::spawn(move || drop(session));
    drop(memory);
    dropping.join().unwrap();
    assert!(matches!(bench.next(), PortEvent::Closed));
}

#[test]
fn its_private_socket_leaves_nothing() {
    let bench = Bench::new();
    assert_eq!(std::fs::read_dir(bench.scratch.as_path()).unwrap().count(), 0);
    let (sender, _) = mpsc::channel();
    let missing = bench.scratch.as_path().join("missing");
    let error = start(spec(), &missing, Sink(Arc::new(Mutex::new(sender)))).err().unwrap();
    assert!(matches!(error, SessionError::Connect(_)), "{error}");
}

#[test]
fn sessions_are_independent() {
    let (mut one, mut other) = (Bench::new(), Bench::new());
    one.memory();
    other.none();
    drop(one);
    assert_eq!(other.ask(1, &[], &[]), (FEATURES | LOG_ALL).to_ne_bytes());
}
