//! Rules of recovery that a build for tests (feature `crash-points`) can leave out, to show that tests would notice.
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// What can be left out, or be made harder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// Nothing is left out, but time passes between the readings: they do not belong together unless that is seen to.
    SlowRead = 1,
    /// Time passes, and the counters are read once.
    SingleRead = 1 << 1,
    /// The peer's FIN is not taken off what was received.
    NoFinTerm = 1 << 2,
    /// Rule R8: every socket in the state CLOSE had its FINs.
    CloseIsFinished = 1 << 3,
}

/// The names of all.
const NAMES: [(&str, Mutation); 4] = [
    ("slow-read", Mutation::SlowRead),
    ("single-read", Mutation::SingleRead),
    ("no-fin-term", Mutation::NoFinTerm),
    ("close-is-finished", Mutation::CloseIsFinished),
];

static SET: AtomicU8 = AtomicU8::new(0);

/// From now on those named in `names`, with commas between, and no others.
pub fn set(names: &str) {
    let named = |(name, _): &&(&str, Mutation)| names.split(',').any(|other| other == *name);
    let bits = NAMES.iter().filter(named).fold(0, |bits, (_, mutation)| bits | *mutation as u8);
    SET.store(bits, Ordering::Relaxed);
}

pub(crate) fn is_set(mutation: Mutation) -> bool {
    SET.load(Ordering::Relaxed) & mutation as u8 != 0
}

/// Between a reading of the counters and one of the queues.
pub(crate) fn linger() {
    if is_set(Mutation::SlowRead) || is_set(Mutation::SingleRead) {
        std::thread::sleep(Duration::from_millis(3));
    }
}
