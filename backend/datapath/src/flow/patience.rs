//! Acknowledgments that wait for an answer to carry them (RFC 9293 §3.8.6.3): a frame less for the guest, and an interrupt less.
//!
//! Where the last one was carried, or none has waited yet, the next one waits also while the worker sleeps; where it waited in vain, only for a
//! moment, and not while the worker sleeps.
use crate::flow::table::{Flow, FlowId};
use crate::worker::Worker;
use std::collections::VecDeque;
use std::time::Duration;
use vonic_tcp::Instant;

/// How long an acknowledgment waits at least. An answer from this host takes less; against half a second it is nothing.
const MOMENT: Duration = Duration::from_micros(50);
/// How long it waits where that has been worth it: so long, and at most twice, if one is carried and the next one waits meanwhile.
const ANSWER: Duration = Duration::from_millis(5);

/// Connections with an acknowledgment that waits, those first whose time comes first.
pub struct Patience {
    moment: VecDeque<(Instant, FlowId, u32)>,
    answer: VecDeque<(Instant, FlowId, u32)>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { moment: VecDeque::with_capacity(256), answer: VecDeque::with_capacity(256) }
    }
}

impl Patience {
    /// When those have waited long enough that wait while the worker sleeps.
    pub fn next_due(&self) -> Option<Instant> {
        self.answer.front().map(|(until, ..)| *until)
    }
}

/// Payload goes to the guest, and an acknowledgment with it.
pub fn answered(flow: &mut Flow, now: Instant) {
    if let Some(since) = flow.waits_since.take() {
        flow.answers = now < since + ANSWER;
    }
}

impl Worker {
    /// Notes that the acknowledgment of a connection waits from now on.
    pub(crate) fn wait_briefly(&mut self, id: FlowId) {
        let generation = self.flows.generation(id);
        let Some(flow) = self.flows.get_mut(id) else { return };
        let listed = std::mem::replace(&mut flow.waits_briefly, true);
        if !listed || flow.waits_since.is_none() {
            flow.waits_since = Some(self.now);
        }
        match flow.answers {
            _ if listed => {}
            true => self.patience.answer.push_back((self.now + ANSWER, id, generation)),
            false => self.patience.moment.push_back((self.now + MOMENT, id, generation)),
        }
    }

    /// Has those go that have waited long enough; `sleeps`: and all that do not wait while the worker sleeps. One entry may stand for an
    /// acknowledgment that has gone since, and for another that waits less long for it.
    pub(crate) fn end_patience(&mut self, sleeps: bool) {
        while let Some((until, id, generation)) = self.patience.moment.front().copied() {
            if until > self.now && !sleeps {
                break;
            }
            self.patience.moment.pop_front();
            self.hurry(id, generation);
        }
        while let Some((until, id, generation)) = self.patience.answer.front().copied() {
            if until > self.now {
                break;
            }
            self.patience.answer.pop_front();
            if self.flows.generation(id) != generation {
                continue;
            }
            let Some(flow) = self.flows.get_mut(id) else { continue };
            if flow.leg.ack_waits() && flow.waits_since.is_none_or(|since| since + ANSWER > self.now) {
                self.patience.answer.push_back((self.now + ANSWER, id, generation));
                continue;
            }
            flow.answers &= !flow.leg.ack_waits();
            self.hurry(id, generation);
        }
    }

    fn hurry(&mut self, id: FlowId, generation: u32) {
        if self.flows.generation(id) != generation {
            return;
        }
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.waits_briefly = false;
        if flow.leg.ack_waits() {
            flow.leg.hurry();
            self.flows.make_ready(id);
        }
    }
}
