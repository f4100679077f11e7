//! From a forward's socket to the guest. One socket serves all peers, so a datagram is received into the guest's buffers first;
//! its flow is found, or begun, by who sent it and by where it was sent to (ADR 0011).
use super::pump::{Landing, Next, reserve};
use super::table::DatagramId;
use super::{Key, Kind, udp};
use crate::flow::policy::is_guests;
use crate::queues::Waiter;
use crate::spec::{ForwardSocket, PortId};
use crate::steering::hash_of_flow;
use crate::worker::Worker;
use std::net::SocketAddr;
use std::sync::Arc;
use vonic_frame::DropReason;
use vonic_uplink::{Arrived, UdpListener};

/// Datagrams taken of one forward in one round.
const DATAGRAMS_A_TURN: usize = 64;

/// A forward whose turn it is.
struct Inlet {
    port: PortId,
    listener: Arc<UdpListener>,
    /// The guest's end of every flow.
    guest: SocketAddr,
}

impl Worker {
    /// Takes what has come to a UDP forward's socket, and what became of what was sent by it.
    pub(crate) fn forward_datagrams(&mut self, port: PortId, index: usize) {
        let Some(inlet) = self.inlet(port, index) else { return };
        for _ in 0..DATAGRAMS_A_TURN {
            match self.forward_one(&inlet) {
                Next::Got(_) | Next::Lost => {}
                Next::Empty => return,
                Next::Failed => drop(self.tell_forward_errors(port, inlet.guest, &inlet.listener)),
                Next::Starved => {
                    let waiter = Waiter::Forward(index);
                    let Some(port) = Worker::port_mut(&mut self.ports, port) else { return };
                    if !port.queues.starved().contains(&waiter) {
                        port.queues.starved().push(waiter);
                    }
                    return;
                }
            }
        }
        self.accept_again(port, index);
        self.woken = true;
    }

    fn inlet(&mut self, id: PortId, index: usize) -> Option<Inlet> {
        let port = Worker::port_mut(&mut self.ports, id)?;
        let forward = port.spec.forwards.get(index)?;
        let ForwardSocket::Udp(listener) = &forward.socket else { return None };
        let address = port.spec.address(listener.local().ip())?;
        let guest = SocketAddr::new(address, forward.guest_port);
        Some(Inlet { port: id, listener: Arc::clone(listener), guest })
    }

    fn forward_one(&mut self, inlet: &Inlet) -> Next {
        let Some(port) = Worker::port_mut(&mut self.ports, inlet.port) else { return Next::Empty };
        if !port.queues.is_live() {
            // A guest that starts later has no use for it.
            if !inlet.listener.skip() {
                return Next::Empty;
            }
            port.dropped_to_guest(DropReason::PortDown);
            return Next::Lost;
        }
        // Who sent it is not known yet: all that comes by one socket takes one queue.
        let nobody = SocketAddr::new(inlet.guest.ip(), 0);
        port.queues.aim(|| hash_of_flow(nobody, inlet.guest));
        let landing = match reserve(port, inlet.guest.ip(), || inlet.listener.skip()) {
            Ok(landing) => landing,
            Err(next) => return next,
        };
        let chains = 0..port.rx_burst.len();
        let arrived = match inlet.listener.receive(&port.rx_burst.iovecs(chains, landing.before, landing.len())) {
            Ok(arrived) => arrived,
            Err(error) => {
                port.release();
                return Next::after(&error);
            }
        };
        let flow = self.flow_of(inlet, &arrived, landing);
        let Some(port) = Worker::port_mut(&mut self.ports, inlet.port) else { return Next::Empty };
        let gateway =
            self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()).map(|n| n.spec.gateway_mac);
        match (flow, gateway) {
            (Ok((id, key)), Some(gateway)) => {
                udp::complete(&key, port, gateway, (landing.before, arrived.len));
                self.datagram_received(id, arrived.len);
                Next::Got(arrived.len)
            }
            (flow, _) => {
                port.release();
                port.dropped_to_guest(flow.err().unwrap_or(DropReason::PortDown));
                Next::Lost
            }
        }
    }

    /// The flow of a datagram that was received, if the guest may have it.
    fn flow_of(&mut self, inlet: &Inlet, arrived: &Arrived, landing: Landing) -> Result<(DatagramId, Key), DropReason> {
        // What is sent to everybody is not the guest's: it has no answer, and would have none on a network of its own.
        let local = arrived.local.ok_or(DropReason::Denied)?;
        if arrived.truncated {
            return Err(landing.too_long());
        }
        let peer = arrived.from.ip();
        if !self.host.addresses.contains(&peer) && is_guests(&self.world(), peer) {
            // Nobody in the world has a guest's address: the guest would take it for its neighbour's.
            return Err(DropReason::SpoofedAddress);
        }
        let remote = self.seen_by_guest(inlet.port, arrived.from).filter(|remote| remote.port() != 0);
        let remote = remote.ok_or(DropReason::Denied)?;
        let key = Key { kind: Kind::Udp, port: inlet.port, guest: inlet.guest, remote };
        let id = self.flow_from_world(key, arrived.from, &inlet.listener, local)?;
        Ok((id, key))
    }
}
