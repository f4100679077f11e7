//! Drivers' kicks: what has one is looked at. Who kicks for nothing is heard once in a while only.
use super::Worker;
use super::events::Token;
use crate::command::Notice;
use crate::kicks::Kicked;
use crate::limit::Limit;
use crate::spec::PortId;
use vonic_tcp::Instant;

/// Microseconds for which nobody hears who kicks for nothing.
const DEAF_US: u64 = 1000;

/// A ring whose kicks nobody hears until then.
pub(super) struct Unheard {
    port: PortId,
    index: u16,
    until: Instant,
}

impl Worker {
    /// A driver has kicked; true if with news. The ring is looked at in any case.
    pub(super) fn kicked(&mut self, id: PortId, index: u16) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        let Some(ring) = port.queues.ring(index) else { return false };
        ring.drain_kick();
        let kicked = ring.kicked();
        if kicked == Kicked::TooMany
            && let Some(fd) = ring.kick_fd()
        {
            self.poller.forget(fd);
            port.spec.stats.limited(Limit::Kicks);
            self.unheard.push_back(Unheard { port: id, index, until: Instant(self.now.0 + DEAF_US) });
        }
        self.heard.get_or_insert(self.now);
        self.feed(id);
        self.woken = true;
        kicked == Kicked::News
    }

    /// When somebody is to be heard again.
    pub(super) fn hear_at(&self) -> Option<Instant> {
        self.unheard.front().map(|ring| ring.until)
    }

    /// Hears those again whose time has come. What they have kicked for meanwhile is an event at once.
    pub(super) fn hear_again(&mut self) {
        while let Some(ring) = self.unheard.pop_front_if(|ring| ring.until <= self.now) {
            let (id, index) = (ring.port, ring.index);
            let Some(ring) = Worker::port_mut(&mut self.ports, id).and_then(|port| port.queues.ring(index)) else {
                continue;
            };
            // One that was started anew is.
            if ring.hear_kicks()
                && let Some(fd) = ring.kick_fd()
                && let Err(error) = self.poller.watch_input(fd, Token::Kick { port: id, index })
            {
                (self.notify)(Notice::WatchFailed { port: id, error });
            }
        }
    }
}
