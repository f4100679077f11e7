//! What the world began while there was no engine, or just before one died.
use crate::spec::{ForwardSocket, PortId};
use crate::worker::Worker;
use std::time::Duration;
use vonic_tcp::Instant;
use vonic_uplink::Accepted;

/// How long a guest whose VMM was connected is waited for: its session is replayed in milliseconds.
const RETURN_LIMIT: Duration = Duration::from_secs(5);

/// A connection that an engine before this one accepted, for the guest whose forward it came by.
pub struct Adopted {
    /// The guest's port of the switch.
    port: PortId,
    /// The guest's TCP port.
    guest_port: u16,
    failover: bool,
    accepted: Accepted,
}

impl Worker {
    /// A port's VMM was there before this engine was: its rings are about to come.
    pub(crate) fn await_port(&mut self, id: PortId) {
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            port.awaited = Some(self.now + RETURN_LIMIT);
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

    /// Finds the guest of the connection that the engine before had accepted and no more. Nobody's is reset.
    pub(crate) fn adopt_accepted(&mut self) {
        let left = self.records.accepted().and_then(Accepted::adopt);
        let Some(accepted) = left else { return self.records.forget_accepted() };
        // The rings of some may run by now, while others' VMMs were still to come.
        let ports = self.ports.iter().flatten().filter(|port| port.awaited.is_some() || port.queues.is_live());
        let mut forwards = ports.flat_map(|port| port.spec.forwards.iter().map(|forward| (port.spec.port, forward)));
        let is_of = |socket: &ForwardSocket| match socket {
            ForwardSocket::Tcp(listener) => listener.local().is_ok_and(|address| accepted.came_to(address)),
            ForwardSocket::Udp(_) => false,
        };
        match forwards.find(|(_, forward)| is_of(&forward.socket)) {
            Some((port, forward)) => {
                self.adopted =
                    Some(Adopted { port, guest_port: forward.guest_port, failover: forward.failover, accepted });
                if !self.is_awaited(port) {
                    self.settle_adopted(port);
                }
            }
            None => {
                accepted.abort();
                self.records.forget_accepted();
            }
        }
    }

    /// Whether nothing may be accepted yet, since there is one connection already of which there is no record: for more there is no place.
    pub(crate) fn is_adopting(&mut self) -> bool {
        let Some(port) = self.adopted.as_ref().map(|adopted| adopted.port) else {
            // Until every VMM has come it is not looked for.
            return self.taking_over && self.records.accepted().is_some();
        };
        let waits = self.is_awaited(port);
        if !waits {
            self.settle_adopted(port);
        }
        waits
    }

    /// A port's rings run, or will not.
    pub(crate) fn settle_adopted(&mut self, id: PortId) {
        let Some(Adopted { port, guest_port, failover, accepted }) = self.adopted.take_if(|adopted| adopted.port == id)
        else {
            return;
        };
        self.open_from_world((port, guest_port), failover, accepted);
        self.records.forget_accepted();
    }
}
