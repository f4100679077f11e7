//! What becomes of a guest's datagrams that reach nobody: it is told by ICMP.
use super::open::Unopened;
use super::send::Outgoing;
use super::table::DatagramId;
use super::{Far, Key, Kind, Quote};
use crate::flow::policy::is_foreign;
use crate::worker::Worker;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use vonic_frame::{Culprit, DropReason, IcmpError, VnetHeader, icmp_error, restore_echo_id};
use vonic_uplink::classify::{SendError, send_error};
use vonic_uplink::{DatagramError, UdpListener};

/// Errors of one socket that are told in one turn.
const ERRORS_A_TURN: usize = 16;

impl Worker {
    /// Tells the guest why its datagram has no flow.
    pub(crate) fn tell_unopened(&mut self, datagram: &Outgoing, why: Unopened) -> Result<(), DropReason> {
        let unreachable = |code| IcmpError::unreachable(datagram.key.remote.ip(), code);
        match why {
            Unopened::Dropped(reason) => Err(reason),
            Unopened::NotPermitted => {
                self.tell(&datagram.key, None, &unreachable(13), datagram.quote);
                Err(DropReason::NotPermitted)
            }
            Unopened::Refused => {
                self.tell(&datagram.key, None, &unreachable(3), datagram.quote);
                Err(DropReason::NoConnection)
            }
            Unopened::Failed(error) => self.tell_unsent(datagram, &error, None),
        }
    }

    /// Tells the guest why its datagram could not be sent.
    pub(crate) fn tell_unsent(
        &mut self,
        datagram: &Outgoing,
        error: &io::Error,
        id: Option<DatagramId>,
    ) -> Result<(), DropReason> {
        let to = datagram.key.remote.ip();
        let told = match send_error(error) {
            SendError::Busy => return Err(DropReason::HostBusy),
            SendError::Unreachable(code) => IcmpError::unreachable(to, code),
            SendError::TooBig => {
                let mtu = id.and_then(|id| self.datagrams.get_mut(id)).map(|flow| match &flow.far {
                    Far::Own(socket) => socket.mtu().unwrap_or_default(),
                    Far::Forward { .. } => flow.mtu,
                });
                IcmpError::too_big(to, mtu.unwrap_or_default())
            }
        };
        self.tell(&datagram.key, None, &told, datagram.quote);
        Ok(())
    }

    /// Tells the guest what became of datagrams that it sent before; false if there was nothing to tell.
    pub(crate) fn tell_errors(&mut self, id: DatagramId) -> bool {
        let mut told = false;
        for _ in 0..ERRORS_A_TURN {
            let Some(flow) = self.datagrams.get_mut(id) else { return told };
            let error = match &flow.far {
                Far::Own(socket) => socket.next_error(),
                Far::Forward { listener, .. } => {
                    let (listener, key) = (Arc::clone(listener), flow.key);
                    return self.tell_forward_errors(key.port, key.guest, &listener);
                }
            };
            let Some(error) = error else { return told };
            told |= self.tell_error(id, &error);
        }
        if let Some(flow) = self.datagrams.get_mut(id) {
            flow.failed = true;
            self.datagrams.make_ready(id);
        }
        told
    }

    /// Tells the guest at `guest` what became of what it sent through a forward's socket, to whichever peer; false if there was
    /// nothing to tell. What is left after a turn stays with the kernel, which says so by the next call.
    pub(crate) fn tell_forward_errors(&mut self, port: u32, guest: SocketAddr, listener: &UdpListener) -> bool {
        let mut told = false;
        for _ in 0..ERRORS_A_TURN {
            let Some(error) = listener.next_error() else { break };
            let Some(remote) = error.to.and_then(|peer| self.seen_by_guest(port, peer)) else { continue };
            if let Some(id) = self.datagrams.find(&Key { kind: Kind::Udp, port, guest, remote }) {
                told |= self.tell_error(id, &error);
            }
        }
        told
    }

    fn tell_error(&mut self, id: DatagramId, error: &DatagramError) -> bool {
        let Some(flow) = self.datagrams.get_mut(id) else { return false };
        if error.mtu > 0 {
            flow.mtu = error.mtu;
        }
        // What this host's own kernel found, the call that failed has said already.
        let Some((kind, code)) = error.icmp else { return false };
        let (key, mut quote) = (flow.key, flow.last);
        if key.kind == Kind::Echo {
            quote.header = restore_echo_id(error.quoted, key.guest.port());
        }
        if let Some(message) = IcmpError::of_world(flow.host.ip(), kind, code, error.mtu) {
            self.tell(&key, error.offender, &message, quote);
        }
        true
    }

    /// Sends the guest an ICMP error about its datagram, from the router or host that found it; from the gateway where that is
    /// vonic itself, or an address that the guest must not see.
    fn tell(&mut self, key: &Key, from: Option<IpAddr>, error: &IcmpError, about: Quote) {
        let foreign = from.filter(|from| is_foreign(&self.world(), *from));
        let Some(port) = Worker::port_mut(&mut self.ports, key.port) else { return };
        let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
        let mut envelope = key.envelope(network.spec.gateway_mac, port.spec.mac);
        let gateway = network.spec.family(key.guest.ip()).gateway;
        envelope.src = foreign.or(gateway).unwrap_or(envelope.src);
        let ends = (key.guest.ip(), key.remote.ip());
        let culprit = match key.kind {
            Kind::Echo => Culprit::echo(ends, about.header, about.len),
            Kind::Udp => Culprit::udp(ends, about.header, about.len),
        };
        let frame = icmp_error(&envelope, error, &culprit);
        match port.deliver(&VnetHeader::default(), frame.as_slice(), None) {
            Ok(()) => key.kind.told(&port.spec.stats),
            Err(reason) => port.dropped_to_guest(reason),
        }
    }
}
