//! Fragments of IP datagrams (RFC 791 §3.2, RFC 8200 §4.5).
use crate::build::{HeaderBytes, network_headers};
use crate::wire::{Ipv4, Ipv6Fragment};
use crate::{ETHERNET_LEN, Envelope, Sum, ip_header_len};
use std::net::IpAddr;

/// Bytes of IPv6's fragment header.
pub(crate) const FRAGMENT_HEADER_LEN: usize = Ipv6Fragment::LEN;
/// IPv6's number of the fragment header.
pub(crate) const FRAGMENT_HEADER: u8 = 44;
/// More fragments follow, in the flags and offset of IPv4; behind them is the offset, in units of eight bytes.
const IPV4_MORE: u16 = 0x2000;
const IPV4_OFFSET: u16 = 0x1fff;

/// Which part of a datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What the fragments of one datagram have in common, besides addresses and protocol; 16 bits in IPv4.
    pub id: u32,
    /// Where in the datagram it begins, in bytes behind the IP header: a multiple of 8.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
}

impl Fragment {
    /// What IPv4's identification, and its flags and offset, say; `None`: this is a whole datagram.
    pub(crate) fn from_ipv4(id: u16, flags: u16) -> Option<Fragment> {
        let more = flags & IPV4_MORE != 0;
        let offset = (flags & IPV4_OFFSET) << 3;
        (more || offset > 0).then_some(Fragment { id: id.into(), offset, more })
    }

    /// The fragment header at `offset`.
    pub(crate) fn from_ipv6(bytes: &[u8], offset: usize) -> Option<Fragment> {
        let header = Ipv6Fragment::at(bytes, offset)?;
        let place = header.offset_flags.get();
        Some(Fragment { id: header.id.get(), offset: place & !7, more: place & 1 != 0 })
    }
}

/// Bytes of a fragment in front of its part of the datagram, without Ethernet header.
pub const fn fragment_header_len(address: IpAddr) -> u16 {
    let extension = if address.is_ipv6() { FRAGMENT_HEADER_LEN as u16 } else { 0 };
    ip_header_len(address) + extension
}

/// How much of a datagram each fragment but the last carries where packets have at most `mtu` bytes.
pub const fn fragment_capacity(address: IpAddr, mtu: u16) -> u32 {
    (mtu.saturating_sub(fragment_header_len(address)) & !7) as u32
}

/// Writes Ethernet and IP headers of a fragment with `len` bytes of a datagram of `protocol`.
pub fn fragment_headers(envelope: &Envelope, protocol: u8, fragment: &Fragment, len: u32) -> HeaderBytes {
    let mut out = HeaderBytes::new(&[]);
    if envelope.dst.is_ipv6() {
        network_headers(&mut out, envelope, FRAGMENT_HEADER, FRAGMENT_HEADER_LEN as u32 + len);
        let [high, low] = (fragment.offset & !7 | u16::from(fragment.more)).to_be_bytes();
        let [a, b, c, d] = fragment.id.to_be_bytes();
        out.append(&[protocol, 0, high, low, a, b, c, d]);
        return out;
    }
    network_headers(&mut out, envelope, protocol, len);
    out.set_u16(ETHERNET_LEN + 4, fragment.id as u16);
    out.set_u16(ETHERNET_LEN + 6, fragment.offset >> 3 | if fragment.more { IPV4_MORE } else { 0 });
    out.set_u16(ETHERNET_LEN + 10, 0);
    let sum = Sum::default().bytes(out.as_slice().get(ETHERNET_LEN..).unwrap_or_default()).finish();
    out.set_u16(ETHERNET_LEN + 10, sum);
    out
}

const _: () = assert!(FRAGMENT_HEADER_LEN == 8 && Ipv4::LEN == 20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Frame, MacAddr, PROTOCOL_UDP, Transport};

    fn envelope(src: &str, dst: &str) -> Envelope {
        let [src_mac, dst_mac] = [1, 2].map(|last| MacAddr([2, 0, 0, 0, 0, last]));
        Envelope { src_mac, dst_mac, src: src.parse().unwrap(), dst: dst.parse().unwrap() }
    }

    #[test]
    fn what_is_built_is_read_back() {
        for (src, dst, id) in [("192.0.2.1", "192.0.2.2", 0xabcd), ("2001:db8::1", "2001:db8::2", 0x1234_5678)] {
            let envelope = envelope(src, dst);
            for (offset, more, len) in [(0, true, 1480), (1480, true, 8), (65_528, false, 7), (8, false, 1)] {
                let fragment = Fragment { id, offset, more };
                let headers = fragment_headers(&envelope, PROTOCOL_UDP, &fragment, len);
                let frame = Frame::parse(headers.as_slice(), headers.as_slice().len() as u32 + len).unwrap();
                let Content::Ip(ip) = frame.content else { panic!() };
                assert_eq!((ip.transport, ip.protocol), (Transport::Fragment(fragment), PROTOCOL_UDP));
                assert_eq!((ip.src, ip.dst, ip.transport_len), (envelope.src, envelope.dst, len));
                assert_eq!(headers.as_slice().len(), ETHERNET_LEN + usize::from(fragment_header_len(ip.dst)));
            }
        }
    }

    #[test]
    fn each_fragment_but_the_last_carries_whole_units_and_fits() {
        let [v4, v6] = ["192.0.2.2", "2001:db8::2"].map(|a| a.parse().unwrap());
        assert_eq!([576, 1500, 1501, 65_520].map(|mtu| fragment_capacity(v4, mtu)), [552, 1480, 1480, 65_496]);
        assert_eq!([1280, 1500, 65_520].map(|mtu| fragment_capacity(v6, mtu)), [1232, 1448, 65_472]);
        assert_eq!(Fragment::from_ipv4(7, 0x4000), None, "don't fragment says nothing of fragments");
    }
}
