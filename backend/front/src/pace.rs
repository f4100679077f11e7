//! Keeps a VMM from taking up everybody with its coming and going, or with what it says.
use std::time::{Duration, Instant};

/// How many of a VMM's doings may come now. Each costs the master, the control side, the worker and the log something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many may come at once, and one more in each such time.
    at_once: u32,
    each: Duration,
    left: u32,
    /// Since when there were so many left.
    since: Instant,
}

impl Pace {
    /// Of one VM's connections: a hundred at once, then ten a second.
    pub(crate) fn of_connections(now: Instant) -> Pace {
        Pace { at_once: 100, each: Duration::from_millis(100), left: 100, since: now }
    }

    /// Of looks at what one VMM says, of which a message takes one or two: four thousand at once, then 500 a second. A start takes two
    /// hundred, a migration as many.
    pub(crate) fn of_messages(now: Instant) -> Pace {
        Pace { at_once: 4000, each: Duration::from_millis(2), left: 4000, since: now }
    }

    /// Takes one in.
    ///
    /// # Errors
    /// When there will be room for it.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let Pace { at_once, each, .. } = *self;
        let more = now.saturating_duration_since(self.since).as_millis() / each.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.since = if more >= at_once - self.left { now } else { self.since + each * more };
        self.left = at_once.min(self.left.saturating_add(more));
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Err(self.since + each),
        }
        Ok(())
    }

    /// Whether many have come of late.
    pub(crate) fn is_short(&self) -> bool {
        self.left < self.at_once / 2
    }

    /// Nobody was there.
    pub(crate) fn give_back(&mut self) {
        self.left = self.at_once.min(self.left + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_often_waits() {
        let start = Instant::now();
        let mut pace = Pace::of_connections(start);
        assert!((0..100).all(|_| pace.take(start).is_ok()));
        let later = start + Duration::from_millis(100);
        assert_eq!(pace.take(start), Err(later));
        assert_eq!(pace.take(start + Duration::from_millis(99)), Err(later));
        assert_eq!(pace.take(later), Ok(()));
        assert_eq!(pace.take(later), Err(later + Duration::from_millis(100)));
        // No more than so many, however long nobody came.
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| pace.take(much_later).is_ok()).count(), 100);
    }
}
