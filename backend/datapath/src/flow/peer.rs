//! What the remote peer has acknowledged of what a guest sent, for VMs with `ack = "peer"`.
//!
//! No event tells of it: EPOLLOUT comes when a full socket has room again, and an acknowledgment is none of that. So a socket with
//! unacknowledged bytes is asked, each time when its connection is looked at anyway, and by a timer meanwhile. The longer it has
//! waited the more rarely: an eighth of the wait, so that the guest hears of an acknowledgment with little more than its round trip
//! to the peer took, and a guest's retransmission timer (at least 200 ms beyond that round trip) does not run out over it.
use crate::flow::table::{Flow, FlowId};
use crate::worker::Worker;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;
use vonic_tcp::Instant;

/// The shortest and the longest time between two questions. The shortest is what epoll's timeout can tell apart.
const SOONEST: Duration = Duration::from_millis(1);
const LATEST: Duration = Duration::from_secs(1);

/// A connection whose guest waits for the peer's acknowledgment.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// When the peer last acknowledged something, or there began to be something.
    since: Instant,
    /// When to ask next.
    at: Instant,
}

/// When which connection's socket is asked next. Each has one entry at most.
#[derive(Default)]
pub struct Questions(BinaryHeap<Reverse<(Instant, FlowId, u32)>>);

impl Questions {
    /// When the next question may be due.
    pub fn next_due(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }
}

/// Acknowledges to the guest what the peer has acknowledged since the socket was last asked. A connection without held bytes is not
/// asked for anything.
pub fn pass_on(flow: &mut Flow, now: Instant) {
    let held = flow.leg.held();
    let Some(socket) = flow.socket.as_ref().filter(|_| held > 0) else {
        flow.waiting = None;
        return;
    };
    // A socket that cannot be asked has failed: its event says so. The guest's FIN counts in the kernel's queue, behind all bytes.
    let queued = socket.unacknowledged().map_or(held, |bytes| bytes.saturating_sub(u32::from(flow.shut)));
    if queued < held {
        flow.leg.peer_acked(now, held - queued);
    }
    flow.waiting = (queued > 0).then(|| {
        let since = flow.waiting.filter(|_| queued >= held).map_or(now, |waiting| waiting.since);
        let waited = Duration::from_micros(now.0.saturating_sub(since.0));
        Waiting { since, at: now + (waited / 8).clamp(SOONEST, LATEST) }
    });
}

impl Worker {
    /// Sees that a connection that waits is looked at when its time has come.
    pub(crate) fn ask_later(&mut self, id: FlowId) {
        let generation = self.flows.generation(id);
        if let Some(flow) = self.flows.get_mut(id)
            && let Some(waiting) = flow.waiting
            && !std::mem::replace(&mut flow.asked_later, true)
        {
            self.questions.0.push(Reverse((waiting.at, id, generation)));
        }
    }

    /// Has the connections looked at whose time has come.
    pub(crate) fn ask_peers(&mut self) {
        while let Some(Reverse((at, id, generation))) = self.questions.0.peek().copied() {
            if at > self.now {
                return;
            }
            self.questions.0.pop();
            if self.flows.generation(id) != generation {
                continue;
            }
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.asked_later = false;
            match flow.waiting {
                Some(waiting) if waiting.at <= self.now => self.flows.make_ready(id),
                // It was looked at meanwhile, and waits for longer.
                Some(_) => self.ask_later(id),
                None => {}
            }
        }
    }
}
