//! Anti-spoofing: a guest sends only from its own MAC and addresses, and plays no server that vonic is.
use super::{Network, neighbor};
use crate::spec::PortSpec;
use std::net::{IpAddr, Ipv4Addr};
use vonic_frame::{Arp, Content, DropReason, Frame, Ip, Transport};

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// Checks who a frame, whose leading bytes are `head`, claims to come from, and takes claims of IPv6 addresses.
///
/// # Errors
/// `SpoofedMac`, `SpoofedAddress`, `SpoofedArp`, `SpoofedNdp`, `RogueServer`; `BadHeader` and `Truncated` for invalid messages
/// of neighbour discovery.
pub fn check_source(network: &mut Network, port: &PortSpec, head: &[u8], frame: &Frame) -> Result<(), DropReason> {
    if frame.src != port.mac {
        return Err(DropReason::SpoofedMac);
    }
    match &frame.content {
        Content::Arp(arp) => check_arp(network, port, arp),
        Content::Ip(ip) if ip.src.is_ipv6() => neighbor::check(network, port, head, ip),
        Content::Ip(ip) => check_ip(network, port, ip),
        // The MAC is all that other protocols have.
        Content::Other(_) => Ok(()),
    }
}

/// RFC 826; a sender address of 0.0.0.0 is a probe (RFC 5227 §2.1.1).
fn check_arp(network: &Network, port: &PortSpec, arp: &Arp) -> Result<(), DropReason> {
    let honest = arp.sender_mac == port.mac && (arp.sender.is_unspecified() || owns(network, port, arp.sender.into()));
    if honest { Ok(()) } else { Err(DropReason::SpoofedArp) }
}

fn check_ip(network: &Network, port: &PortSpec, ip: &Ip) -> Result<(), DropReason> {
    if let Transport::Udp(udp) = ip.transport {
        if plays_dhcp_server(ip.src, udp.src_port, udp.dst_port) {
            return Err(DropReason::RogueServer);
        }
        if ip.src == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && is_dhcp_request(ip) {
            return Ok(());
        }
    }
    match ip.src {
        src if owns(network, port, src) => Ok(()),
        _ => Err(DropReason::SpoofedAddress),
    }
}

/// Whether a datagram with these ports, from `src`, is a server's of IPv4's DHCP.
pub fn plays_dhcp_server(src: IpAddr, src_port: u16, dst_port: u16) -> bool {
    src.is_ipv4() && is_dhcp_service(src_port, dst_port)
}

/// Whether these are the ports of what a server of IPv4's DHCP sends.
pub fn is_dhcp_service(src_port: u16, dst_port: u16) -> bool {
    src_port == DHCP_SERVER || dst_port == DHCP_CLIENT
}

/// Whether this is a DHCP client's message.
pub fn is_dhcp_request(ip: &Ip) -> bool {
    matches!(ip.transport, Transport::Udp(udp) if (udp.src_port, udp.dst_port) == (DHCP_CLIENT, DHCP_SERVER))
}

/// Whether the guest may speak from this address: its own, or, for a guest without one, any that is nobody else's.
pub fn owns(network: &Network, port: &PortSpec, address: IpAddr) -> bool {
    match port.address(address) {
        Some(own) => address == own,
        None => {
            !address.is_unspecified()
                && !address.is_multicast()
                && address != IpAddr::V4(Ipv4Addr::BROADCAST)
                && !network.is_service(address)
                && !network.by_address.contains_key(&address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{member, network};
    use super::*;
    use vonic_frame::{MacAddr, PROTOCOL_UDP, Udp};

    fn frame(src: u8, content: Content) -> Frame {
        Frame { dst: MacAddr::BROADCAST, src: MacAddr([2, 0, 0, 0, 0, src]), len: 60, content }
    }

    fn arp(mac: u8, address: [u8; 4]) -> Content {
        Content::Arp(Arp {
            operation: 1,
            sender_mac: MacAddr([2, 0, 0, 0, 0, mac]),
            sender: address.into(),
            target_mac: MacAddr::default(),
            target: [192, 0, 2, 1].into(),
        })
    }

    fn udp(src: [u8; 4], src_port: u16, dst_port: u16) -> Content {
        Content::Ip(Ip {
            src: src.into(),
            dst: [255, 255, 255, 255].into(),
            protocol: PROTOCOL_UDP,
            ttl: 64,
            transport_offset: 34,
            transport_len: 8,
            transport: Transport::Udp(Udp { src_port, dst_port, payload_len: 0, has_checksum: false }),
        })
    }

    #[test]
    fn a_guest_with_an_address_speaks_only_for_itself() {
        let mut net = network(false);
        let port = member(2, true);
        net.join(&port);
        net.join(&member(3, true));
        let cases = [
            (frame(3, arp(3, [192, 0, 2, 3])), Err(DropReason::SpoofedMac)),
            (frame(2, arp(2, [192, 0, 2, 2])), Ok(())),
            (frame(2, arp(2, [0, 0, 0, 0])), Ok(())),
            (frame(2, arp(3, [192, 0, 2, 2])), Err(DropReason::SpoofedArp)),
            (frame(2, arp(2, [192, 0, 2, 3])), Err(DropReason::SpoofedArp)),
            (frame(2, arp(2, [192, 0, 2, 1])), Err(DropReason::SpoofedArp)),
            (frame(2, udp([192, 0, 2, 2], 1000, 53)), Ok(())),
            (frame(2, udp([192, 0, 2, 3], 1000, 53)), Err(DropReason::SpoofedAddress)),
            (frame(2, udp([0, 0, 0, 0], 68, 67)), Ok(())),
            (frame(2, udp([0, 0, 0, 0], 68, 53)), Err(DropReason::SpoofedAddress)),
            (frame(2, udp([192, 0, 2, 2], 67, 68)), Err(DropReason::RogueServer)),
            (frame(2, Content::Other(0x88cc)), Ok(())),
        ];
        for (f, expected) in cases {
            assert_eq!(check_source(&mut net, &port, &[], &f), expected, "{f:?}");
        }
    }

    #[test]
    fn a_guest_without_an_address_takes_nobody_elses() {
        let mut net = network(false);
        let port = member(4, false);
        net.join(&port);
        net.join(&member(3, true));
        let mut ok = |content| check_source(&mut net, &port, &[], &frame(4, content));
        assert_eq!(ok(arp(4, [192, 0, 2, 77])), Ok(()));
        assert_eq!(ok(udp([198, 18, 0, 1], 9, 9)), Ok(()));
        assert_eq!(ok(Content::Other(0x88cc)), Ok(()));
        assert_eq!(ok(arp(4, [192, 0, 2, 1])), Err(DropReason::SpoofedArp));
        assert_eq!(ok(arp(4, [192, 0, 2, 3])), Err(DropReason::SpoofedArp));
        assert_eq!(ok(udp([192, 0, 2, 3], 9, 9)), Err(DropReason::SpoofedAddress));
        assert_eq!(ok(udp([224, 0, 0, 1], 9, 9)), Err(DropReason::SpoofedAddress));
    }
}
