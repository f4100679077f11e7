//! Segmentation in software: the headers of each segment of a large TCP frame. The payload stays where it is.
use crate::wire::{Ipv4, Ipv6, Tcp as TcpHeader};
use crate::{
    Content, DropReason, ETHERNET_LEN, Frame, Gso, GsoKind, HeaderBytes, Ip, PROTOCOL_TCP, PartialChecksum, Sum,
    TCP_CHECKSUM, Tcp, Transport,
};
use std::net::IpAddr;

const FIN: u8 = 1;
const PSH: u8 = 8;
const CWR: u8 = 0x80;

/// Cuts a large TCP frame into segments (virtio 1.3 §5.1.6.2: what the device does for a driver with HOST_TSO).
/// Iterating yields each segment in order.
#[derive(Clone, Debug)]
pub struct Segmenter {
    headers: HeaderBytes,
    ip: Ip,
    tcp: Tcp,
    size: u32,
    done: u32,
    index: u16,
}

/// One segment: its headers, with the pseudo header's sum in the TCP checksum field, and where its payload lies.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Ethernet, IP and TCP headers.
    pub headers: HeaderBytes,
    /// Offset of its payload in the large frame, from the Ethernet header.
    pub payload_offset: u32,
    /// Bytes of its payload.
    pub payload_len: u32,
    /// How its checksum is completed.
    pub partial: PartialChecksum,
}

impl Segmenter {
    /// `bytes` are the frame's leading bytes, that `frame` was parsed from.
    ///
    /// # Errors
    /// `BadVnetHeader` if the frame is not of the kind that `gso` says.
    pub fn new(bytes: &[u8], frame: &Frame, gso: Gso) -> Result<Segmenter, DropReason> {
        let Content::Ip(ip) = frame.content else { return Err(DropReason::BadVnetHeader) };
        let Transport::Tcp(tcp) = ip.transport else { return Err(DropReason::BadVnetHeader) };
        if !matches!((gso.kind, ip.src), (GsoKind::Tcp4, IpAddr::V4(_)) | (GsoKind::Tcp6, IpAddr::V6(_))) {
            return Err(DropReason::BadVnetHeader);
        }
        let end = usize::from(ip.transport_offset) + usize::from(tcp.header_len);
        let headers = HeaderBytes::new(bytes.get(..end).ok_or(DropReason::Truncated)?);
        Ok(Segmenter { headers, ip, tcp, size: u32::from(gso.size), done: 0, index: 0 })
    }

    fn network_header(&self, headers: &mut HeaderBytes, transport_len: u32) {
        let header = usize::from(self.ip.transport_offset) - ETHERNET_LEN;
        if self.ip.src.is_ipv6() {
            let payload = (header - Ipv6::LEN) as u32 + transport_len;
            return headers.set_u16(ETHERNET_LEN + 4, payload as u16);
        }
        let Some(ip) = Ipv4::at(self.headers.as_slice(), ETHERNET_LEN) else { return };
        headers.set_u16(ETHERNET_LEN + 2, (header as u32 + transport_len) as u16);
        headers.set_u16(ETHERNET_LEN + 4, ip.id.get().wrapping_add(self.index));
        headers.set_u16(ETHERNET_LEN + 10, 0);
        let sum = Sum::default().bytes(&headers.as_slice()[ETHERNET_LEN..ETHERNET_LEN + header]).finish();
        headers.set_u16(ETHERNET_LEN + 10, sum);
    }
}

impl Iterator for Segmenter {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.done >= self.tcp.payload_len && self.index > 0 {
            return None;
        }
        let payload_len = self.size.min(self.tcp.payload_len - self.done);
        let last = self.done + payload_len == self.tcp.payload_len;
        let transport = usize::from(self.ip.transport_offset);
        let transport_len = u32::from(self.tcp.header_len) + payload_len;
        let mut headers = self.headers;
        self.network_header(&mut headers, transport_len);
        let seq = self.tcp.seq.wrapping_add(self.done);
        headers.set_u16(transport + 4, (seq >> 16) as u16);
        headers.set_u16(transport + 6, seq as u16);
        let keep = !(if last { 0 } else { FIN | PSH } | if self.index == 0 { 0 } else { CWR });
        // Beside the length stand bits of which the sender knows what they mean (RFC 9293 §3.1, RFC 9768).
        let offset = self.headers.as_slice()[transport + 12];
        headers.set_u16(transport + 12, u16::from_be_bytes([offset, self.tcp.flags & keep]));
        let pseudo = Sum::default().pseudo(self.ip.src, self.ip.dst, PROTOCOL_TCP, transport_len).fold();
        headers.set_u16(transport + TCP_CHECKSUM, pseudo);
        let payload_offset = (transport + usize::from(self.tcp.header_len)) as u32 + self.done;
        self.done += payload_len;
        self.index = self.index.wrapping_add(1);
        let partial = PartialChecksum { start: transport as u16, offset: TCP_CHECKSUM as u16 };
        Some(Segment { headers, payload_offset, payload_len, partial })
    }
}

impl PartialChecksum {
    /// Fills in the checksum of a frame whose leading bytes are `headers`; `rest` is the folded sum over all that follows
    /// them. `headers` must end an even number of bytes behind `start`.
    pub fn complete(&self, headers: &mut HeaderBytes, rest: u16) {
        let start = usize::from(self.start);
        let Some(summed) = headers.as_slice().get(start..) else { return };
        let sum = Sum::default().bytes(summed).word(rest).finish();
        // 0 would say "no checksum" in UDP (RFC 768); both values mean the same sum.
        headers.set_u16(start + usize::from(self.offset), if sum == 0 { 0xffff } else { sum });
    }
}

const _: () = assert!(TcpHeader::LEN == 20 && Ipv4::LEN == 20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checksum, Envelope, MacAddr, TcpFields, tcp_headers};

    fn large(payload: &[u8], flags: u8) -> Vec<u8> {
        let envelope = Envelope {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            src: IpAddr::from([192, 0, 2, 1]),
            dst: IpAddr::from([192, 0, 2, 2]),
        };
        let fields = TcpFields {
            src_port: 80,
            dst_port: 4000,
            seq: u32::MAX - 100,
            ack: 7,
            flags,
            window: 500,
            options: &[1, 1, 1, 0],
            payload_len: payload.len() as u32,
        };
        let (headers, _) = tcp_headers(&envelope, &fields, Checksum::Partial);
        [headers.as_slice(), payload].concat()
    }

    #[test]
    fn segments_are_whole_frames_and_carry_every_byte_once() {
        let payload: Vec<u8> = (0..3001u32).map(|i| (i % 251) as u8).collect();
        let frame_bytes = large(&payload, FIN | PSH | CWR | 0x10);
        let head = &frame_bytes[..frame_bytes.len().min(128)];
        let frame = Frame::parse(head, frame_bytes.len() as u32).unwrap();
        let mut got = Vec::new();
        let mut flags = Vec::new();
        for mut s in Segmenter::new(head, &frame, Gso { kind: GsoKind::Tcp4, size: 1000, ecn: false }).unwrap() {
            let part = &frame_bytes[s.payload_offset as usize..][..s.payload_len as usize];
            s.partial.complete(&mut s.headers, Sum::default().bytes(part).fold());
            let whole = [s.headers.as_slice(), part].concat();
            let parsed = Frame::parse(&whole[..whole.len().min(128)], whole.len() as u32).unwrap();
            let Content::Ip(ip) = parsed.content else { panic!() };
            let Transport::Tcp(tcp) = ip.transport else { panic!() };
            let transport = &whole[usize::from(ip.transport_offset)..];
            let sum = Sum::default().pseudo(ip.src, ip.dst, PROTOCOL_TCP, transport.len() as u32).bytes(transport);
            assert!(sum.is_valid());
            assert_eq!(tcp.seq, (u32::MAX - 100).wrapping_add(got.len() as u32));
            flags.push(tcp.flags);
            got.extend_from_slice(part);
        }
        assert_eq!(got, payload);
        assert_eq!(flags, [CWR | 0x10, 0x10, 0x10, FIN | PSH | 0x10]);
    }

    #[test]
    fn the_kind_must_fit_the_frame() {
        let bytes = large(b"abc", 0x10);
        let frame = Frame::parse(&bytes, bytes.len() as u32).unwrap();
        let wrong = Segmenter::new(&bytes, &frame, Gso { kind: GsoKind::Tcp6, size: 1000, ecn: false });
        assert_eq!(wrong.err(), Some(DropReason::BadVnetHeader));
    }
}
