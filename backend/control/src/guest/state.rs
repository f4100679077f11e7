//! What is known of one guest by its own word.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::listening::Listening;
use super::nic::Samples;
use vonic_agent::message::Message;
use vonic_agent::nic::{Rates, Traffic};
use vonic_datapath::{PortStats, Way};
use vonic_record::Shared;

/// The least time between two requests of one guest, over all its connections: an agent needs one a second.
const PACE: Duration = Duration::from_millis(20);

/// The same between two parts of the list of its connections, each of which costs the worker tens of microseconds.
const PART_PACE: Duration = Duration::from_millis(5);

/// A guest's last message.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it says; nothing in it is certain.
    pub message: Message,
    /// When it came.
    pub at: Instant,
    /// Frames and bytes that the host had counted when it began to come, in the order of [`Way::ALL`].
    pub host: [(u64, u64); 2],
}

/// One VM, as the service knows it.
#[derive(Debug)]
pub struct Guest {
    name: String,
    stats: Shared<PortStats>,
    inner: Mutex<Inner>,
    /// Who listens to its connections, if somebody does.
    pub(super) listening: tokio::sync::Mutex<Option<Arc<Listening>>>,
}

#[derive(Debug, Default)]
struct Inner {
    report: Option<Report>,
    next: Option<Instant>,
    next_part: Option<Instant>,
    samples: Samples,
}

impl Guest {
    /// The VM `name`, which has not spoken yet; `stats` are its port's.
    pub fn new(name: &str, stats: &Shared<PortStats>) -> Guest {
        Guest { name: name.into(), stats: stats.clone(), inner: Mutex::default(), listening: Default::default() }
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its last message.
    pub fn report(&self) -> Option<Report> {
        self.lock().report.clone()
    }

    /// Keeps a message, and what the host had counted when it began to come.
    pub(super) fn says(&self, message: Message) {
        let host = Way::ALL.map(|way| self.stats.marked(way));
        self.lock().report = Some(Report { message, at: Instant::now(), host });
    }

    /// Takes the guest's next turn; how long to wait for it. Its callers are at most as many as its places.
    pub(super) fn turn(&self, now: Instant) -> Duration {
        turn(&mut self.lock().next, PACE, now)
    }

    /// The same for the parts of the list of its connections, each of which has the worker look at a part of everybody's.
    pub(super) fn turn_of_part(&self, now: Instant) -> Duration {
        turn(&mut self.lock().next_part, PART_PACE, now)
    }

    /// Its rates since the question before this one.
    pub(super) fn rates(&self, now: Instant) -> Option<Rates> {
        let [sent, received] = Way::ALL.map(|way| self.stats.traffic(way));
        let traffic = |(frames, bytes)| Traffic { frames, bytes };
        self.lock().samples.rates(now, [traffic(sent), traffic(received)])
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the next of the turns that are `pace` apart; how long to wait for it.
fn turn(next: &mut Option<Instant>, pace: Duration, now: Instant) -> Duration {
    let at = next.map_or(now, |next| next.max(now));
    *next = Some(at + pace);
    at - now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_keep_the_pace_and_nobody_saves_them_up() {
        let guest = Guest::new("a", &Shared::default());
        let now = Instant::now();
        assert_eq!([0, 1, 2].map(|_| guest.turn(now)), [Duration::ZERO, PACE, PACE * 2]);
        let later = now + Duration::from_secs(9);
        assert_eq!([0, 1].map(|_| guest.turn(later)), [Duration::ZERO, PACE]);
    }

    #[test]
    fn the_last_message_is_kept_with_the_hosts_counters_of_that_moment() {
        let stats = Shared::<PortStats>::default();
        let guest = Guest::new("a", &stats);
        assert!(guest.report().is_none());
        for uptime_seconds in [1, 2] {
            stats.frame(Way::GuestToHost, 60);
            stats.frame(Way::GuestToHost, 1000);
            stats.mark(1000);
            guest.says(Message { uptime_seconds, ..Message::default() });
        }
        stats.frame(Way::GuestToHost, 60);
        let report = guest.report().unwrap();
        assert_eq!((report.message.uptime_seconds, report.host), (2, [(3, 1120), (0, 0)]));
    }
}
