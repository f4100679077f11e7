//! Is what was written read again, for ever, and nothing else?
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod samples;

use proptest::prelude::*;
use samples::port;
use std::io::{self, Read};
use std::time::Instant;
use vonic_migration::{FlowState, Header, PortState, Stream, StreamError, VERSION, write};

fn written(port: &PortState) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(port, &mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<PortState, StreamError> {
    Stream::read(bytes).and_then(PortState::try_from)
}

/// A port with some of everything.
fn example() -> PortState {
    let bytes: Vec<u8> = (0..900u32).map(|at| (at * at * 31 + at * 7 + 5) as u8).collect();
    let mut port = port(&bytes);
    let socket = port.flows.iter().find_map(|flow| flow.socket.clone());
    assert!(socket.is_some_and(|socket| !socket.send.is_empty() && !socket.received.is_empty()));
    assert!(!port.datagrams.is_empty() && !port.claims.is_empty() && !port.counters.is_empty());
    port.identity.name = "web1".to_string();
    port
}

/// A file of each format that a release has written is read for ever. This one is never made anew.
#[test]
fn the_first_format_is_read_for_ever() {
    let golden = include_bytes!("golden/v1.bin");
    assert_eq!(Header::read(&mut &golden[..]).unwrap().version, 1);
    assert_eq!(read(golden).unwrap(), example());
}

proptest! {
    #[test]
    fn what_is_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        let port = port(&bytes);
        prop_assert_eq!(read(&written(&port)).unwrap(), port);
    }

    /// Bodies that nothing of vonic's has written, under headers that agree with them.
    #[test]
    fn whatever_comes_is_an_answer(body in proptest::collection::vec(any::<u8>(), 0..300), golden in any::<bool>(), at in any::<usize>()) {
        let mut bytes = written(&example())[28..].to_vec();
        if golden {
            // In the midst of one that is right.
            let at = at % bytes.len();
            let until = bytes.len().min(at + body.len() % 9);
            bytes[at..until].copy_from_slice(&body[..until - at]);
        } else {
            bytes = body;
        }
        let header = Header { version: VERSION, length: bytes.len() as u64, crc: crc32fast::hash(&bytes) };
        drop(read(&[&header.to_bytes()[..], &bytes].concat()));
    }
}

#[test]
fn every_change_is_noticed() {
    let bytes = written(&example());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(read(&changed).is_err(), "byte {at} changed");
        assert!(read(&bytes[..at]).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(read(&longer).unwrap_err().to_string(), "this stream is damaged: it goes on behind its end");
    assert_eq!(read(&bytes[..40]).unwrap_err().to_string(), "this stream is damaged: it ends too early");
    assert!(matches!(read(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Err(StreamError::Foreign)));
}

#[test]
fn a_newer_stream_is_refused_by_name_from_its_header_alone() {
    let header = Header { version: 2, length: 1 << 60, crc: 7 };
    assert_eq!(Header::read(&mut &header.to_bytes()[..]).unwrap(), header);
    let refused = read(&header.to_bytes()).unwrap_err().to_string();
    assert!(refused.starts_with("this stream is of a newer vonic (format 2; this one knows 1)"), "{refused}");
}

/// Gives what it has, and notes for how much it was asked at once.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1.max(to.len());
        self.0.read(to)
    }
}

#[test]
fn a_claimed_length_takes_no_memory() {
    // A port of no flow but one, whose queue is said to be long, and is not there.
    let mut port = port(&[]);
    port.flows = vec![example().flows.into_iter().find(|flow| flow.socket.is_some()).unwrap()];
    port.flows[0].socket.as_mut().unwrap().send = vec![1; 60 << 20];
    let mut bytes = written(&port);
    bytes.truncate(4000);
    let mut slow = Slow(&bytes, 0);
    assert!(Stream::read(&mut slow).is_err());
    assert!(slow.1 <= 1 << 17, "{} bytes were made ready at once", slow.1);
}

#[test]
fn timestamps_and_ages_go_on_by_the_other_hosts_clock() {
    let flow: FlowState = example().flows.into_iter().find(|flow| flow.socket.is_some()).unwrap();
    let flow = FlowState { timestamps: 5000, opened: 7_000_000, ..flow };
    let known = vonic_uplink::Known { connected: false, shut: false, aborted: false, origin: Default::default() };
    // There it was second 9; here it is second 100, or millisecond 2.
    let record = flow.record(known, (9_000_999, 100_000_000), (1, 2, 3));
    assert_eq!(record.timestamps.wrapping_add(100_000), 5000 + 9000, "TSval of now");
    assert_eq!(record.opened, 100_000_000 - 2_000_999);
    let record = flow.record(known, (9_000_999, 2000), (1, 2, 3));
    assert_eq!(record.timestamps.wrapping_add(2), 5000 + 9000);
    assert_eq!(record.opened, 0);
    assert_eq!(FlowState { socket: None, ..FlowState::new(&record, None) }.guest, flow.guest);
}

/// What the blackout has for it: 1 ms for a megabyte, of which the sockets take the most.
#[test]
fn a_stream_is_quick() {
    let mut port = port(&[]);
    let mut flow = example().flows.into_iter().find(|flow| flow.socket.is_some()).unwrap();
    flow.socket.as_mut().unwrap().received = vec![3; 1 << 20];
    port.flows = vec![flow; 32];
    let begin = Instant::now();
    let bytes = written(&port);
    let middle = Instant::now();
    assert!(read(&bytes).is_ok());
    println!("32 MiB: written in {:?}, read in {:?}", middle - begin, middle.elapsed());
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}
