//! Timers: retransmission, persist, TIME-WAIT. One runs at a time.

use core::time::Duration;

use crate::{Event, Instant, Leg, State};

/// Maximum segment lifetime. RFC 9293 §3.4.2 takes two minutes for the whole Internet; towards a guest no segment
/// outlives its ring, and a guest that has not seen our last ACK repeats its FIN within its RTO. TIME-WAIT lasts twice this.
pub const MSL: Duration = Duration::from_secs(2);
/// R2 for payload and FIN (RFC 9293 §3.8.3: at least 100 s): so many retransmissions or unanswered window probes,
/// which with [`MIN_RTO`](crate::MIN_RTO) take more than 8 minutes; then the leg gives up.
pub const DATA_RETRIES: u8 = 15;
/// R2 for SYN and SYN-ACK (RFC 9293 §3.8.3: at least 3 minutes): given up after 183 s.
pub const SYN_RETRIES: u8 = 7;

/// The timer that runs. Keepalive and FIN-WAIT-2 have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    Idle,
    /// Something is unacknowledged (RFC 6298 §5).
    Retransmit {
        at: Instant,
    },
    /// The guest's window keeps something back (RFC 9293 §3.8.6.1); so many probes have gone.
    Persist {
        at: Instant,
        probes: u8,
    },
    TimeWait {
        at: Instant,
    },
}

impl Leg {
    /// When [`handle_timeout`](Leg::handle_timeout) is to be called; `None` if no timer runs. Any other call may
    /// change it.
    pub fn deadline(&self) -> Option<Instant> {
        match self.timer {
            Timer::Idle => None,
            Timer::Retransmit { at } | Timer::Persist { at, .. } | Timer::TimeWait { at } => Some(at),
        }
    }

    /// The deadline has come (nothing happens if it has not). Afterwards it lies in the future, or there is none; what
    /// is to be sent comes from [`poll`](Leg::poll). Events: [`Event::GaveUp`], and [`Event::Closed`] after TIME-WAIT.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Event> {
        if self.deadline().is_none_or(|at| now < at) {
            return None;
        }
        match self.timer {
            Timer::Idle => None,
            Timer::TimeWait { .. } => {
                self.close();
                Some(Event::Closed)
            }
            Timer::Retransmit { .. } => self.give_up().or_else(|| self.retransmit(now)),
            Timer::Persist { probes, .. } => self.give_up().or_else(|| self.probe(now, probes)),
        }
    }

    /// R2: the guest is gone.
    fn give_up(&mut self) -> Option<Event> {
        let syn = matches!(self.state, State::SynSent | State::SynReceived);
        if self.retries < if syn { SYN_RETRIES } else { DATA_RETRIES } {
            self.retries += 1;
            return None;
        }
        self.abort();
        Some(Event::GaveUp)
    }

    /// RFC 6298 §5.4 to 5.6. Everything from SND.UNA on goes again: nothing is known of what the guest has.
    fn retransmit(&mut self, now: Instant) -> Option<Event> {
        self.rto.back_off();
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.due.syn = true;
        } else {
            self.snd.nxt = self.snd.una;
            self.snd.readable = true;
            self.snd.duplicate_acks = 0;
            self.snd.recover = Some(self.snd.max);
            self.snd.recovering = false;
            self.due.resend = false;
        }
        self.timer = Timer::Retransmit { at: now + self.rto.current() };
        None
    }

    /// A byte is to go, or as many as fit, whatever the window says. The interval doubles.
    fn probe(&mut self, now: Instant, probes: u8) -> Option<Event> {
        self.due.probe = true;
        self.snd.readable |= self.snd.max.gt(self.snd.una);
        let probes = probes.saturating_add(1);
        self.timer = Timer::Persist { at: now + self.rto.series(probes), probes };
        None
    }

    /// Starts, keeps or stops the timer, as what is unacknowledged and what the window keeps back ask for.
    pub(crate) fn arm(&mut self, now: Instant) {
        let unacknowledged = self.snd.max.gt(self.snd.una);
        self.timer = match self.timer {
            timer @ Timer::TimeWait { .. } => timer,
            _ if self.state == State::Closed => Timer::Idle,
            timer @ Timer::Persist { .. } if self.blocked() => timer,
            _ if self.blocked() => {
                self.retries = 0;
                Timer::Persist { at: now + self.rto.current(), probes: 0 }
            }
            timer @ Timer::Retransmit { .. } if unacknowledged => timer,
            _ if unacknowledged => Timer::Retransmit { at: now + self.rto.current() },
            _ => Timer::Idle,
        };
    }
}
