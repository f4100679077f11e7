//! IPv6 headers, with what may stand between them and the transport (RFC 8200).
use crate::fragment::{FRAGMENT_HEADER as FRAGMENT, FRAGMENT_HEADER_LEN};
use crate::frame::parse_transport;
use crate::wire::{Ipv6, Ipv6Extension};
use crate::{DropReason, ETHERNET_LEN, Fragment, Ip, PROTOCOL_ICMP6, Transport};
use std::net::Ipv6Addr;

/// Extension headers of one packet that are walked over; real ones have one or two.
const EXTENSIONS: usize = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
/// Where in a routing header the number of addresses still to be visited stands.
const SEGMENTS_LEFT: usize = 3;

/// Reads an IPv6 packet's headers. Jumbograms (RFC 2675), whose payload length is 0, are longer than any frame here.
///
/// # Errors
/// `Truncated` where a header or the stated length goes beyond the frame or the copied bytes; `BadHeader`.
pub(crate) fn parse_ipv6(bytes: &[u8], len: u32) -> Result<Ip, DropReason> {
    let ip = Ipv6::at(bytes, ETHERNET_LEN).ok_or(DropReason::Truncated)?;
    if ip.version_class_flow.get() >> 28 != 6 {
        return Err(DropReason::BadHeader);
    }
    let start = ETHERNET_LEN + Ipv6::LEN;
    let end = start + usize::from(ip.payload_len.get());
    if end > len as usize {
        return Err(DropReason::Truncated);
    }
    let (mut protocol, mut offset, mut fragment) = (ip.next_header, start, None);
    for walked in 0.. {
        let header_len = match protocol {
            // Hop-by-hop options stand first or nowhere (RFC 8200 §4.1).
            HOP_BY_HOP if walked > 0 => return Err(DropReason::BadHeader),
            HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT if walked == EXTENSIONS => return Err(DropReason::BadHeader),
            // Where such a packet ends is not its destination address (RFC 8200 §4.4, RFC 5095).
            ROUTING if bytes.get(offset + SEGMENTS_LEFT).is_some_and(|left| *left > 0) => {
                return Err(DropReason::BadHeader);
            }
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let extension = Ipv6Extension::at(bytes, offset).ok_or(DropReason::Truncated)?;
                8 * (usize::from(extension.len) + 1)
            }
            FRAGMENT => FRAGMENT_HEADER_LEN,
            _ => break,
        };
        let extension = Ipv6Extension::at(bytes, offset).ok_or(DropReason::Truncated)?;
        if protocol == FRAGMENT {
            fragment = Some(Fragment::from_ipv6(bytes, offset).ok_or(DropReason::Truncated)?);
        }
        (protocol, offset) = (extension.next_header, offset + header_len);
        if offset > end || offset > bytes.len() {
            return Err(DropReason::Truncated);
        }
        if fragment.is_some() {
            break;
        }
    }
    let transport_len = (end - offset) as u32;
    let transport = match fragment {
        Some(fragment) => Transport::Fragment(fragment),
        None => parse_transport(bytes, (PROTOCOL_ICMP6, protocol), offset, transport_len)?,
    };
    Ok(Ip {
        src: Ipv6Addr::from(ip.src).into(),
        dst: Ipv6Addr::from(ip.dst).into(),
        protocol,
        ttl: ip.hop_limit,
        transport_offset: offset as u16,
        transport_len,
        transport,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checksum, Content, Envelope, Frame, MacAddr, Sum, TcpFields, tcp_headers};

    fn tcp_frame() -> Vec<u8> {
        let envelope = Envelope {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
        };
        let fields = TcpFields {
            src_port: 80,
            dst_port: 1024,
            seq: 7,
            ack: 8,
            flags: 0x10,
            window: 9,
            options: &[],
            payload_len: 0,
        };
        tcp_headers(&envelope, &fields, Checksum::Full(0)).0.as_slice().to_vec()
    }

    /// An extension header: its type, and its bytes from the third on.
    type Extension<'a> = (u8, &'a [u8]);

    /// The frame with `extensions` in front of the transport.
    fn with(extensions: &[Extension<'_>]) -> Vec<u8> {
        let plain = tcp_frame();
        let mut out = plain[..54].to_vec();
        let mut next_at = 20;
        for (kind, rest) in extensions {
            out[next_at] = *kind;
            next_at = out.len();
            out.extend([6, ((rest.len() + 2) / 8 - 1) as u8]);
            out.extend(*rest);
        }
        out.extend(&plain[54..]);
        let len = (out.len() - 54) as u16;
        out[18..20].copy_from_slice(&len.to_be_bytes());
        out
    }

    fn parse(frame: &[u8]) -> Result<Ip, DropReason> {
        match Frame::parse(&frame[..frame.len().min(128)], frame.len() as u32)?.content {
            Content::Ip(ip) => Ok(ip),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_built_is_read_back() {
        let frame = tcp_frame();
        let ip = parse(&frame).unwrap();
        assert_eq!((ip.src.to_string(), ip.dst.to_string()), ("2001:db8::1".into(), "2001:db8::2".into()));
        assert_eq!((ip.protocol, ip.ttl, ip.transport_offset, ip.transport_len), (6, 64, 54, 20));
        assert!(matches!(ip.transport, Transport::Tcp(tcp) if (tcp.src_port, tcp.seq, tcp.ack) == (80, 7, 8)));
        assert!(Sum::default().pseudo(ip.src, ip.dst, 6, 20).bytes(&frame[54..]).is_valid());
    }

    #[test]
    fn extension_headers_are_walked_over() {
        let ip = parse(&with(&[(HOP_BY_HOP, &[0; 6]), (DESTINATION, &[0; 14])])).unwrap();
        assert_eq!((ip.protocol, ip.transport_offset, ip.transport_len), (6, 78, 20));
        assert!(matches!(ip.transport, Transport::Tcp(_)));
        let ip = parse(&with(&[(DESTINATION, &[0; 6]), (FRAGMENT, &[0; 6])])).unwrap();
        assert_eq!((ip.protocol, ip.transport), (6, Transport::Fragment(Fragment { id: 0, offset: 0, more: false })));
    }

    #[test]
    fn lies_have_names() {
        let cases: [(&[Extension<'_>], DropReason); 4] = [
            (&[(ROUTING, &[0, 1, 0, 0, 0, 0])], DropReason::BadHeader),
            (&[(DESTINATION, &[0; 6]), (HOP_BY_HOP, &[0; 6])], DropReason::BadHeader),
            (&[(DESTINATION, [0u8; 6].as_slice()); 5], DropReason::BadHeader),
            (&[(DESTINATION, &[0; 86])], DropReason::Truncated),
        ];
        for (extensions, reason) in cases {
            assert_eq!(parse(&with(extensions)), Err(reason), "{extensions:?}");
        }
        let with_byte = |at: usize, value: u8| {
            let mut frame = with(&[(DESTINATION, &[0; 6])]);
            frame[at] = value;
            parse(&frame)
        };
        assert_eq!(with_byte(14, 0x40), Err(DropReason::BadHeader), "version");
        assert_eq!(with_byte(19, 29), Err(DropReason::Truncated), "longer than the frame");
        assert_eq!(with_byte(19, 0), Err(DropReason::Truncated), "shorter than its headers");
        assert_eq!(with_byte(55, 200), Err(DropReason::Truncated), "an extension beyond the packet");
        // ICMP of the other family is no ICMP.
        assert_eq!(with_byte(54, 1).map(|ip| ip.transport), Ok(Transport::Other));
    }

    #[test]
    fn no_bytes_panic() {
        let good = with(&[(HOP_BY_HOP, &[0; 6]), (ROUTING, &[0; 6])]);
        for at in 0..good.len() {
            for value in [0, 1, 6, 43, 44, 58, 60, 0x7f, 0x80, 0xff] {
                let mut frame = good.clone();
                frame[at] = value;
                for len in 0..=frame.len() {
                    let _ = Frame::parse(&frame[..len], frame.len() as u32);
                }
            }
        }
    }
}
