//! TCP segments that continue each other, put together into one large frame: what `segment` does, undone. Cut again, the large frame
//! gives the very segments that it was made of.
use crate::wire::{Ipv4, Ipv6, Tcp as TcpHeader};
use crate::{
    Content, ETHERNET_LEN, Frame, Gso, GsoKind, HeaderBytes, Ip, PROTOCOL_TCP, PartialChecksum, Sum, TCP_CHECKSUM, Tcp,
    Transport, VnetHeader,
};

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// The largest packet: IPv4's total length has 16 bits, and no large IPv6 packet is longer.
const PACKET_MAX: u32 = 65535;
/// RFC 791 §3.1: "don't fragment", and all that must be zero in a packet that is no fragment.
const DONT_FRAGMENT: u16 = 0x4000;
/// Where the headers' fields stand, from the Ethernet header.
const TOTAL_LEN: usize = ETHERNET_LEN + 2;
const IDENTIFICATION: usize = ETHERNET_LEN + 4;
const FRAGMENT: usize = ETHERNET_LEN + 6;
const IP_CHECKSUM: usize = ETHERNET_LEN + 10;
const PAYLOAD_LEN: usize = ETHERNET_LEN + 4;
/// From the TCP header on.
const SEQUENCE: usize = 4;
const ACKNOWLEDGMENT: usize = 8;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const URGENT: usize = 18;

/// How IPv4 numbers the packets of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// There is one packet so far, or no number (IPv6).
    Unknown,
    /// Each has its predecessor's number and one.
    Counted,
    /// All have the same number, which says nothing: they are atomic (RFC 6864 §4).
    Same,
}

/// Segments of one connection that continue each other, as headers: their payload lies wherever the caller has put it.
///
/// [`Aggregate::begin`] with one segment; for each next one that [`continues`](Aggregate::continues) it, and whose checksum is known
/// to be right, [`append`](Aggregate::append); then [`headers`](Aggregate::headers) and [`vnet`](Aggregate::vnet) of the whole.
#[derive(Clone, Copy, Debug)]
pub struct Aggregate {
    first: HeaderBytes,
    ip: Ip,
    tcp: Tcp,
    /// Bytes of payload of each segment but the last.
    size: u32,
    payload: u32,
    segments: u16,
    numbering: Numbering,
    /// FIN and PSH of the last segment.
    end: u8,
}

/// A segment that continues an aggregate.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    payload: u32,
    flags: u8,
    numbering: Numbering,
}

impl Aggregate {
    /// Begins with the segment whose frame has the leading bytes `bytes`, that `frame` was parsed from, all its headers among them. `None`
    /// if nothing may follow it in the same frame: it is no TCP, or has no payload; it is urgent, opens, pushes or ends; it has options or
    /// extensions of IP, or is a fragment; it says CWR (RFC 3168 §6.1.2), and the receiver takes no such large frames (`ecn`).
    pub fn begin(bytes: &[u8], frame: &Frame, ecn: bool) -> Option<Aggregate> {
        let (ip, tcp) = parts(bytes, frame)?;
        let allowed = ACK | ECE | if ecn { CWR } else { 0 };
        if tcp.flags & ACK == 0 || tcp.flags & !allowed != 0 {
            return None;
        }
        let first = HeaderBytes::new(bytes.get(..headers_len(&ip, &tcp))?);
        Some(Aggregate {
            first,
            ip,
            tcp,
            size: tcp.payload_len,
            payload: tcp.payload_len,
            segments: 1,
            numbering: Numbering::Unknown,
            end: 0,
        })
    }

    /// Whether the segment of a frame continues this one, such that both in one are cut into both again: the next bytes of the same
    /// connection, with the same acknowledgment, window, options and IP header, no more payload than the first had, and room for it.
    pub fn continues(&self, bytes: &[u8], frame: &Frame) -> Option<Next> {
        let (ip, tcp) = parts(bytes, frame)?;
        let whole = self.headers_len() as u32 - ETHERNET_LEN as u32 + self.payload + tcp.payload_len;
        if self.end != 0 || tcp.payload_len > self.size || whole > PACKET_MAX {
            return None;
        }
        if tcp.seq != self.tcp.seq.wrapping_add(self.payload) || (tcp.flags ^ self.tcp.flags) & !(FIN | PSH | CWR) != 0
        {
            return None;
        }
        // Only the first segment of a large frame says CWR.
        if tcp.flags & CWR != 0
            || tcp.header_len != self.tcp.header_len
            || ip.transport_offset != self.ip.transport_offset
        {
            return None;
        }
        let first = self.first.as_slice();
        let same = |from: usize, to: usize| first.get(from..to).is_some() && first.get(from..to) == bytes.get(from..to);
        let t = usize::from(ip.transport_offset);
        let numbering = if ip.src.is_ipv4() {
            let same = same(0, TOTAL_LEN) && same(FRAGMENT, IP_CHECKSUM) && same(IP_CHECKSUM + 2, t);
            self.numbering(bytes).filter(|_| same)?
        } else {
            (same(0, PAYLOAD_LEN) && same(PAYLOAD_LEN + 2, t)).then_some(Numbering::Unknown)?
        };
        let same_tcp = same(t, t + SEQUENCE)
            && same(t + ACKNOWLEDGMENT, t + FLAGS)
            && same(t + WINDOW, t + TCP_CHECKSUM)
            && same(t + URGENT, self.headers_len());
        same_tcp.then_some(Next { payload: tcp.payload_len, flags: tcp.flags, numbering })
    }

    /// How the packets are numbered if this one is the next.
    fn numbering(&self, bytes: &[u8]) -> Option<Numbering> {
        let first = field(self.first.as_slice(), IDENTIFICATION)?;
        let id = field(bytes, IDENTIFICATION)?;
        let counted = id == first.wrapping_add(self.segments);
        let atomic = field(bytes, FRAGMENT)? & DONT_FRAGMENT != 0;
        match self.numbering {
            Numbering::Unknown | Numbering::Counted if counted => Some(Numbering::Counted),
            Numbering::Unknown | Numbering::Same if atomic && id == first => Some(Numbering::Same),
            _ => None,
        }
    }

    /// Takes the segment in; true if another one may follow.
    pub fn append(&mut self, next: Next) -> bool {
        self.payload += next.payload;
        self.segments += 1;
        self.numbering = next.numbering;
        self.end = next.flags & (FIN | PSH);
        let room = self.headers_len() as u32 - ETHERNET_LEN as u32 + self.payload < PACKET_MAX;
        self.end == 0 && next.payload == self.size && room
    }

    /// Segments in it.
    pub fn segments(&self) -> u16 {
        self.segments
    }

    /// Bytes of payload in it.
    pub fn payload_len(&self) -> u32 {
        self.payload
    }

    /// Bytes of payload of its first segment.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Bytes of the headers in front of the payload, those of each segment and of the whole.
    pub fn headers_len(&self) -> usize {
        self.first.as_slice().len()
    }

    /// Bytes of a frame that another segment can bring at most.
    pub fn segment_len(&self) -> u32 {
        self.headers_len() as u32 + self.size
    }

    /// The headers of the frame that holds all of it: of one segment as they came, of several with the pseudo header's sum in the place of
    /// the TCP checksum.
    pub fn headers(&self) -> HeaderBytes {
        let mut headers = self.first;
        if self.segments == 1 {
            return headers;
        }
        let t = usize::from(self.ip.transport_offset);
        let transport_len = (self.headers_len() - t) as u32 + self.payload;
        let packet_len = (t - ETHERNET_LEN) as u32 + transport_len;
        if self.ip.src.is_ipv4() {
            headers.set_u16(TOTAL_LEN, packet_len as u16);
            headers.set_u16(IP_CHECKSUM, 0);
            let sum = Sum::default().bytes(&headers.as_slice()[ETHERNET_LEN..t]).finish();
            headers.set_u16(IP_CHECKSUM, sum);
        } else {
            headers.set_u16(PAYLOAD_LEN, transport_len as u16);
        }
        let offset_and_flags = field(self.first.as_slice(), t + FLAGS - 1).unwrap_or_default();
        headers.set_u16(t + FLAGS - 1, offset_and_flags | u16::from(self.end));
        let pseudo = Sum::default().pseudo(self.ip.src, self.ip.dst, PROTOCOL_TCP, transport_len).fold();
        headers.set_u16(t + TCP_CHECKSUM, pseudo);
        headers
    }

    /// The virtio-net header of the frame that holds all of it, if that is more than one segment.
    pub fn vnet(&self) -> Option<VnetHeader> {
        let kind = if self.ip.src.is_ipv4() { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
        let partial = PartialChecksum { start: self.ip.transport_offset, offset: TCP_CHECKSUM as u16 };
        let gso = Gso { kind, size: self.size as u16, ecn: self.tcp.flags & CWR != 0 };
        (self.segments > 1).then_some(VnetHeader { partial: Some(partial), data_valid: false, gso: Some(gso) })
    }
}

/// A segment with payload that could be a part of a large frame, as far as its own headers say.
fn parts(bytes: &[u8], frame: &Frame) -> Option<(Ip, Tcp)> {
    let Content::Ip(ip) = frame.content else { return None };
    let Transport::Tcp(tcp) = ip.transport else { return None };
    let fixed = if ip.src.is_ipv4() { Ipv4::LEN } else { Ipv6::LEN };
    let t = usize::from(ip.transport_offset);
    // Behind the packet there may be padding, which no large frame has.
    let whole = t == ETHERNET_LEN + fixed && t as u32 + ip.transport_len == frame.len && tcp.payload_len > 0;
    let fragmented = ip.src.is_ipv4() && field(bytes, FRAGMENT)? & !DONT_FRAGMENT != 0;
    (whole && !fragmented && headers_len(&ip, &tcp) <= bytes.len()).then_some((ip, tcp))
}

fn headers_len(ip: &Ip, tcp: &Tcp) -> usize {
    usize::from(ip.transport_offset) + usize::from(tcp.header_len)
}

fn field(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether a TCP frame's checksum is right: `head` are its leading bytes with all headers, of which `rest` is the folded sum over all
/// that follows.
pub fn tcp_checksum_holds(head: &[u8], frame: &Frame, rest: u16) -> bool {
    let Content::Ip(ip) = frame.content else { return false };
    let Some(summed) = head.get(usize::from(ip.transport_offset)..) else { return false };
    let pseudo = Sum::default().pseudo(ip.src, ip.dst, ip.protocol, ip.transport_len);
    pseudo.bytes(summed).word(rest).is_valid()
}

const _: () = assert!(TcpHeader::LEN == 20);
