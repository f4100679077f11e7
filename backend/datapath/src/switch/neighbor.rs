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
        Transport::Fragment(fragment) if fragment.offset == 0 => check_fragment(head, ip)?,
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

#[cfg(test)]
mod tests {
    use super::super::filter::check_source;
    use super::super::tests::{member, network};
    use super::*;
    use vonic_frame::{
        Envelope, Frame, MacAddr, ROUTER_ADVERTISEMENT_MAX, RouterAdvertisement, neighbor_advertisement,
        router_advertisement, solicited_node, udp_frame,
    };

    const NOBODY: &str = "::";
    const NODES: &str = "ff02::1";

    fn ip(s: &str) -> Ipv6Addr {
        s.parse().unwrap()
    }

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    /// From the MAC of member `n`; the destination's MAC does not matter here.
    fn envelope(n: u8, src: &str, dst: &str) -> Envelope {
        Envelope { src_mac: mac(n), dst_mac: mac(9), src: ip(src).into(), dst: ip(dst).into() }
    }

    fn udp(src: &str, ports: (u16, u16)) -> Vec<u8> {
        let mut out = [0; 200];
        let n = udp_frame(&envelope(2, src, "ff02::1:2"), ports, b"data", &mut out).unwrap();
        out[..n].to_vec()
    }

    /// ICMPv6 from member 2, made of a frame of ours with another type and less behind it.
    fn icmp(kind: u8, src: &str, dst: &str, len: usize) -> Vec<u8> {
        let mut frame = neighbor_advertisement(&envelope(2, src, dst), ip("2001:db8::7"), false).as_slice().to_vec();
        frame.truncate(54 + len);
        frame[18..20].copy_from_slice(&(len as u16).to_be_bytes());
        (frame[54], frame[58]) = (kind, 0);
        frame
    }

    fn advertisement(target: &str, link_layer: u8) -> Vec<u8> {
        let mut frame =
            neighbor_advertisement(&envelope(2, "fe80::ff:fe00:2", NODES), ip(target), false).as_slice().to_vec();
        frame[85] = link_layer;
        frame
    }

    fn solicitation(src: &str, target: &str, link_layer: Option<u8>) -> Vec<u8> {
        let group = solicited_node(ip(target)).to_string();
        let mut frame = icmp(135, src, &group, if link_layer.is_some() { 32 } else { 24 });
        frame[62..78].copy_from_slice(&ip(target).octets());
        if let Some(n) = link_layer {
            (frame[78], frame[85]) = (1, n);
        }
        frame
    }

    fn dad(target: &str) -> Vec<u8> {
        solicitation(NOBODY, target, None)
    }

    /// A fragment with this offset field, in front of what `frame` carries.
    fn fragment(frame: &[u8], offset: u16) -> Vec<u8> {
        let [high, low] = offset.to_be_bytes();
        let mut out = [&frame[..54], &[frame[20], 0, high, low, 0, 0, 0, 1], &frame[54..]].concat();
        (out[20], out[19]) = (44, frame[19] + 8);
        out
    }

    fn check_frame(net: &mut Network, port: &PortSpec, bytes: &[u8]) -> Result<(), DropReason> {
        check_source(net, port, bytes, &Frame::parse(bytes, bytes.len() as u32).unwrap())
    }

    #[test]
    fn a_guest_with_an_address_speaks_only_for_itself() {
        let (mut net, port) = (network(false), member(2, true));
        net.join(&port);
        net.join(&member(3, true));
        let router = RouterAdvertisement {
            managed: false,
            lifetime: 1800,
            mtu: 1500,
            prefix: "2001:db8:9::/64".parse().unwrap(),
            autonomous: true,
            resolver: None,
            search: (&[], 0),
        };
        let mut advertised = [0; ROUTER_ADVERTISEMENT_MAX];
        let len = router_advertisement(&envelope(2, "fe80::ff:fe00:2", NODES), &router, &mut advertised).unwrap();
        let router = advertised[..len].to_vec();
        let (own, link, data) = ("2001:db8::2", "fe80::ff:fe00:2", (1000, 53));
        let offer = udp(link, (547, 1000));
        use DropReason::{BadHeader, RogueServer, SpoofedAddress, SpoofedNdp};
        let cases = [
            ("its address", udp(own, data), Ok(())),
            ("its link-local address", udp(link, data), Ok(())),
            ("another's address", udp("2001:db8::3", data), Err(SpoofedAddress)),
            ("another's link-local address", udp("fe80::ff:fe00:3", data), Err(SpoofedAddress)),
            ("the gateway's address", udp("2001:db8::1", data), Err(SpoofedAddress)),
            ("the gateway's link-local address", udp("fe80::ff:fe00:fe", data), Err(SpoofedAddress)),
            ("the service address", udp("fe80::a9fe:a9fe", data), Err(SpoofedAddress)),
            ("a free address of the prefix", udp("2001:db8::77", data), Err(SpoofedAddress)),
            ("a free link-local address", udp("fe80::77", data), Err(SpoofedAddress)),
            ("nobody's UDP", udp(NOBODY, data), Err(SpoofedAddress)),
            ("a group", udp("ff02::1", data), Err(SpoofedAddress)),
            ("a DHCPv6 request", udp(link, (546, 547)), Ok(())),
            ("a DHCPv6 server's port", offer.clone(), Err(RogueServer)),
            ("to a DHCPv6 client", udp(link, (1000, 546)), Err(RogueServer)),
            ("a DHCPv6 server's fragment", fragment(&offer, 1), Err(RogueServer)),
            ("a later fragment", fragment(&offer, 8), Ok(())),
            ("a router advertisement", router.clone(), Err(RogueServer)),
            ("one in a fragment", fragment(&router, 1), Err(BadHeader)),
            ("a redirect", icmp(137, link, own, 32), Err(RogueServer)),
            ("a router solicitation", icmp(133, link, "ff02::2", 8), Ok(())),
            ("a router solicitation from nobody", icmp(133, NOBODY, "ff02::2", 8), Ok(())),
            ("a router solicitation as another", icmp(133, "2001:db8::3", "ff02::2", 8), Err(SpoofedAddress)),
            ("a report from nobody", icmp(143, NOBODY, "ff02::16", 8), Ok(())),
            ("a query from nobody", icmp(130, NOBODY, "ff02::1", 24), Err(SpoofedAddress)),
            ("an echo request from nobody", icmp(128, NOBODY, "ff02::1", 8), Err(SpoofedAddress)),
            ("its own advertisement", advertisement(own, 2), Ok(())),
            ("another's advertisement", advertisement("2001:db8::3", 2), Err(SpoofedNdp)),
            ("the gateway's advertisement", advertisement("2001:db8::1", 2), Err(SpoofedNdp)),
            ("its address at another MAC", advertisement(own, 3), Err(SpoofedNdp)),
            ("a solicitation", solicitation(own, "2001:db8::3", Some(2)), Ok(())),
            ("a solicitation with another MAC", solicitation(own, "2001:db8::3", Some(3)), Err(SpoofedNdp)),
            ("a solicitation as another", solicitation("2001:db8::3", own, Some(2)), Err(SpoofedAddress)),
            ("a probe with a MAC", solicitation(NOBODY, own, Some(2)), Err(BadHeader)),
            ("a probe for its own", dad(own), Ok(())),
            ("a probe for another's", dad("2001:db8::3"), Ok(())),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(check_frame(&mut net, &port, &bytes), expected, "{name}");
        }
        assert_eq!(check_frame(&mut net, &port, &udp("2001:db8::3", data)), Err(SpoofedAddress), "after the probe");
    }

    #[test]
    fn probes_claim_what_is_free_and_may_be_had() {
        let mut net = network(false);
        let (with, without) = (member(2, true), member(3, false));
        net.join(&with);
        net.join(&without);
        let claims = |net: &mut Network, port: &PortSpec, address: &str| {
            assert_eq!(check_frame(net, port, &with_mac(dad(address), port)), Ok(()));
            let spoken = check_frame(net, port, &with_mac(udp(address, (1, 1)), port));
            let told = check_frame(net, port, &with_mac(advertisement(address, port.mac.0[5]), port));
            assert_eq!(spoken.is_ok(), told.is_ok(), "{address}");
            spoken.is_ok()
        };
        for address in ["2001:db8::77", "2001:db8::1", "fe80::a9fe:a9fe", "fe80::ff:fe00:3", "2001:db9::1"] {
            assert!(!claims(&mut net, &with, address), "{address}");
        }
        assert!(claims(&mut net, &with, "fe80::77"));
        assert!(!claims(&mut net, &without, "fe80::77"), "one guest has it");
        assert!(!claims(&mut net, &without, "2001:db8::2") && !claims(&mut net, &without, "2001:db9::1"));
        for n in 1..=4 {
            assert!(claims(&mut net, &without, &format!("2001:db8::10{n}")));
        }
        // The first is used, so the second makes room, and then others may have it.
        assert!(net.has_claimed(3, ip("2001:db8::101")) && claims(&mut net, &without, "fe80::55"));
        assert!(net.has_claimed(3, ip("2001:db8::101")) && !net.has_claimed(3, ip("2001:db8::102")));
        assert_eq!((net.owner(ip("2001:db8::101").into()), net.owner(ip("2001:db8::102").into())), (Some(3), None));
        // Whose file says so has it, and who starts anew has nothing.
        net.join(&PortSpec { address6: Some(ip("2001:db8::101")), ..member(4, true) });
        assert!(!net.has_claimed(3, ip("2001:db8::101")));
        net.release_claims(3);
        assert!(!net.has_claimed(3, ip("fe80::55")) && net.owner(ip("fe80::55").into()).is_none());
    }

    fn with_mac(mut frame: Vec<u8>, port: &PortSpec) -> Vec<u8> {
        frame[6..12].copy_from_slice(&port.mac.0);
        // `advertisement` speaks from the link-local address of member 2.
        if frame[54] == 136 && frame[20] == 58 {
            frame[22..38].copy_from_slice(&port.mac.link_local().octets());
        }
        frame
    }

    #[test]
    fn without_a_subnet_the_mac_decides_but_nothing_of_others_is_taken() {
        let mut net = network(false);
        net.spec.v6 = crate::spec::Family::default();
        let port = PortSpec { mac: mac(2), ..member(4, false) };
        net.join(&port);
        net.join(&member(3, true));
        let mut ok = |address: &str| check_frame(&mut net, &port, &udp(address, (1, 1))).is_ok();
        assert!(ok("2001:db8:77::1") && ok("fe80::ff:fe00:2"));
        for address in ["2001:db8::3", "fe80::ff:fe00:3", "fe80::77", NOBODY, "::1", "::ffff:192.0.2.4", "ff02::1"] {
            assert!(!ok(address), "{address}");
        }
    }
}
