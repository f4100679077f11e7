use std::time::Duration;

use vonic_tcp::{DATA_RETRIES, Event, Flags, MAX_RTO, Note};

use crate::bench::{Bench, ROOM};
use crate::each;

/// So many bytes are on their way.
const FLIGHT: u32 = 256_000;

fn in_flight(bench: &mut Bench) {
    bench.host_sends(FLIGHT);
    assert_eq!(bench.stretch(), (0, FLIGHT));
}

/// Case 12.
#[test]
fn a_silent_guest_is_asked_ever_more_rarely_then_reset() {
    each(|bench| {
        bench.host_sends(10);
        bench.drain();
        let start = bench.now;
        let mut wait = bench.until_deadline();
        for _ in 0..DATA_RETRIES {
            assert_eq!(bench.until_deadline(), wait);
            assert_eq!(bench.expire(), None);
            assert_eq!(bench.stretch(), (0, 10));
            wait = (wait * 2).min(MAX_RTO);
        }
        assert_eq!(bench.expire(), Some(Event::GaveUp));
        assert!(bench.now - start > Duration::from_secs(100), "R2");
        assert!(bench.one().is(Flags::RST | Flags::ACK));
        assert!(bench.leg.is_closed());
    });
}

/// Case 13.
#[test]
fn three_duplicate_acks_repeat_and_others_do_not() {
    each(|bench| {
        in_flight(bench);
        for n in 0..5 {
            bench.data(n * 10, 10);
            bench.window = ROOM - (n + 1) * 1024;
            bench.ack(0);
        }
        assert_eq!(bench.stretch(), (0, 0), "with payload or another window they are none");
        for _ in 0..2 {
            bench.ack(0);
        }
        assert_eq!(bench.stretch(), (0, 0));
        bench.ack(0);
        let (from, to) = bench.stretch();
        assert!(from == 0 && to >= bench.mss() && to <= bench.overlay.frame.max(bench.mss()), "the first frame");
    });
}

/// Case 14.
#[test]
fn a_partial_ack_uncovers_the_next_hole_and_one_beyond_is_challenged() {
    each(|bench| {
        in_flight(bench);
        for _ in 0..3 {
            bench.ack(0);
        }
        bench.drain();
        bench.ack(100_000);
        assert_eq!(bench.stretch().0, 100_000);
        bench.has += FLIGHT;
        assert_eq!(bench.segment(0, 10, Flags::ACK).note, Some(Note::Challenge));
        assert!(bench.one().is(Flags::ACK));
        assert_eq!(bench.ack(FLIGHT).acked, FLIGHT - 100_000);
        assert_eq!(bench.stretch(), (0, 0));
    });
}

/// Case 15.
#[test]
fn old_acks_change_nothing() {
    each(|bench| {
        in_flight(bench);
        bench.ack(200_000);
        bench.drain();
        let wait = bench.leg.deadline();
        for n in [0, 100, 199_999] {
            assert_eq!(bench.ack(n).acked, 0);
        }
        assert_eq!(bench.stretch(), (0, 0));
        assert_eq!(bench.leg.deadline(), wait);
        assert_eq!(bench.ack(FLIGHT).acked, FLIGHT - 200_000);
    });
}

/// Case 16.
#[test]
fn a_closed_window_is_probed_for_as_long_as_the_guest_answers() {
    each(|bench| {
        bench.window = 0;
        bench.ack(0);
        bench.host_sends(3000);
        assert_eq!(bench.stretch(), (0, 0));
        let mut wait = bench.until_deadline();
        for _ in 0..40 {
            assert_eq!(bench.until_deadline(), wait);
            assert_eq!(bench.expire(), None);
            assert_eq!(bench.stretch(), (0, 1), "one byte, which also finds out about a lost update");
            bench.ack(0);
            wait = (wait * 2).min(MAX_RTO);
        }
        bench.window = ROOM;
        bench.ack(0);
        assert_eq!(bench.stretch(), (0, 3000), "at once");
        bench.ack(3000);
    });
}

/// Case 17.
#[test]
fn a_window_that_shrinks_is_obeyed() {
    each(|bench| {
        in_flight(bench);
        bench.window = 128 * 100;
        bench.ack(100_000);
        assert_eq!(bench.stretch(), (0, 0), "SHLD-15");
        bench.host_sends(1000);
        assert_eq!(bench.stretch(), (0, 0));
        bench.expire();
        let (from, to) = bench.stretch();
        assert!(from == 100_000 && to <= 112_800 && to > 100_000, "SHLD-16: {to}");
        bench.window = 0;
        bench.ack(112_800);
        assert_eq!(bench.stretch(), (0, 0));
        bench.window = ROOM;
        bench.ack(112_800);
        assert_eq!(bench.stretch(), (112_800, FLIGHT + 1000), "what the guest may have dropped goes again");
        bench.ack(FLIGHT + 1000);
    });
}
