//! Fragments of IP datagrams made and put together by hand (RFC 791 §3.2, RFC 8200 §4.5), independent of the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::frames::{self, Mac, checksum, pseudo_header};
use crate::mock::{MockFrontend, VnetHeader};

/// UDP, ICMP and ICMPv6.
pub const UDP: u8 = 17;
/// ICMP.
pub const ICMP: u8 = 1;
/// ICMPv6.
pub const ICMP6: u8 = 58;

/// A transport's message between two addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Its header and payload.
    pub bytes: Vec<u8>,
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(_), _) if protocol == ICMP => Vec::new(),
        (IpAddr::V4(source), IpAddr::V4(destination)) => pseudo_header(source, destination, protocol, length).to_vec(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let end = [(length as u32).to_be_bytes(), [0, 0, 0, protocol]].concat();
            [&source.octets()[..], &destination.octets(), &end].concat()
        }
        // Two families: no packet has both.
        _ => Vec::new(),
    }
}

impl Message {
    /// A UDP datagram with a right checksum.
    pub fn udp((source, destination): (IpAddr, IpAddr), ports: (u16, u16), data: &[u8]) -> Message {
        let length = 8 + data.len();
        let header = [ports.0, ports.1, length as u16, 0].map(u16::to_be_bytes).concat();
        Message { source, destination, protocol: UDP, bytes: [&header, data].concat() }.summed(6)
    }

    /// An echo request with a right checksum.
    pub fn ping((source, destination): (IpAddr, IpAddr), (id, sequence): (u16, u16), data: &[u8]) -> Message {
        let (protocol, kind) = if source.is_ipv4() { (ICMP, 8) } else { (ICMP6, 128) };
        let header = [[kind, 0], [0, 0], id.to_be_bytes(), sequence.to_be_bytes()].concat();
        Message { source, destination, protocol, bytes: [&header, data].concat() }.summed(2)
    }

    fn sum(&self) -> u16 {
        let start = pseudo(self.source, self.destination, self.protocol, self.bytes.len());
        checksum(&[&start, &self.bytes[..]].concat())
    }

    fn summed(mut self, at: usize) -> Message {
        let sum = match self.sum() {
            0 => 0xffff,
            sum => sum,
        };
        self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// The places of its fragments where packets have at most `mtu` bytes.
    pub fn cuts(&self, mtu: usize) -> Vec<Range<usize>> {
        let headers = if self.source.is_ipv4() { 20 } else { 48 };
        let each = (mtu - headers) / 8 * 8;
        let starts = (0..self.bytes.len()).step_by(each);
        starts.map(|start| start..self.bytes.len().min(start + each)).collect()
    }

    /// A part of it in an Ethernet frame to `link.1` from `link.0`; `more`: the flag says that others follow.
    pub fn fragment(&self, link: (Mac, Mac), id: u32, part: Range<usize>, more: bool) -> Vec<u8> {
        frame(link, (self.source, self.destination, self.protocol), (id, part.start, more), &self.bytes[part])
    }

    /// All of it in fragments, in their order.
    pub fn fragments(&self, link: (Mac, Mac), id: u32, mtu: usize) -> Vec<Vec<u8>> {
        let whole = self.bytes.len();
        self.cuts(mtu).into_iter().map(|part| self.fragment(link, id, part.clone(), part.end < whole)).collect()
    }
}

/// Any fragment.
pub fn frame(
    link: (Mac, Mac),
    (source, destination, protocol): (IpAddr, IpAddr, u8),
    (id, offset, more): Place,
    bytes: &[u8],
) -> Vec<u8> {
    let flags = offset as u16;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = frames::ipv4(source, destination, protocol, bytes);
            packet[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            packet[6..8].copy_from_slice(&(flags >> 3 | if more { 0x2000 } else { 0 }).to_be_bytes());
            packet[10..12].fill(0);
            let sum = checksum(&packet[..20]).to_be_bytes();
            packet[10..12].copy_from_slice(&sum);
            frames::ethernet(link.1, link.0, 0x0800, &packet)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (8 + bytes.len()) as u16;
            let mut packet = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[44, 64]].concat();
            packet.extend([source.octets(), destination.octets()].concat());
            packet.extend([protocol, 0]);
            packet.extend((flags | u16::from(more)).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend(bytes);
            frames::ethernet(link.1, link.0, 0x86dd, &packet)
        }
        // Two families: no packet has both.
        _ => Vec::new(),
    }
}

/// A fragment's id and offset, and whether others follow.
type Place = (u32, usize, bool);

/// What a frame carries: a whole message, or a part of one with its id, offset and "more" flag.
fn read(frame: &[u8], mtu: usize) -> Result<Option<(Message, Option<Place>)>> {
    let packet = &frame[14..];
    let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let octets = |range: Range<usize>| packet[range].to_vec();
    if frame[12..14] == [8, 0] {
        let length = usize::from(half(2));
        ensure!(packet[0] == 0x45 && length <= mtu && checksum(&packet[..20]) == 0, "{packet:02x?}");
        let address =
            |at: usize| IpAddr::from(Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]));
        let (source, destination, bytes) = (address(12), address(16), octets(20..length));
        let part = (half(6) & 0x3fff != 0)
            .then(|| (u32::from(half(4)), usize::from(half(6) & 0x1fff) * 8, half(6) & 0x2000 != 0));
        ensure!(part.is_none() || half(6) & 0x4000 == 0, "a fragment that must not be fragmented");
        return Ok(Some((Message { source, destination, protocol: packet[9], bytes }, part)));
    }
    if frame[12..14] != [0x86, 0xdd] {
        return Ok(None);
    }
    let length = 40 + usize::from(half(4));
    ensure!(length <= mtu && frame.len() == 14 + length, "{length} bytes in {}", frame.len());
    let address =
        |at: usize| -> Result<IpAddr> { Ok(Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16])?).into()) };
    let (source, destination) = (address(8)?, address(24)?);
    let message = |protocol, start| Message { source, destination, protocol, bytes: octets(start..length) };
    if packet[6] != 44 {
        return Ok(Some((message(packet[6], 40), None)));
    }
    let place = half(42);
    let id = u32::from(half(44)) << 16 | u32::from(half(46));
    Ok(Some((message(packet[40], 48), Some((id, usize::from(place & !7), place & 1 == 1)))))
}

/// The next message of `protocol` that the device gives to the guest, in one frame or in fragments, which have to come in order, and
/// how many frames it took. Checksums are checked.
///
/// # Errors
/// If none comes within `limit`, or it is not what its headers say.
pub fn hear(mock: &mut MockFrontend, protocol: u8, mtu: usize, limit: Duration) -> Result<(Message, usize)> {
    let end = Instant::now() + limit;
    let mut parts: Option<(u32, Message, usize)> = None;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let so_far = parts.as_ref().map(|(_, message, _)| message.bytes.len());
        let heard = mock.receive_frame(left)?;
        let (header, frame) = heard.with_context(|| format!("no message within {limit:?}, {so_far:?} bytes of one"))?;
        let Some((message, part)) = read(&frame, mtu)?.filter(|(message, _)| message.protocol == protocol) else {
            continue;
        };
        let Some((id, offset, more)) = part else {
            ensure!(parts.is_none(), "a whole message among fragments");
            ensure!(header.flags == VnetHeader::NEEDS_CSUM || message.sum() == 0, "a wrong checksum");
            return Ok((message, 1));
        };
        ensure!((header.flags, header.gso_type) == (0, 0), "a fragment with {header:?}");
        let (first, whole, count) = match parts.take() {
            None => (id, Message { bytes: Vec::new(), ..message.clone() }, 0),
            Some(parts) => parts,
        };
        ensure!((id, offset) == (first, whole.bytes.len()), "fragment {id} at {offset} behind {first}");
        ensure!(!more || message.bytes.len() % 8 == 0, "{} bytes in the midst", message.bytes.len());
        let whole = Message { bytes: [whole.bytes, message.bytes].concat(), ..whole };
        if !more {
            ensure!(whole.sum() == 0, "a wrong checksum over {} bytes", whole.bytes.len());
            return Ok((whole, count + 1));
        }
        parts = Some((id, whole, count + 1));
    }
}
