//! What does a VM lose by bad vhost-user messages? That connection at most, with a clear refusal; the next one works, and nobody else loses
//! anything.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vonic_tests::mock::{MockConfig, MockFrontend, RawConnection, Reply, code};
use vonic_tests::*;

/// A VM that is spoken to badly, and its neighbour.
struct Two {
    b: MockFrontend,
    bed: Bed,
}

impl Two {
    fn start() -> Two {
        let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
        let b = bed.mock("b", MockConfig::default()).unwrap();
        Two { b, bed }
    }

    /// A frontend on `a` that has negotiated, shared its memory and started its rings.
    fn started(&self) -> MockFrontend {
        self.bed.mock("a", MockConfig::default()).unwrap()
    }

    /// A fresh connection on `a`, on which nothing has been said.
    fn fresh(&self) -> RawConnection {
        let stream = UnixStream::connect(self.bed.socket("a")).unwrap();
        stream.set_read_timeout(Some(seconds(10))).unwrap();
        stream.set_write_timeout(Some(seconds(10))).unwrap();
        RawConnection::new(stream)
    }

    /// b goes on, and a's socket takes a well-behaved frontend.
    fn nothing_else_is_lost(&mut self, after: &str) {
        self.b.gateway_answers(3).with_context(|| format!("b, after {after}")).unwrap();
        wait_for("a's next connection", seconds(10), || {
            // The old one may still be on its way out; only one is accepted at a time.
            let next = self.bed.mock("a", MockConfig::default()).and_then(|mut a| a.gateway_answers(2));
            Ok(next.ok())
        })
        .with_context(|| format!("a, after {after}"))
        .unwrap();
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// A memory table: guest address, size, user address, offset of each region.
fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = words(&[regions.len() as u32, 0]);
    regions.iter().for_each(|region| body.extend(longs(region)));
    body
}

fn vring_address(index: u32, descriptors: u64, used: u64, available: u64) -> Vec<u8> {
    [words(&[index, 0]), longs(&[descriptors, used, available, 0])].concat()
}

const MIB: u64 = 1 << 20;

#[test]
fn a_bad_value_is_refused() {
    let mut two = Two::start();
    let file = File::open("/dev/null").unwrap();
    let rings = two.started().regions()[0].user;
    let cases: Vec<(&str, u32, Vec<u8>, Vec<RawFd>)> = vec![
        ("a ring of no entries", code::SET_VRING_NUM, words(&[0, 0]), vec![]),
        ("a ring of three entries", code::SET_VRING_NUM, words(&[0, 3]), vec![]),
        ("a ring of 2^20 entries", code::SET_VRING_NUM, words(&[0, 1 << 20]), vec![]),
        ("ring 3 of 3", code::SET_VRING_NUM, words(&[3, 256]), vec![]),
        ("ring 2^32 - 1", code::SET_VRING_BASE, words(&[u32::MAX, 0]), vec![]),
        ("enable ring 7", code::SET_VRING_ENABLE, words(&[7, 1]), vec![]),
        ("enable with 2", code::SET_VRING_ENABLE, words(&[0, 2]), vec![]),
        ("a ring outside memory", code::SET_VRING_ADDR, vring_address(0, 1, 2, 3), vec![]),
        (
            "misaligned descriptors",
            code::SET_VRING_ADDR,
            vring_address(0, rings + 1, rings + 0x4000, rings + 0x2000),
            vec![],
        ),
        ("features never offered", code::SET_FEATURES, longs(&[1 << 63]), vec![]),
        ("protocol features never offered", code::SET_PROTOCOL_FEATURES, longs(&[1 << 63]), vec![]),
        ("a kick without its descriptor", code::SET_VRING_KICK, longs(&[0]), vec![]),
        ("a kick for ring 9", code::SET_VRING_KICK, longs(&[9]), vec![file.as_raw_fd()]),
        ("a memory table without regions", code::SET_MEM_TABLE, table(&[]), vec![]),
        ("a memory table without its descriptor", code::SET_MEM_TABLE, table(&[[0, MIB, 0, 0]]), vec![]),
        ("a region of no bytes", code::SET_MEM_TABLE, table(&[[0, 0, 0, 0]]), vec![file.as_raw_fd()]),
        ("a region of no file", code::SET_MEM_TABLE, table(&[[0, MIB, 0, 0]]), vec![file.as_raw_fd()]),
        ("a configuration longer than a message", code::GET_CONFIG, words(&[0, 1 << 16, 0]), vec![]),
    ];
    for (what, request, body, files) in cases {
        let mut a = two.started();
        let reply = a.raw().ask(request, &body, &files).with_context(|| what.to_string()).unwrap();
        assert_ne!(reply.acknowledged(), Some(true), "{what} was accepted");
        drop(a);
        two.nothing_else_is_lost(what);
    }
}

#[test]
fn bad_memory_is_refused_and_named_in_the_log() {
    let whole: u64 = Two::start().b.regions().iter().map(|region| region.size).sum();
    let cases: [(&str, Vec<[u64; 4]>); 6] = [
        ("larger than its file", vec![[0, whole + MIB, 0, 0]]),
        ("an offset behind its file", vec![[0, MIB, 0, whole + MIB]]),
        ("an end that wraps", vec![[u64::MAX - 0xfff, MIB, 0, 0]]),
        ("an offset that wraps", vec![[0, MIB, 0, u64::MAX - 0xfff]]),
        ("two regions that overlap", vec![[0, MIB, 0, 0], [MIB / 2, MIB, 2 * MIB, 0]]),
        ("forty regions", (0..40).map(|index| [index * MIB, MIB, index * MIB, 0]).collect()),
    ];
    for (what, regions) in cases {
        // A service for each, since its log about one VM is limited.
        let mut two = Two::start();
        let file = two.b.regions()[0].file;
        let mut a = MockFrontend::connect(&two.bed.socket("a"), MockConfig::default()).unwrap();
        a.negotiate().unwrap();
        let warnings = two.bed.vonicd.log().lines().count();
        let files = vec![file; regions.len().min(30)];
        let reply =
            a.raw().ask(code::SET_MEM_TABLE, &table(&regions), &files).with_context(|| what.to_string()).unwrap();
        assert_ne!(reply.acknowledged(), Some(true), "{what} was accepted");
        wait_until("a line in the log", seconds(5), || two.bed.vonicd.log().lines().count() > warnings)
            .context(what)
            .unwrap();
        drop(a);
        two.nothing_else_is_lost(what);
    }
}

#[test]
fn bytes_that_are_no_message_end_that_connection_only() {
    let mut two = Two::start();
    let message = |request: u32, flags: u32, size: u32| words(&[request, flags, size]);
    let cases = [
        ("zeros", vec![0; 64]),
        ("noise", (0..4096u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("version 2", message(code::GET_FEATURES, 2, 0)),
        ("a reply instead of a request", message(code::GET_FEATURES, 1 | 4, 0)),
        ("a size of four gigabytes", message(code::SET_FEATURES, 1, u32::MAX)),
        ("a size of 5000", message(code::SET_FEATURES, 1, 5000)),
        ("a body that is too short for its request", [message(code::SET_FEATURES, 1 | 8, 4), vec![0; 4]].concat()),
        ("a body that is too long for its request", [message(code::SET_FEATURES, 1 | 8, 64), vec![0; 64]].concat()),
    ];
    for (what, bytes) in cases {
        let mut a = two.fresh();
        drop(a.send_bytes(&bytes));
        drop(a);
        two.nothing_else_is_lost(what);
    }
}

#[test]
fn an_unknown_request_is_refused_and_the_connection_lives() {
    let mut two = Two::start();
    let mut a = two.started();
    for request in [77, 1000, u32::MAX] {
        let reply = a.raw().ask(request, &[0; 16], &[]).unwrap();
        assert_eq!(reply.acknowledged(), Some(false), "request {request}");
    }
    a.gateway_answers(2).unwrap();
    drop(a);
    two.nothing_else_is_lost("unknown requests");
}

#[test]
fn requests_that_the_front_answers_itself_leave_the_connection_alive() {
    let two = Two::start();
    let mut a = two.started();
    for (request, body) in [(code::SEND_RARP, longs(&[0x0200_0000_5452])), (code::NET_SET_MTU, longs(&[1500]))] {
        let reply = a.raw().ask(request, &body, &[]).unwrap();
        assert_ne!(reply, Reply::Closed, "request {request}");
        a.gateway_answers(2).unwrap();
    }
}

#[test]
fn more_descriptors_than_a_message_may_carry_end_that_connection_only() {
    let mut two = Two::start();
    let file = File::open("/dev/null").unwrap();
    let mut a = two.fresh();
    let reply = a.ask(code::SET_VRING_CALL, &longs(&[0]), &[file.as_raw_fd(); 100]);
    assert_ne!(reply.ok().and_then(|reply| reply.acknowledged()), Some(true));
    drop(a);
    two.nothing_else_is_lost("100 descriptors");
    // None of them is kept.
    let engine = std::fs::read_to_string(two.bed.directory.path().join("run/engine.pid")).unwrap();
    wait_until("the descriptors' end", seconds(5), || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", engine.trim())).unwrap();
        let null = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_link(entry.unwrap().path()).is_ok_and(|target| target.as_os_str() == "/dev/null")
        };
        open.map(null).filter(|is_null| *is_null).count() <= 3
    })
    .unwrap();
}

#[test]
fn a_frontend_that_stops_in_a_message_holds_up_nobody() {
    let mut two = Two::start();
    let whole = words(&[code::GET_FEATURES, 1, 0]);
    let mut held = Vec::new();
    for cut in 1..whole.len() {
        let mut a = two.fresh();
        drop(a.send_bytes(&whole[..cut]));
        two.b.gateway_answers(3).unwrap();
        held.push(a);
    }
    drop(held);
    two.nothing_else_is_lost("half messages");
}

#[test]
fn a_second_frontend_is_turned_away_while_the_first_lives() {
    let two = Two::start();
    let mut a = two.started();
    let mut second = two.fresh();
    let reply = second.ask(code::GET_FEATURES, &[], &[]);
    assert!(matches!(reply, Ok(Reply::Closed)) || reply.is_err(), "{reply:?}");
    a.gateway_answers(2).unwrap();
}

/// Memory that is taken away under vonic's feet: the port dies, the service does not.
#[test]
fn a_frontend_that_shrinks_its_memory_loses_its_port_only() {
    let mut two = Two::start();
    let mut a = two.started();
    a.gateway_answers(2).unwrap();
    let file = File::options().write(true).open(format!("/proc/self/fd/{}", a.regions()[0].file)).unwrap();
    let buffers = a.regions()[0].size;
    // The rings stay, the buffers go.
    file.set_len(buffers).unwrap();
    let ring = a.ring(mock::GUEST_TO_HOST);
    ring.kick.write(1).unwrap();
    // The device reads a frame that is no longer there: the test itself must not touch it.
    let memory = a.memory().clone();
    let ring = a.ring(mock::GUEST_TO_HOST);
    let heads = ring.reserve(1).unwrap();
    let gone = mock::Descriptor { address: mock::BUFFERS, length: 72, flags: 0, next: 0 };
    ring.write_descriptor(&memory, heads[0], gone).unwrap();
    ring.make_available(&memory, heads[0]).unwrap();
    ring.kick.write(1).unwrap();
    two.b.gateway_answers(3).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    drop(a);
    two.nothing_else_is_lost("memory that shrank");
}
