//! How long to wait after a failure: longer each time, and never the same for two guests.
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// Pauses that double up to fifteen seconds, each shortened by up to half at random: a host that comes back is not met by all its
/// guests at once.
pub struct Pause {
    next: Duration,
    random: RandomState,
    count: u64,
}

impl Default for Pause {
    fn default() -> Pause {
        Pause { next: FIRST, random: RandomState::new(), count: 0 }
    }
}

impl Pause {
    /// The next pause.
    pub fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        self.count += 1;
        let part = self.random.hash_one(self.count) % 512;
        full - full * part as u32 / 1024
    }

    /// All is well again: the next pause is short.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut pause = Pause::default();
        let pauses: Vec<Duration> = (0..20).map(|_| pause.next()).collect();
        let mut full = FIRST;
        for got in &pauses {
            assert!(*got <= full && *got >= full / 2, "{pauses:?}");
            full = (full * 2).min(LONGEST);
        }
        assert!(pauses[10..].windows(2).any(|two| two[0] != two[1]), "{pauses:?}");
        pause.reset();
        assert!(pause.next() <= FIRST);
    }
}
