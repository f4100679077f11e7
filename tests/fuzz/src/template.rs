//! Frames as guests send them: a sound one of each kind, and then some of its bytes may be changed.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vonic_frame::{
    Arp, Checksum, Content, Envelope, Frame, HEADER_MAX, MacAddr, Sum, TcpFields, Transport, arp_frame, tcp_headers,
    udp_frame,
};

use crate::bytes::Bytes;
use crate::server::Ports;

pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// By which guests reach the host's loopback.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

/// A guest's own address.
pub(crate) fn mac(port: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port])
}

/// The same.
pub(crate) fn address(port: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + port)
}

/// The same.
pub(crate) fn address6(port: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10 + u16::from(port))
}

/// What the guest last heard of a connection: its next sequence number, and what to acknowledge.
#[derive(Clone, Copy, Default)]
pub(crate) struct Heard {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
}

/// Connections that a guest has: by the last bits of its port.
pub(crate) type Conversations = [Heard; 8];

/// A frame of port 0's, with its checksums right unless the input wants otherwise.
pub(crate) fn frame(bytes: &mut Bytes<'_>, ports: Ports, heard: &mut Conversations) -> Vec<u8> {
    let mut frame = match bytes.byte() % 16 {
        0 => arp(bytes),
        1 => dhcp(bytes),
        2 => dhcp6(bytes),
        3 | 4 => ndp(bytes),
        5..9 => tcp(bytes, ports, heard),
        9 | 10 => udp(bytes, ports),
        11 => echo(bytes),
        12 => fragment(bytes, ports),
        13 => large(bytes, ports, heard),
        _ => bytes.take(80).to_vec(),
    };
    for _ in 0..bytes.byte().saturating_sub(200) / 8 {
        let at = bytes.below(frame.len().clamp(1, 256));
        let by = bytes.byte();
        if let Some(byte) = frame.get_mut(at) {
            *byte ^= by;
        }
    }
    if bytes.byte() < 240 {
        checksums(&mut frame);
    }
    if bytes.byte() < 10 {
        frame.truncate(bytes.below(frame.len() + 1));
    }
    frame
}

/// IP and transport checksums as they are right for these bytes.
fn checksums(frame: &mut [u8]) {
    if frame.get(12..15).is_some_and(|kind| kind[..2] == [8, 0] && kind[2] & 0xf >= 5) {
        let end = 14 + usize::from(frame[14] & 0xf) * 4;
        if let Some(header) = frame.get_mut(14..end) {
            header[10..12].fill(0);
            let sum = Sum::default().bytes(header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    let Ok(parsed) = Frame::parse(&frame[..frame.len().min(HEADER_MAX)], frame.len() as u32) else { return };
    let Content::Ip(ip) = parsed.content else { return };
    let pseudo = Sum::default().pseudo(ip.src, ip.dst, ip.protocol, ip.transport_len);
    let (at, start) = match ip.transport {
        Transport::Tcp(_) => (16, pseudo),
        Transport::Udp(_) => (6, pseudo),
        Transport::Icmp(_) if ip.src.is_ipv6() => (2, pseudo),
        Transport::Icmp(_) => (2, Sum::default()),
        Transport::Fragment(_) | Transport::Other => return,
    };
    let from = usize::from(ip.transport_offset);
    let Some(transport) = frame.get_mut(from..from + ip.transport_len as usize) else { return };
    transport[at..at + 2].fill(0);
    let sum = start.bytes(transport).finish();
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn envelope(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, dst_mac: MacAddr) -> Envelope {
    Envelope { src_mac: mac(0), dst_mac, src: src.into(), dst: dst.into() }
}

fn arp(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let arp = Arp {
        operation: bytes.of(&[1, 2, 1, 3]),
        sender_mac: mac(0),
        sender: bytes.of(&[address(0), address(1), Ipv4Addr::UNSPECIFIED]),
        target_mac: MacAddr([0; 6]),
        target: bytes.of(&[GATEWAY, address(1), address(0), Ipv4Addr::BROADCAST]),
    };
    arp_frame(mac(0), bytes.of(&[MacAddr::BROADCAST, GATEWAY_MAC, mac(1)]), &arp).as_slice().to_vec()
}

fn udp_of(envelope: &Envelope, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() + 100];
    let len = udp_frame(envelope, ports, payload, &mut out).unwrap_or(0);
    out.truncate(len);
    out
}

/// Options as DHCP has them, of whatever bytes: some that are known, each with a length of its own or a lie.
fn options(bytes: &mut Bytes<'_>, known: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..bytes.byte() % 8 {
        let text = bytes.some(20);
        out.push(bytes.of(known));
        out.push(if bytes.byte() < 230 { text.len() as u8 } else { bytes.byte() });
        out.extend_from_slice(text);
    }
    out
}

fn dhcp(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0];
    message.extend(bytes.word().to_be_bytes());
    message.extend([0, 0, bytes.byte() & 0x80, 0]);
    message.extend(bytes.of(&[Ipv4Addr::UNSPECIFIED, address(0)]).octets());
    message.extend([0; 12]);
    message.extend(mac(0).0);
    message.extend([0; 202]);
    message.extend([99, 130, 83, 99, 53, 1, bytes.byte() % 9]);
    message.extend(options(bytes, &[50, 54, 55, 61, 12, 57, 82, 0, 255, 52]));
    message.push(255);
    let (from, to) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let unicast = bytes.byte() < 40;
    let envelope =
        if unicast { envelope(address(0), GATEWAY, GATEWAY_MAC) } else { envelope(from, to, MacAddr::BROADCAST) };
    udp_of(&envelope, (68, 67), &message)
}

fn dhcp6(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut message = vec![bytes.byte() % 14, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1];
    message.extend(mac(0).0);
    for _ in 0..bytes.byte() % 8 {
        let code: u16 = bytes.of(&[1, 2, 3, 4, 5, 6, 13, 14, 23, 24, 25, 39]);
        let text = bytes.some(48);
        message.extend(code.to_be_bytes());
        let len = if bytes.byte() < 230 { text.len() as u16 } else { bytes.half() };
        message.extend(len.to_be_bytes());
        message.extend_from_slice(text);
    }
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    udp_of(&envelope(mac(0).link_local(), group, MacAddr::of_group(group)), (546, 547), &message)
}

/// An IPv6 packet of whatever transport.
fn packet6(envelope: &Envelope, protocol: u8, hops: u8, text: &[u8]) -> Vec<u8> {
    let mut out = [envelope.dst_mac.0, envelope.src_mac.0].concat();
    out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    out.extend((text.len() as u16).to_be_bytes());
    out.extend([protocol, hops]);
    for end in [envelope.src, envelope.dst] {
        if let IpAddr::V6(end) = end {
            out.extend(end.octets());
        }
    }
    out.extend_from_slice(text);
    out
}

fn packet4(envelope: &Envelope, protocol: u8, (id, fragment): (u16, u16), text: &[u8]) -> Vec<u8> {
    let mut out = [envelope.dst_mac.0, envelope.src_mac.0].concat();
    out.extend([8, 0, 0x45, 0]);
    out.extend((20 + text.len() as u16).to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(fragment.to_be_bytes());
    out.extend([64, protocol, 0, 0]);
    for end in [envelope.src, envelope.dst] {
        if let IpAddr::V4(end) = end {
            out.extend(end.octets());
        }
    }
    out.extend_from_slice(text);
    out
}

fn ndp(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let own = bytes.of(&[mac(0).link_local(), address6(0), Ipv6Addr::UNSPECIFIED, address6(1)]);
    let target = bytes.of(&[GATEWAY6, address6(0), address6(1), address6(9), GATEWAY_MAC.link_local()]);
    let to = match bytes.byte() % 4 {
        0 => vonic_frame::solicited_node(target),
        1 => target,
        2 => vonic_frame::ALL_NODES,
        _ => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2),
    };
    let mut text = vec![bytes.of(&[133, 134, 135, 136, 137, 143, 131]), 0, 0, 0, bytes.byte() & 0xe0, 0, 0, 0];
    text.extend(target.octets());
    if bytes.byte() < 200 {
        text.extend([bytes.of(&[1, 2, 14]), 1]);
        text.extend(mac(0).0);
    }
    text.extend(options(bytes, &[1, 2, 3, 5, 14, 25]));
    let mac = if to.is_multicast() { MacAddr::of_group(to) } else { GATEWAY_MAC };
    packet6(&envelope(own, to, mac), 58, if bytes.byte() < 230 { 255 } else { 64 }, &text)
}

fn destination(bytes: &mut Bytes<'_>) -> (IpAddr, MacAddr) {
    match bytes.byte() % 8 {
        0..4 => (HOST.into(), GATEWAY_MAC),
        4 => (address(1).into(), mac(1)),
        5 => (GATEWAY.into(), GATEWAY_MAC),
        6 => (Ipv4Addr::new(169, 254, 169, 254).into(), GATEWAY_MAC),
        _ => (Ipv4Addr::new(198, 51, 100, 7).into(), GATEWAY_MAC),
    }
}

fn tcp(bytes: &mut Bytes<'_>, ports: Ports, heard: &mut Conversations) -> Vec<u8> {
    let (dst, dst_mac) = destination(bytes);
    let which = bytes.below(heard.len());
    let known = &mut heard[which];
    let flags = bytes.of(&[2, 16, 16, 24, 24, 17, 4, 18, 20, 0, 41, 16]);
    let near = |bytes: &mut Bytes<'_>| if bytes.byte() < 220 { 0 } else { bytes.number() as u32 };
    let (seq, ack) = (known.seq.wrapping_add(near(bytes)), known.ack.wrapping_add(near(bytes)));
    let mut options = Vec::new();
    if flags & 2 != 0 {
        options.extend([2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1]);
    }
    if bytes.byte() > 220 {
        options = bytes.some(41).to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
    }
    let len = if flags & 6 != 0 { 0 } else { usize::from(bytes.half()) % 3000 };
    let fields = TcpFields {
        src_port: 4000 + which as u16,
        dst_port: if bytes.byte() < 240 { ports.tcp } else { 80 },
        seq,
        ack,
        flags,
        window: if bytes.byte() < 200 { 60_000 } else { bytes.half() },
        options: &options,
        payload_len: len as u32,
    };
    let (headers, _) = tcp_headers(&envelope(address(0), dst, dst_mac), &fields, Checksum::Partial);
    known.seq = seq.wrapping_add(len as u32 + u32::from(flags & 3 != 0));
    let mut out = headers.as_slice().to_vec();
    out.resize(out.len() + len, 0x61);
    out
}

/// More than one segment's worth, for segmentation by the device.
fn large(bytes: &mut Bytes<'_>, ports: Ports, heard: &mut Conversations) -> Vec<u8> {
    let which = bytes.below(heard.len());
    let len = usize::from(bytes.half()) % 40_000;
    let known = &mut heard[which];
    let fields = TcpFields {
        src_port: 4000 + which as u16,
        dst_port: ports.tcp,
        seq: known.seq,
        ack: known.ack,
        flags: 16,
        window: 60_000,
        options: &[],
        payload_len: len as u32,
    };
    known.seq = known.seq.wrapping_add(len as u32);
    let (dst, dst_mac) = if bytes.flag() { (HOST, GATEWAY_MAC) } else { (address(1), mac(1)) };
    let (headers, _) = tcp_headers(&envelope(address(0), dst, dst_mac), &fields, Checksum::Partial);
    let mut out = headers.as_slice().to_vec();
    out.resize(out.len() + len, 0x62);
    out
}

fn udp(bytes: &mut Bytes<'_>, ports: Ports) -> Vec<u8> {
    let (dst, dst_mac) = destination(bytes);
    let port = bytes.of(&[ports.udp, 53, 53, 67, 7]);
    let len = usize::from(bytes.half()) % 2000;
    udp_of(&envelope(address(0), dst, dst_mac), (5000 + u16::from(bytes.byte() % 4), port), &vec![0x63; len])
}

fn echo(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let text = [&[bytes.of(&[8, 0, 3, 13]), 0, 0, 0, 1, 2, 0, bytes.byte()], &[0x64; 40][..bytes.below(41)]].concat();
    let (dst, dst_mac) = destination(bytes);
    packet4(&envelope(address(0), dst, dst_mac), 1, (1, 0), &text)
}

fn fragment(bytes: &mut Bytes<'_>, ports: Ports) -> Vec<u8> {
    let (dst, dst_mac) = destination(bytes);
    let mut text = [5000u16, ports.udp, bytes.half() % 3000, 0].map(u16::to_be_bytes).concat();
    text.resize(8 * (1 + bytes.below(150)), 0x65);
    let offset = bytes.of(&[0, 1, 10, 100, 185, 0, 8191]);
    let more = if bytes.flag() { 0x2000 } else { 0 };
    packet4(
        &envelope(address(0), dst, dst_mac),
        bytes.of(&[17, 17, 1, 6]),
        (u16::from(bytes.byte() % 3), offset | more),
        &text,
    )
}
