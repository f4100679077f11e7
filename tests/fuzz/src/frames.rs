//! Frames of whatever bytes: every parser of `vonic-frame`, and what is made of what it found.
use std::net::IpAddr;

use vonic_frame::{
    Arp, Content, DatagramSegmenter, EchoRequest, Frame, HEADER_MAX, Ip, Ndp, Offloads, PartialChecksum, Segmenter,
    Transport, VNET_HEADER_LEN, VnetHeader, arp_frame, refused_datagram, refused_segment, tcp_checksum_holds,
};
use vonic_tcp::Options;

/// An input is a virtio-net header and a frame behind two bytes: which offloads were negotiated, and how much longer the frame is than
/// what is there of it (frames are parsed by their first bytes).
pub fn run(data: &[u8]) {
    let Some((choices, data)) = data.split_first_chunk::<2>() else { return };
    let Some((vnet, frame)) = data.split_first_chunk::<VNET_HEADER_LEN>() else { return };
    let head = &frame[..frame.len().min(HEADER_MAX)];
    let longer = if frame.len() < HEADER_MAX { 0 } else { u32::from(choices[1]) * 257 };
    let len = frame.len() as u32 + longer;
    let bit = |bit: u8| choices[0] & 1 << bit != 0;
    let offloads = Offloads { csum: bit(0), tso4: bit(1), tso6: bit(2), ecn: bit(3) };
    let vnet = VnetHeader::parse(vnet, len, offloads);
    if let Ok(vnet) = &vnet {
        assert!(vnet.gso.is_none_or(|gso| offloads.takes(gso) && gso.size > 0 && vnet.partial.is_some()), "{vnet:?}");
        let end = vnet.partial.map_or(0, |partial| u32::from(partial.start) + u32::from(partial.offset) + 2);
        assert!(end <= len, "{vnet:?}");
        if let Some(partial) = vnet.partial {
            datagrams(head, len, partial, u16::from_le_bytes([choices[0], choices[1]]));
        }
    }
    let Ok(parsed) = Frame::parse(head, len) else { return };
    assert_eq!(parsed.len, len);
    match &parsed.content {
        Content::Arp(arp) => arp_again(&parsed, arp),
        Content::Ip(ip) => packet(head, &parsed, ip, vnet.ok()),
        Content::Other(_) => {}
    }
}

/// An ARP message says the same when it is written and read again.
fn arp_again(parsed: &Frame, arp: &Arp) {
    let again = arp_frame(parsed.src, parsed.dst, arp);
    let again = again.as_slice();
    assert_eq!(Frame::parse(again, again.len() as u32).map(|frame| frame.content), Ok(Content::Arp(*arp)));
}

fn packet(head: &[u8], parsed: &Frame, ip: &Ip, vnet: Option<VnetHeader>) {
    assert_eq!(ip.src.is_ipv4(), ip.dst.is_ipv4());
    let end = u32::from(ip.transport_offset) + ip.transport_len;
    assert!(ip.transport_offset >= 34 && end <= parsed.len, "{ip:?}");
    let _ = ip.dont_fragment(head);
    if let (Ok(Some(_)), IpAddr::V4(_)) = (Ndp::read(head, ip), ip.src) {
        panic!("NDP over IPv4");
    }
    let _ = EchoRequest::read(head, ip);
    if let Some((from, to)) = refused_datagram(head, ip) {
        assert_eq!(from.is_ipv4(), to.is_ipv4());
    }
    let _ = refused_segment(head, ip);
    match &ip.transport {
        Transport::Tcp(tcp) => {
            let (t, header) = (usize::from(ip.transport_offset), usize::from(tcp.header_len));
            assert!((20..=60).contains(&header) && header as u32 + tcp.payload_len == ip.transport_len, "{tcp:?}");
            if let Some(options) = head.get(t + 20..t + header) {
                let options = Options::parse(options);
                let again = options.emit();
                assert_eq!(Options::parse(again.as_slice()), options);
            }
            let _ = tcp_checksum_holds(head, parsed, 0);
            if let Some(gso) = vnet.and_then(|vnet| vnet.gso)
                && let Ok(segments) = Segmenter::new(head, parsed, gso)
            {
                let lens: Vec<u32> = segments.take(70_000).map(|segment| segment.payload_len).collect();
                assert_eq!(lens.iter().sum::<u32>(), tcp.payload_len);
                assert!(lens.iter().all(|len| *len <= gso.size.into()));
            }
        }
        Transport::Udp(udp) => assert!(u32::from(udp.payload_len) + 8 <= ip.transport_len, "{udp:?}"),
        Transport::Fragment(_) | Transport::Icmp(_) | Transport::Other => {}
    }
}

/// What a kernel puts together of datagrams is cut into all of them.
fn datagrams(head: &[u8], len: u32, partial: PartialChecksum, size: u16) {
    let Ok(all) = DatagramSegmenter::new(head, len, partial, size) else { return };
    let (mut next, mut sum) = (u32::from(partial.start) + 8, 0);
    for datagram in all.take(70_000) {
        assert!(datagram.payload_offset == next && datagram.payload_len <= size.into());
        next += datagram.payload_len;
        sum += datagram.payload_len;
    }
    assert_eq!(sum, len - u32::from(partial.start) - 8);
}
