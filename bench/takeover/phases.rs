//! What the master and the engine say of a takeover, by the log's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is said at the end of each phase, in the order in which it comes.
pub const MARKS: &[(&str, &str)] = &[
    ("noticed", "the engine died"),
    ("swept", "descriptors of the dead engine are closed"),
    ("engine serves", "the engine serves"),
    ("state replayed", "goes on with the next engine"),
];

/// From the beginning of a takeover to the end of each phase; none of a phase that the log does not have.
pub struct Phases(pub Vec<Option<Duration>>);

impl Phases {
    /// Of the takeover that came last.
    pub fn read(log: &str, since: SystemTime) -> Phases {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = |mark: &str| {
            let line = log.lines().rev().find(|line| line.contains(mark))?;
            // One day's wrap is as good as the other's.
            let passed = (time_of_day(line)? + DAY - since.as_micros() as u64 % DAY) % DAY;
            (passed < DAY / 2).then(|| Duration::from_micros(passed))
        };
        Phases(MARKS.iter().map(|(_, mark)| last(mark)).collect())
    }
}

/// A day in microseconds.
const DAY: u64 = 86_400_000_000;

/// Microseconds of the day, from a line that begins `[2026-01-31T12:34:56.123456Z`.
fn time_of_day(line: &str) -> Option<u64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':');
    let mut number = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (number()?, number()?, number()?);
    Some(((hours * 3600.0 + minutes * 60.0 + seconds) * 1e6).round() as u64)
}
