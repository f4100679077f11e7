//! Headers of the frames that vonic itself sends: written into a fixed buffer, payload follows elsewhere.
use crate::wire::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4};
use crate::{Arp, ETHERNET_LEN, HEADER_MAX, MacAddr, PROTOCOL_TCP, Sum};
use std::net::IpAddr;
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
fn network_headers(out: &mut HeaderBytes, envelope: &Envelope, protocol: u8, transport_len: u32) -> usize {
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

/// Writes a whole frame that carries `transport` (header and payload, checksum done) behind IP; `None` if it does not fit `out`.
pub fn ip_frame(envelope: &Envelope, protocol: u8, transport: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut headers = HeaderBytes { bytes: [0; HEADER_MAX], len: 0 };
    let offset = network_headers(&mut headers, envelope, protocol, transport.len() as u32);
    let len = offset + transport.len();
    out.get_mut(..offset)?.copy_from_slice(&headers.bytes[..offset]);
    out.get_mut(offset..len)?.copy_from_slice(transport);
    Some(len)
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
