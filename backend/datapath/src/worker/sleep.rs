//! Whether the worker may sleep, for how long, and what is to wake it.
use super::Worker;
use crate::port::Port;

/// Milliseconds between two looks at a ring whose driver does not signal, once there was nothing in it for a while.
const LOOK_MS: i32 = 1;

impl Worker {
    /// Milliseconds to sleep: 0 while there is work or a reason to look for it.
    pub(super) fn timeout(&mut self, worked: bool) -> i32 {
        let polling = self.polling.looks(self.now);
        if !worked && !polling {
            // Little waits while the worker sleeps.
            self.end_patience(true);
            self.publish_captures(true);
        }
        if worked || polling || self.flows.ready_len() > 0 || self.datagrams.ready_len() > 0 || self.arm() {
            return 0;
        }
        self.call_senders(true);
        let ports = self.ports.iter().flatten();
        let held = ports.flat_map(|port| port.kept.due().into_iter().chain(port.queues.short_until()));
        let due = self.flows.next_due().into_iter().chain(self.datagrams.next_due()).chain(held);
        let due = due.chain(self.questions.next_due()).chain(self.draining.next_due()).chain(self.patience.next_due());
        let owed =
            self.ports.iter().flatten().filter_map(|port| Some(port.queues.owes_since()? + port.spec.calls.wait()));
        let soon = self.held_until().into_iter().chain(owed).min();
        if soon.is_some_and(|at| at.0 < self.now.0 + 1000) {
            // Nothing sleeps for less than a millisecond.
            return 0;
        }
        let due = due.chain(soon);
        let due = due.chain(self.exchange_due()).chain(self.hear_at());
        let next = due.chain(self.accept_later.iter().map(|later| later.at)).chain(self.advertise_at).min();
        let due = next.map(|at| {
            let ms = at.0.saturating_sub(self.now.0).div_ceil(1000);
            i32::try_from(ms).unwrap_or(i32::MAX)
        });
        due.into_iter().chain(self.has_polled_ring().then_some(LOOK_MS)).min().unwrap_or(-1)
    }

    /// Whether there is a ring to look at again that nobody will signal for.
    fn has_polled_ring(&self) -> bool {
        let waits = |port: &Port| port.queues.is_polled(port.tap.starved().is_some());
        self.ports.iter().flatten().any(|port| waits(port))
    }

    /// Asks every driver for notifications; true if one has work already.
    fn arm(&mut self) -> bool {
        // Who waits for a burst that others have fetches nothing until it is back, and who rests nothing until then, whatever its driver
        // has posted.
        let now = self.now;
        let fetches = |port: &Port| port.sent.is_none() && port.share.rests(now).is_none();
        let arm = |port: &mut Port| port.queues.arm(port.tap.starved()) && fetches(port);
        self.ports.iter_mut().flatten().fold(false, |work, port| arm(port) | work)
    }

    /// Waits as the only one of several: the others wake who sleeps, and let alone who does not.
    pub(super) fn sleep(&mut self, timeout: i32) -> usize {
        // The others are to see how many sockets it has while it sleeps.
        self.count_sockets();
        let timeout = if self.may_sleep() { timeout } else { 0 };
        let events = self.poller.wait(timeout);
        self.exchange.is_awake();
        events
    }
}
