//! Who a guest may be in IPv6: what it says by neighbour discovery, and which addresses it speaks from.
use super::Network;
use crate::spec::PortSpec;
use std::net::{IpAddr, Ipv6Addr};
use vonic_frame::{DropReason, Ip, Ndp, NdpMessage, PROTOCOL_ICMP6, PROTOCOL_UDP, Transport};

const DHCP6_CLIENT: u16 = 546;
const DHCP6_SERVER: u16 = 547;
/// Types of ICMPv6 by which a host tells which groups it listens to: report, done, report of version 2 (RFC 3810 §4).
const MLD_REPORTS: [u8; 3] = [131, 132, 143];
/// Types of neighbour discovery (RFC 4861 §4).
const NDP: std::ops::RangeInclusive<u8> = 133..=137;
/// Bytes of a fragment header, and where its offset stands, above three other bits (RFC 8200 §4.5).
const FRAGMENT_LEN: usize = 8;
const FRAGMENT_OFFSET: usize = 2;

/// Checks the source of an IPv6 packet, whose frame's leading bytes are `head`, and takes claims.
///
/// # Errors
/// `SpoofedAddress`, `SpoofedNdp`, `RogueServer`; `BadHeader` and `Truncated` for invalid messages of neighbour discovery.
pub fn check(network: &mut Network, port: &PortSpec, head: &[u8], ip: &Ip) -> Result<(), DropReason> {
    let IpAddr::V6(src) = ip.src else { return Err(DropReason::BadHeader) };
    match ip.transport {
        Transport::Udp(udp) if udp.src_port == DHCP6_SERVER || udp.dst_port == DHCP6_CLIENT => {
            return Err(DropReason::RogueServer);
        }
        Transport::Fragment => check_fragment(head, ip)?,
        Transport::Icmp(icmp) => {
            if let Some(ndp) = Ndp::read(head, ip)? {
                return check_ndp(network, port, src, &ndp);
            }
            // A host that has no address yet joins its groups all the same (RFC 3590 §4).
            if src.is_unspecified() && MLD_REPORTS.contains(&icmp.kind) {
                return Ok(());
            }
        }
        _ => {}
    }
    if owns(network, port, src) { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Nobody plays a server in pieces: neighbour discovery does not come in fragments (RFC 6980 §5), and a first fragment has all
/// headers (RFC 7112 §5).
fn check_fragment(head: &[u8], ip: &Ip) -> Result<(), DropReason> {
    let start = usize::from(ip.transport_offset);
    let word = |at: usize| head.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    if word(start - FRAGMENT_LEN + FRAGMENT_OFFSET).is_none_or(|offset| offset >> 3 != 0) {
        return Ok(());
    }
    match ip.protocol {
        PROTOCOL_ICMP6 if head.get(start).is_none_or(|kind| NDP.contains(kind)) => Err(DropReason::BadHeader),
        PROTOCOL_UDP if word(start).is_none_or(|port| port == DHCP6_SERVER) => Err(DropReason::RogueServer),
        PROTOCOL_UDP if word(start + 2).is_none_or(|port| port == DHCP6_CLIENT) => Err(DropReason::RogueServer),
        // Extension headers behind the fragment header would hide the rest from here.
        0 | 43 | 44 | 60 => Err(DropReason::BadHeader),
        _ => Ok(()),
    }
}

fn check_ndp(network: &mut Network, port: &PortSpec, src: Ipv6Addr, ndp: &Ndp) -> Result<(), DropReason> {
    if matches!(ndp.message, NdpMessage::RouterAdvertisement | NdpMessage::Redirect) {
        return Err(DropReason::RogueServer);
    }
    if ndp.link_layer.is_some_and(|mac| mac != port.mac) {
        return Err(DropReason::SpoofedNdp);
    }
    match ndp.message {
        NdpMessage::NeighborAdvertisement(target) if !owns(network, port, target) => Err(DropReason::SpoofedNdp),
        // Who asks for what is another's is told so by its owner: the question passes, the claim does not.
        NdpMessage::NeighborSolicitation(target) if src.is_unspecified() => {
            if may_claim(network, port, target) {
                network.claim(port.port, target);
            }
            Ok(())
        }
        NdpMessage::RouterSolicitation if src.is_unspecified() => Ok(()),
        _ if owns(network, port, src) => Ok(()),
        _ => Err(DropReason::SpoofedAddress),
    }
}

/// Whether this is a DHCPv6 client's message (RFC 8415 §7.2).
pub fn is_dhcp6_request(ip: &Ip) -> bool {
    let ports = (DHCP6_CLIENT, DHCP6_SERVER);
    ip.src.is_ipv6() && matches!(ip.transport, Transport::Udp(udp) if (udp.src_port, udp.dst_port) == ports)
}

/// Whether a packet says something to the link that vonic hears and need not act upon: groups, and neighbours.
pub fn is_link_talk(ip: &Ip) -> bool {
    let Transport::Icmp(icmp) = ip.transport else { return false };
    ip.src.is_ipv6() && (is_mld_report(ip) || NDP.contains(&icmp.kind))
}

/// Whether this is a host's report of the groups that it listens to.
pub fn is_mld_report(ip: &Ip) -> bool {
    ip.src.is_ipv6() && matches!(ip.transport, Transport::Icmp(icmp) if MLD_REPORTS.contains(&icmp.kind))
}

/// Whether the guest may speak from this address: its own, its MAC's link-local one, or one that it has claimed. Where neither
/// the guest nor its network has an address, any global one that is nobody else's.
fn owns(network: &mut Network, port: &PortSpec, address: Ipv6Addr) -> bool {
    Some(address) == port.address6
        || address == port.mac.link_local()
        || network.has_claimed(port.port, address)
        || (is_any(network, port) && is_global(address) && is_free(network, port, address))
}

/// Whether the guest may claim this address: a link-local one, or, without an address of its own, one of its network's.
fn may_claim(network: &Network, port: &PortSpec, address: Ipv6Addr) -> bool {
    let own = Some(address) == port.address6 || address == port.mac.link_local();
    let in_prefix = port.address6.is_none() && network.spec.v6.subnet.is_some_and(|s| s.is_host(address.into()));
    let kind = address.is_unicast_link_local() || in_prefix || (is_any(network, port) && is_global(address));
    kind && !own && is_free(network, port, address)
}

fn is_any(network: &Network, port: &PortSpec) -> bool {
    port.address6.is_none() && network.spec.v6.subnet.is_none()
}

fn is_global(address: Ipv6Addr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !special && !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none()
}

fn is_free(network: &Network, port: &PortSpec, address: Ipv6Addr) -> bool {
    !network.is_service(address.into()) && network.owner(address.into()).is_none_or(|owner| owner == port.port)
}
