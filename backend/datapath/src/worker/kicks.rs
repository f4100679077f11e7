//! Drivers' kicks: what has one is looked at. Who kicks for nothing is heard once in a while only, and who rests not before the rest is over.
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
        if kicked == Kicked::TooMany {
            port.spec.stats.limited(Limit::Kicks);
            self.hear_later(id, index, Instant(self.now.0 + DEAF_US));
        }
        self.heard.get_or_insert(self.now);
        self.feed(id);
        self.woken = true;
        kicked == Kicked::News
    }

    /// Nobody hears the kicks of a ring until then.
    pub(super) fn hear_later(&mut self, port: PortId, index: u16, until: Instant) {
        let ring = Worker::port_mut(&mut self.ports, port).and_then(|port| port.queues.ring(index));
        let Some((ring, fd)) = ring.and_then(|ring| ring.kick_fd().map(|fd| (ring, fd))) else { return };
        if ring.ignore_kicks() {
            self.poller.forget(fd);
            self.unheard.push(Unheard { port, index, until });
        } else if let Some(ring) = self.unheard.iter_mut().find(|ring| (ring.port, ring.index) == (port, index)) {
            ring.until = ring.until.max(until);
        }
    }

    /// When somebody is to be heard again.
    pub(super) fn hear_at(&self) -> Option<Instant> {
        self.unheard.iter().map(|ring| ring.until).min()
    }

    /// Hears those again whose time has come. What they have kicked for meanwhile is an event at once.
    pub(super) fn hear_again(&mut self) {
        while let Some(due) = self.unheard.iter().position(|ring| ring.until <= self.now) {
            let Unheard { port: id, index, .. } = self.unheard.swap_remove(due);
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
