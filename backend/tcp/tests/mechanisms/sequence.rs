use proptest::prelude::*;
use vonic_tcp::{Instant, Seq};

use crate::Rig;

use std::time::Duration;

#[test]
fn order_holds_across_the_wrap() {
    let (before, after) = (Seq(u32::MAX), Seq(3));
    assert!(before.lt(after) && after.gt(before) && before.le(after) && after.ge(before));
    assert!(!after.lt(before) && !before.ge(after));
    assert_eq!(before.max(after), after);
    assert_eq!(before.min(after), before);
    assert_eq!(after - before, 4);
    assert_eq!(after.beyond(before), 4);
    assert_eq!(before.beyond(after), 0);
}

proptest! {
    #[test]
    fn order_agrees_with_distance(start: u32, distance in 1u32..1 << 31) {
        let (a, b) = (Seq(start), Seq(start) + distance);
        prop_assert!(a.lt(b) && a.le(b) && b.gt(a) && b.ge(a));
        prop_assert!(!b.lt(a) && !b.le(a) && !a.gt(b) && !a.ge(b));
        prop_assert_eq!(b - a, distance);
        prop_assert_eq!(b - distance, a);
        prop_assert_eq!((a.max(b), a.min(b)), (b, a));
    }
}

#[test]
fn instants_saturate() {
    assert_eq!(Instant(5) - Instant(9), Duration::ZERO);
    assert_eq!(Instant(9) - Instant(5), Duration::from_micros(4));
    assert_eq!(Instant(u64::MAX - 1) + Duration::from_secs(1), Instant(u64::MAX));
}

/// Both streams go once around all sequence numbers, and as far again: what a connection began with is nothing to compare with then.
#[test]
fn streams_go_on_beyond_all_sequence_numbers() {
    const STEP: u32 = 20_000;
    let mut rig = Rig::established();
    let (mut sent, mut taken) = (0u64, 0u64);
    while sent < 3 << 31 {
        rig.host_sends(STEP);
        let (mut frames, mut end) = (rig.frames(), sent as u32);
        for (at, len) in frames.drain(..) {
            assert_eq!(at, end, "after {sent} bytes");
            end = end.wrapping_add(len);
        }
        assert_eq!(end, (sent as u32).wrapping_add(STEP));
        rig.leg.set_window(STEP);
        assert_eq!(rig.ack(end).acked, STEP, "after {sent} bytes");
        sent += u64::from(STEP);
        let effect = rig.data(taken as u32, STEP);
        assert_eq!(effect.payload, Some(0..STEP), "after {taken} bytes");
        taken += u64::from(STEP);
        assert_eq!(rig.one().acks(), taken as u32);
    }
}
