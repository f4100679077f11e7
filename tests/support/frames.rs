//! Ethernet frames made by hand, independent of the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub type Mac = [u8; 6];

/// To everybody.
pub const BROADCAST: Mac = [0xff; 6];

/// The MAC that [`crate::TestConfig::vm`] gives to VM `number`.
pub const fn mac(number: u8) -> Mac {
    [0x52, 0x54, 0, 0, 0, number]
}

/// The address that [`crate::TestConfig::vm`] gives to VM `number`.
pub const fn ip4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// Hexadecimal digits, for `vonic-peer inject`.
pub fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An Ethernet frame, padded to 60 bytes.
pub fn ethernet(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&destination[..], &source, &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An ARP message (RFC 826); `operation` 1 asks, 2 answers. `frame_source` is the Ethernet header's, the rest the message's own.
pub fn arp(frame_source: Mac, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        message.extend(mac);
        message.extend(address.octets());
    }
    let destination = if operation == 1 { BROADCAST } else { target.0 };
    ethernet(destination, frame_source, 0x0806, &message)
}

/// "Who has `address`?" from VM `number`.
pub fn arp_request(number: u8, address: Ipv4Addr) -> Vec<u8> {
    arp(mac(number), 1, (mac(number), ip4(number)), ([0; 6], address))
}

/// Whether `frame` answers [`arp_request`] for `address`; the answer's MAC.
pub fn arp_answer(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let message = frame.get(14..42)?;
    let is_answer = frame[12..14] == [8, 6] && message[6..8] == [0, 2] && message[14..18] == address.octets();
    is_answer.then(|| message[8..14].try_into().ok())?
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet without options (RFC 791).
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An ICMP echo request (RFC 792) in an Ethernet frame.
pub fn ping(link: (Mac, Mac), source: Ipv4Addr, destination: Ipv4Addr, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0, 1];
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ethernet(link.1, link.0, 0x0800, &ipv4(source, destination, 1, &message))
}

/// What the transport checksum of a segment of `length` bytes covers before the segment itself (RFC 9293 §3.1, RFC 768).
pub fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&source.octets());
    bytes[4..8].copy_from_slice(&destination.octets());
    bytes[9] = protocol;
    bytes[10..].copy_from_slice(&(length as u16).to_be_bytes());
    bytes
}

/// An IPv6 packet without extension headers (RFC 8200).
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([protocol, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// As [`pseudo_header`], over IPv6 (RFC 8200 §8.1).
pub fn pseudo_header6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&source.octets());
    bytes[16..32].copy_from_slice(&destination.octets());
    bytes[32..36].copy_from_slice(&(length as u32).to_be_bytes());
    bytes[39] = protocol;
    bytes
}

/// A UDP datagram (RFC 768) in an Ethernet frame, with a right checksum.
pub fn udp(link: (Mac, Mac), source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len();
    let mut datagram = Vec::with_capacity(length);
    for field in [ports.0, ports.1, length as u16, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(data);
    let sum = match checksum(&[&pseudo_header(source, destination, 17, length)[..], &datagram].concat()) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ethernet(link.1, link.0, 0x0800, &ipv4(source, destination, 17, &datagram))
}

/// A TCP segment (RFC 9293) in an Ethernet frame, with a right checksum.
#[derive(Debug, Clone, Default)]
pub struct Tcp {
    /// Source and destination ports.
    pub ports: (u16, u16),
    /// SEG.SEQ.
    pub sequence: u32,
    /// SEG.ACK.
    pub acknowledgment: u32,
    /// FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// SEG.WND.
    pub window: u16,
    /// Options, padded by the caller to whole words, at most 40 bytes.
    pub options: Vec<u8>,
    /// SEG.TEXT.
    pub text: Vec<u8>,
}

impl Tcp {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;

    /// The whole frame from `link.0` to `link.1`.
    pub fn frame(&self, link: (Mac, Mac), source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let segment = self.segment(|length| pseudo_header(source, destination, 6, length).to_vec());
        ethernet(link.1, link.0, 0x0800, &ipv4(source, destination, 6, &segment))
    }

    /// As [`Tcp::frame`], over the addresses' family.
    pub fn frame_of(&self, link: (Mac, Mac), addresses: (IpAddr, IpAddr)) -> Vec<u8> {
        match addresses {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let segment = self.segment(|length| pseudo_header6(source, destination, 6, length).to_vec());
                ethernet(link.1, link.0, 0x86dd, &ipv6(source, destination, 6, &segment))
            }
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.frame(link, source, destination),
            families => unreachable!("{families:?}"),
        }
    }

    /// Header and text, with the checksum over what `pseudo` gives for their length.
    fn segment(&self, pseudo: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.ports.0.to_be_bytes());
        segment.extend(self.ports.1.to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgment.to_be_bytes());
        segment.extend([(20 + self.options.len() as u8) << 2, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options);
        segment.extend(&self.text);
        let sum = checksum(&[&pseudo(segment.len())[..], &segment].concat());
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    /// The segment in an Ethernet frame that carries IPv4 without options, or IPv6 without extension headers.
    pub fn parse(frame: &[u8]) -> Option<Tcp> {
        let packet = frame.get(14..)?;
        let length = |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
        match (&frame[12..14], *packet.first()? >> 4) {
            ([8, 0], 4) if packet[0] == 0x45 && *packet.get(9)? == 6 => Tcp::read(packet.get(20..length(2)?)?),
            ([0x86, 0xdd], 6) if *packet.get(6)? == 6 => Tcp::read(packet.get(40..40 + length(4)?)?),
            _ => None,
        }
    }

    fn read(segment: &[u8]) -> Option<Tcp> {
        let offset = usize::from(segment.get(12)? >> 4) * 4;
        let half = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        Some(Tcp {
            options: segment.get(20..offset)?.to_vec(),
            text: segment.get(offset..)?.to_vec(),
            ports: (half(0), half(2)),
            sequence: word(4),
            acknowledgment: word(8),
            flags: segment[13],
            window: half(14),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_verify_to_zero() {
        let frame = ping((mac(2), mac(3)), ip4(2), ip4(3), 1, b"odd");
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(checksum(&frame[34..45]), 0);
        let segment = Tcp { ports: (1000, 80), sequence: 7, flags: Tcp::SYN, text: b"text".to_vec(), ..Tcp::default() };
        let read = Tcp::parse(&segment.frame((mac(2), mac(3)), ip4(2), ip4(3))).unwrap();
        assert_eq!((read.ports, read.sequence, read.flags, &read.text[..]), ((1000, 80), 7, Tcp::SYN, &b"text"[..]));
    }

    #[test]
    fn an_arp_answer_is_told_from_a_request() {
        let answer = arp(mac(3), 2, (mac(3), ip4(3)), (mac(2), ip4(2)));
        assert_eq!(arp_answer(&answer, ip4(3)), Some(mac(3)));
        assert_eq!(arp_answer(&answer, ip4(4)), None);
        assert_eq!(arp_answer(&arp_request(2, ip4(3)), ip4(3)), None);
    }
}
