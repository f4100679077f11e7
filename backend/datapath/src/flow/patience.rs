//! Acknowledgments that wait a moment for an answer to carry them (RFC 9293 §3.8.6.3): a frame less for the guest, and an interrupt less.
//! All wait equally long, and none while the worker sleeps.
use crate::flow::table::FlowId;
use crate::worker::Worker;
use std::collections::VecDeque;
use std::time::Duration;
use vonic_tcp::Instant;

/// How long an acknowledgment waits. An answer from this host takes less; against half a second it is nothing.
const PATIENCE: Duration = Duration::from_micros(50);

/// Connections with an acknowledgment that waits, those first whose time comes first.
pub struct Patience {
    waiting: VecDeque<(Instant, FlowId, u32)>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { waiting: VecDeque::with_capacity(256) }
    }
}

impl Worker {
    /// Notes that the acknowledgment of a connection waits from now on.
    pub(crate) fn wait_briefly(&mut self, id: FlowId) {
        let generation = self.flows.generation(id);
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !std::mem::replace(&mut flow.waits_briefly, true) {
            self.patience.waiting.push_back((self.now + PATIENCE, id, generation));
        }
    }

    /// Has those go that have waited long enough, or all of them. One entry may stand for an acknowledgment that has gone since, and for
    /// another that waits less long for it.
    pub(crate) fn end_patience(&mut self, all: bool) {
        while let Some((until, id, generation)) = self.patience.waiting.front().copied() {
            if until > self.now && !all {
                return;
            }
            self.patience.waiting.pop_front();
            if self.flows.generation(id) != generation {
                continue;
            }
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.waits_briefly = false;
            if flow.leg.ack_waits() {
                flow.leg.hurry();
                self.flows.make_ready(id);
            }
        }
    }
}
