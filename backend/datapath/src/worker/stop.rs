//! The end of a worker's service.
use super::Worker;
use crate::calls::CallPolicy;
use crate::port::Port;
use crate::spec::PortId;
use std::time::Duration;

/// How long guests have to take something out of receive queues that are full, so that there is room for resets.
const PATIENCE_US: u64 = 1_000_000;
/// Between two looks at such a queue.
const PAUSE: Duration = Duration::from_millis(1);

impl Worker {
    /// Every guest gets resets for its connections, and so does every peer. A guest that has no buffers just now is waited for: nobody tells
    /// it later, and without a reset what only receives would wait for ever.
    pub(super) fn stop(&mut self) {
        self.recall_all();
        self.finish_resuming(None);
        for id in self.flows_of(|_| true) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.leg.abort();
            if let Some(socket) = flow.socket.take() {
                socket.abort();
            }
            self.flows.make_ready(id);
        }
        self.tell_time();
        let end = self.now.0 + PATIENCE_US;
        loop {
            for _ in 0..self.flows.ready_len() {
                let Some(id) = self.flows.pop_ready() else { break };
                self.pump(id);
            }
            self.flush();
            self.tell_time();
            if !self.owes_resets() || self.now.0 >= end {
                break;
            }
            // What epoll has to tell is of no use any more.
            #[allow(clippy::disallowed_methods, reason = "nothing is served from here on")]
            std::thread::sleep(PAUSE);
            (0..self.ports.len()).for_each(|id| self.feed(id as PortId));
        }
        // Nothing is left to be coalesced with.
        for port in self.ports.iter_mut().flatten() {
            port.queues.flush_to_guest(CallPolicy::default(), self.now, |_| {});
        }
        self.call_senders(true);
    }

    /// Whether a reset waits for buffers of a guest that is there to post some.
    fn owes_resets(&self) -> bool {
        let ports = &self.ports;
        let live = |port: &Port| port.map.is_some() && port.queues.is_live();
        let port = |id| ports.get(id as usize).and_then(Option::as_deref);
        self.flows.iter().any(|(_, flow)| flow.starved && port(flow.key.port).is_some_and(live))
    }
}
