//! What the remote peer has acknowledged of what a guest sent: for VMs with `ack = "peer"`, and for windows that are closed.
//!
//! No event tells of it: EPOLLOUT comes once, when a full socket has a third of its room again, which may be too little to open the
//! guest's window by (RFC 9293 §3.8.6.2.2), and an acknowledgment that frees more is no event at all. So a socket whose guest waits for the
//! one or the other is asked, each time when its connection is looked at anyway, and by a timer meanwhile. The longer it has waited the
//! more rarely: an eighth of the wait, so that the guest hears of an acknowledgment with little more than its round trip to the peer took,
//! and a guest's retransmission timer (at least 200 ms beyond that round trip) does not run out over it.
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
    /// What was unacknowledged when last asked.
    queued: u32,
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

/// Acknowledges to the guest what the peer has acknowledged since the socket was last asked. The room that this has made is to be
/// looked at. A connection that waits for nothing is not asked.
pub fn pass_on(flow: &mut Flow, now: Instant) {
    let held = flow.leg.held();
    let Some(socket) = flow.socket.as_ref().filter(|_| held > 0 || flow.cramped) else { return };
    // A socket that cannot be asked has failed: its event says so. The guest's FIN counts in the kernel's queue, behind all bytes.
    let Ok(queued) = socket.unacknowledged().map(|bytes| bytes.saturating_sub(u32::from(flow.shut))) else { return };
    if queued < held {
        flow.leg.peer_acked(now, held - queued);
    }
    let Some(waiting) = &mut flow.waiting else { return };
    if queued < waiting.queued {
        flow.window_stale = true;
        waiting.since = now;
    }
    waiting.queued = queued;
}

/// Sets when a connection is asked for next, if it waits for something.
pub fn set_question(flow: &mut Flow, now: Instant) {
    // Where nothing is unacknowledged, no more room will come by itself.
    let all_acknowledged = flow.waiting.is_some_and(|waiting| waiting.queued == 0);
    let waits = flow.socket.is_some() && (flow.leg.held() > 0 || (flow.cramped && !all_acknowledged));
    flow.waiting = waits.then(|| {
        let before = flow.waiting.unwrap_or(Waiting { since: now, at: now, queued: u32::MAX });
        Waiting { at: now + ((now - before.since) / 8).clamp(SOONEST, LATEST), ..before }
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
