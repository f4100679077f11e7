//! A guest's questions for names by UDP: flows to the gateway's DNS port lead to one of the network's resolvers, whose family need not be
//! the guest's.
use super::open::Unopened;
use super::{Key, Kind};
use crate::port::Port;
use crate::service::resolver;
use crate::worker::Worker;
use std::net::SocketAddr;
use vonic_frame::IcmpError;
use vonic_uplink::DatagramSocket;

/// Of ICMP (RFC 792) and ICMPv6 (RFC 4443): destination unreachable.
const UNREACHABLE: [u8; 2] = [3, 1];
/// Of ICMP's: fragmentation needed, which says nothing about who is there.
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
/// Port unreachable.
const PORT: u8 = 3;

impl Worker {
    /// The resolver for a question that the guest asks now; a flow that leads to another one ends. `None`: it asks nobody for names, or
    /// there is no resolver.
    pub(super) fn ask_resolver(&mut self, key: &Key) -> Option<SocketAddr> {
        let now = self.now;
        let (port, all) = self.resolver_of(key)?;
        let asked = port.resolver.ask(all, now)?;
        if let Some(id) = self.datagrams.find(key)
            && self.datagrams.get_mut(id).is_some_and(|flow| !flow.is_forwarded() && flow.host != asked)
        {
            self.close_datagrams(id);
        }
        Some(asked)
    }

    /// A socket to `first`, or to the next resolver that the host knows a way to.
    pub(super) fn resolver_socket(
        &mut self,
        key: &Key,
        first: SocketAddr,
    ) -> Result<(DatagramSocket, SocketAddr), Unopened> {
        let now = self.now;
        let Some((port, all)) = self.resolver_of(key) else { return Err(Unopened::Refused) };
        let mut to = first;
        let mut left = all.len();
        loop {
            match DatagramSocket::udp(to) {
                Ok(socket) => return Ok((socket, to)),
                Err(error) if left <= 1 => return Err(Unopened::Failed(error)),
                Err(_) => {}
            }
            left -= 1;
            port.resolver.failed(to, all, now);
            to = port.resolver.current(all, now).unwrap_or(first);
        }
    }

    /// Whether the flow's question would go to `host` as things are.
    pub(super) fn is_resolver(&self, key: &Key, host: SocketAddr) -> bool {
        let port = self.ports.get(key.port as usize).and_then(Option::as_ref);
        let network = port.and_then(|port| self.networks.get(port.spec.network as usize)?.as_ref());
        network.is_some_and(|network| network.spec.resolvers().contains(&host))
    }

    /// Somebody has answered the guest.
    pub(super) fn resolver_answered(&mut self, key: &Key, host: SocketAddr) {
        let now = self.now;
        if let Some((port, all)) = self.resolver_of(key) {
            port.resolver.answered(host, all, now);
        }
    }

    /// The world's error about a question: the next one goes to another resolver, and the guest, who sees the gateway only, is told that
    /// nobody answers there now. `None`: it was no question; `Some(None)`: nothing is to be told.
    pub(super) fn resolver_failed(&mut self, key: &Key, host: SocketAddr, icmp: (u8, u8)) -> Option<Option<IcmpError>> {
        let now = self.now;
        let (port, all) = self.resolver_of(key)?;
        let unreachable = icmp.0 == UNREACHABLE[usize::from(host.is_ipv6())];
        if !unreachable || (host.is_ipv4() && icmp == FRAGMENTATION_NEEDED) {
            return Some(None);
        }
        port.resolver.failed(host, all, now);
        Some(Some(IcmpError::unreachable(key.remote.ip(), PORT)))
    }

    /// Who answers this flow's guest, if it asks the gateway for names.
    fn resolver_of(&mut self, key: &Key) -> Option<(&mut Port, &[SocketAddr])> {
        if key.kind != Kind::Udp || key.remote.port() != resolver::PORT {
            return None;
        }
        let port = Worker::port_mut(&mut self.ports, key.port)?;
        let network = self.networks.get(port.spec.network as usize)?.as_deref()?;
        network.spec.serves_names(key.remote.ip()).then(|| (port, network.spec.resolvers()))
    }
}
