//! Index arithmetic at every value that sixteen bits have.
use vonic_queue::{Burst, Direction, QueueError, SplitRing};

use crate::guest::{BUFFERS, Guest};

const SIZE: u16 = 256;

/// Posts and fetches so many chains, all of them with head 0.
fn fetch(guest: &mut Guest, ring: &mut SplitRing, burst: &mut Burst, count: u16) {
    (0..count).for_each(|_| guest.post(0));
    burst.clear();
    assert_eq!(ring.fetch(burst, count.into()), Ok(count.into()));
}

/// `vring_need_event` as virtio 1.3 §2.7.10 defines it.
fn is_due(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Wherever the used index stands, by however much it moves, and however far from it the event is: an interrupt is due where the
/// standard says so.
#[test]
fn interrupts_are_due_as_the_standard_says_at_every_index() {
    let mut guest = Guest::new(SIZE, 0, true);
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(SIZE.into(), SIZE.into());
    guest.chain(0, &[(BUFFERS, 1)], 0);
    let (mut used, mut due) = (0u16, 0);
    for distance in [0, 1, 255, 256, 0x7fff, 0x8000, 0xffff] {
        for count in [1, SIZE] {
            for _ in 0..=u16::MAX / count {
                let event = used.wrapping_add(distance);
                guest.set_used_event(event);
                fetch(&mut guest, &mut ring, &mut burst, count);
                ring.push_read(&burst);
                ring.publish();
                let new = used.wrapping_add(count);
                assert_eq!(guest.used_index(), new);
                let expected = is_due(event, new, used);
                assert_eq!(ring.call_needed(), expected, "event {event} from {used} to {new}");
                due += u32::from(expected);
                used = new;
            }
        }
    }
    assert!(due > 0);
}

/// Every index that a driver can show, at the ends and in the middle: as many chains as there are descriptors may wait, and one more
/// breaks the ring.
#[test]
fn every_available_index_is_taken_or_refused() {
    for start in [0, 1, 0x7fff, 0x8000, 0xff00, 0xffff] {
        let guest = Guest::new(SIZE, start, true);
        guest.chain(0, &[(BUFFERS, 1)], 0);
        let mut burst = Burst::with_capacity(8, 8);
        for index in 0..=u16::MAX {
            guest.set_index(start);
            let mut ring = guest.ring(Direction::GuestToHost);
            guest.set_index(index);
            let ahead = index.wrapping_sub(start);
            burst.clear();
            let fetched = ring.fetch(&mut burst, 8);
            if ahead <= SIZE {
                assert_eq!(fetched, Ok(usize::from(ahead).min(8)), "{index} from {start}");
            } else {
                assert_eq!(fetched, Err(QueueError::AvailableIndex { index, last: start, size: SIZE }));
            }
        }
    }
}

/// Every position of every size: its used entry lies in its slot, and nowhere else.
#[test]
fn every_position_has_its_slot() {
    for size in (0..=11).map(|bit| 1u16 << bit) {
        let mut guest = Guest::new(size, 0, false);
        let mut ring = guest.ring(Direction::GuestToHost);
        guest.chain(0, &[(BUFFERS, 1)], 0);
        let mut burst = Burst::with_capacity(1, 1);
        for position in 0..=u16::MAX {
            let slot = u32::from(position) + 1;
            fetch(&mut guest, &mut ring, &mut burst, 1);
            ring.push_used(0, slot);
            assert_eq!(guest.used_entry(position), (0, slot));
            if size > 1 {
                assert_ne!(guest.used_entry(position.wrapping_add(1)).1, slot);
            }
            ring.publish();
            assert_eq!(ring.next_used(), position.wrapping_add(1));
        }
    }
}

/// A driver that wants a kick behind so many chains gets one at every index.
#[test]
fn kicks_are_asked_for_at_every_index() {
    let mut guest = Guest::new(4, 0, true);
    let mut ring = guest.ring(Direction::GuestToHost);
    guest.chain(0, &[(BUFFERS, 1)], 0);
    let mut burst = Burst::with_capacity(4, 4);
    for position in 0..=u16::MAX {
        for waiting in [0, 1, 3] {
            assert!(!ring.arm_behind(waiting));
            assert_eq!(guest.available_event(), position.wrapping_add(waiting));
        }
        guest.post(0);
        assert!(ring.arm_behind(0) && !ring.arm_behind(1), "{position}");
        burst.clear();
        assert_eq!((ring.available(), ring.fetch(&mut burst, 4)), (1, Ok(1)));
        ring.push_used(0, 0);
        ring.publish();
    }
}
