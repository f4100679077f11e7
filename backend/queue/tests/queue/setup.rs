//! What a ring refuses to start on, and what it does at its start and in a new map.
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vonic_queue::{Burst, Direction, MemoryMap, QueueError, RingSetup, SplitRing};

use crate::guest::{BUFFERS, Guest, REGIONS, TABLES};

/// One address of a set-up.
type Field = fn(&mut RingSetup) -> &mut u64;

fn refused(change: impl FnOnce(&mut RingSetup)) -> QueueError {
    let guest = Guest::new(16, 0, false);
    let mut setup = guest.setup;
    change(&mut setup);
    match SplitRing::new(&guest.map(), &setup, Direction::GuestToHost) {
        Ok(_) => panic!("{setup:?} was accepted"),
        Err(error) => error,
    }
}

#[test]
fn sizes_that_are_no_power_of_two_up_to_32768_are_refused() {
    for size in [0, 3, 6, 255, 257, 32767, 32769, 65535] {
        assert_eq!(refused(|s| s.size = size), QueueError::BadSize(size));
    }
    for size in [1, 2, 256, 4096] {
        Guest::new(size, 0, false).ring(Direction::GuestToHost);
    }
}

#[test]
fn areas_have_to_be_aligned() {
    let cases: [(Field, &str, u64); 3] = [
        (|s| &mut s.descriptors, "descriptors", 8),
        (|s| &mut s.available, "available", 1),
        (|s| &mut s.used, "used", 2),
    ];
    for (field, what, by) in cases {
        let mut address = 0;
        let error = refused(|s| {
            *field(s) += by;
            address = *field(s);
        });
        assert_eq!(error, QueueError::BadAlignment { what, address });
    }
}

#[test]
fn a_region_at_an_odd_guest_address_cannot_hold_a_ring() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x1001), 0x8000)]).unwrap();
    let map = Arc::new(MemoryMap::new(memory));
    let setup = RingSetup { size: 4, descriptors: 0x2000, available: 0x3000, used: 0x4000, event_idx: false };
    let error = SplitRing::new(&map, &setup, Direction::GuestToHost).err();
    assert_eq!(error, Some(QueueError::BadAlignment { what: "descriptors", address: 0x2000 }));
}

#[test]
fn areas_have_to_be_mapped_to_their_last_byte() {
    let end = REGIONS[2].0 + REGIONS[2].1;
    // 16 entries: 256 bytes of descriptors, 38 of available ring, 134 of used ring (136 to its alignment). One step further
    // at least the event field is outside.
    let cases: [(Field, &str, u64, u64); 3] = [
        (|s| &mut s.descriptors, "descriptors", 256, 16),
        (|s| &mut s.available, "available", 38, 2),
        (|s| &mut s.used, "used", 136, 4),
    ];
    for (field, what, len, step) in cases {
        for address in [end - len + step, end, 0x100000, u64::MAX - 15, REGIONS[1].0 - 16] {
            let error = refused(|s| *field(s) = address);
            assert_eq!(error, QueueError::Unmapped { what, address }, "across regions, past the end, or nowhere");
        }
        let guest = Guest::new(16, 0, false);
        let mut setup = guest.setup;
        *field(&mut setup) = end - len;
        assert!(SplitRing::new(&guest.map(), &setup, Direction::GuestToHost).is_ok(), "{what} may end with the region");
    }
}

#[test]
fn errors_name_the_place() {
    let error = QueueError::Unmapped { what: "used", address: 0x1000 };
    assert_eq!(error.to_string(), "used area at 0x1000 is not in guest memory");
}

#[test]
fn a_ring_starts_at_the_used_index_and_asks_for_kicks() {
    for event_idx in [false, true] {
        let guest = Guest::new(16, 65530, event_idx);
        guest.put(guest.setup.used, 1);
        let ring = guest.ring(Direction::HostToGuest);
        assert_eq!((ring.next_used(), ring.available()), (65530, 0));
        assert_eq!((ring.size(), ring.direction(), *ring.setup()), (16, Direction::HostToGuest, guest.setup));
        assert_eq!(guest.used_flags(), 0, "a predecessor's NO_NOTIFY is taken back");
        assert_eq!(guest.available_event(), if event_idx { 65530 } else { 0 });
    }
}

/// The same contents in other memory, as after a VMM's new memory table.
fn moved(guest: &Guest) -> Guest {
    let copy = Guest { memory: crate::guest::memory(), setup: guest.setup, index: guest.index };
    for (start, len) in REGIONS {
        copy.fill(start, &guest.bytes(start, len as usize));
    }
    copy
}

#[test]
fn remap_keeps_the_indices_and_the_old_burst_keeps_the_old_map() {
    let mut guest = Guest::new(8, 65534, true);
    for head in 0..6 {
        guest.chain(head, &[(BUFFERS + 64 * u64::from(head), 64)], 0);
        guest.post(head);
    }
    guest.fill(BUFFERS, b"old");
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(8, 8);
    assert_eq!(ring.fetch(&mut burst, 3), Ok(3));
    ring.push_used(0, 0);
    ring.publish();
    ring.push_used(1, 0);

    let mut copy = moved(&guest);
    copy.fill(BUFFERS, b"new");
    drop(guest);
    ring.remap(&copy.map()).unwrap();
    assert_eq!(ring.next_used(), 0, "65534 and two entries");

    let mut bytes = [0; 3];
    assert_eq!(burst.read(0, 0, &mut bytes), 3);
    assert_eq!(&bytes, b"old", "the old memory is still mapped");
    assert_eq!(ring.fetch(&mut burst, 8), Ok(0), "a burst holds one map's buffers");
    burst.clear();
    assert_eq!(ring.fetch(&mut burst, 8), Ok(3));
    assert_eq!(burst.chains().iter().map(|c| c.head).collect::<Vec<_>>(), [3, 4, 5]);

    ring.push_used(2, 0);
    ring.publish();
    assert_eq!(copy.used_index(), 1);
    assert_eq!(copy.used_entry(0), (2, 0));
    copy.chain(0, &[(BUFFERS, 3)], 0);
    copy.post(0);
    burst.clear();
    assert_eq!(ring.fetch(&mut burst, 8), Ok(1));
    burst.read(0, 0, &mut bytes);
    assert_eq!(&bytes, b"new");
}

#[test]
fn remap_into_a_map_without_the_ring_breaks_it() {
    let mut guest = Guest::new(8, 0, false);
    guest.chain(0, &[(BUFFERS, 64)], 0);
    guest.post(0);
    let mut ring = guest.ring(Direction::GuestToHost);
    let small = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(TABLES), 0x1000)]).unwrap();
    small.write_obj(1u8, GuestAddress(TABLES)).unwrap();
    let error = QueueError::Unmapped { what: "descriptors", address: guest.setup.descriptors };
    assert_eq!(ring.remap(&Arc::new(MemoryMap::new(small))), Err(error));
    assert_eq!(ring.fetch(&mut Burst::with_capacity(8, 8), 8), Err(error));
    assert_eq!(ring.available(), 0);
}
