//! What the two families of IP addresses have of their own in the files; everything else is one code path for both.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::de::DeValue;

use super::Subnet;
use super::reader::{Wrong, parsed, text};

/// A family of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// A family's keys and what is special about it.
pub(super) struct Keys {
    /// As it is called in messages.
    pub name: &'static str,
    /// Keys of a network.
    pub subnet: &'static str,
    pub gateway: &'static str,
    pub host_loopback: &'static str,
    /// The key of a VM.
    pub address: &'static str,
    /// Values for messages that say what to write.
    pub some_subnet: &'static str,
    pub some_address: &'static str,
    /// The prefixes that a guests' subnet may have, and why no other.
    prefixes: RangeInclusive<u8>,
    other_prefix: &'static str,
    /// Ranges that no guest may live in: reserved for the host itself, for link-local use, or for groups (RFC 6890).
    special: &'static [(IpAddr, u8, &'static str)],
}

static V4: Keys = Keys {
    name: "IPv4",
    subnet: "subnet4",
    gateway: "gateway4",
    host_loopback: "host_loopback4",
    address: "address4",
    some_subnet: "192.0.2.0/24",
    some_address: "192.0.2.2",
    prefixes: 1..=30,
    other_prefix: "leaves no room for a gateway and guests: write a prefix from /1 to /30",
    special: &[
        (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8, "\"this network\" (0.0.0.0/8)"),
        (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "loopback addresses (127.0.0.0/8)"),
        (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16, "link-local addresses (169.254.0.0/16)"),
        (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 3, "multicast or reserved addresses (224.0.0.0/3)"),
    ],
};

static V6: Keys = Keys {
    name: "IPv6",
    subnet: "subnet6",
    gateway: "gateway6",
    host_loopback: "host_loopback6",
    address: "address6",
    some_subnet: "2001:db8::/64",
    some_address: "2001:db8::2",
    // Interface identifiers have 64 bits (RFC 4291 §2.5.4): guests make addresses by themselves with no other prefix (RFC 4862).
    prefixes: 64..=64,
    other_prefix: "is no link's subnet, in which the guests' own part has 64 bits (RFC 4291): write a prefix of /64",
    special: &[
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 96, "the unspecified, loopback or IPv4-compatible addresses (::/96)"),
        (IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()), 96, "IPv4-mapped addresses (::ffff:0:0/96)"),
        (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10, "link-local addresses (fe80::/10)"),
        (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8, "multicast addresses (ff00::/8)"),
    ],
};

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(super) fn keys(self) -> &'static Keys {
        match self {
            Family::V4 => &V4,
            Family::V6 => &V6,
        }
    }

    /// The address that stands for every one of the host's.
    pub fn any(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Reads an address; `A` is of this family.
    pub(super) fn address<A: FromStr>(self) -> impl FnOnce(&DeValue<'_>) -> Result<A, Wrong> {
        let Keys { name, some_address, .. } = self.keys();
        move |value| {
            let s = text(value)?;
            s.parse().map_err(|_| Wrong::Value(format!("'{s}' is not an {name} address: write it as {some_address}")))
        }
    }

    /// Reads a subnet that guests can live in, all of it unicast and routable.
    pub(super) fn subnet(self) -> impl FnOnce(&DeValue<'_>) -> Result<Subnet, Wrong> {
        let Keys { name, some_subnet, prefixes, other_prefix, .. } = self.keys();
        move |value| {
            let subnet: Subnet = parsed(value)?;
            if Family::of(subnet.address) != self {
                return Err(Wrong::Value(format!("{subnet} is not an {name} subnet: write it as {some_subnet}")));
            }
            if !prefixes.contains(&subnet.prefix) {
                return Err(Wrong::Value(format!("{subnet} {other_prefix}")));
            }
            match special(subnet) {
                Some(what) => Err(Wrong::Value(format!("{subnet} holds {what}: write a subnet as {some_subnet}"))),
                None => Ok(subnet),
            }
        }
    }
}

/// What makes a range unfit for guests.
pub(super) fn special(range: Subnet) -> Option<&'static str> {
    let mut kinds = Family::of(range.address).keys().special.iter();
    kinds.find(|(address, prefix, _)| range.overlaps(Subnet { address: *address, prefix: *prefix })).map(|kind| kind.2)
}
