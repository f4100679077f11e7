//! Neighbour discovery for the gateway's addresses, and its router advertisements (RFC 4861).
use crate::offload::Inbound;
use crate::port::Port;
use crate::spec::{PortSpec, Uplink};
use crate::switch::{Network, neighbor};
use std::net::{IpAddr, Ipv6Addr};
use vonic_frame::{
    ALL_NODES, Content, DropReason, Envelope, MacAddr, Ndp, NdpMessage, ROUTER_ADVERTISEMENT_MAX, RouterAdvertisement,
    VnetHeader, neighbor_advertisement, router_advertisement,
};

/// Seconds for which the gateway is a default router; it says so again within a third of that.
const ROUTER_LIFETIME: u16 = 1800;
/// Seconds for which what it says of names holds: three times its longest interval (RFC 8106 §5.1).
const NAMES_LIFETIME: u32 = 1800;
/// The prefix length from which hosts make addresses of their own (RFC 4862 §5.5.3, RFC 2464 §5).
const AUTONOMOUS_PREFIX: u8 = 64;

/// Answers solicitations of routers, and of neighbours whose address vonic serves. What guests say of the groups that they
/// listen to is heard: every group's frames go to everybody.
pub fn handle(network: &Network, port: &mut Port, inbound: &Inbound<'_, '_>) -> Result<bool, DropReason> {
    let Content::Ip(ip) = inbound.frame.content else { return Ok(false) };
    if neighbor::is_mld_report(&ip) {
        return Ok(true);
    }
    let Some(ndp) = Ndp::read(inbound.head, &ip)? else { return Ok(false) };
    let IpAddr::V6(src) = ip.src else { return Ok(false) };
    let to = if src.is_unspecified() { (MacAddr::of_group(ALL_NODES), ALL_NODES) } else { (inbound.frame.src, src) };
    match ndp.message {
        NdpMessage::RouterSolicitation => advertise(network, port, to).unwrap_or(Ok(())).map(|()| true),
        NdpMessage::NeighborSolicitation(target) if is_answered(network, &port.spec, src, target) => {
            let frame = neighbor_advertisement(&envelope(network, target, to), target, !src.is_unspecified());
            port.deliver(&VnetHeader::default(), frame.as_slice(), None).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// Tells a guest of its router; `None`: there is nothing to tell.
pub fn advertise(network: &Network, port: &mut Port, to: (MacAddr, Ipv6Addr)) -> Option<Result<(), DropReason>> {
    let mut frame = [0; ROUTER_ADVERTISEMENT_MAX];
    let len = advertisement(network, &port.spec, to, &mut frame)?;
    Some(port.deliver(&VnetHeader::default(), &frame[..len], None))
}

/// Whether the gateway answers for an address: its own ones, and, where guests do not hear each other, for the owner of one
/// that another guest is about to take.
fn is_answered(network: &Network, port: &PortSpec, src: Ipv6Addr, target: Ipv6Addr) -> bool {
    let owner = || network.owner(target.into()).is_some_and(|owner| owner != port.port);
    network.is_service(target.into()) || (network.spec.isolated && src.is_unspecified() && owner())
}

/// Writes the router advertisement for one guest, sent to `to`, and returns its length; `None` on a network without IPv6 addresses or
/// with routers of its own. Guests with an address get it by DHCPv6; others make their own where the network says so.
fn advertisement(network: &Network, port: &PortSpec, to: (MacAddr, Ipv6Addr), out: &mut [u8]) -> Option<usize> {
    if network.spec.uplink == Uplink::Tap {
        return None;
    }
    let prefix = network.spec.v6.subnet?;
    let router = RouterAdvertisement {
        managed: port.address6.is_some(),
        // Without an uplink there is nothing behind the gateway.
        lifetime: if network.spec.uplink == Uplink::None { 0 } else { ROUTER_LIFETIME },
        mtu: port.mtu,
        prefix,
        autonomous: network.spec.slaac && port.address6.is_none() && prefix.prefix == AUTONOMOUS_PREFIX,
        resolver: resolver(network),
        search: (&network.spec.names.search, NAMES_LIFETIME),
    };
    router_advertisement(&envelope(network, network.spec.gateway_link_local(), to), &router, out)
}

/// The gateway as resolver; for no time where it serves no names, or no longer (RFC 8106 §5.1).
fn resolver(network: &Network) -> Option<(Ipv6Addr, u32)> {
    match network.spec.v6.gateway? {
        IpAddr::V6(gateway) if network.spec.serves_names(gateway.into()) => Some((gateway, NAMES_LIFETIME)),
        IpAddr::V6(gateway) if network.spec.uplink == Uplink::Sockets => Some((gateway, 0)),
        _ => None,
    }
}

fn envelope(network: &Network, src: Ipv6Addr, (dst_mac, dst): (MacAddr, Ipv6Addr)) -> Envelope {
    Envelope { src_mac: network.spec.gateway_mac, dst_mac, src: src.into(), dst: dst.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Names;
    use crate::switch::tests::{member, network};

    fn told(network: &Network, has_address: bool) -> Option<Vec<u8>> {
        let to = (MacAddr::of_group(ALL_NODES), ALL_NODES);
        let mut frame = [0; ROUTER_ADVERTISEMENT_MAX];
        advertisement(network, &member(2, has_address), to, &mut frame).map(|len| frame[..len].to_vec())
    }

    #[test]
    fn guests_hear_what_fits_their_file_and_network() {
        let mut net = network(false);
        // Flags M and O, lifetime, flags L and A.
        let read = |frame: Vec<u8>| (frame[59], u16::from_be_bytes([frame[60], frame[61]]), frame[89]);
        assert_eq!(told(&net, true).map(read), Some((0xc0, 1800, 0x80)));
        assert_eq!(told(&net, false).map(read), Some((0, 1800, 0x80)));
        net.spec.slaac = true;
        assert_eq!(told(&net, true).map(read), Some((0xc0, 1800, 0x80)), "its file has its address");
        assert_eq!(told(&net, false).map(read), Some((0, 1800, 0xc0)));
        net.spec.v6.subnet = "2001:db8::/80".parse().ok();
        assert_eq!(told(&net, false).map(read), Some((0, 1800, 0x80)), "no address can be made of this prefix");
        net.spec.uplink = Uplink::None;
        assert_eq!(told(&net, true).map(read), Some((0xc0, 0, 0x80)));
        net.spec.uplink = Uplink::Tap;
        assert_eq!(told(&net, true), None);
        net.spec.uplink = Uplink::Sockets;
        net.spec.v6.subnet = None;
        assert_eq!(told(&net, true), None);
    }

    #[test]
    fn the_gateway_is_the_resolver_while_it_serves_names() {
        let mut net = network(false);
        let resolver = |net: &Network| {
            told(net, true).and_then(|f| Some((f.get(118)?, f[122..126].to_vec())).map(|(kind, l)| (*kind, l)))
        };
        assert_eq!(resolver(&net), Some((25, vec![0; 4])));
        net.spec.names = Names { resolvers: Some([].into()), domain: String::new(), search: b"\x03foo\0".to_vec() };
        assert_eq!(resolver(&net), Some((25, vec![0, 0, 7, 8])));
        assert_eq!(told(&net, false).unwrap()[142..], *b"\x1f\x02\0\0\0\0\x07\x08\x03foo\0\0\0\0");
        net.spec.uplink = Uplink::None;
        assert_eq!(resolver(&net).map(|(kind, _)| kind), Some(31), "behind it there is nothing to ask");
    }

    #[test]
    fn the_gateway_answers_for_itself_and_for_guests_whom_nobody_hears() {
        let ip = |s: &str| s.parse::<Ipv6Addr>().unwrap();
        for isolated in [false, true] {
            let mut net = network(isolated);
            net.spec.v6.host_loopback = Some(ip("2001:db8::5").into());
            let me = member(2, true);
            net.join(&me);
            net.join(&member(3, true));
            for own in ["2001:db8::1", "2001:db8::5", "fe80::ff:fe00:fe", "fe80::a9fe:a9fe"] {
                assert!(
                    is_answered(&net, &me, ip("2001:db8::2"), ip(own)) && is_answered(&net, &me, ip("::"), ip(own))
                );
            }
            assert!(
                !is_answered(&net, &me, ip("::"), ip("2001:db8::2"))
                    && !is_answered(&net, &me, ip("::"), ip("fe80::9"))
            );
            assert!(!is_answered(&net, &me, ip("2001:db8::2"), ip("2001:db8::3")));
            assert_eq!(is_answered(&net, &me, ip("::"), ip("2001:db8::3")), isolated);
        }
    }
}
