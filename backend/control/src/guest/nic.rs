//! Rates, from what was counted when the question came the last time and the time before.
use std::time::{Duration, Instant};

use vonic_agent::nic::{Rate, Rates, Traffic};

/// Rates are over so much time at least, and at most.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);

/// What was counted both ways, guest to host first, and when.
type Sample = (Instant, [Traffic; 2]);

/// The last two moments at which somebody asked, at least [`LEAST`] apart.
#[derive(Debug, Default)]
pub(super) struct Samples {
    before: Option<Sample>,
    last: Option<Sample>,
}

impl Samples {
    /// What there was in a second, up to now; `None`: the last question was too long ago, or none came.
    pub fn rates(&mut self, now: Instant, counted: [Traffic; 2]) -> Option<Rates> {
        let age = |sample: &Sample| now.saturating_duration_since(sample.0);
        if self.last.as_ref().is_none_or(|last| age(last) >= LEAST) {
            self.before = self.last.replace((now, counted));
        }
        let before = self.before.as_ref().filter(|before| age(before) <= MOST)?;
        let seconds = age(before).as_secs_f64();
        let [guest_to_host, host_to_guest] = [0, 1].map(|way| Rate::over(seconds, before.1[way], counted[way]));
        Some(Rates { seconds, guest_to_host, host_to_guest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_a_second_at_least_and_a_minute_at_most() {
        let mut samples = Samples::default();
        let begin = Instant::now();
        let mut at = |millis, frames| {
            let counted = Traffic { frames, bytes: frames * 100 };
            let rates = samples.rates(begin + Duration::from_millis(millis), [counted, Traffic::default()]);
            rates.map(|rates| (rates.seconds, rates.guest_to_host.frames, rates.guest_to_host.bits))
        };
        assert_eq!(at(0, 100), None);
        assert_eq!(at(500, 150), None, "too soon");
        assert_eq!(at(2000, 300), Some((2.0, 100, 80_000)));
        assert_eq!(at(2500, 400), Some((2.5, 120, 96_000)), "two readers do not cut each other's time short");
        assert_eq!(at(4000, 300), Some((2.0, 0, 0)));
        assert_eq!(at(65_000, 900), None, "nobody has asked for a while");
        assert_eq!(at(66_000, 901), Some((1.0, 1, 800)));
    }
}
