//! Remarkable segments: counted, and their challenges bounded over all connections of a port.
use crate::port::Port;
use std::time::Duration;
use vonic_tcp::{Instant, Leg, Note};

/// Challenge ACKs that a port's connections may send together in a second. RFC 5961 §7 asks for a bound, each leg has its own; this one
/// is shared by those of one guest only, so that nobody learns from it what another guest's connections do (a bound that all share
/// has told attackers that).
const IN_A_SECOND: u32 = 500;

/// How many have gone since when.
#[derive(Debug, Default)]
pub struct Challenges {
    since: Option<Instant>,
    sent: u32,
}

impl Challenges {
    fn admit(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= Duration::from_secs(1)) {
            *self = Challenges { since: Some(now), sent: 0 };
        }
        self.sent += 1;
        self.sent <= IN_A_SECOND
    }
}

/// Counts what a segment was noted for.
pub fn count(port: &mut Port, leg: &mut Leg, note: Note, now: Instant) {
    let tcp = &port.spec.stats.tcp;
    match note {
        Note::Challenge if port.challenges.admit(now) => tcp.challenges.add(1),
        Note::Challenge => {
            leg.withdraw_challenge();
            tcp.challenges_withheld.add(1);
        }
        Note::ChallengeLimited => tcp.challenges_withheld.add(1),
        Note::Paws => tcp.old_timestamps.add(1),
        Note::NoTimestamp => tcp.no_timestamps.add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_and_the_next_one_again() {
        let mut challenges = Challenges::default();
        let mut admitted = |at| (0..2000).filter(|_| challenges.admit(Instant(at))).count();
        assert_eq!([admitted(5_000_000), admitted(5_900_000), admitted(6_000_001)], [500, 0, 500]);
    }
}
