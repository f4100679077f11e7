//! The data path's only clock, read once a round.
#![allow(clippy::disallowed_methods, reason = "everything else gets its time from here")]
use std::time::Duration;
use vonic_tcp::Instant;

/// Microseconds since the first engine's start: they go on over all of them.
pub struct Clock {
    started: std::time::Instant,
    before: Duration,
}

impl Clock {
    /// Starts where so much time has passed already.
    pub fn start(before: Duration) -> Clock {
        Clock { started: std::time::Instant::now(), before }
    }

    /// One on which no time passes, for tests whose outcome is not to hang on it.
    #[cfg(test)]
    pub fn still() -> Clock {
        Clock { started: std::time::Instant::now() + Duration::from_secs(1 << 20), before: Duration::ZERO }
    }

    /// Now.
    pub fn now(&self) -> Instant {
        Instant((self.before + self.started.elapsed()).as_micros() as u64)
    }
}
