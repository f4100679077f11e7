//! Keeps a VMM from taking up everybody with its coming and going, or with what it says.
use std::time::{Duration, Instant};

/// How many of a VMM's doings may come now. Each costs the master, the control side, the worker and the log something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many may come at once, and one more in each such time.
    at_once: u32,
    each: Duration,
    /// When what has come would be over, had it come one by one.
    busy_until: Instant,
}

impl Pace {
    /// Of one VM's connections: a hundred at once, then ten a second.
    pub(crate) fn of_connections(now: Instant) -> Pace {
        Pace { at_once: 100, each: Duration::from_millis(100), busy_until: now }
    }

    /// Of looks at what one VMM says, of which a message takes one or two: four thousand at once, then 500 a second. A start takes two
    /// hundred, a migration as many.
    pub(crate) fn of_messages(now: Instant) -> Pace {
        Pace { at_once: 4000, each: Duration::from_millis(2), busy_until: now }
    }

    /// Takes one in.
    ///
    /// # Errors
    /// When there will be room for it.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let ahead = self.each * (self.at_once - 1);
        if self.busy_until > now + ahead {
            return Err(self.busy_until - ahead);
        }
        self.busy_until = self.busy_until.max(now);
        self.count(1);
        Ok(())
    }

    /// What was taken in is worth so many more.
    pub(crate) fn count(&mut self, more: u32) {
        self.busy_until += self.each * more;
    }

    /// Whether many have come of late.
    pub(crate) fn is_short(&self, now: Instant) -> bool {
        self.busy_until > now + self.each * (self.at_once / 2)
    }

    /// Nobody was there.
    pub(crate) fn give_back(&mut self) {
        self.busy_until -= self.each;
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

    #[test]
    fn what_is_worth_more_is_waited_for_longer() {
        let start = Instant::now();
        let mut pace = Pace::of_connections(start);
        for _ in 0..10 {
            assert_eq!(pace.take(start), Ok(()));
            pace.count(9);
        }
        assert_eq!(pace.take(start), Err(start + Duration::from_millis(100)));
        // The last that comes in is paid for afterwards.
        let later = start + Duration::from_millis(100);
        assert_eq!(pace.take(later), Ok(()));
        pace.count(9);
        assert_eq!(pace.take(later), Err(later + Duration::from_secs(1)));
    }

    #[test]
    fn who_was_not_there_is_not_counted() {
        let start = Instant::now();
        let mut pace = Pace::of_connections(start);
        assert!((0..50).all(|_| pace.take(start).is_ok()));
        assert!(!pace.is_short(start));
        assert_eq!(pace.take(start), Ok(()));
        assert!(pace.is_short(start));
        pace.give_back();
        assert!(!pace.is_short(start));
        assert!((0..50).all(|_| pace.take(start).is_ok()));
        assert!(pace.take(start).is_err());
    }
}
