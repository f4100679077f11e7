//! What holds for a burst as a whole: capacity, order, publishing, giving back.
use std::sync::Arc;

use vonic_frame::DropReason;
use vonic_queue::{Burst, Chain, Direction, SplitRing};

use crate::guest::{BUFFERS, Guest, INDIRECT, NEXT, TABLES};

/// A ring of 16 with `count` posted chains of one 64-byte buffer each.
fn posted(count: u16, event_idx: bool) -> (Guest, SplitRing) {
    let mut guest = Guest::new(16, 65530, event_idx);
    for head in 0..count {
        guest.chain(head, &[(BUFFERS + 64 * u64::from(head), 64)], 0);
        guest.post(head);
    }
    let ring = guest.ring(Direction::GuestToHost);
    (guest, ring)
}

fn heads(burst: &Burst) -> Vec<u16> {
    burst.chains().iter().map(|chain| chain.head).collect()
}

#[test]
fn nothing_is_visible_before_publish_and_everything_after_it() {
    let (guest, mut ring) = posted(10, false);
    let mut burst = Burst::with_capacity(16, 16);
    assert_eq!(ring.fetch(&mut burst, 10), Ok(10));
    for chain in burst.chains() {
        ring.push_used(chain.head, 100 + u32::from(chain.head));
        assert_eq!(guest.used_index(), 65530, "no store of the index while entries are pushed");
    }
    assert!(!ring.call_needed(), "nothing is published yet");
    ring.publish();
    assert_eq!(guest.used_index(), 4, "65530 and ten entries");
    for (i, chain) in burst.chains().iter().enumerate() {
        let entry = guest.used_entry(65530u16.wrapping_add(i as u16));
        assert_eq!(entry, (u32::from(chain.head), 100 + u32::from(chain.head)));
    }
    assert!(ring.call_needed());
    assert!(!ring.call_needed(), "one interrupt for one publish");
    guest.put(guest.setup.used + 2, 77);
    ring.publish();
    assert_eq!(guest.used_index(), 77, "with nothing pushed, publish stores nothing");
}

#[test]
fn the_last_entries_are_shown_later_if_they_are_kept_back() {
    let (guest, mut ring) = posted(10, false);
    let mut burst = Burst::with_capacity(16, 16);
    assert_eq!(ring.fetch(&mut burst, 10), Ok(10));
    ring.push_read(&burst);
    let start = 65530u16;
    assert_eq!((ring.publish_but(16), guest.used_index()), (10, start), "fewer than are kept back");
    assert!(!ring.call_needed());
    assert_eq!((ring.publish_but(3), guest.used_index()), (3, start.wrapping_add(7)));
    assert_eq!((ring.publish_but(4), guest.used_index()), (3, start.wrapping_add(7)), "what was shown stays so");
    ring.publish();
    assert_eq!((ring.publish_but(4), guest.used_index()), (0, start.wrapping_add(10)));
    assert!(ring.call_needed());
}

#[test]
fn who_wants_no_interrupts_looks_by_itself() {
    let (guest, ring) = posted(1, false);
    assert!(!ring.is_looked_at());
    guest.set_no_interrupt(true);
    assert!(ring.is_looked_at());
    let (guest, ring) = posted(1, true);
    guest.set_no_interrupt(true);
    assert!(!ring.is_looked_at(), "with EVENT_IDX the flag says nothing");
}

#[test]
fn fetch_stops_at_max_at_the_burst_and_at_the_index() {
    let (_guest, mut ring) = posted(10, false);
    let mut burst = Burst::with_capacity(4, 16);
    let room = burst.chains().as_ptr();
    assert_eq!(ring.available(), 10);
    assert_eq!(ring.fetch(&mut burst, 3), Ok(3));
    assert_eq!(ring.fetch(&mut burst, 100), Ok(1), "the burst holds four");
    assert_eq!(ring.fetch(&mut burst, 100), Ok(0));
    assert_eq!((heads(&burst), burst.len(), burst.is_empty()), (vec![0, 1, 2, 3], 4, false));
    burst.clear();
    assert!(burst.is_empty());
    assert_eq!(ring.fetch(&mut burst, 100), Ok(4));
    burst.clear();
    assert_eq!(ring.fetch(&mut burst, 100), Ok(2), "ten were posted");
    assert_eq!((heads(&burst), ring.available()), (vec![8, 9], 0));
    assert_eq!(burst.chains().as_ptr(), room, "the list was never moved");
}

#[test]
fn a_chain_whose_segments_find_no_room_waits_for_an_emptier_burst() {
    let mut guest = Guest::new(16, 0, false);
    let buffers: Vec<_> = (0..6).map(|i| (BUFFERS + 100 * i, 10)).collect();
    guest.chain(0, &buffers[..3], 0);
    guest.chain(3, &buffers[..2], 0);
    guest.chain(5, &buffers[..6], 0);
    for head in [0, 3, 5] {
        guest.post(head);
    }
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(16, 4);
    assert_eq!(ring.fetch(&mut burst, 16), Ok(1), "3 segments and 2 are more than 4");
    assert_eq!(guest.spans(&burst.iovecs(0..1, 0, 1000)), &buffers[..3]);
    burst.clear();
    assert_eq!(ring.fetch(&mut burst, 16), Ok(1));
    assert_eq!(burst.chain(0).head, 3);
    burst.clear();
    assert_eq!(ring.fetch(&mut burst, 16), Ok(1), "6 segments never fit: refused, or the ring would stand still");
    let Chain { head, len, fault, .. } = *burst.chain(0);
    assert_eq!((head, len, fault), (5, 0, Some(DropReason::ChainTooLong)));
}

#[test]
fn unfetched_chains_come_again() {
    let (guest, mut ring) = posted(8, true);
    let mut burst = Burst::with_capacity(16, 16);
    assert_eq!(ring.fetch(&mut burst, 6), Ok(6));
    burst.truncate(4);
    ring.unfetch(2);
    assert_eq!((heads(&burst), ring.available()), (vec![0, 1, 2, 3], 4));
    for head in heads(&burst) {
        ring.push_used(head, 0);
    }
    ring.publish();
    burst.clear();
    assert_eq!(ring.fetch(&mut burst, 16), Ok(4));
    assert_eq!(heads(&burst), [4, 5, 6, 7]);
    ring.push_used(4, 0);
    ring.unfetch(u16::MAX);
    burst.truncate(1);
    assert_eq!(ring.available(), 3, "a chain with a used entry cannot go back");
    assert_eq!(ring.fetch(&mut burst, 16), Ok(3));
    assert_eq!(heads(&burst), [4, 5, 6, 7]);
    assert_eq!(guest.used_index(), 65534);
}

#[test]
fn truncate_forgets_the_segments_too() {
    let (guest, mut ring) = posted(4, false);
    let mut burst = Burst::with_capacity(16, 4);
    assert_eq!(ring.fetch(&mut burst, 16), Ok(4));
    burst.truncate(2);
    assert_eq!(burst.iovecs(0..4, 0, 1000).len_bytes(), 128);
    ring.unfetch(2);
    assert_eq!(ring.fetch(&mut burst, 16), Ok(2), "there is room for their segments again");
    let expected: Vec<_> = (0..4).map(|i| (BUFFERS + 64 * i, 64)).collect();
    assert_eq!(guest.spans(&burst.iovecs(0..4, 0, 1000)), expected);
    burst.truncate(9);
    assert_eq!(burst.len(), 4);
    burst.truncate(0);
    assert!(burst.is_empty());
}

#[test]
fn a_cleared_burst_lets_go_of_the_guests_memory() {
    let (guest, _) = posted(4, false);
    let map = guest.map();
    let mut ring = SplitRing::new(&map, &guest.setup, Direction::GuestToHost).unwrap();
    let mut burst = Burst::with_capacity(16, 16);
    assert_eq!(ring.fetch(&mut burst, 2), Ok(2));
    drop(ring);
    assert_eq!(Arc::strong_count(&map), 2);
    burst.clear();
    assert_eq!(Arc::strong_count(&map), 1);
}

#[test]
fn kicks_are_asked_for_and_refused() {
    let (mut guest, mut ring) = posted(2, false);
    ring.disarm();
    assert_eq!(guest.used_flags(), 1);
    assert!(ring.arm(), "two chains wait: no time to sleep");
    assert_eq!(guest.used_flags(), 0);
    assert_eq!(ring.fetch(&mut Burst::with_capacity(16, 16), 16), Ok(2));
    assert!(!ring.arm());
    guest.post(2);
    assert!(ring.arm());

    let (guest, mut ring) = posted(2, true);
    assert_eq!(guest.available_event(), 65530);
    assert_eq!(ring.fetch(&mut Burst::with_capacity(16, 16), 16), Ok(2));
    ring.disarm();
    assert_eq!((guest.used_flags(), guest.available_event()), (0, 65530), "the event stays behind, the flag stays 0");
    assert!(!ring.arm());
    assert_eq!(guest.available_event(), 65532);
}

#[test]
fn a_buffer_across_adjacent_regions_becomes_two_segments() {
    let mut guest = Guest::new(16, 0, false);
    guest.chain(0, &[(0x7fff0, 0x30)], 0);
    guest.chain(1, &[(0x9fff0, 0x11)], 0);
    guest.post(0);
    guest.post(1);
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(16, 16);
    assert_eq!(ring.fetch(&mut burst, 16), Ok(2));
    assert_eq!((burst.chain(0).len, burst.chain(0).fault), (0x30, None));
    assert_eq!(guest.spans(&burst.iovecs(0..1, 0, 1000)), [(0x7fff0, 0x10), (0x80000, 0x20)]);
    assert_eq!(burst.chain(1).fault, Some(DropReason::BadAddress), "nothing lies behind the second region");
}

#[test]
fn the_longest_chain_has_1024_descriptors() {
    for (count, fault) in [(1024u16, None), (1025, Some(DropReason::ChainTooLong))] {
        let mut guest = Guest::new(2048, 0, false);
        let buffers: Vec<_> = (0..u64::from(count)).map(|i| (BUFFERS + 16 * i, 16)).collect();
        guest.chain(0, &buffers, 0);
        guest.post(0);
        let mut ring = guest.ring(Direction::GuestToHost);
        let mut burst = Burst::with_capacity(16, 4096);
        assert_eq!(ring.fetch(&mut burst, 16), Ok(1));
        assert_eq!(burst.chain(0).fault, fault);
        assert_eq!(burst.chain(0).len, if fault.is_none() { 16 * 1024 } else { 0 });
    }
}

#[test]
fn an_indirect_table_needs_no_alignment_and_may_follow_direct_descriptors() {
    let mut guest = Guest::new(4, 0, false);
    guest.descriptor(0, BUFFERS, 12, NEXT, 2);
    guest.descriptor(2, TABLES + 3, 48, INDIRECT, 0);
    guest.descriptor_at(TABLES + 3, BUFFERS + 100, 5, NEXT, 2);
    guest.descriptor_at(TABLES + 3 + 32, BUFFERS + 200, 7, 0, 0);
    guest.post(0);
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(16, 16);
    assert_eq!(ring.fetch(&mut burst, 16), Ok(1));
    assert_eq!((burst.chain(0).len, burst.chain(0).fault), (24, None));
    let spans = guest.spans(&burst.iovecs(0..1, 0, 1000));
    assert_eq!(spans, [(BUFFERS, 12), (BUFFERS + 100, 5), (BUFFERS + 200, 7)]);
}

#[test]
fn bursts_and_rings_move_between_threads() {
    let (_guest, mut ring) = posted(3, false);
    let mut burst = Burst::with_capacity(16, 16);
    let fetched = std::thread::spawn(move || ring.fetch(&mut burst, 16).map(|n| (n, burst.len()))).join().unwrap();
    assert_eq!(fetched, Ok((3, 3)));
}

#[test]
fn a_kick_is_asked_for_once_more_chains_wait_than_are_too_few() {
    for event_idx in [false, true] {
        let mut guest = Guest::new(8, 65534, event_idx);
        for head in 0..3 {
            guest.chain(head, &[(BUFFERS, 4)], 0);
            guest.post(head);
        }
        let mut ring = guest.ring(Direction::GuestToHost);
        ring.disarm();
        assert!(ring.arm_behind(2), "three wait");
        assert!(!ring.arm_behind(3) && !ring.arm_behind(4));
        assert_eq!(guest.used_flags(), 0);
        assert_eq!(guest.available_event(), if event_idx { 2 } else { 0 }, "the fifth: 65534 and four more");
        guest.chain(3, &[(BUFFERS, 4)], 0);
        guest.post(3);
        assert!(ring.arm_behind(3));
    }
}
