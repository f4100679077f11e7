//! Segmentation of a run of UDP datagrams that a kernel has put into one frame (UDP_SEGMENT, UDP_GRO): the headers of each. The
//! payload stays where it is.
use crate::segment::Segment;
use crate::{DropReason, ETHERNET_LEN, HeaderBytes, PROTOCOL_UDP, PartialChecksum, Sum, UDP_CHECKSUM, UDP_HEADER_LEN};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an IPv6 header, and of an IPv4 header without options.
const IPV6_LEN: usize = 40;
const IPV4_LEN: usize = 20;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Cuts a frame into datagrams. Iterating yields each in order.
#[derive(Clone, Debug)]
pub struct DatagramSegmenter {
    headers: HeaderBytes,
    ends: (IpAddr, IpAddr),
    partial: PartialChecksum,
    size: u32,
    payload_len: u32,
    done: u32,
    index: u16,
}

impl DatagramSegmenter {
    /// `bytes` are the leading bytes of a frame of `frame_len`, whose checksum is `partial`; each datagram but the last has `size` bytes
    /// of payload.
    ///
    /// # Errors
    /// `BadVnetHeader` if it is no UDP over IPv4 or IPv6.
    pub fn new(
        bytes: &[u8],
        frame_len: u32,
        partial: PartialChecksum,
        size: u16,
    ) -> Result<DatagramSegmenter, DropReason> {
        let start = usize::from(partial.start);
        let end = start + UDP_HEADER_LEN;
        let bad = DropReason::BadVnetHeader;
        let headers = HeaderBytes::new(bytes.get(..end).ok_or(bad)?);
        let payload_len = frame_len.checked_sub(end as u32).filter(|len| *len > 0).ok_or(bad)?;
        let ends = ends(headers.as_slice(), start).filter(|_| usize::from(partial.offset) == UDP_CHECKSUM && size > 0);
        let ends = ends.ok_or(bad)?;
        Ok(DatagramSegmenter { headers, ends, partial, size: size.into(), payload_len, done: 0, index: 0 })
    }

    fn network_header(&self, headers: &mut HeaderBytes, udp_len: u32) {
        let packet = u32::from(self.partial.start) - ETHERNET_LEN as u32 + udp_len;
        if self.ends.0.is_ipv6() {
            return headers.set_u16(ETHERNET_LEN + 4, (packet - IPV6_LEN as u32) as u16);
        }
        let field = |at: usize| self.headers.as_slice().get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        headers.set_u16(ETHERNET_LEN + 2, packet as u16);
        headers.set_u16(ETHERNET_LEN + 4, field(ETHERNET_LEN + 4).wrapping_add(self.index));
        headers.set_u16(ETHERNET_LEN + 10, 0);
        let whole = headers.as_slice().get(ETHERNET_LEN..usize::from(self.partial.start)).unwrap_or_default();
        let sum = Sum::default().bytes(whole).finish();
        headers.set_u16(ETHERNET_LEN + 10, sum);
    }
}

/// Source and destination, if the bytes are the headers of a datagram whose UDP header is at `start`.
fn ends(bytes: &[u8], start: usize) -> Option<(IpAddr, IpAddr)> {
    let ip = bytes.get(ETHERNET_LEN..start)?;
    let kind = bytes.get(ETHERNET_LEN - 2..ETHERNET_LEN)?;
    if kind == ETHERTYPE_IPV4 && ip.len() >= IPV4_LEN && usize::from(ip[0] & 0xf) * 4 == ip.len() {
        let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?).into());
        return Some((address(12)?, address(16)?)).filter(|_| ip[9] == PROTOCOL_UDP);
    }
    if kind == ETHERTYPE_IPV6 && ip.len() >= IPV6_LEN {
        let address = |at: usize| Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?).into());
        return Some((address(8)?, address(24)?));
    }
    None
}

impl Iterator for DatagramSegmenter {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let payload_len = self.size.min(self.payload_len - self.done);
        if payload_len == 0 {
            return None;
        }
        let (mut headers, start) = (self.headers, usize::from(self.partial.start));
        let udp_len = UDP_HEADER_LEN as u32 + payload_len;
        self.network_header(&mut headers, udp_len);
        headers.set_u16(start + 4, udp_len as u16);
        let (src, dst) = self.ends;
        let pseudo = Sum::default().pseudo(src, dst, PROTOCOL_UDP, udp_len).fold();
        headers.set_u16(start + UDP_CHECKSUM, pseudo);
        let payload_offset = headers.as_slice().len() as u32 + self.done;
        self.done += payload_len;
        self.index = self.index.wrapping_add(1);
        Some(Segment { headers, payload_offset, payload_len, partial: self.partial })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Frame, MacAddr, Transport};

    fn large(v6: bool, payload: &[u8]) -> (Vec<u8>, PartialChecksum) {
        let len = 8 + payload.len() as u16;
        let mut bytes = [MacAddr([2, 0, 0, 0, 0, 1]).0, MacAddr([2, 0, 0, 0, 0, 2]).0].concat();
        if v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(len.to_be_bytes());
            bytes.extend([17, 64]);
            bytes.extend([0x20; 16]);
            bytes.extend([0x30; 16]);
        } else {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend((20 + len).to_be_bytes());
            bytes.extend([0xff, 0xff, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        }
        let partial = PartialChecksum { start: bytes.len() as u16, offset: 6 };
        bytes.extend([0x10, 0, 0x20, 0]);
        bytes.extend(len.to_be_bytes());
        bytes.extend([0xaa, 0xaa]);
        bytes.extend(payload);
        (bytes, partial)
    }

    #[test]
    fn datagrams_are_whole_frames_and_carry_every_byte_once() {
        let payload: Vec<u8> = (0..3001u32).map(|i| (i % 251) as u8).collect();
        for v6 in [false, true] {
            let (bytes, partial) = large(v6, &payload);
            let mut got = Vec::new();
            let mut sizes = Vec::new();
            for mut s in DatagramSegmenter::new(&bytes[..128], bytes.len() as u32, partial, 1000).unwrap() {
                let part = &bytes[s.payload_offset as usize..][..s.payload_len as usize];
                s.partial.complete(&mut s.headers, Sum::default().bytes(part).fold());
                let whole = [s.headers.as_slice(), part].concat();
                let parsed = Frame::parse(&whole[..whole.len().min(128)], whole.len() as u32).unwrap();
                let Content::Ip(ip) = parsed.content else { panic!() };
                assert!(matches!(ip.transport, Transport::Udp(_)));
                let udp = &whole[usize::from(ip.transport_offset)..];
                assert!(Sum::default().pseudo(ip.src, ip.dst, PROTOCOL_UDP, udp.len() as u32).bytes(udp).is_valid());
                if !v6 {
                    assert!(Sum::default().bytes(&whole[14..34]).is_valid());
                    assert_eq!(whole[18..20], 0xffff_u16.wrapping_add(sizes.len() as u16).to_be_bytes());
                }
                sizes.push(part.len());
                got.extend_from_slice(part);
            }
            assert_eq!((got, sizes), (payload.clone(), vec![1000, 1000, 1000, 1]));
        }
    }

    #[test]
    fn what_is_no_run_of_datagrams_is_refused() {
        let (good, partial) = large(false, b"abc");
        let refused = |bytes: &[u8], partial, size| {
            let result = DatagramSegmenter::new(bytes, bytes.len() as u32, partial, size);
            assert_eq!(result.err(), Some(DropReason::BadVnetHeader));
        };
        refused(&good, partial, 0);
        refused(&good, PartialChecksum { offset: 16, ..partial }, 1);
        refused(&good, PartialChecksum { start: 38, ..partial }, 1);
        refused(&good[..42], partial, 1);
        refused(&good[..41], partial, 1);
        let mut tcp = good.clone();
        tcp[23] = 6;
        refused(&tcp, partial, 1);
        assert_eq!(DatagramSegmenter::new(&good, good.len() as u32, partial, 1).unwrap().count(), 3);
    }
}
