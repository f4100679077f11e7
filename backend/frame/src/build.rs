//! Headers of the frames that vonic itself sends: written into a fixed buffer, payload follows elsewhere.
use crate::wire::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4};
use crate::{Arp, ETHERNET_LEN, HEADER_MAX, MacAddr, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Sum};
use std::net::{IpAddr, SocketAddr};
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

/// Writes Ethernet, IPv4 and TCP headers; returns them and the TCP header's offset.
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

/// Writes Ethernet and IP headers for a transport of `transport_len` bytes; returns the transport's offset.
pub(crate) fn network_headers(out: &mut HeaderBytes, envelope: &Envelope, protocol: u8, transport_len: u32) -> usize {
    wire::Ethernet { dst: envelope.dst_mac.0, src: envelope.src_mac.0, kind: ETHERTYPE_IPV4.into() }
        .put(&mut out.bytes, 0);
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (envelope.src, envelope.dst) else { return ETHERNET_LEN };
    let mut ip = wire::Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len: ((wire::Ipv4::LEN as u32 + transport_len) as u16).into(),
        id: 0.into(),
        // Don't fragment: the identification may then be anything (RFC 6864 §4.1).
        fragment: 0x4000.into(),
        ttl: 64,
        protocol,
        checksum: 0.into(),
        src: src.octets(),
        dst: dst.octets(),
    };
    ip.checksum = Sum::default().bytes(ip.as_bytes()).finish().into();
    ip.put(&mut out.bytes, ETHERNET_LEN);
    out.len = ETHERNET_LEN + wire::Ipv4::LEN;
    out.len
}

/// Writes a whole UDP frame with its payload; returns its length, or `None` if it does not fit `out`.
pub fn udp_frame(envelope: &Envelope, ports: (u16, u16), payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let transport_len = wire::Udp::LEN + payload.len();
    let mut headers = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let offset = network_headers(&mut headers, envelope, PROTOCOL_UDP, transport_len as u32);
    let len = u16::try_from(transport_len).ok()?.into();
    wire::Udp { src: ports.0.into(), dst: ports.1.into(), len, checksum: 0.into() }.put(&mut headers.bytes, offset);
    headers.len = offset + wire::Udp::LEN;
    let sum = Sum::default().pseudo(envelope.src, envelope.dst, PROTOCOL_UDP, transport_len as u32);
    let sum = sum.bytes(&headers.bytes[offset..headers.len]).bytes(payload).finish();
    headers.set_u16(offset + 6, if sum == 0 { 0xffff } else { sum });
    out.get_mut(..headers.len)?.copy_from_slice(headers.as_slice());
    out.get_mut(headers.len..headers.len + payload.len())?.copy_from_slice(payload);
    Some(headers.len + payload.len())
}

/// Writes the headers of the answer to an ICMP echo request whose ICMP header is `request` and whose message, with that
/// header, has `len` bytes. The echoed data follows unchanged, so the checksum changes by the type alone (RFC 1624).
pub fn icmp_echo_reply(envelope: &Envelope, request: &[u8; 8], len: u32) -> HeaderBytes {
    let mut out = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let offset = network_headers(&mut out, envelope, PROTOCOL_ICMP, len);
    out.len = offset + request.len();
    out.bytes[offset..out.len].copy_from_slice(request);
    let sum = u16::from_be_bytes([request[2], request[3]]);
    let type_and_code = u16::from_be_bytes([request[0], request[1]]);
    out.set_u16(offset, 0);
    out.set_u16(offset + 2, Sum::default().word(!sum).word(!type_and_code).finish());
    out
}

/// Writes ICMP "destination unreachable" (RFC 792) with `code` about a TCP segment that the guest sent: `about` are that
/// packet's addresses, ports and sequence number, which its own IP header and first eight bytes are rebuilt from.
pub fn icmp_unreachable(envelope: &Envelope, code: u8, about: (SocketAddr, SocketAddr, u32)) -> HeaderBytes {
    let (src, dst, seq) = about;
    let quoted = Envelope { src: src.ip(), dst: dst.ip(), ..*envelope };
    let mut inner = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let end = network_headers(&mut inner, &quoted, PROTOCOL_TCP, wire::Tcp::LEN as u32);
    let mut message = [0u8; 8 + wire::Ipv4::LEN + 8];
    message[0] = 3;
    message[1] = code;
    message[8..28].copy_from_slice(&inner.bytes[ETHERNET_LEN..end]);
    message[28..30].copy_from_slice(&src.port().to_be_bytes());
    message[30..32].copy_from_slice(&dst.port().to_be_bytes());
    message[32..36].copy_from_slice(&seq.to_be_bytes());
    let sum = Sum::default().bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let offset = network_headers(&mut out, envelope, PROTOCOL_ICMP, message.len() as u32);
    out.len = offset + message.len();
    out.bytes[offset..out.len].copy_from_slice(&message);
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
