//! Guests that lie: every head comes back once, every fault has its name, and nothing outside guest memory is touched.
use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vonic_frame::DropReason;
use vonic_queue::{Burst, Direction, QueueError};

use crate::guest::{BUFFERS, Guest, INDIRECT, NEXT, REGIONS, Span, TABLES, WRITE, flag};
use crate::wrap::index;

/// The rules for a chain, written as plainly as they are stated: one list of descriptors, then one look at each.
fn judge(guest: &Guest, head: u16, direction: Direction) -> Result<Vec<Span>, DropReason> {
    let size = guest.setup.size;
    let cap = usize::from(size.min(1024));
    let (mut table, mut count, mut at, mut indirect) = (guest.setup.descriptors, u32::from(size), head, false);
    let (mut seen, mut buffers, mut total) = (0, Vec::new(), 0u64);
    loop {
        if u32::from(at) >= count {
            return Err(DropReason::BadDescriptor);
        }
        let bytes = guest.bytes(table + 16 * u64::from(at), 16);
        let address = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        let flags = u16::from_le_bytes(bytes[12..14].try_into().unwrap());
        if flags & INDIRECT != 0 {
            let entries = len / 16;
            let sound = !indirect && flags & NEXT == 0 && len % 16 == 0 && entries > 0 && entries as usize <= cap;
            if !sound || !inside_one(address, len) {
                return Err(DropReason::BadIndirect);
            }
            (table, count, at, indirect) = (address, entries, 0, true);
            continue;
        }
        seen += 1;
        total += u64::from(len);
        if seen > cap {
            return Err(DropReason::ChainTooLong);
        }
        if flags & WRITE != flag(direction) {
            return Err(DropReason::WrongDirection);
        }
        buffers.extend(split(address, len).ok_or(DropReason::BadAddress)?);
        if total > u64::from(u32::MAX) {
            return Err(DropReason::ChainTooLong);
        }
        if flags & NEXT == 0 {
            return Ok(buffers);
        }
        at = u16::from_le_bytes(bytes[14..16].try_into().unwrap());
    }
}

fn inside_one(address: u64, len: u32) -> bool {
    REGIONS
        .iter()
        .any(|(start, size)| address >= *start && address - start < *size && address - start + u64::from(len) <= *size)
}

/// The buffer as it lies in the regions; None if some of it does not.
fn split(address: u64, len: u32) -> Option<Vec<Span>> {
    if len == 0 {
        return Some(Vec::new());
    }
    let border = REGIONS[1].0;
    match inside_one(address, len) {
        true => Some(vec![(address, len)]),
        false if address < border => {
            let first = (border - address) as u32;
            let fits = first < len && inside_one(address, first) && inside_one(border, len - first);
            fits.then(|| vec![(address, first), (border, len - first)])
        }
        false => None,
    }
}

/// Descriptors as a careless or hostile driver would write them.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        6 => (0u64..0x1000).prop_map(|at| BUFFERS + at),
        2 => (0u64..16).prop_map(|at| TABLES + 64 * at),
        1 => (0u64..0x40).prop_map(|at| REGIONS[1].0 - 0x20 + at),
        1 => (0u64..0x40).prop_map(|at| REGIONS[1].0 + REGIONS[1].1 - 0x20 + at),
        1 => (0u64..0x40).prop_map(|at| REGIONS[2].0 - 0x20 + at),
        1 => any::<u64>(),
        1 => (0u64..64).prop_map(|at| u64::MAX - at),
    ];
    let len = prop_oneof![6 => 0u32..200, 2 => (0u32..8).prop_map(|n| 16 * n), 1 => any::<u32>(), 1 => 0xffff_fff0..=u32::MAX];
    let flags = prop_oneof![4 => Just(0u16), 6 => Just(NEXT), 3 => Just(INDIRECT), 1 => 0u16..8, 1 => any::<u16>()];
    (address, len, flags, prop_oneof![8 => 0u16..17, 1 => any::<u16>()])
}

/// A head as the available ring may hold it: mostly one of 16.
fn head() -> impl Strategy<Value = u16> {
    prop_oneof![40 => 0u16..16, 1 => 16u16..18, 1 => any::<u16>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_head_comes_back_once_with_the_fault_that_it_has(
        start in index(),
        host_to_guest: bool,
        descriptors in prop::collection::vec(descriptor(), 16),
        tables in prop::collection::vec(descriptor(), 64),
        heads in prop::collection::vec(0u16..16, 1..=16),
        room in (1usize..20, 1usize..64),
    ) {
        let direction = if host_to_guest { Direction::HostToGuest } else { Direction::GuestToHost };
        let mut guest = Guest::new(16, start, true);
        for (i, (address, len, flags, next)) in (0..).zip(descriptors) {
            guest.descriptor(i, address, len, flags ^ flag(direction), next);
        }
        for (i, (address, len, flags, next)) in (0..).zip(tables) {
            guest.descriptor_at(TABLES + 16 * i, address, len, flags ^ flag(direction), next);
        }
        for head in &heads {
            guest.post(*head);
        }
        let mut ring = guest.ring(direction);
        let mut burst = Burst::with_capacity(room.0, room.1);
        let mut fetched = Vec::new();
        loop {
            burst.clear();
            let count = ring.fetch(&mut burst, usize::MAX).unwrap();
            prop_assert_eq!(count, burst.len());
            prop_assert!(count > 0 || fetched.len() == heads.len(), "the ring stands still");
            for i in 0..count {
                let chain = *burst.chain(i);
                let iovecs = burst.iovecs(i..i + 1, 0, u32::MAX);
                let bytes = iovecs.len_bytes();
                match (chain.fault, judge(&guest, chain.head, direction)) {
                    (None, Ok(buffers)) => prop_assert_eq!(guest.spans(&iovecs), buffers),
                    (Some(DropReason::ChainTooLong), Ok(buffers)) => prop_assert!(buffers.len() > room.1),
                    // Twice 16 segments is the most that a chain can have here: smaller bursts may end first.
                    (Some(DropReason::ChainTooLong), Err(reason)) => {
                        prop_assert!(reason == DropReason::ChainTooLong || room.1 < 32)
                    }
                    (fault, judged) => prop_assert_eq!(fault, judged.err()),
                }
                prop_assert_eq!(bytes, chain.len as usize);
                ring.push_used(chain.head, 0);
                fetched.push(chain.head);
            }
            ring.publish();
            if count == 0 {
                break;
            }
        }
        prop_assert_eq!(&fetched, &heads);
        let entries: Vec<_> = (0..heads.len()).map(|i| guest.used_entry(start.wrapping_add(i as u16)).0 as u16).collect();
        prop_assert_eq!(entries, heads);
        prop_assert_eq!(guest.used_index(), guest.index);
    }

    #[test]
    fn random_rings_end_in_chains_or_an_error(
        seed in prop::collection::vec(any::<u8>(), 256), heads in prop::collection::vec(head(), 16),
        used in index(), ahead in prop_oneof![9 => 0u16..18, 1 => any::<u16>()], room in 1usize..32,
    ) {
        let guest = Guest::new(16, used, false);
        guest.fill(guest.setup.descriptors, &seed);
        for (slot, head) in (0..).zip(heads) {
            guest.put(guest.setup.available + 4 + 2 * slot, head);
        }
        guest.set_index(used.wrapping_add(ahead));
        let mut ring = guest.ring(Direction::GuestToHost);
        let mut burst = Burst::with_capacity(room, room);
        let mut seen = 0u16;
        loop {
            burst.clear();
            match ring.fetch(&mut burst, 7) {
                Ok(0) => break prop_assert_eq!(seen, ahead),
                Ok(_) => (),
                Err(error) => {
                    let head = guest.get(guest.setup.available + 4 + 2 * u64::from(used.wrapping_add(seen) % 16));
                    let index = guest.get(guest.setup.available + 2);
                    break match error {
                        QueueError::BadHead { .. } => {
                            prop_assert!(head >= 16 && ahead <= 16);
                            prop_assert_eq!(error, QueueError::BadHead { head, size: 16 });
                        }
                        _ => {
                            prop_assert!(ahead > 16);
                            prop_assert_eq!(error, QueueError::AvailableIndex { index, last: used, size: 16 });
                        }
                    };
                }
            }
            for chain in burst.chains() {
                ring.push_used(chain.head, 0);
                seen += 1;
            }
        }
    }
}

/// One chain in a ring of 16, and what becomes of it.
fn fault(write: impl FnOnce(&Guest)) -> Option<DropReason> {
    let mut guest = Guest::new(16, 0, false);
    write(&guest);
    guest.post(0);
    let mut burst = Burst::with_capacity(16, 1024);
    assert_eq!(guest.ring(Direction::GuestToHost).fetch(&mut burst, 16), Ok(1));
    let chain = *burst.chain(0);
    assert_eq!(chain.head, 0);
    if chain.fault.is_some() {
        assert_eq!(chain.len, 0);
        assert_eq!(burst.iovecs(0..1, 0, u32::MAX).len_bytes(), 0, "nothing of a faulty chain is kept");
    }
    chain.fault
}

#[test]
fn faults_have_names() {
    use DropReason::*;
    let table = |len, flags| move |g: &Guest| g.descriptor(0, TABLES, len, INDIRECT | flags, 0);
    assert_eq!(fault(|g| g.chain(0, &[(BUFFERS, 1); 16], 0)), None);
    assert_eq!(fault(|g| g.descriptor(0, BUFFERS, 1, NEXT, 0)), Some(ChainTooLong), "a loop");
    assert_eq!(fault(|g| g.descriptor(0, BUFFERS, 0, NEXT, 0)), Some(ChainTooLong), "a loop of nothing");
    assert_eq!(fault(|g| g.descriptor(0, BUFFERS, 1, NEXT, 16)), Some(BadDescriptor));
    assert_eq!(fault(|g| g.descriptor(0, 0x100000, 1, 0, 0)), Some(BadAddress));
    assert_eq!(fault(|g| g.descriptor(0, u64::MAX, 2, 0, 0)), Some(BadAddress));
    assert_eq!(fault(|g| g.descriptor(0, BUFFERS, u32::MAX, 0, 0)), Some(BadAddress));
    assert_eq!(fault(|g| g.descriptor(0, BUFFERS, 1, WRITE, 0)), Some(WrongDirection));
    let late = |g: &Guest| {
        g.descriptor(0, BUFFERS, 9, NEXT, 1);
        g.descriptor(1, BUFFERS, 9, WRITE, 0);
    };
    assert_eq!(fault(late), Some(WrongDirection), "in the second descriptor");
    assert_eq!(fault(table(16, 0)), None, "a table of one empty buffer");
    assert_eq!(fault(table(16, WRITE)), None, "the flag says nothing there");
    assert_eq!(fault(table(0, 0)), Some(BadIndirect));
    assert_eq!(fault(table(24, 0)), Some(BadIndirect));
    assert_eq!(fault(table(16, NEXT)), Some(BadIndirect));
    assert_eq!(fault(table(16 * 16, 0)), None);
    assert_eq!(fault(table(16 * 17, 0)), Some(BadIndirect), "longer than the queue");
    assert_eq!(fault(table(0x10_0000, 0)), Some(BadIndirect), "65536 entries");
    assert_eq!(fault(|g| g.descriptor(0, REGIONS[1].0 - 16, 32, INDIRECT, 0)), Some(BadIndirect), "in two regions");
    assert_eq!(fault(|g| g.descriptor(0, 0x100000, 32, INDIRECT, 0)), Some(BadIndirect));
    let nested = |g: &Guest| {
        g.descriptor(0, TABLES, 32, INDIRECT, 0);
        g.descriptor_at(TABLES, TABLES + 16, 16, INDIRECT, 0);
    };
    assert_eq!(fault(nested), Some(BadIndirect));
    let past = |g: &Guest| {
        g.descriptor(0, TABLES, 32, INDIRECT, 0);
        g.descriptor_at(TABLES, BUFFERS, 1, NEXT, 2);
    };
    assert_eq!(fault(past), Some(BadDescriptor), "past the end of the table");
}

#[test]
fn chains_of_more_than_32_bits_are_too_long() {
    // No such memory is needed: 2^26 bytes that are never touched, 64 times.
    let ranges = [(GuestAddress(0), 0x80000), (GuestAddress(1 << 32), 1 << 26)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    for (last, expected) in [(0x3ff_ffff, None), (0x400_0000, Some(DropReason::ChainTooLong))] {
        let mut guest = Guest { memory: memory.clone(), ..Guest::new(64, 0, false) };
        guest.set_index(0);
        guest.put(guest.setup.used + 2, 0);
        let mut buffers = [(1 << 32, 1 << 26); 64];
        buffers[63].1 = last;
        guest.chain(0, &buffers, 0);
        guest.post(0);
        let mut burst = Burst::with_capacity(16, 1024);
        assert_eq!(guest.ring(Direction::GuestToHost).fetch(&mut burst, 16), Ok(1));
        assert_eq!(burst.chain(0).fault, expected);
        assert_eq!(burst.chain(0).len, if expected.is_none() { u32::MAX } else { 0 });
    }
}

#[test]
fn a_head_outside_the_table_breaks_the_ring_behind_the_good_ones() {
    let mut guest = Guest::new(16, 0, false);
    for head in [3, 4, 16, 5] {
        guest.post(head);
    }
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(16, 16);
    assert_eq!(ring.fetch(&mut burst, 16), Ok(2), "those before it are served");
    let error = QueueError::BadHead { head: 16, size: 16 };
    assert_eq!(ring.fetch(&mut burst, 16), Err(error));
    guest.put(guest.setup.available + 4 + 4, 6);
    assert_eq!(ring.fetch(&mut burst, 16), Err(error), "no second look");
    for head in [3, 4] {
        ring.push_used(head, 0);
    }
    ring.publish();
    assert_eq!(guest.used_index(), 2);
    assert!(ring.call_needed());
}
