//! Where a frame goes, by its destination MAC alone; and from whom it may come (`filter`).
pub(crate) mod claims;
pub mod filter;
pub mod neighbor;

use crate::keyed::KeyedMap;
use crate::service::address;
use crate::spec::{NetworkSpec, PortId, PortSpec, Uplink};
use claims::Claims;
use std::net::{IpAddr, Ipv6Addr};
use vonic_frame::{DropReason, MacAddr};

/// A network and its members.
pub struct Network {
    /// What the control side said.
    pub spec: NetworkSpec,
    by_mac: KeyedMap<MacAddr, PortId>,
    by_address: KeyedMap<IpAddr, PortId>,
    members: Vec<PortId>,
    claims: KeyedMap<PortId, Claims>,
    /// Members whose claims have changed of late.
    changed: Vec<PortId>,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To vonic itself, as the network's gateway: services and terminated connections.
    Gateway,
    /// To one guest.
    Port(PortId),
    /// To every member of the network but the sender, and to the services or the uplink.
    Group,
    /// To the sender's tap: somebody beyond the bridge, or nobody.
    Uplink,
}

impl Network {
    /// A network without members.
    pub fn new(spec: NetworkSpec) -> Network {
        Network {
            spec,
            by_mac: KeyedMap::default(),
            by_address: KeyedMap::default(),
            members: Vec::new(),
            claims: KeyedMap::default(),
            changed: Vec::new(),
        }
    }

    /// Adds a member.
    pub fn join(&mut self, port: &PortSpec) {
        self.join_as(port.port, port.mac, port.addresses());
    }

    /// Adds a member, whichever worker's port it is.
    pub fn join_as(&mut self, port: PortId, mac: MacAddr, addresses: [Option<IpAddr>; 2]) {
        self.leave(port);
        self.by_mac.insert(mac, port);
        let link_local = Some(IpAddr::V6(mac.link_local()));
        for address in addresses.into_iter().chain([link_local]).flatten() {
            // What is in a guest's file is no other's, whoever has claimed it.
            if let (Some(other), IpAddr::V6(address)) = (self.by_address.insert(address, port), address)
                && let Some(claims) = self.claims.get_mut(&other)
            {
                claims.remove(address);
                self.changed.push(other);
            }
        }
        self.members.push(port);
        self.claims.insert(port, Claims::default());
        // Twice what its claims may come to: a table that is half empty does not grow when one takes another's place.
        self.by_address.reserve(2 * claims::CLAIMS * self.members.len());
    }

    /// Removes a member.
    pub fn leave(&mut self, port: PortId) {
        self.by_mac.retain(|_, p| *p != port);
        self.by_address.retain(|_, p| *p != port);
        self.members.retain(|p| *p != port);
        self.claims.remove(&port);
    }

    /// The member that has this address.
    pub fn owner(&self, address: IpAddr) -> Option<PortId> {
        self.by_address.get(&address).copied()
    }

    /// Whether a member has claimed this address; if so, it uses it.
    pub fn has_claimed(&mut self, port: PortId, address: Ipv6Addr) -> bool {
        self.claims.get_mut(&port).is_some_and(|claims| claims.touch(address))
    }

    /// A member claims an address that is nobody else's. Of too many claims, the one unused for longest is given up.
    pub fn claim(&mut self, port: PortId, address: Ipv6Addr) {
        let Some(claims) = self.claims.get_mut(&port) else { return };
        if claims.touch(address) {
            return;
        }
        if let Some(given_up) = claims.add(address) {
            self.by_address.remove(&IpAddr::V6(given_up));
        }
        self.by_address.insert(address.into(), port);
        self.note_change(port);
    }

    /// A member whose claims have changed since it was last named here.
    pub fn next_changed(&mut self) -> Option<PortId> {
        self.changed.pop()
    }

    /// What a member has claimed.
    pub fn claims_of(&self, port: PortId) -> Claims {
        self.claims.get(&port).copied().unwrap_or_default()
    }

    /// What a member has claimed whose port another worker has. Two that have claimed the same before they heard of each other: the lower
    /// number has it, as every worker finds out by itself.
    pub fn hear(&mut self, port: PortId, now: &Claims) {
        let Some(known) = self.claims.get_mut(&port) else { return };
        let before = std::mem::replace(known, *now);
        for address in before.all().filter(|address| !now.has(*address)) {
            if self.owner(address.into()) == Some(port) {
                self.by_address.remove(&IpAddr::V6(address));
            }
        }
        for address in now.all() {
            let owner = self.owner(address.into());
            let claims = owner.filter(|owner| port < *owner).and_then(|owner| self.claims.get_mut(&owner));
            match (owner, claims.filter(|claims| claims.has(address))) {
                (None, _) => {}
                (Some(owner), Some(claims)) => {
                    claims.remove(address);
                    self.note_change(owner);
                }
                // It is another's file's, or another's who goes before.
                (Some(_), None) => continue,
            }
            self.by_address.insert(address.into(), port);
        }
    }

    fn note_change(&mut self, port: PortId) {
        if !self.changed.contains(&port) {
            self.changed.push(port);
        }
    }

    /// A member's guest has started anew: it has claimed nothing.
    pub fn release_claims(&mut self, port: PortId) {
        for address in self.claims.get_mut(&port).into_iter().flat_map(Claims::take) {
            self.by_address.remove(&IpAddr::V6(address));
        }
        self.note_change(port);
    }

    /// Every member, in the order in which they joined.
    pub fn members(&self) -> &[PortId] {
        &self.members
    }

    /// Decides where a frame from member `from` goes. Unknown unicast is never flooded: it goes
    /// to the uplink, or nowhere.
    ///
    /// # Errors
    /// `Isolated`, `UnknownDestination`.
    pub fn destination(&self, from: PortId, to: MacAddr) -> Result<Destination, DropReason> {
        let bridged = self.spec.uplink == Uplink::Tap;
        if to == self.spec.gateway_mac && !bridged {
            return Ok(Destination::Gateway);
        }
        if to.is_group() {
            return Ok(Destination::Group);
        }
        match self.by_mac.get(&to) {
            Some(port) if *port == from => Err(DropReason::UnknownDestination),
            Some(_) if self.spec.isolated => Err(DropReason::Isolated),
            Some(port) => Ok(Destination::Port(*port)),
            None if bridged => Ok(Destination::Uplink),
            None => Err(DropReason::UnknownDestination),
        }
    }

    /// Whether vonic answers for this address.
    pub fn is_service(&self, address: IpAddr) -> bool {
        let family = self.spec.family(address);
        Some(address) == family.gateway
            || Some(address) == family.host_loopback
            || address == self.spec.gateway_link_local()
            || address::is_ours(address)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::spec::Family;
    use crate::spec::{Limits, Names};
    use std::net::Ipv6Addr;
    use vonic_record::Shared;
    use vonic_tcp::AckPolicy;

    fn family(subnet: &str, gateway: &str) -> Family {
        Family { subnet: subnet.parse().ok(), gateway: gateway.parse().ok(), host_loopback: None }
    }

    /// A network 192.0.2.0/24 and 2001:db8::/64 with gateway .1 and ::1.
    pub fn network(isolated: bool) -> Network {
        Network::new(NetworkSpec {
            network: 0,
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 0xfe]),
            v4: family("192.0.2.0/24", "192.0.2.1"),
            v6: family("2001:db8::/64", "2001:db8::1"),
            reach_host: false,
            isolated,
            uplink: Uplink::Sockets,
            names: Names::default(),
            slaac: false,
            coalesce: crate::Coalesce::default(),
        })
    }

    /// Member `n` with the MAC …:n, and the address .n if it `has_address`.
    pub fn member(n: u8, has_address: bool) -> PortSpec {
        let limits = Limits {
            connections: 16,
            pending: 4,
            pending_per_destination: 2,
            udp_flows: 8,
            new_per_second: 100,
            groups_per_second: 100,
        };
        PortSpec {
            vm: u64::from(n),
            failover: true,
            quarantined: false,
            port: n.into(),
            mac: MacAddr([2, 0, 0, 0, 0, n]),
            network: 0,
            address4: has_address.then(|| [192, 0, 2, n].into()),
            address6: has_address.then(|| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into())),
            hostname: has_address.then(|| format!("vm{n}")),
            queue_pairs: 1,
            mtu: 1500,
            ack: AckPolicy::Kernel,
            coalesce: None,
            calls: crate::CallPolicy::default(),
            limits,
            egress: Vec::new(),
            forwards: Vec::new(),
            tap: None,
            stats: Shared::default(),
        }
    }

    #[test]
    fn each_destination_has_its_place() {
        let mut net = network(false);
        net.join(&member(2, true));
        net.join(&member(3, true));
        let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
        assert_eq!(net.destination(2, mac(0xfe)), Ok(Destination::Gateway));
        assert_eq!(net.destination(2, mac(3)), Ok(Destination::Port(3)));
        assert_eq!(net.destination(2, MacAddr::BROADCAST), Ok(Destination::Group));
        assert_eq!(net.destination(2, MacAddr([0x33, 0x33, 0, 0, 0, 1])), Ok(Destination::Group));
        assert_eq!(net.destination(2, mac(2)), Err(DropReason::UnknownDestination));
        assert_eq!(net.destination(2, mac(4)), Err(DropReason::UnknownDestination));
        net.leave(3);
        assert_eq!(net.destination(2, mac(3)), Err(DropReason::UnknownDestination));
        assert_eq!(net.members(), [2]);
    }

    #[test]
    fn on_a_bridge_what_is_no_members_goes_to_the_uplink() {
        let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
        for isolated in [false, true] {
            let mut net = network(isolated);
            net.spec.uplink = Uplink::Tap;
            net.join(&member(2, true));
            net.join(&member(3, true));
            // The gateway's MAC derives from a name; nobody has it here.
            assert_eq!(net.destination(2, mac(0xfe)), Ok(Destination::Uplink));
            assert_eq!(net.destination(2, mac(4)), Ok(Destination::Uplink));
            assert_eq!(net.destination(2, mac(2)), Err(DropReason::UnknownDestination));
            assert_eq!(net.destination(2, MacAddr::BROADCAST), Ok(Destination::Group));
            let other = if isolated { Err(DropReason::Isolated) } else { Ok(Destination::Port(3)) };
            assert_eq!(net.destination(2, mac(3)), other);
        }
    }

    #[test]
    fn isolated_guests_reach_the_gateway_only() {
        let mut net = network(true);
        net.join(&member(2, true));
        net.join(&member(3, true));
        assert_eq!(net.destination(2, MacAddr([2, 0, 0, 0, 0, 3])), Err(DropReason::Isolated));
        assert_eq!(net.destination(2, MacAddr([2, 0, 0, 0, 0, 0xfe])), Ok(Destination::Gateway));
    }

    #[test]
    fn of_two_claims_at_once_the_lower_number_has_it_for_every_worker() {
        let address: Ipv6Addr = "fe80::7".parse().unwrap();
        let own: Ipv6Addr = "2001:db8::3".parse().unwrap();
        let said = |all: &[Ipv6Addr]| {
            let mut claims = Claims::default();
            all.iter().for_each(|address| _ = claims.add(*address));
            claims
        };
        let member_of = |ports: &[u8]| {
            let mut net = network(false);
            ports.iter().for_each(|n| net.join(&member(*n, *n == 3)));
            net
        };
        // The worker of 2, that of 4, and one that has neither, in either order.
        let mut of_2 = member_of(&[2, 3, 4]);
        of_2.claim(2, address);
        of_2.hear(4, &said(&[address]));
        let mut of_4 = member_of(&[2, 3, 4]);
        of_4.claim(4, address);
        while of_4.next_changed().is_some() {}
        of_4.hear(2, &said(&[address]));
        assert_eq!(
            (of_4.next_changed(), of_4.has_claimed(4, address)),
            (Some(4), false),
            "the others are to hear of it"
        );
        let (mut first, mut second) = (member_of(&[2, 3, 4]), member_of(&[2, 3, 4]));
        [2, 4].into_iter().for_each(|port| first.hear(port, &said(&[address])));
        [4, 2].into_iter().for_each(|port| second.hear(port, &said(&[address])));
        for net in [&mut of_2, &mut of_4, &mut first, &mut second] {
            assert_eq!(net.owner(address.into()), Some(2));
            // The other's worker has given it up, and says so.
            net.hear(4, &said(&[]));
            assert_eq!(net.owner(address.into()), Some(2));
            // What is in a file is nobody's to claim; who is not there claims nothing.
            net.hear(4, &said(&[own]));
            net.hear(9, &said(&["fe80::9".parse().unwrap()]));
            assert_eq!((net.owner(own.into()), net.owner("fe80::9".parse().unwrap())), (Some(3), None));
        }
        first.hear(2, &said(&[]));
        assert_eq!(first.owner(address.into()), None);
    }
}
