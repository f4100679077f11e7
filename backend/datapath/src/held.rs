//! What of a transmit queue stays with its driver, though the worker has seen it: fragments whose datagram is not complete.
//!
//! Nothing is held: their chains are given back to the ring, and fetched again in a later round. Completion is in order, so what
//! was fetched behind them is given back too, and this remembers that its frames have had their effect. All of it is bounded, in
//! chains and in time, so that a guest that never sends the rest cannot stop its queue.
use std::time::Duration;
use vonic_tcp::Instant;

/// Chains of one queue that may be looked at in one round: the fragments of 64 KiB at an MTU of 576 bytes, and some.
pub const WINDOW: usize = 128;
/// How long the rest of a datagram is waited for. A guest's kernel sends all fragments in one go, but on a busy host its CPU may be
/// taken away in between.
const PATIENCE: Duration = Duration::from_millis(100);

/// Chains of a [`WINDOW`], one bit each.
pub type Chains = u128;

/// The chains at the front of a queue that were seen and given back. The first of them is one that waits.
pub struct Held {
    since: [Instant; WINDOW],
    done: Chains,
    len: usize,
}

impl Default for Held {
    fn default() -> Held {
        Held { since: [Instant(0); WINDOW], done: 0, len: 0 }
    }
}

impl Held {
    /// How many chains were given back.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the chain at `i` has had its effect, and only waits for its turn to be completed.
    pub fn is_done(&self, i: usize) -> bool {
        i < self.len && self.done >> i & 1 == 1
    }

    /// When the chain at `i` was seen first.
    pub fn since(&self, i: usize, now: Instant) -> Instant {
        self.since[..self.len].get(i).copied().unwrap_or(now)
    }

    /// Until when a fragment that came at `since` waits for others.
    pub fn until(since: Instant) -> Instant {
        since + PATIENCE
    }

    /// When the first chain has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        (self.len > 0).then(|| Held::until(self.since[0]))
    }

    /// A round has looked at `len` chains, of which `waiting` are to be looked at again; returns how many can be completed.
    pub fn settle(&mut self, len: usize, waiting: Chains, now: Instant) -> usize {
        let len = len.min(WINDOW);
        let complete = if waiting == 0 { len } else { (waiting.trailing_zeros() as usize).min(len) };
        if self.len == 0 && complete == len {
            return complete;
        }
        for i in complete..len {
            self.since[i - complete] = self.since(i, now);
        }
        self.len = len - complete;
        self.done = (!waiting).checked_shr(complete as u32).unwrap_or(0);
        complete
    }

    /// Forgets what was given back: it is no more what the queue begins with.
    pub fn clear(&mut self) {
        (self.len, self.done) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_completed_up_to_the_first_that_waits_and_done_once() {
        let mut held = Held::default();
        assert_eq!((held.settle(5, 0, Instant(1)), held.len(), held.due()), (5, 0, None));
        // 0 and 1 are done, 2 and 4 wait.
        assert_eq!(held.settle(6, 0b01_0100, Instant(10)), 2);
        assert_eq!((held.len(), held.due()), (4, Some(Held::until(Instant(10)))));
        assert_eq!([0, 1, 2, 3, 4].map(|i| held.is_done(i)), [false, true, false, true, false]);
        // Three more come; what was 4 is complete, what was 2 is not.
        assert_eq!(held.settle(7, 0b000_0001, Instant(20)), 0);
        assert_eq!([0, 3, 4, 6].map(|i| held.since(i, Instant(99)).0), [10, 10, 20, 20]);
        assert_eq!([0, 1, 2, 6, 7].map(|i| held.is_done(i)), [false, true, true, true, false]);
        // The first gave up: all are complete.
        assert_eq!((held.settle(7, 0, Instant(30)), held.len(), held.is_done(0)), (7, 0, false));
    }

    #[test]
    fn a_whole_window_can_wait_and_go() {
        let mut held = Held::default();
        assert_eq!((held.settle(WINDOW, Chains::MAX, Instant(1)), held.len()), (0, WINDOW));
        assert_eq!((held.settle(WINDOW, 1 << 127, Instant(2)), held.len()), (WINDOW - 1, 1));
        assert_eq!((held.since(0, Instant(9)), held.is_done(0)), (Instant(1), false));
        held.clear();
        assert_eq!((held.len(), held.due()), (0, None));
    }
}
