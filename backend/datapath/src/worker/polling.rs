//! Whether the worker looks for work before it sleeps. To be woken takes tens of microseconds, more where the host itself is a guest; to look takes a
//! processor, perhaps the one on which what it waits for would run. So it looks as long as that has paid of late.
use vonic_tcp::Instant;

/// How long the worker looks for work before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// At most so many microseconds after the last work; 0: not at all.
    For(u64),
    /// For ever: it never sleeps.
    Always,
}

/// How many looks in vain, or how many that paid at once, are remembered.
const MEMORY: i64 = 8;

/// Microseconds that a sleep costs which a look has spared: more only where processors sleep deeply, and then nobody else needs this one.
const SAVED: i64 = 10;

/// What the last pauses between work teach about the next.
pub(super) struct Polling {
    poll: Poll,
    /// Microseconds that looks for so long have saved of late, or would have, less those that they have cost.
    balance: i64,
    last_work: Instant,
}

impl Polling {
    pub(super) fn new(poll: Poll, now: Instant) -> Polling {
        Polling { poll, balance: 0, last_work: now }
    }

    /// There was work. A look that would have found it saved a sleep; any other has cost all of its time.
    pub(super) fn worked(&mut self, now: Instant) {
        let pause = now.0.saturating_sub(self.last_work.0);
        self.last_work = now;
        let Poll::For(most) = self.poll else { return };
        let (pause, most) = (pause as i64, most as i64);
        // Of what lies within one burst nothing is to be learnt.
        if pause > AT_ONCE {
            let gain = if pause <= most { SAVED.min(most - pause) } else { -most };
            self.balance = (self.balance + gain).clamp(-MEMORY * most, MEMORY * most);
        }
    }

    /// Whether to look on.
    pub(super) fn looks(&self, now: Instant) -> bool {
        match self.poll {
            Poll::Always => true,
            Poll::For(most) => self.balance >= 0 && now.0.saturating_sub(self.last_work.0) < most,
        }
    }
}

/// Microseconds that a round may take.
const AT_ONCE: i64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it looks behind work after each of these pauses, and how long.
    fn look_after(most: u64, pauses: &[u64]) -> u64 {
        let mut now = Instant(1000);
        let mut polling = Polling::new(Poll::For(most), now);
        for pause in pauses {
            now.0 += pause;
            polling.worked(now);
        }
        (0..=most + 1).take_while(|us| polling.looks(Instant(now.0 + us))).count() as u64
    }

    #[test]
    fn who_is_answered_soon_is_looked_out_for() {
        assert_eq!(look_after(50, &[]), 50);
        assert_eq!(look_after(50, &[1_000_000, 1_000_000]), 0);
        assert_eq!(look_after(50, &[&[1_000_000][..], &[10; 5]].concat()), 50);
        assert_eq!(
            look_after(50, &[&[1_000_000; 100][..], &[10; 40]].concat()),
            50,
            "nothing is held against it for long"
        );
        assert_eq!(look_after(0, &[10; 12]), 0);
    }

    #[test]
    fn who_is_answered_late_is_slept_for() {
        assert_eq!(
            look_after(50, &[[30, 110]; 20].concat()),
            0,
            "every other look is in vain, and the others gain less"
        );
        assert_eq!(look_after(200, &[[30, 110]; 20].concat()), 200);
        assert_eq!(look_after(50, &[[10; 5], [110; 5]].concat()), 0);
        assert_eq!(look_after(50, &[[110, 2, 2, 2, 2]; 20].concat()), 0, "a burst is one work");
    }

    #[test]
    fn always_is_always() {
        let mut polling = Polling::new(Poll::Always, Instant(0));
        polling.worked(Instant(1_000_000));
        assert!(polling.looks(Instant(u64::MAX)));
    }
}
