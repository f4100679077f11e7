//! Router advertisements that nobody asked for (RFC 4861 §6.2.4): when a guest's rings start, and from time to time.
use crate::port::Port;
use crate::service::ndp;
use crate::spec::PortId;
use crate::worker::Worker;
use std::hash::BuildHasher;
use vonic_frame::{ALL_NODES, MacAddr};
use vonic_tcp::Instant;

/// Microseconds between two: at least, and as much again by chance.
const INTERVAL_US: u64 = 300_000_000;
/// Until the next try where the guest had posted no buffer: this, then twice as long, and so on.
const RETRY_US: u64 = 50_000;
/// Doublings of that.
const RETRIES: u32 = 8;

impl Worker {
    /// A guest has come, or what it is told may have changed: it is told at the end of this round.
    pub(crate) fn advertise_soon(&mut self, id: PortId) {
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            (port.advertise_at, port.advertise_tries) = (Some(self.now), 0);
            self.advertise_at = Some(self.now);
        }
    }

    /// Sends what is due.
    pub(crate) fn advertise(&mut self) {
        if self.advertise_at.is_none_or(|at| at > self.now) {
            return;
        }
        let mut next = None;
        for port in self.ports.iter_mut().flatten() {
            if port.advertise_at.is_some_and(|at| at <= self.now) {
                let network = self.networks.get(port.spec.network as usize).and_then(|n| n.as_deref());
                let sent = network.and_then(|network| advertise_to(network, port));
                let spread = self.secret.hash_one((port.spec.port, self.now.0)) % INTERVAL_US;
                port.advertise_at = sent.map(|sent| match sent {
                    true => Instant(self.now.0 + INTERVAL_US + spread),
                    false => Instant(self.now.0 + (RETRY_US << port.advertise_tries)),
                });
                port.advertise_tries = (port.advertise_tries + 1).min(RETRIES);
            }
            next = next.into_iter().chain(port.advertise_at).min();
        }
        self.advertise_at = next;
    }
}

/// Tells one guest; `None`: there is nothing to tell, or no guest.
fn advertise_to(network: &crate::switch::Network, port: &mut Port) -> Option<bool> {
    if !port.queues.is_live() {
        return None;
    }
    // Nobody asked for it: that it found no room is no loss.
    ndp::advertise(network, port, (MacAddr::of_group(ALL_NODES), ALL_NODES)).map(|sent| sent.is_ok())
}
