//! Keeps a VMM from taking up everybody with its coming and going.
use std::time::{Duration, Instant};

/// So many connections of one VM may come at once, and so many more in each second.
const AT_ONCE: u32 = 100;
const A_SECOND: u32 = 10;

/// How many connections of one VM may come now. Each costs the master, the control side, the worker and the log something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    left: u32,
    /// Since when there were so many left.
    since: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Pace {
        Pace { left: AT_ONCE, since: now }
    }

    /// Takes one in.
    ///
    /// # Errors
    /// When there will be room for it.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let each = Duration::from_secs(1) / A_SECOND;
        let more = now.saturating_duration_since(self.since).as_millis() / each.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.since = if more >= AT_ONCE - self.left { now } else { self.since + each * more };
        self.left = AT_ONCE.min(self.left.saturating_add(more));
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Err(self.since + each),
        }
        Ok(())
    }

    /// Whether many have come of late.
    pub(crate) fn is_short(&self) -> bool {
        self.left < AT_ONCE / 2
    }

    /// Nobody was there.
    pub(crate) fn give_back(&mut self) {
        self.left = AT_ONCE.min(self.left + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_often_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
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
