use proptest::prelude::*;
use vonic_tcp::{Instant, Seq};

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
