//! Neighbour discovery for the gateway's addresses, and its router advertisements (RFC 4861).
use crate::offload::Inbound;
use crate::port::Port;
use crate::spec::{PortSpec, Uplink};
use crate::switch::{Network, neighbor};
use std::net::{IpAddr, Ipv6Addr};
use vonic_frame::{
    ALL_NODES, Content, DropReason, Envelope, HeaderBytes, MacAddr, Ndp, NdpMessage, RouterAdvertisement, VnetHeader,
    neighbor_advertisement, router_advertisement,
};

/// Seconds for which the gateway is a default router; it says so again within a third of that.
const ROUTER_LIFETIME: u16 = 1800;
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
    let answer = match ndp.message {
        NdpMessage::RouterSolicitation => advertisement(network, &port.spec, to),
        NdpMessage::NeighborSolicitation(target) if is_answered(network, &port.spec, src, target) => {
            let envelope = envelope(network, target, to);
            Some(neighbor_advertisement(&envelope, target, !src.is_unspecified()))
        }
        _ => return Ok(false),
    };
    answer.map_or(Ok(()), |frame| port.deliver(&VnetHeader::default(), frame.as_slice(), None)).map(|()| true)
}

/// Whether the gateway answers for an address: its own ones, and, where guests do not hear each other, for the owner of one
/// that another guest is about to take.
fn is_answered(network: &Network, port: &PortSpec, src: Ipv6Addr, target: Ipv6Addr) -> bool {
    let owner = || network.owner(target.into()).is_some_and(|owner| owner != port.port);
    network.is_service(target.into()) || (network.spec.isolated && src.is_unspecified() && owner())
}

/// The router advertisement for one guest, sent to `to`; `None` on a network without IPv6 addresses or with routers of its own.
/// Guests with an address get it by DHCPv6; others make their own.
pub fn advertisement(network: &Network, port: &PortSpec, to: (MacAddr, Ipv6Addr)) -> Option<HeaderBytes> {
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
        autonomous: port.address6.is_none() && prefix.prefix == AUTONOMOUS_PREFIX,
    };
    Some(router_advertisement(&envelope(network, network.spec.gateway_link_local(), to), &router))
}

fn envelope(network: &Network, src: Ipv6Addr, (dst_mac, dst): (MacAddr, Ipv6Addr)) -> Envelope {
    Envelope { src_mac: network.spec.gateway_mac, dst_mac, src: src.into(), dst: dst.into() }
}
