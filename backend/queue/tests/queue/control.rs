//! The control queue's chains: what the device reads, then what it writes, and how each fault comes back.
use vonic_frame::DropReason;
use vonic_queue::{Burst, ControlChain, Direction, QueueError};

use crate::guest::{BUFFERS, Guest, INDIRECT, NEXT, TABLES, WRITE};

fn good(head: u16, readable: u32, writable: u32) -> ControlChain {
    ControlChain { head, readable, writable, fault: None }
}

fn bad(head: u16, reason: DropReason) -> ControlChain {
    ControlChain { head, readable: 0, writable: 0, fault: Some(reason) }
}

/// Where a buffer lies behind `BUFFERS`, its length, and WRITE or not.
type Buffer = (u64, u32, u16);

/// Writes a chain into the ring's descriptors from `from` on.
fn chain(guest: &Guest, from: u16, buffers: &[Buffer]) {
    for (i, (offset, len, flag)) in (from..).zip(buffers) {
        let more = if usize::from(i - from) + 1 < buffers.len() { NEXT } else { 0 };
        guest.descriptor(i, BUFFERS + offset, *len, flag | more, i + 1);
    }
}

#[test]
fn readable_and_writable_parts_are_told_apart_and_written_to() {
    let mut guest = Guest::new(16, 0xfffe, true);
    let mut ring = guest.ring(Direction::Control);
    let mut burst = Burst::with_capacity(4, 1024);
    assert_eq!(ring.fetch_control(&mut burst), Ok(None));
    chain(&guest, 0, &[(0, 2, 0), (16, 6, 0), (64, 1, WRITE)]);
    chain(&guest, 4, &[(0x100, 5, 0)]);
    chain(&guest, 8, &[(0x200, 3, WRITE), (0x300, 1, WRITE)]);
    guest.fill(BUFFERS, &[1, 2]);
    guest.fill(BUFFERS + 16, &[3, 4, 5, 6, 7, 8]);
    for (head, readable, writable) in [(0, 8, 1), (4, 5, 0), (8, 0, 4)] {
        guest.post(head);
        assert_eq!(ring.fetch_control(&mut burst), Ok(Some(good(head, readable, writable))));
        assert_eq!(burst.write(0..1, readable, &[0x5a, 0x5a]), 2.min(writable) as usize);
        if head == 0 {
            let mut command = [0; 8];
            assert_eq!((burst.read(0, 0, &mut command), command), (8, [1, 2, 3, 4, 5, 6, 7, 8]));
        }
        ring.push_used(head, writable.min(1));
        ring.publish();
    }
    assert_eq!(guest.bytes(BUFFERS + 64, 2), [0x5a, 0]);
    assert_eq!(guest.bytes(BUFFERS + 0x200, 2), [0x5a, 0x5a]);
    assert_eq!((guest.used_entry(0xfffe), guest.used_entry(0), guest.used_index()), ((0, 1), (8, 1), 1));
    assert_eq!(ring.fetch_control(&mut burst), Ok(None));
    assert!(burst.is_empty(), "nothing of the last command stays");
}

#[test]
fn an_indirect_table_holds_both_parts() {
    let mut guest = Guest::new(8, 0, false);
    let mut ring = guest.ring(Direction::Control);
    let mut burst = Burst::with_capacity(1, 1024);
    guest.descriptor_at(TABLES, BUFFERS, 10, NEXT, 1);
    guest.descriptor_at(TABLES + 16, BUFFERS + 0x100, 1, WRITE, 0);
    guest.descriptor(3, TABLES, 32, INDIRECT, 0);
    guest.post(3);
    assert_eq!(ring.fetch_control(&mut burst), Ok(Some(good(3, 10, 1))));
}

#[test]
fn faults_come_back_with_their_names_and_lies_end_the_ring() {
    let mut guest = Guest::new(16, 0, false);
    let mut ring = guest.ring(Direction::Control);
    let mut burst = Burst::with_capacity(1, 1024);
    let hole = 0x7fff_0000 - BUFFERS;
    let cases: &[(&[Buffer], DropReason)] = &[
        (&[(0, 1, WRITE), (8, 2, 0)], DropReason::WrongDirection),
        (&[(0, 2, 0), (8, 1, WRITE), (16, 2, 0)], DropReason::WrongDirection),
        (&[(0, 2, 0), (hole, 1, WRITE)], DropReason::BadAddress),
        (&[(0, 17, INDIRECT)], DropReason::BadIndirect),
        (&[(0, 2, NEXT)], DropReason::BadAddress),
    ];
    for (buffers, reason) in cases {
        chain(&guest, 0, buffers);
        if buffers[0].2 == NEXT {
            // Where that chain goes on.
            guest.descriptor(1, BUFFERS + hole, 1, 0, 0);
        }
        guest.post(0);
        assert_eq!(ring.fetch_control(&mut burst), Ok(Some(bad(0, *reason))), "{buffers:?}");
        ring.push_used(0, 0);
    }
    // Lengths that do not fit into 32 bits.
    let all = u32::MAX;
    chain(&guest, 0, &[(0, 0x1000, 0), (0, 0x1000, 0), (0, all, WRITE)]);
    guest.post(0);
    assert!(ring.fetch_control(&mut burst).unwrap().unwrap().fault.is_some());
    ring.push_used(0, 0);
    guest.post(16);
    let error = QueueError::BadHead { head: 16, size: 16 };
    assert_eq!(ring.fetch_control(&mut burst), Err(error));
    assert_eq!(ring.fetch_control(&mut burst), Err(error));
}
