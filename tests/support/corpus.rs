//! Malformed packets, made by rule: each field of each header at its limits, each length a lie, each frame cut short at each byte, each option
//! of each kind with lengths that cannot be. Every packet stands there as it is and, where it has checksums, with these made right.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frames::{self, BROADCAST, Mac, Tcp, checksum, ip4, mac};
use crate::lies;
use crate::mock::VnetHeader;

/// A field: its name, its first bit and how many it has, within its header.
type Field = (&'static str, usize, usize);

/// A frame that is meant to be refused, ignored, or taken as harmless.
#[derive(Debug, Clone)]
pub struct Malformed {
    /// Which packet, and what is wrong with it.
    pub name: String,
    /// The header in front of it.
    pub vnet: VnetHeader,
    /// The frame.
    pub frame: Vec<u8>,
}

const ETHERNET: &[Field] = &[("destination", 0, 48), ("source", 48, 48), ("type", 96, 16)];
const ARP: &[Field] = &[
    ("hardware type", 0, 16),
    ("protocol type", 16, 16),
    ("hardware length", 32, 8),
    ("protocol length", 40, 8),
    ("operation", 48, 16),
    ("sender MAC", 64, 48),
    ("sender address", 112, 32),
    ("target MAC", 144, 48),
    ("target address", 192, 32),
];
const IPV4: &[Field] = &[
    ("version", 0, 4),
    ("IHL", 4, 4),
    ("DSCP", 8, 6),
    ("ECN", 14, 2),
    ("total length", 16, 16),
    ("identification", 32, 16),
    ("flags", 48, 3),
    ("fragment offset", 51, 13),
    ("time to live", 64, 8),
    ("protocol", 72, 8),
    ("checksum", 80, 16),
    ("source", 96, 32),
    ("destination", 128, 32),
];
const IPV6: &[Field] = &[
    ("version", 0, 4),
    ("traffic class", 4, 8),
    ("flow label", 12, 20),
    ("payload length", 32, 16),
    ("next header", 48, 8),
    ("hop limit", 56, 8),
    ("source", 64, 128),
    ("destination", 192, 128),
];
const TCP: &[Field] = &[
    ("source port", 0, 16),
    ("destination port", 16, 16),
    ("sequence", 32, 32),
    ("acknowledgment", 64, 32),
    ("data offset", 96, 4),
    ("reserved", 100, 4),
    ("flags", 104, 8),
    ("window", 112, 16),
    ("checksum", 128, 16),
    ("urgent pointer", 144, 16),
];
const UDP: &[Field] = &[("source port", 0, 16), ("destination port", 16, 16), ("length", 32, 16), ("checksum", 48, 16)];
const ICMP: &[Field] =
    &[("type", 0, 8), ("code", 8, 8), ("checksum", 16, 16), ("identifier", 32, 16), ("sequence", 48, 16)];
const ND: &[Field] = &[
    ("type", 0, 8),
    ("code", 8, 8),
    ("checksum", 16, 16),
    ("flags", 32, 32),
    ("target", 64, 128),
    ("option type", 192, 8),
    ("option length", 200, 8),
];
const DHCP: &[Field] = &[
    ("op", 0, 8),
    ("htype", 8, 8),
    ("hlen", 16, 8),
    ("hops", 24, 8),
    ("xid", 32, 32),
    ("secs", 64, 16),
    ("flags", 80, 16),
    ("ciaddr", 96, 32),
    ("yiaddr", 128, 32),
    ("siaddr", 160, 32),
    ("giaddr", 192, 32),
    ("chaddr", 224, 128),
    ("cookie", 1888, 32),
    ("first option", 1920, 8),
    ("first length", 1928, 8),
    ("first value", 1936, 8),
];
const DNS: &[Field] = &[
    ("id", 0, 16),
    ("flags", 16, 16),
    ("questions", 32, 16),
    ("answers", 48, 16),
    ("authorities", 64, 16),
    ("additional", 80, 16),
    ("first label", 96, 8),
];
const DHCP6: &[Field] = &[("type", 0, 8), ("transaction", 8, 24), ("first option", 32, 16), ("first length", 48, 16)];
const EXTENSION: &[Field] = &[("next header", 0, 8), ("length", 8, 8), ("first option", 16, 8), ("its length", 24, 8)];
const VNET: &[Field] = &[
    ("flags", 0, 8),
    ("gso_type", 8, 8),
    ("hdr_len", 16, 16),
    ("gso_size", 32, 16),
    ("csum_start", 48, 16),
    ("csum_offset", 64, 16),
    ("num_buffers", 80, 16),
];

/// A packet in order, and its headers, each with the byte at which it begins.
struct Packet {
    name: &'static str,
    frame: Vec<u8>,
    headers: Vec<(&'static str, &'static [Field], usize)>,
}

const LINK: (&str, &[Field], usize) = ("Ethernet", ETHERNET, 0);
const V4: (&str, &[Field], usize) = ("IPv4", IPV4, 14);
const V6: (&str, &[Field], usize) = ("IPv6", IPV6, 14);

/// All of them, as VM `number` behind the gateway with that MAC would send them.
pub fn corpus(number: u8, gateway: Mac) -> Vec<Malformed> {
    let packets = packets(number, gateway);
    let mut all = Vec::new();
    for packet in &packets {
        limits(packet, &mut all);
        cuts(packet, &mut all);
    }
    options(number, gateway, &mut all);
    virtio(&packets, &mut all);
    all
}

fn packets(number: u8, gateway: Mac) -> Vec<Packet> {
    let (me, here) = (mac(number), ip4(number));
    let (link, to) = ((me, gateway), ip4(1));
    let six = (lies::ip6(number), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let syn = Tcp { ports: (1024, 7), flags: Tcp::SYN, window: 9000, options: vec![2, 4, 5, 180], ..Tcp::default() };
    let text = Tcp { flags: Tcp::ACK, acknowledgment: 1, text: vec![7; 100], ..syn.clone() };
    let named = |name, frame, headers: &[_]| Packet { name, frame, headers: headers.to_vec() };
    let mut discover = vec![1, 1, 6, 0];
    discover.resize(236, 0);
    discover[28..34].copy_from_slice(&me);
    discover.extend([99, 130, 83, 99, 53, 1, 1, 55, 2, 1, 3, 255]);
    let question = [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4][..], b"name", &[4], b"test", &[0, 0, 1, 0, 1]].concat();
    let solicit = [1, 0, 0, 1, 0, 1, 0, 10, 0, 3, 0, 1, me[0], me[1], me[2], me[3], me[4], me[5]];
    let own = lies::Identity::of(number).link_local();
    vec![
        named("an ARP question", frames::arp_request(number, to), &[LINK, ("ARP", ARP, 14)]),
        named("a SYN", syn.frame(link, here, to), &[LINK, V4, ("TCP", TCP, 34)]),
        named("a TCP segment", text.frame(link, here, to), &[LINK, V4, ("TCP", TCP, 34)]),
        named("a datagram", frames::udp(link, here, to, (1024, 9), &[7; 40]), &[LINK, V4, ("UDP", UDP, 34)]),
        named("a ping", frames::ping(link, here, to, 1, &[7; 40]), &[LINK, V4, ("ICMP", ICMP, 34)]),
        named(
            "a DHCP message",
            frames::udp((me, BROADCAST), Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, (68, 67), &discover),
            &[LINK, V4, ("UDP", UDP, 34), ("DHCP", DHCP, 42)],
        ),
        named(
            "a question for a name",
            frames::udp(link, here, to, (1024, 53), &question),
            &[LINK, V4, ("UDP", UDP, 34), ("DNS", DNS, 42)],
        ),
        named("a SYN over IPv6", syn.frame_of(link, (six.0.into(), six.1.into())), &[LINK, V6, ("TCP", TCP, 54)]),
        named(
            "a datagram over IPv6",
            lies::udp6(link, six.0, six.1, (1024, 9), &[7; 40]),
            &[LINK, V6, ("UDP", UDP, 54)],
        ),
        named("a ping over IPv6", lies::icmp6(link, six, 128, &[7; 40]), &[LINK, V6, ("ICMPv6", ICMP, 54)]),
        named("a solicitation", lies::neighbour(link, six, 135, six.1, me), &[LINK, V6, ("ND", ND, 54)]),
        named("an advertisement", lies::neighbour(link, six, 136, six.0, me), &[LINK, V6, ("ND", ND, 54)]),
        named(
            "a DHCPv6 message",
            lies::udp6(link, own, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), (546, 547), &solicit),
            &[LINK, V6, ("UDP", UDP, 54), ("DHCPv6", DHCP6, 62)],
        ),
        named("hop-by-hop options", extended(link, six, 0), &[LINK, V6, ("extension", EXTENSION, 54)]),
        named("a fragment over IPv6", extended(link, six, 44), &[LINK, V6, ("extension", EXTENSION, 54)]),
    ]
}

/// A datagram behind an extension header of this number.
fn extended(link: (Mac, Mac), ends: (Ipv6Addr, Ipv6Addr), number: u8) -> Vec<u8> {
    let plain = lies::udp6(link, ends.0, ends.1, (1024, 9), &[7; 40]);
    let mut frame = plain.clone();
    frame[20] = number;
    frame.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Sets `width` bits from bit `at` on; `value` fills them from the right, and is repeated over more than 128.
fn set(bytes: &mut [u8], at: usize, width: usize, value: u128) {
    for bit in 0..width {
        let on = value >> (width - 1 - bit) & 1 == 1;
        let (byte, mask) = ((at + bit) / 8, 0x80 >> ((at + bit) % 8));
        if let Some(byte) = bytes.get_mut(byte) {
            *byte = if on { *byte | mask } else { *byte & !mask };
        }
    }
}

fn get(bytes: &[u8], at: usize, width: usize) -> u128 {
    (at..at + width).fold(0, |value, bit| {
        value << 1 | u128::from(bytes.get(bit / 8).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0))
    })
}

/// A field's limits, and the values beside its own.
fn values(own: u128, width: usize) -> Vec<u128> {
    let most = if width == 128 { u128::MAX } else { (1 << width) - 1 };
    let mut all = vec![0, 1, most, most - 1, 1 << (width - 1), own.wrapping_add(1) & most, own.wrapping_sub(1) & most];
    all.sort_unstable();
    all.dedup();
    all.retain(|value| *value != own);
    all
}

fn add(all: &mut Vec<Malformed>, name: String, frame: Vec<u8>) {
    let right = summed(&frame);
    if right != frame {
        all.push(Malformed { name: format!("{name}, summed"), vnet: VnetHeader::default(), frame: right });
    }
    all.push(Malformed { name, vnet: VnetHeader::default(), frame });
}

fn limits(packet: &Packet, all: &mut Vec<Malformed>) {
    for (header, fields, start) in &packet.headers {
        for (field, at, width) in *fields {
            let at = 8 * start + at;
            for value in values(get(&packet.frame, at, *width), *width) {
                let mut frame = packet.frame.clone();
                set(&mut frame, at, *width, value);
                add(all, format!("{}: {header} {field} {value:#x}", packet.name), frame);
            }
        }
    }
}

/// The frame ends anywhere, with its lengths as they were, and is followed by what does not belong to it.
fn cuts(packet: &Packet, all: &mut Vec<Malformed>) {
    for length in 0..packet.frame.len() {
        let (name, frame) = (format!("{}: {length} bytes of it", packet.name), packet.frame[..length].to_vec());
        all.push(Malformed { name, vnet: VnetHeader::default(), frame });
    }
    for more in [1, 3, 1000, 60_000] {
        let frame = [&packet.frame[..], &vec![0xa5; more]].concat();
        add(all, format!("{}: {more} bytes more", packet.name), frame);
    }
}

/// The checksums of an IP packet made right, as far as it has them.
fn summed(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let transport = match frame.get(12..14) {
        Some([8, 0]) if frame.len() >= 34 => {
            let header = 4 * usize::from(frame[14] & 15);
            if header < 20 || 14 + header > frame.len() {
                return frame;
            }
            frame[24..26].fill(0);
            let sum = checksum(&frame[14..14 + header]).to_be_bytes();
            frame[24..26].copy_from_slice(&sum);
            let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            let pseudo = [&frame[26..34], &[0, frame[23]]].concat();
            (frame[23], 14 + header, end, pseudo)
        }
        Some([0x86, 0xdd]) if frame.len() >= 54 => {
            let end = 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]));
            let pseudo = [&frame[22..54], &[0, frame[20]]].concat();
            (frame[20], 54, end, pseudo)
        }
        _ => return frame,
    };
    let (protocol, start, end, pseudo) = transport;
    let place = start
        + match protocol {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return frame,
        };
    if end < place + 2 || end > frame.len() {
        return frame;
    }
    frame[place..place + 2].fill(0);
    let length = ((end - start) as u16).to_be_bytes();
    let pseudo = if protocol == 1 { Vec::new() } else { [&pseudo[..], &length].concat() };
    // The length's place in IPv6's pseudo header is another one, which is all the same to a sum of words.
    let sum = checksum(&[&pseudo[..], &frame[start..end]].concat()).to_be_bytes();
    frame[place..place + 2].copy_from_slice(&sum);
    frame
}

/// Options of every kind, with lengths that cannot be, in every header that has options.
fn options(number: u8, gateway: Mac, all: &mut Vec<Malformed>) {
    let packets = packets(number, gateway);
    let of = |name: &str| packets.iter().find(|packet| packet.name == name).map_or(&[][..], |packet| &packet.frame);
    let (syn, text) = (of("a SYN").to_vec(), of("a TCP segment").to_vec());
    for kind in 0..=255u8 {
        for length in [0, 1, 2, 3, 4, 10, 41, 255] {
            for (name, base) in [("a SYN", &syn), ("a TCP segment", &text)] {
                let mut frame = base.clone();
                frame[54..58].copy_from_slice(&[kind, length, 0xff, 0xff]);
                all.push(Malformed {
                    name: format!("{name}: option {kind} of {length} bytes"),
                    vnet: VnetHeader::default(),
                    frame: summed(&frame),
                });
            }
        }
        for length in [0, 1, 2, 3, 4, 255] {
            let mut frame = of("a ping").to_vec();
            frame[14] = 0x46;
            frame.splice(34..34, [kind, length, 4, 0xff]);
            let total = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            add(all, format!("a ping: IPv4 option {kind} of {length} bytes"), summed(&frame));
        }
        for length in [0, 1, 4, 255] {
            let mut dhcp = of("a DHCP message").to_vec();
            dhcp[42 + 243..42 + 245].copy_from_slice(&[kind, length]);
            add(all, format!("a DHCP message: option {kind} of {length} bytes"), summed(&dhcp));
            let mut hops = of("hop-by-hop options").to_vec();
            hops[56..58].copy_from_slice(&[kind, length]);
            add(all, format!("hop-by-hop options: {kind} of {length} bytes"), hops);
            let mut asks = of("a solicitation").to_vec();
            asks[78..80].copy_from_slice(&[kind, length]);
            add(all, format!("a solicitation: option {kind} of {length} words"), summed(&asks));
            let mut solicit = of("a DHCPv6 message").to_vec();
            solicit[66..70].copy_from_slice(&[0, kind, length, length]);
            add(all, format!("a DHCPv6 message: option {kind} of {length} bytes"), summed(&solicit));
        }
    }
}

/// Virtio-net headers at their limits in front of packets that are in order.
fn virtio(packets: &[Packet], all: &mut Vec<Malformed>) {
    let good = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::TCPV4,
        header_length: 58,
        gso_size: 50,
        csum_start: 34,
        csum_offset: 16,
        buffers: 0,
    };
    for packet in packets {
        for base in [VnetHeader::default(), good] {
            for (field, at, width) in VNET {
                // In memory they are little-endian.
                let mut bytes = base.encode();
                bytes[2..].chunks_exact_mut(2).for_each(<[u8]>::reverse);
                for value in values(get(&bytes, *at, *width), *width) {
                    let mut bytes = bytes;
                    set(&mut bytes, *at, *width, value);
                    bytes[2..].chunks_exact_mut(2).for_each(<[u8]>::reverse);
                    let Some(vnet) = VnetHeader::decode(&bytes) else { continue };
                    let name = format!("{}: virtio-net {field} {value:#x}", packet.name);
                    all.push(Malformed { name, vnet, frame: packet.frame.clone() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_where_they_are_read() {
        let mut bytes = [0u8; 16];
        set(&mut bytes, 51, 13, 0x1fff);
        assert_eq!((bytes[6], bytes[7], get(&bytes, 51, 13)), (0x1f, 0xff, 0x1fff));
        assert_eq!(values(0x45, 8), [0, 1, 0x44, 0x46, 0x80, 0xfe, 0xff]);
    }

    #[test]
    fn packets_are_in_order_and_sums_are_made_right() {
        for packet in packets(2, mac(1)) {
            // A fragment's sum is the whole datagram's.
            if !packet.headers.iter().any(|(name, ..)| *name == "extension") {
                assert_eq!(summed(&packet.frame), packet.frame, "{}", packet.name);
            }
        }
        let mut frame = frames::ping((mac(2), mac(1)), ip4(2), ip4(1), 1, b"odd");
        let right = frame.clone();
        (frame[24], frame[36]) = (1, 2);
        assert_eq!(summed(&frame), right);
    }

    #[test]
    fn each_packet_of_the_corpus_has_a_name_of_its_own() {
        let all = corpus(2, mac(1));
        let names: std::collections::BTreeSet<_> = all.iter().map(|bad| &bad.name).collect();
        assert!(all.len() > 10_000, "{}", all.len());
        assert!(names.len() > all.len() * 9 / 10, "{} names of {}", names.len(), all.len());
    }
}
