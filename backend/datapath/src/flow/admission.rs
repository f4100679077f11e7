//! Whether a connection may begin now, later or not at all, and whether it may go on.
use crate::datagram::Kind;
use crate::flow::policy::{self, Route};
use crate::flow::table::{Flow, FlowId, FlowKey};
use crate::flow::usage::has_room;
use crate::limit::Limit;
use crate::port::Port;
use crate::spec::PortId;
use crate::worker::Worker;
use std::net::SocketAddr;
use vonic_frame::{DropReason, PROTOCOL_TCP};
use vonic_tcp::{Instant, Segment};

/// A listener at which connections may still wait.
pub struct AcceptLater {
    port: PortId,
    index: usize,
    /// When it is looked at.
    pub at: Instant,
    /// Since there were too many new ones.
    limited: bool,
}

impl AcceptLater {
    /// A forward that is looked at in the next round.
    pub fn soon(port: PortId, index: usize, now: Instant) -> AcceptLater {
        AcceptLater { port, index, at: now, limited: false }
    }
}

/// Puts a listener in the line, unless it stands there.
pub fn accept_later(line: &mut Vec<AcceptLater>, later: AcceptLater) {
    if !line.iter().any(|other| (other.port, other.index) == (later.port, later.index)) {
        line.push(later);
    }
}

impl Worker {
    /// Whether one more connection of a guest may begin now: its own to `destination`, or one of the world's.
    pub(crate) fn admit(&mut self, id: PortId, destination: Option<SocketAddr>) -> Result<(), Limit> {
        let (room, now) = (self.has_room(id), self.now);
        match Worker::port_mut(&mut self.ports, id) {
            Some(port) if room => port.usage.admit(&port.spec.limits, destination, now),
            _ => Err(Limit::Host),
        }
    }

    /// Whether the host's sockets suffice for one more of this guest. A connection in TIME-WAIT has none any more.
    pub(crate) fn has_room(&self, id: PortId) -> bool {
        let (total, guests) = self.count_sockets();
        let held = self.ports.get(id as usize).and_then(Option::as_deref).map_or(0, |port| self.sockets_of(port));
        has_room(self.connections_max, total, held, guests)
    }

    /// How many sockets all guests have, and how many guests there are, of every worker. The other workers see what this one has.
    pub(crate) fn count_sockets(&self) -> (usize, usize) {
        let (mut total, mut guests) = (0, 0);
        for port in self.ports.iter().flatten() {
            (total, guests) = (total + self.sockets_of(port), guests + 1);
        }
        (total + self.exchange.sockets_elsewhere(total), guests + self.exchange.ports_elsewhere())
    }

    fn sockets_of(&self, port: &Port) -> usize {
        let datagrams = Kind::ALL.map(|kind| self.datagrams.count(port.spec.port, kind)).iter().sum::<u32>();
        (port.usage.connections + datagrams) as usize
    }

    /// A guest's SYN has come up against a limit.
    pub(crate) fn limit_syn(&mut self, key: FlowKey, syn: &Segment<'_>, limit: Limit) -> DropReason {
        if limit.refuses() {
            self.refuse(key, syn);
        }
        match Worker::port_mut(&mut self.ports, key.port) {
            Some(port) => port.spec.stats.limited(limit),
            None => DropReason::Limit,
        }
    }

    /// Edge-triggered: what still waits at a listener is taken in a later round.
    pub(crate) fn accept_later(&mut self, port: PortId, index: usize, at: Instant, limited: bool) {
        accept_later(&mut self.accept_later, AcceptLater { port, index, at, limited });
    }

    /// Looks again at the listeners whose time has come; true if there was one.
    pub(crate) fn accept_again(&mut self) -> bool {
        let mut worked = false;
        for place in (0..self.accept_later.len()).rev() {
            // Who is not done yet stands behind those that were there, so this ends.
            if self.accept_later[place].at <= self.now {
                let AcceptLater { port, index, limited, .. } = self.accept_later.swap_remove(place);
                self.accept_from_world(port, index, limited);
                worked = true;
            }
        }
        worked
    }

    /// Ends the guests' connections, of one port or of all, that could not be opened any more as they are: rules, networks or the
    /// host's addresses have changed. Both ends get a reset.
    pub(crate) fn check_connections(&mut self, port: Option<PortId>) {
        self.recheck_resuming();
        let wanted = |flow: &Flow| {
            flow.guest_opens && flow.socket.is_some() && !flow.failed && port.is_none_or(|id| id == flow.key.port)
        };
        let flows = self.flows.iter().filter(|(_, flow)| wanted(flow) && !self.may_go_on(flow));
        let stale: Vec<FlowId> = flows.map(|(id, _)| id).collect();
        stale.into_iter().for_each(|id| self.revoke(id));
    }

    /// Whether a connection that the guest opened would lead to where it does if it began now.
    fn may_go_on(&self, flow: &Flow) -> bool {
        let Some(port) = self.ports.get(flow.key.port as usize).and_then(Option::as_ref) else { return true };
        let network = self.networks.get(port.spec.network as usize).and_then(Option::as_ref);
        let Some(network) = network else { return true };
        match policy::decide(&self.world(), network, &port.spec, PROTOCOL_TCP, flow.key.remote).again() {
            Ok(Route::To(to)) => to == flow.host,
            Ok(Route::Service) => true,
            Ok(Route::Names) => network.spec.resolvers().contains(&flow.host),
            Ok(Route::Refuse) | Err(_) => false,
        }
    }

    /// Ends a connection by resets to both ends.
    fn revoke(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.leg.abort();
        self.records.doom(flow);
        if let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) {
            port.spec.stats.tcp.revoked.add(1);
            port.spec.stats.tcp.reset.add(1);
        }
        self.flows.make_ready(id);
    }
}
