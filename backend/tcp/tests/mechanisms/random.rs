use proptest::prelude::*;
use vonic_tcp::Leg;

use crate::operations;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        operations::run(&bytes);
    }
}

#[test]
fn a_leg_is_small() {
    // 16384 connections per port are the default limit; each segment touches the whole of it.
    assert!(size_of::<Leg>() <= 416, "{}", size_of::<Leg>());
}
