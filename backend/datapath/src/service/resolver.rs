//! Names: what guests ask the gateway at port 53 goes to the host's resolvers, by a translation of the destination. No question and no
//! answer is read here; which resolver is asked follows from who answers.
use std::net::SocketAddr;
use std::time::Duration;
use vonic_tcp::Instant;

/// The port of DNS (RFC 1035 §4.2).
pub const PORT: u16 = 53;
/// A resolver that has answered nothing for so long is passed over when the guest asks again. Stub resolvers ask again after one to five
/// seconds.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// A guest that has asked nothing for so long no longer waits for an answer: what it asks next is another question.
const GIVEN_UP: Duration = Duration::from_secs(15);
/// After so long the first resolver gets another chance.
const RETURN: Duration = Duration::from_secs(60);

/// Which of its network's resolvers one guest's questions go to. Each guest finds out by itself, so that none can lead another astray.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolver {
    /// The one in use, unless it is the first, and since when.
    other: Option<(SocketAddr, Instant)>,
    /// When the oldest question that may still be open was asked, and when the guest asked last.
    asked: Option<(Instant, Instant)>,
}

impl Resolver {
    /// The one that is asked now; `None`: there is none.
    pub fn current(&mut self, all: &[SocketAddr], now: Instant) -> Option<SocketAddr> {
        let fresh = |since: Instant| now.0.saturating_sub(since.0) < RETURN.as_micros() as u64;
        self.other = self.other.filter(|(which, since)| fresh(*since) && all.contains(which));
        self.other.map(|(which, _)| which).or_else(|| all.first().copied())
    }

    /// The one for a question that is asked now without a connection: another one than before, if that has been silent.
    pub fn ask(&mut self, all: &[SocketAddr], now: Instant) -> Option<SocketAddr> {
        let current = self.current(all, now)?;
        let passed = |since: Instant, time: Duration| now.0.saturating_sub(since.0) >= time.as_micros() as u64;
        let (first, _) = self.asked.filter(|(_, last)| !passed(*last, GIVEN_UP)).unwrap_or((now, now));
        self.asked = Some((first, now));
        if !passed(first, PATIENCE) {
            return Some(current);
        }
        self.failed(current, all, now);
        self.asked = Some((now, now));
        self.current(all, now)
    }

    /// One has answered: it is there.
    pub fn answered(&mut self, which: SocketAddr, all: &[SocketAddr], now: Instant) {
        if self.current(all, now) == Some(which) {
            self.asked = None;
        }
    }

    /// One cannot be reached: the next is asked from now on, and after the last the first.
    pub fn failed(&mut self, which: SocketAddr, all: &[SocketAddr], now: Instant) {
        if self.current(all, now) != Some(which) {
            return;
        }
        let place = all.iter().position(|other| *other == which).unwrap_or_default();
        self.other = all.get(place + 1).map(|next| (*next, now));
        self.asked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<SocketAddr> {
        ["198.51.100.1:53", "198.51.100.2:53", "[2001:db8::3]:53"].map(|s| s.parse().unwrap()).into()
    }

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    #[test]
    fn who_is_silent_is_passed_over_when_the_guest_asks_again() {
        let (all, mut resolver) = (all(), Resolver::default());
        assert_eq!(resolver.ask(&all, at(10)), Some(all[0]));
        assert_eq!(resolver.ask(&all, at(11)), Some(all[0]), "it still has time");
        resolver.answered(all[0], &all, at(11));
        assert_eq!(resolver.ask(&all, at(20)), Some(all[0]), "it has answered");
        assert_eq!(resolver.ask(&all, at(22)), Some(all[1]));
        resolver.answered(all[0], &all, at(23));
        assert_eq!(resolver.ask(&all, at(24)), Some(all[2]), "an answer of the other is none");
        assert_eq!(resolver.ask(&all, at(26)), Some(all[0]), "after the last the first");
        assert_eq!(resolver.ask(&all, at(41)), Some(all[0]), "nobody waits for the last answer any more");
    }

    #[test]
    fn failures_move_on_at_once_and_the_first_comes_back() {
        let (all, mut resolver) = (all(), Resolver::default());
        resolver.failed(all[1], &all, at(1));
        assert_eq!(resolver.current(&all, at(1)), Some(all[0]), "not the one that is asked");
        resolver.failed(all[0], &all, at(1));
        assert_eq!(resolver.current(&all, at(60)), Some(all[1]));
        assert_eq!(resolver.current(&all, at(61)), Some(all[0]));
        resolver.failed(all[0], &all, at(61));
        assert_eq!(resolver.current(&all[..1], at(62)), Some(all[0]), "there are others now");
        assert_eq!(resolver.current(&[], at(62)), None);
        assert_eq!(resolver.ask(&[], at(62)), None);
    }
}
