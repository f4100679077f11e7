//! Timers: retransmission, persist, keepalive, FIN-WAIT-2, TIME-WAIT. One runs at a time.

use core::time::Duration;

use crate::{Event, Flags, Header, Instant, Leg, State};

/// Maximum segment lifetime. RFC 9293 §3.4.2 takes two minutes for the whole Internet; towards a guest no segment
/// outlives its ring, and a guest that has not seen our last ACK repeats its FIN within its RTO. TIME-WAIT lasts twice this.
pub const MSL: Duration = Duration::from_secs(2);
/// R2 for payload and FIN (RFC 9293 §3.8.3: at least 100 s): so many retransmissions or unanswered window probes,
/// which with [`MIN_RTO`](crate::MIN_RTO) take more than 8 minutes; then the leg gives up.
pub const DATA_RETRIES: u8 = 15;
/// R2 for SYN and SYN-ACK (RFC 9293 §3.8.3: at least 3 minutes): given up after 183 s.
pub const SYN_RETRIES: u8 = 7;

/// How long a leg without a host socket waits for the guest's FIN.
pub const FIN_WAIT_2: Duration = Duration::from_secs(60);

/// The timer that runs.
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
    /// Nothing else is going on (RFC 9293 §3.8.4); so many probes have had no answer.
    Keepalive {
        at: Instant,
        probes: u8,
    },
    /// The guest's FIN is all that is waited for, on nobody's behalf.
    FinWait2 {
        at: Instant,
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
            Timer::Retransmit { at }
            | Timer::Persist { at, .. }
            | Timer::Keepalive { at, .. }
            | Timer::FinWait2 { at }
            | Timer::TimeWait { at } => Some(at),
        }
    }

    /// The deadline has come (nothing happens if it has not). Afterwards it lies in the future, or there is none; what
    /// is to be sent comes from [`poll`](Leg::poll). Events: [`Event::GaveUp`], and [`Event::Closed`] after TIME-WAIT and
    /// [`FIN_WAIT_2`].
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Event> {
        if self.deadline().is_none_or(|at| now < at) {
            return None;
        }
        match self.timer {
            Timer::Idle => None,
            Timer::TimeWait { .. } | Timer::FinWait2 { .. } => {
                self.close();
                Some(Event::Closed)
            }
            Timer::Retransmit { .. } => self.give_up().or_else(|| self.retransmit(now)),
            Timer::Persist { probes, .. } => self.give_up().or_else(|| self.probe(now, probes)),
            Timer::Keepalive { probes, .. } => self.ask_for_life(now, probes),
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
            self.snd.board.clear();
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

    /// The keepalive timer expired. It is not set anew by each segment, but finds out here since when the guest is silent.
    fn ask_for_life(&mut self, now: Instant, probes: u8) -> Option<Event> {
        let keepalive = self.keepalive?;
        let idle_at = self.heard + keepalive.idle;
        if now < idle_at {
            self.timer = Timer::Keepalive { at: idle_at, probes: 0 };
            return None;
        }
        if probes >= keepalive.probes.max(1) {
            self.abort();
            return Some(Event::GaveUp);
        }
        self.due.keepalive = true;
        self.timer = Timer::Keepalive { at: now + keepalive.interval, probes: probes + 1 };
        None
    }

    /// SEG.SEQ = SND.NXT - 1 and no payload (RFC 9293 §3.8.4, SHLD-12): the guest answers by an ACK. Nothing is on its way then, or it is not
    /// known (see [`Leg::restore`]): SND.UNA is as far as the guest has come for certain.
    pub(crate) fn keepalive_probe(&mut self, now: Instant) -> Header {
        let seq = self.snd.una - 1;
        let due = self.due.ack;
        let header = self.header(now, seq, Flags::ACK, false);
        // A guest answers what is outside its window and drops it, with the acknowledgment and the window that it carries
        // (RFC 9293 §3.10.7.4, first): what was to be told still is, by an ACK that is in its window, or by payload. Where its window is, its
        // answer may have to say first.
        self.due.ack = due && self.snd.max == self.snd.una;
        self.due.ack_then = due && !self.due.ack;
        header
    }

    /// The timer of a leg that has nothing to send.
    fn idle_timer(&self, now: Instant) -> Timer {
        match (self.timer, self.keepalive) {
            (timer @ Timer::FinWait2 { .. }, _) => timer,
            _ if self.orphan && self.state == State::FinWait2 => Timer::FinWait2 { at: now + FIN_WAIT_2 },
            (timer @ Timer::Keepalive { probes: 0, .. }, _) => timer,
            (timer @ Timer::Keepalive { .. }, Some(_)) if self.heard < now => timer,
            (_, Some(keepalive)) if self.state.is_synchronized() => {
                Timer::Keepalive { at: self.heard + keepalive.idle, probes: 0 }
            }
            _ => Timer::Idle,
        }
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
            _ => self.idle_timer(now),
        };
    }
}
