//! Neighbour discovery: what guests say of themselves, read and checked, and the gateway's own advertisements (RFC 4861).
use crate::build::{HeaderBytes, network_headers};
use crate::echo::icmp_sum;
use crate::{DropReason, ETHERNET_LEN, Envelope, Ip, MacAddr, PROTOCOL_ICMP6, Subnet, Transport};
use std::net::{IpAddr, Ipv6Addr};

/// ff02::1, every node of the link (RFC 4291 §2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_RESOLVERS: u8 = 25;
const OPTION_SEARCH: u8 = 31;
/// Bytes of options are counted by this many.
const UNIT: usize = 8;

/// The hop limit that says that no router forwarded a message.
const LOCAL_HOP_LIMIT: u8 = 255;
/// In the second word of a neighbour advertisement (RFC 4861 §4.4).
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
/// Seconds for which a prefix is valid, and preferred (RFC 4861 §6.2.1).
const PREFIX_LIFETIMES: [u32; 2] = [2_592_000, 604_800];

/// A message of neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpMessage {
    /// Is there a router?
    RouterSolicitation,
    /// I am a router.
    RouterAdvertisement,
    /// Who has this address?
    NeighborSolicitation(Ipv6Addr),
    /// I have this address.
    NeighborAdvertisement(Ipv6Addr),
    /// There is a better way.
    Redirect,
}

/// A message, and the link-layer address that its options give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ndp {
    /// What it says.
    pub message: NdpMessage,
    /// The source's or the target's link-layer address.
    pub link_layer: Option<MacAddr>,
}

impl Ndp {
    /// Reads the message that `ip` carries; `head` are the frame's leading bytes. `None`: it carries something else. Of router
    /// advertisements and redirects nothing but the type is looked at. The checksum is not.
    ///
    /// # Errors
    /// `BadHeader` for what RFC 4861 §6.1.1, §7.1.1 and §7.1.2 call invalid; `Truncated` for options beyond the copied bytes.
    pub fn read(head: &[u8], ip: &Ip) -> Result<Option<Ndp>, DropReason> {
        let Transport::Icmp(icmp) = ip.transport else { return Ok(None) };
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip.src, ip.dst) else { return Ok(None) };
        let alone = |message| Ok(Some(Ndp { message, link_layer: None }));
        let fixed = match icmp.kind {
            ROUTER_SOLICITATION => 8,
            NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT => 24,
            ROUTER_ADVERTISEMENT => return alone(NdpMessage::RouterAdvertisement),
            REDIRECT => return alone(NdpMessage::Redirect),
            _ => return Ok(None),
        };
        if ip.ttl != LOCAL_HOP_LIMIT || icmp.code != 0 || (ip.transport_len as usize) < fixed {
            return Err(DropReason::BadHeader);
        }
        let start = usize::from(ip.transport_offset);
        let end = start + ip.transport_len as usize;
        let bytes = head.get(start..end.min(head.len())).ok_or(DropReason::Truncated)?;
        let link_layer =
            link_layer(bytes.get(fixed..).ok_or(DropReason::Truncated)?, ip.transport_len as usize - fixed)?;
        let target = || bytes.get(8..).and_then(|b| b.first_chunk::<16>()).map(|b| Ipv6Addr::from(*b));
        let target = || target().filter(|target| !target.is_multicast()).ok_or(DropReason::BadHeader);
        let message = match icmp.kind {
            ROUTER_SOLICITATION => NdpMessage::RouterSolicitation,
            NEIGHBOR_SOLICITATION => NdpMessage::NeighborSolicitation(target()?),
            _ => NdpMessage::NeighborAdvertisement(target()?),
        };
        let valid = match message {
            NdpMessage::NeighborAdvertisement(_) => !(dst.is_multicast() && bytes[4] & FLAG_SOLICITED != 0),
            // Who has no address yet names no link-layer address, and asks the group of the address.
            NdpMessage::NeighborSolicitation(target) if src.is_unspecified() => {
                link_layer.is_none() && dst == solicited_node(target)
            }
            _ => !(src.is_unspecified() && link_layer.is_some()),
        };
        if valid { Ok(Some(Ndp { message, link_layer })) } else { Err(DropReason::BadHeader) }
    }
}

/// The link-layer address in options of `len` bytes, of which `bytes` were copied. Two that differ are no valid message.
fn link_layer(mut bytes: &[u8], mut len: usize) -> Result<Option<MacAddr>, DropReason> {
    let mut found = None;
    while len > 0 {
        let &[kind, units, ..] = bytes else {
            return Err(if len < 2 { DropReason::BadHeader } else { DropReason::Truncated });
        };
        let option_len = 8 * usize::from(units);
        if option_len == 0 || option_len > len {
            return Err(DropReason::BadHeader);
        }
        let option = bytes.get(..option_len).ok_or(DropReason::Truncated)?;
        if kind == OPTION_SOURCE || kind == OPTION_TARGET {
            // Six bytes of address fill one unit (RFC 2464 §6).
            let &[_, _, a, b, c, d, e, f] = option else { return Err(DropReason::BadHeader) };
            let mac = MacAddr([a, b, c, d, e, f]);
            if found.is_some_and(|other| other != mac) {
                return Err(DropReason::BadHeader);
            }
            found = Some(mac);
        }
        (bytes, len) = (&bytes[option_len..], len - option_len);
    }
    Ok(found)
}

/// The group that listens for solicitations of an address (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// Writes the gateway's neighbour advertisement for `target`, an address of its own. `solicited`: it answers somebody who has
/// an address.
pub fn neighbor_advertisement(envelope: &Envelope, target: Ipv6Addr, solicited: bool) -> HeaderBytes {
    let mut message = [0; 32];
    message[0] = NEIGHBOR_ADVERTISEMENT;
    message[4] = FLAG_ROUTER | FLAG_OVERRIDE | if solicited { FLAG_SOLICITED } else { 0 };
    message[8..24].copy_from_slice(&target.octets());
    message[24..].copy_from_slice(&link_layer_option(OPTION_TARGET, envelope.src_mac));
    let mut out = local(envelope, &mut message);
    out.append(&message);
    out
}

/// What a router says of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAdvertisement<'a> {
    /// Whether addresses, and other configuration, come by DHCPv6.
    pub managed: bool,
    /// Seconds for which it is a default router; 0: it is none.
    pub lifetime: u16,
    /// Bytes of an IP packet.
    pub mtu: u16,
    /// The prefix that is on this link.
    pub prefix: Subnet,
    /// Whether hosts may make addresses of their own in it (RFC 4862).
    pub autonomous: bool,
    /// A resolver, and the seconds for which it may be asked; 0: no longer.
    pub resolver: Option<(Ipv6Addr, u32)>,
    /// Domains to look names up in, as [`encode_domains`](crate::encode_domains) writes them, and the seconds for which it is to be done.
    pub search: (&'a [u8], u32),
}

/// The longest router advertisement: with every option, and 255 bytes of domains.
pub const ROUTER_ADVERTISEMENT_MAX: usize = 14 + 40 + 64 + 24 + 264;

/// Writes a router advertisement into `out`, of [`ROUTER_ADVERTISEMENT_MAX`] bytes; returns its length, or `None` if it does not fit.
pub fn router_advertisement(envelope: &Envelope, router: &RouterAdvertisement<'_>, out: &mut [u8]) -> Option<usize> {
    let mut message = [0; ROUTER_ADVERTISEMENT_MAX];
    let octets = match router.prefix.address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
    };
    message[0] = ROUTER_ADVERTISEMENT;
    message[4] = 64;
    message[5] = if router.managed { 0xc0 } else { 0 };
    message[6..8].copy_from_slice(&router.lifetime.to_be_bytes());
    message[16..24].copy_from_slice(&link_layer_option(OPTION_SOURCE, envelope.src_mac));
    message[24..28].copy_from_slice(&[OPTION_MTU, 1, 0, 0]);
    message[28..32].copy_from_slice(&u32::from(router.mtu).to_be_bytes());
    let flags = if router.autonomous { 0xc0 } else { 0x80 };
    message[32..36].copy_from_slice(&[OPTION_PREFIX, 4, router.prefix.prefix, flags]);
    for (field, seconds) in message[36..44].chunks_exact_mut(4).zip(PREFIX_LIFETIMES) {
        field.copy_from_slice(&seconds.to_be_bytes());
    }
    message[48..64].copy_from_slice(&octets);
    let mut len = 64;
    if let Some((address, lifetime)) = router.resolver {
        len += name_option(message.get_mut(len..)?, OPTION_RESOLVERS, &address.octets(), lifetime)?;
    }
    let (domains, lifetime) = router.search;
    if !domains.is_empty() {
        len += name_option(message.get_mut(len..)?, OPTION_SEARCH, domains, lifetime)?;
    }
    let headers = local(envelope, &mut message[..len]);
    out.get_mut(..headers.as_slice().len())?.copy_from_slice(headers.as_slice());
    let end = headers.as_slice().len() + len;
    out.get_mut(headers.as_slice().len()..end)?.copy_from_slice(&message[..len]);
    Some(end)
}

/// Writes an option about names, filled up with zeros (RFC 8106 §5.1, §5.2); returns its length.
fn name_option(out: &mut [u8], kind: u8, what: &[u8], lifetime: u32) -> Option<usize> {
    let len = (UNIT + what.len()).next_multiple_of(UNIT);
    let option = out.get_mut(..len)?;
    option[0] = kind;
    option[1] = u8::try_from(len / UNIT).ok()?;
    option[4..8].copy_from_slice(&lifetime.to_be_bytes());
    option[8..8 + what.len()].copy_from_slice(what);
    Some(len)
}

fn link_layer_option(kind: u8, mac: MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [kind, 1, a, b, c, d, e, f]
}

/// Puts its checksum into a message of the link, and returns the headers before it.
fn local(envelope: &Envelope, message: &mut [u8]) -> HeaderBytes {
    let len = message.len() as u32;
    let sum = icmp_sum(envelope.src, envelope.dst, len).bytes(message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = HeaderBytes::new(&[]);
    network_headers(&mut out, envelope, PROTOCOL_ICMP6, len);
    // Next header and hop limit stand side by side (RFC 8200 §3).
    out.set_u16(ETHERNET_LEN + 6, u16::from_be_bytes([PROTOCOL_ICMP6, LOCAL_HOP_LIMIT]));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Frame, Sum};

    const OWN: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];

    fn ip(s: &str) -> Ipv6Addr {
        s.parse().unwrap()
    }

    fn envelope(src: &str, dst: &str) -> Envelope {
        let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
        Envelope { src_mac: mac(2), dst_mac: mac(1), src: ip(src).into(), dst: ip(dst).into() }
    }

    fn read(frame: &[u8]) -> Result<Option<Ndp>, DropReason> {
        let Content::Ip(ip) = Frame::parse(frame, frame.len() as u32)?.content else { panic!() };
        Ndp::read(frame, &ip)
    }

    /// A message: type, code, second word, target if it has one, options.
    fn message(kind: u8, code: u8, word: u8, target: &str, options: &[u8]) -> Vec<u8> {
        let mut out = vec![kind, code, 0, 0, word, 0, 0, 0];
        if !target.is_empty() {
            out.extend(ip(target).octets());
        }
        out.extend(options);
        out
    }

    fn frame(src: &str, dst: &str, mut message: Vec<u8>) -> Vec<u8> {
        let headers = local(&envelope(src, dst), &mut message);
        [headers.as_slice(), &message].concat()
    }

    #[test]
    fn valid_messages_are_read() {
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 2]));
        let group = "ff02::1:ff00:7";
        let target = ip("2001:db8::7");
        let cases = [
            ("::", "ff02::2", message(133, 0, 0, "", &[]), NdpMessage::RouterSolicitation, None),
            ("fe80::2", "ff02::2", message(133, 0, 0, "", &OWN), NdpMessage::RouterSolicitation, mac),
            ("::", group, message(135, 0, 0, "2001:db8::7", &[]), NdpMessage::NeighborSolicitation(target), None),
            // Option 14: a nonce (RFC 7527).
            (
                "::",
                group,
                message(135, 0, 0, "2001:db8::7", &[14, 1, 0, 0, 0, 0, 0, 0]),
                NdpMessage::NeighborSolicitation(target),
                None,
            ),
            (
                "fe80::2",
                "2001:db8::7",
                message(135, 0, 0, "2001:db8::7", &OWN),
                NdpMessage::NeighborSolicitation(target),
                mac,
            ),
            (
                "fe80::2",
                "fe80::1",
                message(136, 0, 0x40, "2001:db8::7", &OWN),
                NdpMessage::NeighborAdvertisement(target),
                mac,
            ),
            (
                "fe80::2",
                "ff02::1",
                message(136, 0, 0x20, "2001:db8::7", &OWN),
                NdpMessage::NeighborAdvertisement(target),
                mac,
            ),
            ("fe80::2", "ff02::1", message(134, 9, 0, "", &[1]), NdpMessage::RouterAdvertisement, None),
            ("fe80::2", "ff02::1", message(137, 0, 0, "", &[]), NdpMessage::Redirect, None),
        ];
        for (src, dst, bytes, message, link_layer) in cases {
            let expected = Ndp { message, link_layer };
            assert_eq!(read(&frame(src, dst, bytes.clone())), Ok(Some(expected)), "{src} {dst} {bytes:02x?}");
        }
        assert_eq!(read(&frame("fe80::2", "ff02::16", message(143, 0, 0, "", &[]))), Ok(None));
    }

    #[test]
    fn invalid_messages_have_a_reason() {
        let group = "ff02::1:ff00:7";
        let own = "2001:db8::7";
        let long = [[1, 2, 2, 0, 0, 0, 0, 2], [0; 8]].concat();
        let two = [OWN, [1, 1, 2, 0, 0, 0, 0, 3]].concat();
        let cases = [
            ("code", "fe80::2", own, message(135, 1, 0, own, &OWN)),
            ("short", "fe80::2", own, message(135, 0, 0, "", &OWN)),
            ("multicast target", "fe80::2", own, message(135, 0, 0, "ff02::1", &OWN)),
            ("option of length 0", "fe80::2", own, message(135, 0, 0, own, &[1, 0, 2, 0, 0, 0, 0, 2])),
            ("option beyond the message", "fe80::2", own, message(135, 0, 0, own, &[1, 2, 2, 0, 0, 0, 0, 2])),
            ("one byte of an option", "fe80::2", own, message(135, 0, 0, own, &[1])),
            ("long link-layer address", "fe80::2", own, message(135, 0, 0, own, &long)),
            ("two link-layer addresses", "fe80::2", own, message(135, 0, 0, own, &two)),
            ("probe with a link-layer address", "::", group, message(135, 0, 0, own, &OWN)),
            ("probe of one", "::", own, message(135, 0, 0, own, &[])),
            ("probe of another group", "::", "ff02::1:ff00:8", message(135, 0, 0, own, &[])),
            ("router solicitation from nobody with an address", "::", "ff02::2", message(133, 0, 0, "", &OWN)),
            ("solicited advertisement to all", "fe80::2", "ff02::1", message(136, 0, 0x40, own, &OWN)),
        ];
        for (name, src, dst, bytes) in cases {
            assert_eq!(read(&frame(src, dst, bytes)), Err(DropReason::BadHeader), "{name}");
        }
        let mut routed = frame("fe80::2", own, message(135, 0, 0, own, &OWN));
        routed[21] = 254;
        assert_eq!(read(&routed), Err(DropReason::BadHeader));
        let options = [14, 7].into_iter().chain([0; 54]).collect::<Vec<u8>>();
        let Content::Ip(ip) =
            Frame::parse(&frame("fe80::2", own, message(135, 0, 0, own, &options[..50])), 200).unwrap().content
        else {
            panic!()
        };
        let whole = Ip { transport_len: 24 + 56, ..ip };
        let head = frame("fe80::2", own, message(135, 0, 0, own, &options[..50]));
        assert_eq!(Ndp::read(&head, &whole), Err(DropReason::Truncated));
    }

    #[test]
    fn advertisements_are_what_they_say() {
        let built = neighbor_advertisement(&envelope("2001:db8::1", "fe80::2"), ip("2001:db8::1"), true);
        let expected = Ndp {
            message: NdpMessage::NeighborAdvertisement(ip("2001:db8::1")),
            link_layer: Some(MacAddr([2, 0, 0, 0, 0, 2])),
        };
        assert_eq!(read(built.as_slice()), Ok(Some(expected)));
        assert_eq!(built.as_slice()[58], 0xe0);
        let router = RouterAdvertisement {
            managed: false,
            lifetime: 1800,
            mtu: 1400,
            prefix: "2001:db8::/64".parse().unwrap(),
            autonomous: true,
            resolver: None,
            search: (&[], 0),
        };
        let build = |router: &RouterAdvertisement<'_>| {
            let mut out = [0; ROUTER_ADVERTISEMENT_MAX];
            let len = router_advertisement(&envelope("fe80::1", "ff02::1"), router, &mut out).unwrap();
            out[..len].to_vec()
        };
        let built = build(&router);
        let bytes = &built[..];
        assert_eq!(bytes.len(), 118);
        assert_eq!(bytes[54..62], [134, 0, bytes[56], bytes[57], 64, 0, 7, 8]);
        assert_eq!(bytes[70..78], OWN);
        assert_eq!(bytes[78..86], [5, 1, 0, 0, 0, 0, 5, 120]);
        assert_eq!(bytes[86..90], [3, 4, 64, 0xc0]);
        assert_eq!(bytes[102..], ip("2001:db8::").octets());
        let managed = build(&RouterAdvertisement { managed: true, autonomous: false, ..router });
        assert_eq!((managed[59], managed[89]), (0xc0, 0x80));
        let domains = crate::encode_domains(["example.org"]);
        let named =
            RouterAdvertisement { resolver: Some((ip("2001:db8::1"), 1800)), search: (&domains, 600), ..router };
        let named = build(&named);
        assert_eq!(named[118..126], [25, 3, 0, 0, 0, 0, 7, 8]);
        assert_eq!(named[126..142], ip("2001:db8::1").octets());
        assert_eq!(named[142..150], [31, 3, 0, 0, 0, 0, 2, 88]);
        assert_eq!(named[150..166], *b"\x07example\x03org\0\0\0\0");
        let longest =
            build(&RouterAdvertisement { resolver: Some((ip("2001:db8::1"), 0)), search: (&[1; 255], 1), ..router });
        assert_eq!(longest.len(), ROUTER_ADVERTISEMENT_MAX);
        for bytes in [built, managed, named, longest] {
            let sum = icmp_sum(ip("fe80::1").into(), ip("ff02::1").into(), bytes.len() as u32 - 54);
            assert!(Sum::is_valid(sum.bytes(&bytes[54..])));
            assert_eq!(bytes[18..22], [(bytes.len() as u16 - 54).to_be_bytes(), [58, 255]].concat());
        }
    }

    #[test]
    fn groups_of_addresses() {
        assert_eq!(solicited_node(ip("fe80::a9fe:a9fe")), ip("ff02::1:fffe:a9fe"));
        assert_eq!(MacAddr::of_group(ip("ff02::1:fffe:a9fe")), MacAddr([0x33, 0x33, 0xff, 0xfe, 0xa9, 0xfe]));
    }
}
