//! How long do a thousand connections wait when their engine dies? The bounds are generous: `make bench-takeover` measures.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells what it measured")]

use std::time::Duration;

use vonic_tests::crowd::{Blow, Crowd};
use vonic_tests::*;

const KILLS: usize = 5;
/// For the first of them to have a new byte, and for the last; a machine that has other things to do as well may miss the first once.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_millis(500);
/// Engines that live for less than a second are followed more and more slowly.
const LIFE: Duration = Duration::from_millis(1100);

#[test]
fn a_thousand_connections_have_new_bytes_soon_after_a_kill() {
    // Debug builds are several times as slow.
    let factor = if cfg!(debug_assertions) { 5 } else { 1 };
    let mut bed = Bed::start(&TestConfig::default().vm("a", 2, Crowd::LIMITS)).unwrap();
    let mut crowd = Crowd::gather(&bed, "a", 2, 1000, 0).unwrap();
    let mut takeovers: Vec<_> = (0..KILLS)
        .map(|_| {
            crowd.serve(LIFE).unwrap();
            let takeover = crowd.takeover(&mut bed.vonicd, Blow::Kill).unwrap();
            assert_eq!(takeover.waits.len(), 1000);
            (takeover.first(), takeover.last())
        })
        .collect();
    takeovers.sort();
    let (first, _) = takeovers[KILLS / 2];
    assert!(first < FIRST * factor, "{takeovers:?}");
    assert!(takeovers.iter().all(|(_, last)| *last < LAST * factor), "{takeovers:?}");
    // As many again, of which none may wait for its retransmission timer.
    crowd.serve(LIFE).unwrap();
    for blow in [Blow::Restart, Blow::Upgrade] {
        let replaced = crowd.takeover(&mut bed.vonicd, blow).unwrap();
        println!("{blow:?}: {:?}, {:?}", replaced.first(), replaced.last());
        assert!(replaced.last() < LAST * factor, "{blow:?}: {:?}, {:?}", replaced.first(), replaced.last());
        crowd.serve(LIFE).unwrap();
    }
    drop(crowd);
    bed.vonicd.stop().unwrap();
}
