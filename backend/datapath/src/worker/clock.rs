//! The data path's only clock, read once a round.
#![allow(clippy::disallowed_methods, reason = "everything else gets its time from here")]
use vonic_tcp::Instant;

/// Microseconds since the worker started.
pub struct Clock(std::time::Instant);

impl Clock {
    /// Starts at 0.
    pub fn start() -> Clock {
        Clock(std::time::Instant::now())
    }

    /// Now.
    pub fn now(&self) -> Instant {
        Instant(self.0.elapsed().as_micros() as u64)
    }
}
