//! Where a guest may connect to.
use crate::service::{address, resolver};
use crate::spec::{Action, EgressRule, HostView, PortSpec, Uplink};
use crate::stats::Counter;
use crate::switch::Network;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use vonic_frame::{DropReason, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};

/// What became of a guest's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Connect the host's socket there.
    To(SocketAddr),
    /// Hand it to vonic's own service.
    Service,
    /// Hand it to one of the network's resolvers.
    Names,
    /// Answer with a reset: nothing listens there.
    Refuse,
}

/// What a worker knows about addresses besides the network's own.
pub struct World<'a> {
    /// The host's addresses.
    pub host: &'a HostView,
    /// Every network's subnet.
    pub networks: &'a [Option<Box<Network>>],
    /// Where vonic itself listens, each with its IP protocol's number: guests do not reach that by way of the host's loopback.
    pub listeners: &'a [(u8, SocketAddr)],
}

/// Where a connection or flow of a guest leads, and the counter of what decided it.
#[must_use]
pub struct Decision<'a> {
    route: Result<Route, DropReason>,
    by: Option<&'a Counter>,
}

impl Decision<'_> {
    /// The decision about something new: it is counted.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn counted(self) -> Result<Route, DropReason> {
        if let Some(counter) = self.by {
            counter.add(1);
        }
        self.route
    }

    /// The decision about something that there is already.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn again(self) -> Result<Route, DropReason> {
        self.route
    }
}

/// Finds where a connection, or a flow of datagrams, of this guest to `remote` leads. `protocol` is the IP protocol's number;
/// ICMP has no ports: `remote`'s is 0 then. The error is `Denied`, or `Unsupported` on networks without a `sockets` uplink.
pub fn decide<'a>(
    world: &World<'_>,
    network: &Network,
    port: &'a PortSpec,
    protocol: u8,
    remote: SocketAddr,
) -> Decision<'a> {
    // Before everything else: neither egress nor the lack of an uplink keeps a guest from it.
    if address::is_ours(remote.ip()) {
        let serves = protocol == PROTOCOL_TCP && remote.port() == address::PORT;
        return Decision { route: Ok(if serves { Route::Service } else { Route::Refuse }), by: None };
    }
    if network.spec.uplink != Uplink::Sockets {
        return Decision { route: Err(DropReason::Unsupported), by: None };
    }
    // The gateway's own service, as DHCP is: egress is about what lies behind the gateway. Only this port of only these resolvers is
    // reached so, wherever they are, and be it on the host's loopback.
    let asks = remote.port() == resolver::PORT && matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP);
    if asks && network.spec.serves_names(remote.ip()) {
        return Decision { route: Ok(Route::Names), by: None };
    }
    // First what no rule can allow: a rule is not said to have decided what it has not.
    match destination(world, network, protocol, remote) {
        Err(reason) => Decision { route: Err(reason), by: Some(&port.stats.egress.never) },
        Ok(route) => {
            let (action, by) = egress(port, remote.ip(), protocol, remote.port());
            let route = if action == Action::Allow { Ok(route) } else { Err(DropReason::Denied) };
            Decision { route, by }
        }
    }
}

/// Where an address leads, if rules allow it.
fn destination(world: &World<'_>, network: &Network, protocol: u8, remote: SocketAddr) -> Result<Route, DropReason> {
    let address = remote.ip();
    if Some(address) == network.spec.family(address).host_loopback {
        let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let to = SocketAddr::new(loopback, remote.port());
        let reaches = |l: &SocketAddr| l.port() == to.port() && (l.ip() == to.ip() || l.ip().is_unspecified());
        let forwards = world.listeners.iter().any(|(listens, at)| *listens == protocol && reaches(at));
        let own = forwards || (protocol == PROTOCOL_TCP && world.host.is_metrics(to));
        return if own { Err(DropReason::Denied) } else { Ok(Route::To(to)) };
    }
    if network.is_service(address) {
        return Ok(Route::Refuse);
    }
    let is_metrics = |at: IpAddr| protocol == PROTOCOL_TCP && world.host.is_metrics(SocketAddr::new(at, remote.port()));
    let never = |address: IpAddr| {
        is_never(address)
            || is_guests(world, address)
            || (world.host.addresses.contains(&address) && (!network.spec.reach_host || is_metrics(address)))
    };
    if never(address) || embedded(address).is_some_and(never) { Err(DropReason::Denied) } else { Ok(Route::To(remote)) }
}

/// Addresses that are no destination in the world, whatever the rules say: unspecified, loopback, groups, addresses of one link,
/// which no router forwards (RFC 3927 §2.7, RFC 4291 §2.5.6), and IPv4 addresses in IPv6's form (RFC 4291 §2.5.5).
fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            let compatible = v6.segments()[..6] == [0; 6];
            compatible || v6.to_ipv4_mapped().is_some() || v6.is_multicast() || v6.is_unicast_link_local()
        }
    }
}

/// The IPv4 address to which a translator or the far end of a tunnel brings what is sent to this IPv6 address: NAT64's (RFC 6052
/// §2.1, and the 96-bit prefixes of RFC 8215), 6to4's (RFC 3056 §2), Teredo's client (RFC 4380 §4). It must be a destination as
/// well, or these would lead around every rule.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into());
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        _ => None,
    }
}

/// Whether an address is in the guests' subnet of any network.
pub fn is_guests(world: &World<'_>, address: IpAddr) -> bool {
    let guests = |n: &Network| n.spec.family(address).subnet.is_some_and(|s| s.contains(address));
    world.networks.iter().flatten().any(|n| guests(n))
}

/// Whether an address that an ICMP error came from may be shown to guests as it is: a router's or a host's of the world, not
/// one of this host's own, and none that would be taken for another guest's.
pub fn is_foreign(world: &World<'_>, address: IpAddr) -> bool {
    !is_never(address) && !world.host.addresses.contains(&address) && !is_guests(world, address)
}

/// What a guest knows a peer as that has come by a forward: its real address; the host itself is known as the address by which
/// guests reach it. `None`: nobody can answer to it.
pub fn seen_by_guest(network: &Network, port: &PortSpec, peer: SocketAddr) -> Option<SocketAddr> {
    let guest = port.address(peer.ip())?;
    if address::is_ours(peer.ip()) {
        // Nobody but vonic speaks from there.
        return None;
    }
    if is_of_the_host(peer.ip()) || peer.ip() == guest {
        let family = network.spec.family(guest);
        let host = family.host_loopback.or(family.gateway)?;
        return Some(SocketAddr::new(host, peer.port()));
    }
    Some(peer)
}

/// Whether a peer's address means nothing to a guest: the host's loopback, or an address on one of the host's own links.
fn is_of_the_host(peer: IpAddr) -> bool {
    peer.is_loopback() || matches!(peer, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The first rule that matches decides; with rules and no match: deny; without rules: allow. ICMP is one protocol to them, in
/// either family. A rule that denies IPv4 addresses denies as well what leads to them by IPv6; one that allows does not.
fn egress(port: &PortSpec, to: IpAddr, protocol: u8, to_port: u16) -> (Action, Option<&Counter>) {
    // A rule with ports matches what has ports.
    let of_ports = |(first, last): (u16, u16)| protocol != PROTOCOL_ICMP && (first..=last).contains(&to_port);
    let behind = embedded(to);
    let of_address = |rule: &EgressRule| {
        rule.to.contains(to) || (rule.action == Action::Deny && behind.is_some_and(|v4| rule.to.contains(v4)))
    };
    let verdict = port.egress.iter().find(|rule| {
        of_address(rule) && rule.protocol.is_none_or(|p| p == protocol) && rule.ports.is_none_or(of_ports)
    });
    match verdict {
        Some(rule) => (rule.action, Some(&*rule.decided)),
        None if port.egress.is_empty() => (Action::Allow, None),
        None => (Action::Deny, Some(&port.stats.egress.no_rule)),
    }
}

#[cfg(test)]
mod tests;
