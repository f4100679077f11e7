//! What a guest may not say: one table of frames that claim to be somebody else's, with the reason by which each is dropped.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frames::{BROADCAST, Mac, Tcp, arp, checksum, ethernet, ip4, mac, ping, udp};

/// An address family. A service may have one or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and ARP.
    V4,
    /// IPv6 and NDP.
    V6,
}

/// Who somebody is, or claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Identity {
    pub mac: Mac,
    pub ip4: Ipv4Addr,
    pub ip6: Ipv6Addr,
}

impl Identity {
    /// VM `number` in 192.0.2.0/24 and 2001:db8::/64.
    pub fn of(number: u8) -> Identity {
        Identity { mac: mac(number), ip4: ip4(number), ip6: ip6(number) }
    }

    /// Its link-local address (RFC 4291 appendix A).
    pub fn link_local(&self) -> Ipv6Addr {
        let m = self.mac;
        let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, word(m[0] ^ 2, m[1]), word(m[2], 0xff), word(0xfe, m[3]), word(m[4], m[5]))
    }
}

/// The address of VM `number` in 2001:db8::/64.
pub fn ip6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into())
}

/// A lie in the making: who tells it, whose identity it takes, who is to hear it.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Scene {
    pub me: Identity,
    pub other: Identity,
    pub to: Identity,
}

/// One kind of lie.
pub struct Lie {
    /// What is claimed.
    pub name: &'static str,
    /// Told in which family; `None`: in any network.
    pub family: Option<Family>,
    /// Why it is dropped.
    pub reason: &'static str,
    /// The frame.
    pub frame: fn(&Scene) -> Vec<u8>,
}

/// The kinds of lies that can be told where `families` are spoken.
pub fn lies(families: &[Family]) -> impl Iterator<Item = &'static Lie> {
    LIES.iter().filter(|lie| lie.family.is_none_or(|family| families.contains(&family)))
}

const fn any(name: &'static str, reason: &'static str, frame: fn(&Scene) -> Vec<u8>) -> Lie {
    Lie { name, family: None, reason, frame }
}

const fn v4(name: &'static str, reason: &'static str, frame: fn(&Scene) -> Vec<u8>) -> Lie {
    Lie { name, family: Some(Family::V4), reason, frame }
}

const fn v6(name: &'static str, reason: &'static str, frame: fn(&Scene) -> Vec<u8>) -> Lie {
    Lie { name, family: Some(Family::V6), reason, frame }
}

/// Local experiments (IEEE 802).
pub const EXPERIMENTAL: u16 = 0x88b5;

fn syn() -> Tcp {
    Tcp { ports: (1024, 7), flags: Tcp::SYN, window: 9000, ..Tcp::default() }
}

const LIES: &[Lie] = &[
    any("the other's MAC", "spoofed_mac", |s| ethernet(s.to.mac, s.other.mac, EXPERIMENTAL, b"lie")),
    any("the other's MAC to all", "spoofed_mac", |s| ethernet(BROADCAST, s.other.mac, EXPERIMENTAL, b"lie")),
    v4("the other's MAC, one's own address", "spoofed_mac", |s| {
        ping((s.other.mac, s.to.mac), s.me.ip4, s.to.ip4, 1, b"lie")
    }),
    v4("the other's MAC and address", "spoofed_mac", |s| {
        ping((s.other.mac, s.to.mac), s.other.ip4, s.to.ip4, 1, b"lie")
    }),
    v4("the other's ARP as the other", "spoofed_mac", |s| {
        arp(s.other.mac, 1, (s.other.mac, s.other.ip4), ([0; 6], s.to.ip4))
    }),
    v4("the other's address, ICMP", "spoofed_address", |s| {
        ping((s.me.mac, s.to.mac), s.other.ip4, s.to.ip4, 1, b"lie")
    }),
    v4("the other's address, UDP", "spoofed_address", |s| {
        udp((s.me.mac, s.to.mac), s.other.ip4, s.to.ip4, (7, 7), b"lie")
    }),
    v4("the other's address, TCP", "spoofed_address", |s| syn().frame((s.me.mac, s.to.mac), s.other.ip4, s.to.ip4)),
    v4("the other's address to all", "spoofed_address", |s| {
        udp((s.me.mac, BROADCAST), s.other.ip4, Ipv4Addr::BROADCAST, (7, 7), b"lie")
    }),
    v4("an answer that the other is here", "spoofed_arp", |s| {
        arp(s.me.mac, 2, (s.me.mac, s.other.ip4), (s.to.mac, s.to.ip4))
    }),
    v4("a gratuitous answer that the other is here", "spoofed_arp", |s| {
        arp(s.me.mac, 2, (s.me.mac, s.other.ip4), (BROADCAST, s.other.ip4))
    }),
    v4("a question that says the other is here", "spoofed_arp", |s| {
        arp(s.me.mac, 1, (s.me.mac, s.other.ip4), ([0; 6], s.to.ip4))
    }),
    v4("a question in the other's name", "spoofed_arp", |s| {
        arp(s.me.mac, 1, (s.other.mac, s.other.ip4), ([0; 6], s.to.ip4))
    }),
    v4("an answer that one's address is at the other's", "spoofed_arp", |s| {
        arp(s.me.mac, 2, (s.other.mac, s.me.ip4), (s.to.mac, s.to.ip4))
    }),
    v4("a DHCP server's offer", "rogue_server", |s| udp((s.me.mac, s.to.mac), s.me.ip4, s.to.ip4, (67, 68), b"lie")),
    v6("the other's MAC, one's own address", "spoofed_mac", |s| {
        udp6((s.other.mac, s.to.mac), s.me.ip6, s.to.ip6, (7, 7), b"lie")
    }),
    v6("the other's address", "spoofed_address", |s| udp6((s.me.mac, s.to.mac), s.other.ip6, s.to.ip6, (7, 7), b"lie")),
    v6("the other's link-local address", "spoofed_address", |s| {
        udp6((s.me.mac, s.to.mac), s.other.link_local(), s.to.link_local(), (7, 7), b"lie")
    }),
    v6("no address", "spoofed_address", |s| {
        udp6((s.me.mac, s.to.mac), Ipv6Addr::UNSPECIFIED, s.to.ip6, (7, 7), b"lie")
    }),
    v6("an advertisement that the other is here", "spoofed_ndp", |s| {
        neighbour((s.me.mac, s.to.mac), (s.me.ip6, s.to.ip6), 136, s.other.ip6, s.me.mac)
    }),
    v6("an advertisement of the other's link-local address", "spoofed_ndp", |s| {
        neighbour((s.me.mac, s.to.mac), (s.me.ip6, s.to.ip6), 136, s.other.link_local(), s.me.mac)
    }),
    v6("an advertisement that one's address is at the other's", "spoofed_ndp", |s| {
        neighbour((s.me.mac, s.to.mac), (s.me.ip6, s.to.ip6), 136, s.me.ip6, s.other.mac)
    }),
    v6("a question that says one is at the other's", "spoofed_ndp", |s| {
        neighbour((s.me.mac, s.to.mac), (s.me.ip6, s.to.ip6), 135, s.to.ip6, s.other.mac)
    }),
    v6("a router advertisement", "rogue_server", |s| {
        let body = [&[64, 0, 0x07, 0x08][..], &[0; 8]].concat();
        icmp6((s.me.mac, s.to.mac), (s.me.link_local(), s.to.link_local()), 134, &body)
    }),
    v6("a redirect", "rogue_server", |s| {
        let body = [&[0; 4][..], &s.me.ip6.octets(), &s.other.ip6.octets()].concat();
        icmp6((s.me.mac, s.to.mac), (s.me.link_local(), s.to.ip6), 137, &body)
    }),
    v6("a DHCPv6 server's advertisement", "rogue_server", |s| {
        udp6((s.me.mac, s.to.mac), s.me.link_local(), s.to.link_local(), (547, 546), b"lie")
    }),
];

/// An IPv6 packet without extension headers (RFC 8200) in an Ethernet frame.
fn ipv6(link: (Mac, Mac), ends: (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    // The hop limit that neighbour discovery asks for (RFC 4861 §7.1).
    packet.extend([next, 255]);
    packet.extend(ends.0.octets());
    packet.extend(ends.1.octets());
    packet.extend(payload);
    ethernet(link.1, link.0, 0x86dd, &packet)
}

/// The checksum over pseudo-header and `payload` (RFC 8200 §8.1).
fn sum6(ends: (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> [u8; 2] {
    let length = (payload.len() as u32).to_be_bytes();
    checksum(&[&ends.0.octets()[..], &ends.1.octets(), &length, &[0, 0, 0, next], payload].concat()).to_be_bytes()
}

/// A UDP datagram over IPv6.
pub fn udp6(link: (Mac, Mac), source: Ipv6Addr, destination: Ipv6Addr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let words = [ports.0, ports.1, 8 + data.len() as u16, 0];
    let mut datagram: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).chain(data.iter().copied()).collect();
    let sum = sum6((source, destination), 17, &datagram);
    // 0 means that there is none, which IPv6 forbids.
    datagram[6..8].copy_from_slice(if sum == [0; 2] { &[0xff; 2] } else { &sum });
    ipv6(link, (source, destination), 17, &datagram)
}

/// An ICMPv6 message with this body behind its checksum, with hop limit 255 and a right checksum (RFC 4443 §2.1).
pub fn icmp6(link: (Mac, Mac), ends: (Ipv6Addr, Ipv6Addr), kind: u8, body: &[u8]) -> Vec<u8> {
    icmp6_of(link, ends, (kind, 0), body)
}

/// The same with a code.
pub fn icmp6_of(link: (Mac, Mac), ends: (Ipv6Addr, Ipv6Addr), (kind, code): (u8, u8), body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], body].concat();
    let sum = sum6(ends, 58, &message);
    message[2..4].copy_from_slice(&sum);
    ipv6(link, ends, 58, &message)
}

/// A neighbour solicitation (135) or advertisement (136) about `target`, with the link-layer address `at` (RFC 4861 §4.3, §4.4).
pub fn neighbour(link: (Mac, Mac), ends: (Ipv6Addr, Ipv6Addr), kind: u8, target: Ipv6Addr, at: Mac) -> Vec<u8> {
    // Override, and the option for the target's (2) or the source's (1) link-layer address.
    let (flags, option) = if kind == 136 { (0x20, 2) } else { (0, 1) };
    let body = [&[flags, 0, 0, 0][..], &target.octets(), &[option, 1], &at].concat();
    icmp6(link, ends, kind, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_are_well_formed() {
        let scene = Scene { me: Identity::of(2), other: Identity::of(3), to: Identity::of(4) };
        assert_eq!(scene.me.link_local().to_string(), "fe80::5054:ff:fe00:2");
        for lie in lies(&[Family::V4, Family::V6]) {
            let frame = (lie.frame)(&scene);
            assert!(frame.len() >= 60, "{}", lie.name);
            if lie.family == Some(Family::V6) {
                let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
                let ends: [Ipv6Addr; 2] = [22, 38].map(|at| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into());
                assert_eq!(sum6((ends[0], ends[1]), frame[20], &frame[54..54 + length]), [0; 2], "{}", lie.name);
            }
        }
        assert_eq!(lies(&[]).count(), 2);
    }
}
