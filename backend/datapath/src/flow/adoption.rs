//! What the world began while there was no engine, or just before one died.
use crate::spec::{ForwardSocket, PortId};
use crate::worker::Worker;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;
use vonic_frame::PROTOCOL_TCP;
use vonic_record::WORKERS_MAX;
use vonic_tcp::Instant;
use vonic_uplink::Accepted;

/// How long a guest whose VMM was connected is waited for: its session is replayed in milliseconds.
const RETURN_LIMIT: Duration = Duration::from_secs(5);
/// For how long the world's connections wait at a guest whose rings have just stopped: it may be about to leave, or its driver to come back.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// A connection that an engine before this one accepted, for the guest whose forward it came by.
pub struct Adopted {
    /// The guest's port of the switch.
    port: PortId,
    /// The guest's TCP port.
    guest_port: u16,
    failover: bool,
    accepted: Accepted,
    /// The worker that has accepted it, whose place it has in the checkpoint.
    by: usize,
}

impl Worker {
    /// A port's VMM was there before this engine was: its rings are about to come.
    pub(crate) fn await_port(&mut self, id: PortId) {
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            port.awaited = Some(self.now + RETURN_LIMIT);
        }
    }

    /// A ring of a port's was stopped: without any, whom the world's kernel lets in is not refused at once.
    pub(crate) fn hold_doors(&mut self, id: PortId) {
        let until = self.now + STOP_LIMIT;
        if let Some(port) = Worker::port_mut(&mut self.ports, id).filter(|port| !port.queues.is_live()) {
            port.awaited = port.awaited.max(Some(until));
        }
    }

    /// Whether what the world begins has to wait, since the guest's rings are about to come.
    pub(crate) fn is_awaited(&mut self, id: PortId) -> bool {
        let now = self.now;
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        if port.queues.is_live() || port.awaited.is_some_and(|limit: Instant| limit <= now) {
            port.awaited = None;
        }
        port.awaited.is_some()
    }

    /// Finds the guests of the connections that the workers before had accepted and no more. Nobody's is reset.
    pub(crate) fn adopt_accepted(&mut self) {
        (0..WORKERS_MAX).for_each(|by| self.adopt_accepted_by(by));
    }

    fn adopt_accepted_by(&mut self, by: usize) {
        let is_first = self.exchange.own() == 0;
        let Some(left) = self.records.accepted(by) else {
            // On record, or none: every worker finds that out, and one is to say so.
            return if is_first {
                self.records.forget_accepted(by)
            };
        };
        if self.is_anothers(left) {
            return;
        }
        let Some(accepted) = Accepted::adopt(left) else { return self.records.forget_accepted(by) };
        // The rings of some may run by now, while others' VMMs were still to come.
        let ports = self.ports.iter().flatten().filter(|port| port.awaited.is_some() || port.queues.is_live());
        let mut forwards = ports.flat_map(|port| port.spec.forwards.iter().map(|forward| (port.spec.port, forward)));
        let is_of = |socket: &ForwardSocket| match socket {
            ForwardSocket::Tcp(listener) => listener.local().is_ok_and(|address| accepted.came_to(address)),
            ForwardSocket::Udp(_) => false,
        };
        match forwards.find(|(_, forward)| is_of(&forward.socket)) {
            Some((port, forward)) => {
                let (guest_port, failover) = (forward.guest_port, forward.failover);
                self.adopted.push(Adopted { port, guest_port, failover, accepted, by });
                if !self.is_awaited(port) {
                    self.settle_adopted(port);
                }
            }
            None => {
                accepted.abort();
                self.records.forget_accepted(by);
            }
        }
    }

    /// Whether a connection is for another worker to look at: it came to a forward of that one's, or to none any more.
    fn is_anothers(&self, connection: RawFd) -> bool {
        let came_to = |address: SocketAddr| Accepted::would_have_come_to(connection, address);
        let tcp = |listens: &(u8, SocketAddr)| listens.0 == PROTOCOL_TCP;
        let own = self.ports.iter().flatten().flat_map(|port| &port.spec.forwards);
        let own = own.filter_map(|forward| forward.socket.local()).filter(tcp).any(|(_, at)| came_to(at));
        let others = self.exchange.listens().filter(tcp).any(|(_, at)| came_to(at));
        !own && (others || self.exchange.own() != 0)
    }

    /// Whether nothing may be accepted yet, since there is one connection already of which there is no record: for more there is no place.
    pub(crate) fn is_adopting(&mut self) -> bool {
        // Until every VMM has come it is not looked for.
        let mut waits = self.taking_over && self.records.has_accepted();
        for port in self.adopted.iter().map(|adopted| adopted.port).collect::<Vec<_>>() {
            if self.is_awaited(port) {
                waits = true;
            } else {
                self.settle_adopted(port);
            }
        }
        waits || self.records.is_place_taken()
    }

    /// A port's rings run, or will not.
    pub(crate) fn settle_adopted(&mut self, id: PortId) {
        while let Some(place) = self.adopted.iter().position(|adopted| adopted.port == id) {
            let Adopted { port, guest_port, failover, accepted, by } = self.adopted.swap_remove(place);
            self.open_from_world((port, guest_port), failover, accepted);
            self.records.forget_accepted(by);
        }
    }
}
