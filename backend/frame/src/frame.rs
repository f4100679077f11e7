//! From the first bytes of a frame to checked headers.
use crate::ipv6::parse_ipv6;
use crate::wire::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN};
use crate::{DropReason, MacAddr};
use std::net::{IpAddr, Ipv4Addr};

/// How many leading bytes of a frame are copied out of guest memory and looked at.
pub const HEADER_MAX: usize = 128;
/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = wire::Ethernet::LEN;
/// IP protocol numbers.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of ICMPv6 (RFC 4443 §1).
pub const PROTOCOL_ICMP6: u8 = 58;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// Where flags and fragment offset stand in a frame with an IPv4 header (RFC 791 §3.1), and the flag "don't fragment".
const IPV4_FLAGS: usize = ETHERNET_LEN + 6;
const DONT_FRAGMENT: u8 = 0x40;

/// A frame's checked headers. Offsets are from the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// Bytes of the whole frame, from the Ethernet header on.
    pub len: u32,
    /// What it carries.
    pub content: Content,
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp(Arp),
    /// IPv4 (RFC 791) or IPv6 (RFC 8200).
    Ip(Ip),
    /// Any other EtherType.
    Other(u16),
}

/// An ARP message (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Who speaks.
    pub sender_mac: MacAddr,
    /// The speaker's address; 0.0.0.0 in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Whom it is for.
    pub target_mac: MacAddr,
    /// The address asked for.
    pub target: Ipv4Addr,
}

/// An IP header and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Protocol number, in IPv6 behind its extension headers.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Offset of the transport header.
    pub transport_offset: u16,
    /// Bytes of transport header and payload.
    pub transport_len: u32,
    /// The transport header, if this is no fragment.
    pub transport: Transport,
}

impl Ip {
    /// Whether no router may fragment the packet, of whose frame `head` are the leading bytes: never in IPv6 (RFC 8200 §5).
    pub fn dont_fragment(&self, head: &[u8]) -> bool {
        self.dst.is_ipv6() || head.get(IPV4_FLAGS).is_some_and(|flags| flags & DONT_FRAGMENT != 0)
    }
}

/// A transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp(Tcp),
    /// UDP (RFC 768).
    Udp(Udp),
    /// ICMP of the packet's own family (RFC 792, RFC 4443).
    Icmp(Icmp),
    /// A fragment: no transport header is looked at.
    Fragment,
    /// Another protocol.
    Other,
}

/// A TCP header without its options: those are the bytes from offset + 20 to offset + `header_len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// Window, unscaled.
    pub window: u16,
    /// Bytes of header with options, 20 to 60.
    pub header_len: u8,
    /// Bytes of payload.
    pub payload_len: u32,
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Bytes of payload.
    pub payload_len: u16,
    /// Whether it carries a checksum (0 means none, RFC 768).
    pub has_checksum: bool,
}

/// An ICMP header; the numbers differ between the families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type: echo request and reply are 8 and 0 (RFC 792), or 128 and 129 (RFC 4443).
    pub kind: u8,
    /// Code.
    pub code: u8,
}

impl Frame {
    /// Reads the headers of a frame of `len` bytes whose first bytes, at most [`HEADER_MAX`], are `bytes`.
    ///
    /// # Errors
    /// `Truncated` where a header or a stated length goes beyond the frame or the copied bytes, `VlanTagged`, `BadHeader`, `BadChecksum` (IPv4 header).
    pub fn parse(bytes: &[u8], len: u32) -> Result<Frame, DropReason> {
        let ethernet = wire::Ethernet::at(bytes, 0).ok_or(DropReason::Truncated)?;
        let kind = ethernet.kind.get();
        let content = match kind {
            ETHERTYPE_ARP => Content::Arp(parse_arp(bytes)?),
            ETHERTYPE_IPV4 => Content::Ip(parse_ipv4(bytes, len)?),
            ETHERTYPE_IPV6 => Content::Ip(parse_ipv6(bytes, len)?),
            _ if ETHERTYPE_VLAN.contains(&kind) => return Err(DropReason::VlanTagged),
            _ => Content::Other(kind),
        };
        Ok(Frame { dst: MacAddr(ethernet.dst), src: MacAddr(ethernet.src), len, content })
    }
}

fn parse_arp(bytes: &[u8]) -> Result<Arp, DropReason> {
    let arp = wire::ArpIpv4::at(bytes, ETHERNET_LEN).ok_or(DropReason::Truncated)?;
    let layout = (arp.hardware.get(), arp.protocol.get(), arp.hardware_len, arp.protocol_len);
    if layout != (1, ETHERTYPE_IPV4, 6, 4) || !(1..=2).contains(&arp.operation.get()) {
        return Err(DropReason::BadHeader);
    }
    Ok(Arp {
        operation: arp.operation.get(),
        sender_mac: MacAddr(arp.sender_mac),
        sender: arp.sender.into(),
        target_mac: MacAddr(arp.target_mac),
        target: arp.target.into(),
    })
}

fn parse_ipv4(bytes: &[u8], len: u32) -> Result<Ip, DropReason> {
    let ip = wire::Ipv4::at(bytes, ETHERNET_LEN).ok_or(DropReason::Truncated)?;
    let header_len = usize::from(ip.version_ihl & 15) * 4;
    let total_len = u32::from(ip.total_len.get());
    if ip.version_ihl >> 4 != 4 || header_len < wire::Ipv4::LEN || total_len < header_len as u32 {
        return Err(DropReason::BadHeader);
    }
    let transport_offset = ETHERNET_LEN + header_len;
    let header = bytes.get(ETHERNET_LEN..transport_offset).ok_or(DropReason::Truncated)?;
    if ETHERNET_LEN as u32 + total_len > len {
        return Err(DropReason::Truncated);
    }
    if !crate::Sum::default().bytes(header).is_valid() {
        return Err(DropReason::BadChecksum);
    }
    let transport_len = total_len - header_len as u32;
    // More-fragments flag, or an offset (RFC 791 §3.1).
    let transport = if ip.fragment.get() & 0x3fff != 0 {
        Transport::Fragment
    } else {
        parse_transport(bytes, (PROTOCOL_ICMP, ip.protocol), transport_offset, transport_len)?
    };
    Ok(Ip {
        src: Ipv4Addr::from(ip.src).into(),
        dst: Ipv4Addr::from(ip.dst).into(),
        protocol: ip.protocol,
        ttl: ip.ttl,
        transport_offset: transport_offset as u16,
        transport_len,
        transport,
    })
}

/// The transport header at `offset`, of `len` bytes with its payload. `icmp`: the number of the family's own ICMP.
pub(crate) fn parse_transport(
    bytes: &[u8],
    (icmp, protocol): (u8, u8),
    offset: usize,
    len: u32,
) -> Result<Transport, DropReason> {
    let fits = |header: usize| if header as u32 <= len { Ok(()) } else { Err(DropReason::Truncated) };
    match protocol {
        PROTOCOL_TCP => {
            fits(wire::Tcp::LEN)?;
            let tcp = wire::Tcp::at(bytes, offset).ok_or(DropReason::Truncated)?;
            let header_len = tcp.data_offset >> 4 << 2;
            if usize::from(header_len) < wire::Tcp::LEN {
                return Err(DropReason::BadHeader);
            }
            fits(usize::from(header_len))?;
            if offset + usize::from(header_len) > bytes.len() {
                return Err(DropReason::Truncated);
            }
            Ok(Transport::Tcp(Tcp {
                src_port: tcp.src.get(),
                dst_port: tcp.dst.get(),
                seq: tcp.seq.get(),
                ack: tcp.ack.get(),
                flags: tcp.flags,
                window: tcp.window.get(),
                header_len,
                payload_len: len - u32::from(header_len),
            }))
        }
        PROTOCOL_UDP => {
            fits(wire::Udp::LEN)?;
            let udp = wire::Udp::at(bytes, offset).ok_or(DropReason::Truncated)?;
            let stated = udp.len.get();
            if usize::from(stated) < wire::Udp::LEN {
                return Err(DropReason::BadHeader);
            }
            fits(usize::from(stated))?;
            Ok(Transport::Udp(Udp {
                src_port: udp.src.get(),
                dst_port: udp.dst.get(),
                payload_len: stated - wire::Udp::LEN as u16,
                has_checksum: udp.checksum.get() != 0,
            }))
        }
        _ if protocol == icmp => {
            fits(wire::Icmp::LEN)?;
            let icmp = wire::Icmp::at(bytes, offset).ok_or(DropReason::Truncated)?;
            Ok(Transport::Icmp(Icmp { kind: icmp.kind, code: icmp.code }))
        }
        _ => Ok(Transport::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checksum, Envelope, Sum, TcpFields, arp_frame, icmp_echo_reply, tcp_headers, udp_frame};

    fn envelope() -> Envelope {
        Envelope {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            src: IpAddr::from([192, 0, 2, 1]),
            dst: IpAddr::from([192, 0, 2, 2]),
        }
    }

    fn tcp_frame() -> Vec<u8> {
        let options = [2, 4, 5, 180];
        let fields = TcpFields {
            src_port: 1,
            dst_port: 2,
            seq: 3,
            ack: 4,
            flags: 0x12,
            window: 5,
            options: &options,
            payload_len: 0,
        };
        tcp_headers(&envelope(), &fields, Checksum::Full(0)).0.as_slice().to_vec()
    }

    /// Changes a byte of the IPv4 header and puts its checksum right again.
    fn with_ip_byte(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        frame[14 + at] = value;
        frame[24..26].fill(0);
        let sum = Sum::default().bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn parse(frame: &[u8]) -> Result<Frame, DropReason> {
        Frame::parse(frame, frame.len() as u32)
    }

    #[test]
    fn what_is_built_is_read_back() {
        let Content::Ip(ip) = parse(&tcp_frame()).unwrap().content else { panic!() };
        assert_eq!((ip.src, ip.dst), (envelope().src, envelope().dst));
        let Transport::Tcp(tcp) = ip.transport else { panic!() };
        assert_eq!((tcp.src_port, tcp.dst_port, tcp.seq, tcp.ack, tcp.flags, tcp.window), (1, 2, 3, 4, 0x12, 5));
        assert_eq!((tcp.header_len, tcp.payload_len), (24, 0));
        let arp = Arp {
            operation: 2,
            sender_mac: envelope().src_mac,
            sender: [192, 0, 2, 1].into(),
            target_mac: envelope().dst_mac,
            target: [192, 0, 2, 2].into(),
        };
        let frame = arp_frame(envelope().src_mac, envelope().dst_mac, &arp);
        assert_eq!(parse(frame.as_slice()).unwrap().content, Content::Arp(arp));
        let mut out = [0; 100];
        let n = udp_frame(&envelope(), (1, 2), &[9, 9, 9], &mut out).unwrap();
        let Content::Ip(ip) = parse(&out[..n]).unwrap().content else { panic!() };
        let udp = Udp { src_port: 1, dst_port: 2, payload_len: 3, has_checksum: true };
        assert_eq!(ip.transport, Transport::Udp(udp));
        let sum = Sum::default().pseudo(ip.src, ip.dst, PROTOCOL_UDP, ip.transport_len);
        assert!(sum.bytes(&out[usize::from(ip.transport_offset)..n]).is_valid());
    }

    #[test]
    fn icmp_messages_sum_up() {
        let request = [8, 0, 0, 0, 1, 2, 3, 4];
        let data = [5, 6, 7];
        let sum = Sum::default().bytes(&request).bytes(&data).finish().to_be_bytes();
        let request = [8, 0, sum[0], sum[1], 1, 2, 3, 4];
        let reply = icmp_echo_reply(&envelope(), &request, 11);
        assert!(Sum::default().bytes(&reply.as_slice()[34..]).bytes(&data).is_valid());
    }

    #[test]
    fn lies_have_names() {
        let good = tcp_frame();
        let reasons = [
            (good[..13].to_vec(), DropReason::Truncated),
            (good[..33].to_vec(), DropReason::Truncated),
            (good[..good.len() - 1].to_vec(), DropReason::Truncated),
            (with_ip_byte(good.clone(), 0, 0x55), DropReason::BadHeader),
            (with_ip_byte(good.clone(), 0, 0x44), DropReason::BadHeader),
            (with_ip_byte(good.clone(), 3, 10), DropReason::BadHeader),
            (with_ip_byte(good.clone(), 3, 30), DropReason::Truncated),
            (with_ip_byte(good.clone(), 3, 200), DropReason::Truncated),
        ];
        for (frame, reason) in reasons {
            assert_eq!(parse(&frame), Err(reason), "{frame:02x?}");
        }
        let mut offset = good.clone();
        offset[46] = 0x40;
        assert_eq!(parse(&offset), Err(DropReason::BadHeader));
        offset[46] = 0x70;
        assert_eq!(parse(&offset), Err(DropReason::Truncated));
        let mut sum = good.clone();
        sum[24] ^= 1;
        assert_eq!(parse(&sum), Err(DropReason::BadChecksum));
        let mut vlan = good;
        vlan[12..14].copy_from_slice(&[0x81, 0]);
        assert_eq!(parse(&vlan), Err(DropReason::VlanTagged));
    }

    #[test]
    fn fragments_are_seen_first_and_later() {
        for (at, value) in [(6, 0x20), (7, 1)] {
            let Content::Ip(ip) = parse(&with_ip_byte(tcp_frame(), at, value)).unwrap().content else { panic!() };
            assert_eq!(ip.transport, Transport::Fragment);
        }
    }

    #[test]
    fn no_bytes_panic() {
        let good = tcp_frame();
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut frame = good.clone();
                frame[at] = value;
                for len in 0..=frame.len() {
                    let _ = Frame::parse(&frame[..len], frame.len() as u32);
                }
            }
        }
    }
}
