//! Where a guest may connect to, and how much of it.
use crate::service::address;
use crate::spec::{Action, HostView, Limits, PortSpec, Uplink};
use crate::switch::Network;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use vonic_frame::{DropReason, PROTOCOL_ICMP, PROTOCOL_TCP};
use vonic_tcp::Instant;

/// What became of a guest's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Connect the host's socket there.
    To(SocketAddr),
    /// Hand it to vonic's own service.
    Service,
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

/// Finds where a connection, or a flow of datagrams, of this guest to `remote` leads. `protocol` is the IP protocol's number;
/// ICMP has no ports: `remote`'s is 0 then.
///
/// # Errors
/// `Denied`; `Unsupported` for networks without a `sockets` uplink.
pub fn route(
    world: &World<'_>,
    network: &Network,
    port: &PortSpec,
    protocol: u8,
    remote: SocketAddr,
) -> Result<Route, DropReason> {
    // Before everything else: neither egress nor the lack of an uplink keeps a guest from it.
    if address::is_ours(remote.ip()) {
        let serves = protocol == PROTOCOL_TCP && remote.port() == address::PORT;
        return Ok(if serves { Route::Service } else { Route::Refuse });
    }
    let address = remote.ip();
    if network.spec.uplink != Uplink::Sockets {
        return Err(DropReason::Unsupported);
    }
    egress(port, address, protocol, remote.port())?;
    if Some(address) == network.spec.family(address).host_loopback {
        let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let to = SocketAddr::new(loopback, remote.port());
        let reaches = |l: &SocketAddr| l.port() == to.port() && (l.ip() == to.ip() || l.ip().is_unspecified());
        let own = world.listeners.iter().any(|(listens, at)| *listens == protocol && reaches(at));
        return if own { Err(DropReason::Denied) } else { Ok(Route::To(to)) };
    }
    if network.is_service(address) {
        return Ok(Route::Refuse);
    }
    let never = is_never(address)
        || is_guests(world, address)
        || (!network.spec.reach_host && world.host.addresses.contains(&address));
    if never { Err(DropReason::Denied) } else { Ok(Route::To(remote)) }
}

/// Addresses that are no destination in the world, whatever the rules say: unspecified, loopback, groups, and IPv6's ways to
/// name an IPv4 address or one of the host's own links (RFC 6890, RFC 4291 §2.5.5 and §2.5.6).
fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => {
            let compatible = v6.segments()[..6] == [0; 6];
            compatible || v6.to_ipv4_mapped().is_some() || v6.is_multicast() || v6.is_unicast_link_local()
        }
    }
}

/// Whether an address that an ICMP error came from may be shown to guests as it is: a router's or a host's of the world, not
/// one of this host's own, and none that would be taken for another guest's.
pub fn is_foreign(world: &World<'_>, address: IpAddr) -> bool {
    !is_never(address) && !world.host.addresses.contains(&address) && !is_guests(world, address)
}

/// Whether an address lies in a network of guests.
pub fn is_guests(world: &World<'_>, address: IpAddr) -> bool {
    let guests = |n: &Network| n.spec.family(address).subnet.is_some_and(|s| s.contains(address));
    world.networks.iter().flatten().any(|n| guests(n))
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
/// either family.
fn egress(port: &PortSpec, to: IpAddr, protocol: u8, to_port: u16) -> Result<(), DropReason> {
    // A rule with ports matches what has ports.
    let of_ports = |(first, last): (u16, u16)| protocol != PROTOCOL_ICMP && (first..=last).contains(&to_port);
    let verdict = port.egress.iter().find(|rule| {
        rule.to.contains(to) && rule.protocol.is_none_or(|p| p == protocol) && rule.ports.is_none_or(of_ports)
    });
    match verdict {
        Some(rule) if rule.action == Action::Allow => Ok(()),
        None if port.egress.is_empty() => Ok(()),
        _ => Err(DropReason::Denied),
    }
}

/// How much of its limits one port has used. What the guest opens and what the world opens have limits of their own, so
/// that neither can shut the other out.
#[derive(Debug, Default)]
pub struct Usage {
    /// Connections in the table, those in TIME-WAIT not counted.
    pub connections: u32,
    guest: Opening,
    world: Opening,
    /// Connects of the guest in progress, by destination.
    destinations: HashMap<SocketAddr, u32>,
    /// As many holders, besides this one, as connections are open at vonic's own service.
    service: Arc<()>,
}

/// Connections that one guest may have at vonic's own service.
const SERVICE_CONNECTIONS: usize = 8;

/// One connection's place at vonic's own service; free again when it is dropped, by whoever held the connection last.
#[derive(Debug)]
pub struct ServicePlace {
    _held: Arc<()>,
}

/// Connections being opened by one side.
#[derive(Debug, Default)]
struct Opening {
    /// Handshakes in progress.
    pending: u32,
    /// New connections that may still start, in millionths.
    tokens: u64,
    refilled: Option<Instant>,
}

impl Opening {
    fn admit(&mut self, limits: &Limits, now: Instant) -> Result<(), DropReason> {
        if self.pending >= limits.pending { Err(DropReason::Limit) } else { self.take(limits, now) }
    }

    /// Takes one token.
    fn take(&mut self, limits: &Limits, now: Instant) -> Result<(), DropReason> {
        let rate = u64::from(limits.new_per_second);
        let full = rate * 1_000_000;
        self.tokens = match self.refilled {
            Some(then) => self.tokens.saturating_add(now.0.saturating_sub(then.0).saturating_mul(rate)).min(full),
            None => full,
        };
        self.refilled = Some(now);
        if self.tokens < 1_000_000 {
            return Err(DropReason::Limit);
        }
        self.tokens -= 1_000_000;
        Ok(())
    }
}

impl Usage {
    /// Whether one more connection may start now: of the guest's to `destination`, or of the world's.
    ///
    /// # Errors
    /// `Limit`.
    pub fn admit(&mut self, limits: &Limits, destination: Option<SocketAddr>, now: Instant) -> Result<(), DropReason> {
        if self.connections >= limits.connections {
            return Err(DropReason::Limit);
        }
        let Some(to) = destination else { return self.world.admit(limits, now) };
        if self.destinations.get(&to).is_some_and(|n| *n >= limits.pending_per_destination) {
            return Err(DropReason::Limit);
        }
        self.guest.admit(limits, now)
    }

    /// A place at vonic's own service, if one is left: counted from here until the service has let go of the connection, so that
    /// what a guest opens and resets does not pile up on its way there.
    pub fn service_place(&self) -> Option<ServicePlace> {
        (Arc::strong_count(&self.service) <= SERVICE_CONNECTIONS)
            .then(|| ServicePlace { _held: Arc::clone(&self.service) })
    }

    /// Whether the guest, or else the world, may begin one more flow of datagrams now: its connects and these have one rate.
    ///
    /// # Errors
    /// `Limit`.
    pub fn admit_datagrams(&mut self, limits: &Limits, by_guest: bool, now: Instant) -> Result<(), DropReason> {
        if by_guest { &mut self.guest } else { &mut self.world }.take(limits, now)
    }

    /// A handshake begins.
    pub fn begin(&mut self, destination: Option<SocketAddr>) {
        match destination {
            Some(to) => {
                self.guest.pending += 1;
                *self.destinations.entry(to).or_default() += 1;
            }
            None => self.world.pending += 1,
        }
    }

    /// A handshake that began has ended, well or not.
    pub fn end(&mut self, destination: Option<SocketAddr>) {
        let Some(to) = destination else {
            self.world.pending = self.world.pending.saturating_sub(1);
            return;
        };
        self.guest.pending = self.guest.pending.saturating_sub(1);
        if let Some(n) = self.destinations.get_mut(&to) {
            *n -= 1;
            if *n == 0 {
                self.destinations.remove(&to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{EgressRule, NetworkSpec};
    use crate::switch::tests::{member, network};
    use vonic_frame::PROTOCOL_UDP;

    fn decide(change: impl Fn(&mut NetworkSpec), port: &PortSpec, to: &str) -> Result<Route, DropReason> {
        decide_of(PROTOCOL_TCP, change, port, to)
    }

    fn decide_of(
        protocol: u8,
        change: impl Fn(&mut NetworkSpec),
        port: &PortSpec,
        to: &str,
    ) -> Result<Route, DropReason> {
        let mut net = network(false);
        change(&mut net.spec);
        let mut other = network(false);
        other.spec.v4.subnet = Some(format!("198.51.100.0/{}", 24).parse().unwrap());
        let networks = [None, Some(Box::new(other))];
        let host = HostView { addresses: vec!["203.0.113.9".parse().unwrap()] };
        let listeners =
            [(PROTOCOL_TCP, "127.0.0.1:8080"), (PROTOCOL_TCP, "0.0.0.0:8081"), (PROTOCOL_UDP, "0.0.0.0:8082")]
                .map(|(protocol, at)| (protocol, at.parse().unwrap()));
        let world = World { host: &host, networks: &networks, listeners: &listeners };
        route(&world, &net, port, protocol, to.parse().unwrap())
    }

    #[test]
    fn some_addresses_are_never_a_destination() {
        let port = member(2, true);
        let plain = |to| decide(|_| (), &port, to);
        assert_eq!(plain("203.0.113.7:80"), Ok(Route::To("203.0.113.7:80".parse().unwrap())));
        for never in
            ["0.1.2.3:80", "127.0.0.1:80", "224.0.0.1:80", "255.255.255.255:80", "198.51.100.4:80", "203.0.113.9:80"]
        {
            assert_eq!(plain(never), Err(DropReason::Denied), "{never}");
        }
        assert_eq!(plain("192.0.2.1:80"), Ok(Route::Refuse));
        assert!(decide(|n| n.reach_host = true, &port, "203.0.113.9:80").is_ok());
        assert_eq!(decide(|n| n.uplink = Uplink::None, &port, "203.0.113.7:80"), Err(DropReason::Unsupported));
    }

    #[test]
    fn the_service_is_reached_whatever_the_network_and_egress_say() {
        let mut port = member(2, true);
        port.egress = vec![EgressRule {
            action: Action::Deny,
            to: format!("0.0.0.0/{}", 0).parse().unwrap(),
            protocol: None,
            ports: None,
        }];
        for to in ["169.254.169.254:80", "[fe80::a9fe:a9fe]:80"] {
            assert_eq!(
                decide(|n| (n.uplink, n.v4.gateway) = (Uplink::None, None), &port, to),
                Ok(Route::Service),
                "{to}"
            );
        }
        for to in ["169.254.169.254:81", "[fe80::a9fe:a9fe]:443"] {
            assert_eq!(decide(|_| (), &port, to), Ok(Route::Refuse), "never forwarded: {to}");
        }
        for to in ["169.254.169.254:0", "169.254.169.254:80"] {
            assert_eq!(decide_of(PROTOCOL_ICMP, |_| (), &port, to), Ok(Route::Refuse), "it speaks TCP: {to}");
        }
    }

    #[test]
    fn the_service_has_eight_places_for_a_guest() {
        let usage = Usage::default();
        let mut held: Vec<ServicePlace> = (0..8).map(|_| usage.service_place().unwrap()).collect();
        assert!(usage.service_place().is_none());
        held.pop();
        assert!(usage.service_place().is_some());
    }

    #[test]
    fn the_hosts_loopback_has_its_own_address_and_spares_vonics_listeners() {
        let port = member(2, true);
        let to = |to| decide(|n| n.v4.host_loopback = Some([192, 0, 2, 1].into()), &port, to);
        assert_eq!(to("192.0.2.1:80"), Ok(Route::To("127.0.0.1:80".parse().unwrap())));
        assert_eq!(to("192.0.2.1:8080"), Err(DropReason::Denied));
        assert_eq!(to("192.0.2.1:8081"), Err(DropReason::Denied));
        let loopback = |n: &mut NetworkSpec| n.v4.host_loopback = Some([192, 0, 2, 1].into());
        for (protocol, open, own) in [(PROTOCOL_TCP, 8082, 8081), (PROTOCOL_UDP, 8081, 8082)] {
            let to = |at| decide_of(protocol, loopback, &port, &format!("192.0.2.1:{at}"));
            assert_eq!(to(own), Err(DropReason::Denied), "{protocol}");
            assert_eq!(to(open), Ok(Route::To(SocketAddr::new([127, 0, 0, 1].into(), open))), "{protocol}");
        }
    }

    #[test]
    fn the_first_egress_rule_decides_and_no_match_denies() {
        let mut port = member(2, true);
        let rule = |action, len, ports| EgressRule {
            action,
            to: format!("203.0.113.0/{}", len).parse().unwrap(),
            protocol: Some(PROTOCOL_TCP),
            ports,
        };
        port.egress = vec![rule(Action::Deny, 24, Some((1, 1023))), rule(Action::Allow, 24, None)];
        assert_eq!(decide(|_| (), &port, "203.0.113.7:80"), Err(DropReason::Denied));
        assert!(decide(|_| (), &port, "203.0.113.7:8000").is_ok());
        assert_eq!(decide(|_| (), &port, "203.0.114.7:8000"), Err(DropReason::Denied));
    }

    #[test]
    fn egress_rules_tell_protocols_apart() {
        let mut port = member(2, true);
        let rule =
            |action, protocol, ports| EgressRule { action, to: "203.0.113.0/24".parse().unwrap(), protocol, ports };
        let ping = |port: &PortSpec, to: &str| decide_of(PROTOCOL_ICMP, |_| (), port, &format!("{to}:0"));
        assert_eq!(ping(&port, "203.0.113.7"), Ok(Route::To("203.0.113.7:0".parse().unwrap())));
        assert_eq!(ping(&port, "203.0.113.9"), Err(DropReason::Denied), "the host's own");
        assert_eq!(ping(&port, "127.0.0.1"), Err(DropReason::Denied));
        port.egress = vec![rule(Action::Allow, Some(PROTOCOL_TCP), None)];
        assert_eq!(ping(&port, "203.0.113.7"), Err(DropReason::Denied));
        port.egress = vec![rule(Action::Deny, None, Some((0, 65535))), rule(Action::Allow, None, None)];
        assert!(ping(&port, "203.0.113.7").is_ok(), "a rule with ports is about TCP and UDP");
        port.egress = vec![rule(Action::Deny, Some(PROTOCOL_ICMP), None), rule(Action::Allow, None, None)];
        assert_eq!(ping(&port, "203.0.113.7"), Err(DropReason::Denied));
        assert!(decide(|_| (), &port, "203.0.113.7:80").is_ok());
    }

    #[test]
    fn the_rate_of_new_connections_is_a_bucket_of_one_second() {
        let limits =
            Limits { connections: 1000, pending: 10, pending_per_destination: 10, udp_flows: 10, new_per_second: 5 };
        let mut usage = Usage::default();
        let to: SocketAddr = "203.0.113.7:80".parse().unwrap();
        let count =
            |usage: &mut Usage, to, at| (0..100).filter(|_| usage.admit(&limits, to, Instant(at)).is_ok()).count();
        assert_eq!(count(&mut usage, Some(to), 0), 5);
        assert_eq!(count(&mut usage, None, 0), 5, "the world has tokens of its own");
        assert_eq!(count(&mut usage, Some(to), 400_000), 2);
        assert_eq!(count(&mut usage, Some(to), 10_000_000), 5);
        (0..10).for_each(|_| usage.begin(Some(to)));
        assert_eq!(count(&mut usage, Some("203.0.113.8:80".parse().unwrap()), 20_000_000), 0, "ten are pending");
        assert_eq!(count(&mut usage, None, 20_000_000), 5, "but none of the world's");
        usage.end(Some(to));
        assert_eq!(count(&mut usage, Some(to), 30_000_000), 5);
        usage.connections = 1000;
        assert_eq!(count(&mut usage, Some(to), 40_000_000), 0);
    }

    #[test]
    fn one_destination_cannot_take_all_pending_connects() {
        let limits =
            Limits { connections: 1000, pending: 10, pending_per_destination: 2, udp_flows: 10, new_per_second: 1000 };
        let mut usage = Usage::default();
        let [a, b]: [SocketAddr; 2] = ["203.0.113.7:80", "203.0.113.7:81"].map(|a| a.parse().unwrap());
        let mut open = |to| usage.admit(&limits, Some(to), Instant(0)).map(|()| usage.begin(Some(to)));
        assert_eq!([open(a), open(a), open(a), open(b)], [Ok(()), Ok(()), Err(DropReason::Limit), Ok(())]);
        usage.end(Some(a));
        assert_eq!(usage.admit(&limits, Some(a), Instant(0)), Ok(()));
    }
}
