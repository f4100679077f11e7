//! Headers of the frames that vonic itself sends: written into a fixed buffer, payload follows elsewhere.
use crate::wire::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::{Arp, ETHERNET_LEN, HEADER_MAX, MacAddr, PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP, Sum};
use std::net::{IpAddr, Ipv4Addr};
use zerocopy::IntoBytes;

/// A frame's leading bytes, built on the stack.
#[derive(Clone, Copy, Debug)]
pub struct HeaderBytes {
    bytes: [u8; HEADER_MAX],
    len: usize,
}

impl HeaderBytes {
    /// A copy of `bytes`, of which at most [`HEADER_MAX`] are taken.
    pub fn new(bytes: &[u8]) -> HeaderBytes {
        let len = bytes.len().min(HEADER_MAX);
        let mut out = HeaderBytes { bytes: [0; HEADER_MAX], len };
        out.bytes[..len].copy_from_slice(&bytes[..len]);
        out
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Adds bytes at the end, as many as there is room for.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(HEADER_MAX - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        self.len += len;
    }

    /// Replaces the 16-bit field at `offset`; nothing happens outside the bytes.
    pub fn set_u16(&mut self, offset: usize, value: u16) {
        if let Some(field) = self.bytes[..self.len].get_mut(offset..offset + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// The link and network addresses of a frame that vonic sends to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Source MAC: the gateway's.
    pub src_mac: MacAddr,
    /// Destination MAC: the guest's.
    pub dst_mac: MacAddr,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
}

/// A TCP header to be written.
#[derive(Clone, Copy, Debug)]
pub struct TcpFields<'a> {
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
    /// Window field.
    pub window: u16,
    /// Options, a multiple of four bytes, at most 40.
    pub options: &'a [u8],
    /// Bytes of payload behind the header.
    pub payload_len: u32,
}

/// How a transport checksum is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The pseudo header's sum only: the receiver, or its device, does the rest (virtio 1.3 §5.1.6.2).
    Partial,
    /// Complete, with this folded sum over the payload.
    Full(u16),
}

/// Writes Ethernet, IP and TCP headers; returns them and the TCP header's offset.
pub fn tcp_headers(envelope: &Envelope, tcp: &TcpFields<'_>, checksum: Checksum) -> (HeaderBytes, u16) {
    let header_len = wire::Tcp::LEN + tcp.options.len();
    let transport_len = header_len as u32 + tcp.payload_len;
    let mut out = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let offset = network_headers(&mut out, envelope, PROTOCOL_TCP, transport_len);
    let header = wire::Tcp {
        src: tcp.src_port.into(),
        dst: tcp.dst_port.into(),
        seq: tcp.seq.into(),
        ack: tcp.ack.into(),
        data_offset: (header_len as u8 / 4) << 4,
        flags: tcp.flags,
        window: tcp.window.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    };
    header.put(&mut out.bytes, offset);
    out.bytes[offset + wire::Tcp::LEN..offset + header_len].copy_from_slice(tcp.options);
    out.len = offset + header_len;
    let pseudo = Sum::default().pseudo(envelope.src, envelope.dst, PROTOCOL_TCP, transport_len);
    let field = match checksum {
        Checksum::Partial => pseudo.fold(),
        Checksum::Full(payload) => pseudo.bytes(&out.bytes[offset..offset + header_len]).word(payload).finish(),
    };
    out.set_u16(offset + TCP_CHECKSUM, field);
    (out, offset as u16)
}

/// Where the checksum stands in a TCP header.
pub const TCP_CHECKSUM: usize = 16;

/// Hops that a packet of vonic's own may take.
const HOP_LIMIT: u8 = 64;

/// Writes Ethernet and IP headers for a transport of `transport_len` bytes; returns the transport's offset.
pub(crate) fn network_headers(out: &mut HeaderBytes, envelope: &Envelope, protocol: u8, transport_len: u32) -> usize {
    let kind = match (envelope.src, envelope.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv4_header(src, dst, protocol, transport_len).put(&mut out.bytes, ETHERNET_LEN);
            out.len = ETHERNET_LEN + wire::Ipv4::LEN;
            ETHERTYPE_IPV4
        }
        (src, dst) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let header = wire::Ipv6 {
                version_class_flow: (6 << 28).into(),
                payload_len: (transport_len as u16).into(),
                next_header: protocol,
                hop_limit: HOP_LIMIT,
                src: octets(src),
                dst: octets(dst),
            };
            header.put(&mut out.bytes, ETHERNET_LEN);
            out.len = ETHERNET_LEN + wire::Ipv6::LEN;
            ETHERTYPE_IPV6
        }
    };
    wire::Ethernet { dst: envelope.dst_mac.0, src: envelope.src_mac.0, kind: kind.into() }.put(&mut out.bytes, 0);
    out.len
}

fn ipv4_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, transport_len: u32) -> wire::Ipv4 {
    let mut ip = wire::Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len: ((wire::Ipv4::LEN as u32 + transport_len) as u16).into(),
        id: 0.into(),
        // Don't fragment: the identification may then be anything (RFC 6864 §4.1).
        fragment: 0x4000.into(),
        ttl: HOP_LIMIT,
        protocol,
        checksum: 0.into(),
        src: src.octets(),
        dst: dst.octets(),
    };
    ip.checksum = Sum::default().bytes(ip.as_bytes()).finish().into();
    ip
}

/// Bytes of an IP header without options or extensions.
pub const fn ip_header_len(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => wire::Ipv4::LEN as u16,
        IpAddr::V6(_) => wire::Ipv6::LEN as u16,
    }
}

/// Bytes of a UDP header, and where the checksum stands in it.
pub const UDP_HEADER_LEN: usize = wire::Udp::LEN;
/// See [`UDP_HEADER_LEN`].
pub const UDP_CHECKSUM: usize = 6;

/// Writes Ethernet, IP and UDP headers for `len` bytes of payload, at most 65,507 of them (IPv6: 65,527); returns them and the
/// UDP header's offset.
pub fn udp_headers(envelope: &Envelope, ports: (u16, u16), len: u32, checksum: Checksum) -> (HeaderBytes, u16) {
    let transport_len = wire::Udp::LEN as u32 + len;
    let mut out = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let offset = network_headers(&mut out, envelope, PROTOCOL_UDP, transport_len);
    let len = (transport_len as u16).into();
    wire::Udp { src: ports.0.into(), dst: ports.1.into(), len, checksum: 0.into() }.put(&mut out.bytes, offset);
    out.len = offset + wire::Udp::LEN;
    let pseudo = Sum::default().pseudo(envelope.src, envelope.dst, PROTOCOL_UDP, transport_len);
    let field = match checksum {
        Checksum::Partial => pseudo.fold(),
        // 0 would say that there is none (RFC 768).
        Checksum::Full(payload) => match pseudo.bytes(&out.bytes[offset..out.len]).word(payload).finish() {
            0 => 0xffff,
            sum => sum,
        },
    };
    out.set_u16(offset + UDP_CHECKSUM, field);
    (out, offset as u16)
}

/// Writes a whole UDP frame with its payload; returns its length, or `None` if it does not fit `out`.
pub fn udp_frame(envelope: &Envelope, ports: (u16, u16), payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let len = u16::try_from(payload.len()).ok()?;
    let sum = Checksum::Full(Sum::default().bytes(payload).fold());
    let (headers, _) = udp_headers(envelope, ports, len.into(), sum);
    let headers = headers.as_slice();
    out.get_mut(..headers.len())?.copy_from_slice(headers);
    out.get_mut(headers.len()..headers.len() + payload.len())?.copy_from_slice(payload);
    Some(headers.len() + payload.len())
}

/// Writes the headers of the answer to an ICMP echo request whose ICMP header is `request` and whose message, with that
/// header, has `len` bytes. The echoed data follows unchanged, and the addresses have changed places, so the checksum changes by the
/// type alone (RFC 1624).
pub fn icmp_echo_reply(envelope: &Envelope, request: &[u8; 8], len: u32) -> HeaderBytes {
    let mut out = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let (protocol, reply) = match envelope.src {
        IpAddr::V4(_) => (PROTOCOL_ICMP, 0),
        IpAddr::V6(_) => (PROTOCOL_ICMP6, 129 << 8),
    };
    let offset = network_headers(&mut out, envelope, protocol, len);
    out.len = offset + request.len();
    out.bytes[offset..out.len].copy_from_slice(request);
    let sum = u16::from_be_bytes([request[2], request[3]]);
    let type_and_code = u16::from_be_bytes([request[0], request[1]]);
    out.set_u16(offset, reply);
    out.set_u16(offset + 2, Sum::default().word(!sum).word(!type_and_code).word(reply).finish());
    out
}

/// Writes a whole ARP frame.
pub fn arp_frame(src: MacAddr, dst: MacAddr, arp: &Arp) -> HeaderBytes {
    let mut out = HeaderBytes { bytes: [0; HEADER_MAX], len: ETHERNET_LEN + wire::ArpIpv4::LEN };
    wire::Ethernet { dst: dst.0, src: src.0, kind: ETHERTYPE_ARP.into() }.put(&mut out.bytes, 0);
    wire::ArpIpv4 {
        hardware: 1.into(),
        protocol: ETHERTYPE_IPV4.into(),
        hardware_len: 6,
        protocol_len: 4,
        operation: arp.operation.into(),
        sender_mac: arp.sender_mac.0,
        sender: arp.sender.octets(),
        target_mac: arp.target_mac.0,
        target: arp.target.octets(),
    }
    .put(&mut out.bytes, ETHERNET_LEN);
    out
}
