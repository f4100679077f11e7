//! Whose turn it is, and what it came to.
use super::Worker;
use crate::limit::Limit;
use crate::port::Port;
use crate::queues::PAIRS;
use crate::shares::{Shares, Turn};
use crate::spec::PortId;
use vonic_tcp::Instant;

/// The turns of a round.
pub(crate) struct Turns {
    shares: Shares,
    /// When the last turn was over.
    marked: Instant,
    /// Frames of this turn of which nothing was forwarded.
    unforwarded: usize,
    /// Somebody had a turn in this round, and somebody else had none.
    served: bool,
    put_off: bool,
}

impl Turns {
    /// Of so many microseconds each.
    pub fn new(turn_us: u64) -> Turns {
        Turns { shares: Shares::new(turn_us), marked: Instant(0), unforwarded: 0, served: false, put_off: false }
    }

    /// Nothing of a frame was forwarded.
    pub fn forwarded_nothing(&mut self) {
        self.unforwarded += 1;
    }
}

impl Worker {
    /// A round begins.
    pub(super) fn begin_turns(&mut self, late: bool) {
        self.turns.marked = if late { self.now_exactly() } else { self.now };
        (self.turns.served, self.turns.put_off) = (false, false);
    }

    /// What was done up to now was done outside of turns.
    pub(super) fn skip_to_now(&mut self) {
        self.turns.marked = self.now_exactly();
    }

    /// A port's turn, which it does not get if it has had more than its part; true if it has work.
    pub(super) fn take_turn(&mut self, id: PortId) -> bool {
        let (turns, now) = (&mut self.turns, self.now);
        let Some(port) = Worker::port_mut(&mut self.ports, id).filter(|port| has_work(port, now)) else { return false };
        turns.shares.see(&mut port.share, now);
        if turns.shares.is_ahead(&port.share) {
            turns.put_off = true;
            return true;
        }
        turns.served = true;
        self.serve(id)
    }

    /// The turns of those who got none, if nobody else did.
    pub(super) fn make_up_for_turns(&mut self) {
        if self.turns.served || !self.turns.put_off {
            return;
        }
        for id in 0..self.ports.len() as PortId {
            if self.ports.get(id as usize).and_then(Option::as_deref).is_some_and(|port| has_work(port, self.now)) {
                self.serve(id);
            }
        }
    }

    fn serve(&mut self, id: PortId) -> bool {
        let chains = self.guest_burst(id);
        let (now, turns) = (self.clock.now(), &mut self.turns);
        let took = now.0.saturating_sub(std::mem::replace(&mut turns.marked, now).0);
        let turn = Turn { took, chains, unforwarded: std::mem::take(&mut turns.unforwarded) };
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return true };
        if turns.shares.charge(&mut port.share, turn, now)
            && let Some(until) = port.share.rests(now)
        {
            port.spec.stats.limited(Limit::Unforwarded);
            for pair in 0..PAIRS as u16 {
                self.hear_later(id, 2 * pair + 1, until);
            }
        }
        chains > 0
    }
}

/// Whether there is something to do for a port in a turn.
fn has_work(port: &Port, now: Instant) -> bool {
    let frames = port.share.rests(now).is_none() && port.queues.has_frames();
    port.sent.is_none() && (frames || port.kept.due().is_some_and(|due| due <= now))
}
