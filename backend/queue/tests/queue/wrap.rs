//! Index arithmetic where sixteen bits wrap.
use proptest::prelude::*;
use vonic_queue::{Burst, Direction, QueueError};

use crate::guest::{BUFFERS, Guest};

/// Any index, half of the time near the wrap.
pub fn index() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), 65500u16..=65535, 0u16..40]
}

/// Posts `count` one-buffer chains from head 0 on.
fn post(guest: &mut Guest, count: u16) {
    for i in 0..count {
        let head = i % guest.setup.size;
        guest.chain(head, &[(BUFFERS, 64)], 0);
        guest.post(head);
    }
}

proptest! {
    /// The event is among the entries published since the last question, counted one by one.
    #[test]
    fn an_interrupt_is_due_if_the_event_is_among_the_entries(
        start in index(), rounds in prop::collection::vec((0u16..=64, -70i32..70), 1..6),
    ) {
        let mut guest = Guest::new(64, start, true);
        let mut ring = guest.ring(Direction::GuestToHost);
        let mut burst = Burst::with_capacity(64, 64);
        let mut used = start;
        for (count, distance) in rounds {
            let event = used.wrapping_add(distance as u16);
            guest.set_used_event(event);
            post(&mut guest, count);
            burst.clear();
            prop_assert_eq!(ring.fetch(&mut burst, 64), Ok(count.into()));
            let mut expected = false;
            for chain in burst.chains() {
                ring.push_used(chain.head, 0);
                expected |= used == event;
                used = used.wrapping_add(1);
            }
            ring.publish();
            prop_assert_eq!(ring.call_needed(), expected, "event {} of {} up to {}", event, count, used);
            prop_assert_eq!((guest.used_index(), ring.next_used()), (used, used));
        }
    }

    /// Everything that is posted is fetched once, in order, wherever the indices stand and however it is cut.
    #[test]
    fn every_head_comes_once_and_in_order(
        start in index(), size in 0u32..7, cuts in prop::collection::vec((1u16..70, 1usize..70, 0u16..4), 1..20),
    ) {
        let size = 1u16 << size;
        let mut guest = Guest::new(size, start, false);
        let mut ring = guest.ring(Direction::GuestToHost);
        let mut burst = Burst::with_capacity(64, 64);
        let (mut posted, mut fetched) = (start, start);
        for (more, max, back) in cuts {
            let room = size - posted.wrapping_sub(fetched);
            for _ in 0..more.min(room) {
                let head = posted & (size - 1);
                guest.chain(head, &[(BUFFERS, u32::from(head) + 1)], 0);
                guest.post(head);
                posted = posted.wrapping_add(1);
            }
            prop_assert_eq!(ring.available(), posted.wrapping_sub(fetched));
            burst.clear();
            let count = ring.fetch(&mut burst, max).unwrap();
            prop_assert_eq!(count, max.min(64).min(posted.wrapping_sub(fetched).into()));
            let back = usize::from(back).min(count);
            ring.unfetch(back as u16);
            burst.truncate(count - back);
            for chain in burst.chains() {
                prop_assert_eq!((chain.head, chain.len), (fetched & (size - 1), u32::from(chain.head) + 1));
                ring.push_used(chain.head, 0);
                fetched = fetched.wrapping_add(1);
            }
            ring.publish();
            prop_assert_eq!((guest.used_index(), ring.next_used()), (fetched, fetched));
        }
    }

    /// An available index further ahead than the queue is long is a lie, for whatever is in flight already.
    #[test]
    fn an_index_too_far_ahead_breaks_the_ring(start in index(), in_flight in 0u16..=16, ahead in index()) {
        let mut guest = Guest::new(16, start, true);
        let mut ring = guest.ring(Direction::GuestToHost);
        let mut burst = Burst::with_capacity(64, 64);
        post(&mut guest, in_flight);
        prop_assert_eq!(ring.fetch(&mut burst, 64), Ok(in_flight.into()));
        let index = guest.index.wrapping_add(ahead);
        guest.set_index(index);
        let last = guest.index;
        let result = ring.fetch(&mut Burst::with_capacity(64, 64), 0);
        if u32::from(ahead) + u32::from(in_flight) <= 16 {
            prop_assert_eq!(result, Ok(0));
        } else {
            let error = QueueError::AvailableIndex { index, last, size: 16 };
            prop_assert_eq!(result, Err(error));
            guest.set_index(last);
            prop_assert_eq!(ring.fetch(&mut burst, 64), Err(error), "broken for good");
            prop_assert_eq!((ring.available(), ring.arm()), (0, false));
        }
    }
}

#[test]
fn a_whole_turn_of_the_index_without_a_question_is_due_an_interrupt() {
    let mut guest = Guest::new(256, 5, true);
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(256, 256);
    guest.set_used_event(4);
    for _ in 0..256 {
        post(&mut guest, 256);
        burst.clear();
        assert_eq!(ring.fetch(&mut burst, 256), Ok(256));
        for chain in burst.chains() {
            ring.push_used(chain.head, 0);
        }
        ring.publish();
    }
    assert_eq!(guest.used_index(), 5);
    assert!(ring.call_needed());
    assert!(!ring.call_needed());
}
