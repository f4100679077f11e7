//! Which frames somebody wants to see: expressions as tcpdump's, as far as they ask for addresses, protocols and ports.
//!
//! `tcp port 80 and host 192.0.2.2`, `not (arp or icmp6)`, `src net 198.51.100.0/24 or ether host 52:54:00:00:00:02`. An expression is
//! read once; it is then asked for each frame on the worker's thread, by its first bytes, and neither allocates nor fails.
mod headers;
mod parse;

use headers::Headers;
pub use parse::{DEPTH_MAX, LENGTH_MAX};
use std::fmt;
use vonic_frame::{MacAddr, Subnet};

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// The frame is so.
    Is(Test),
    /// It is not.
    Not(Box<Filter>),
    /// All of these hold; there are some.
    All(Vec<Filter>),
    /// One of these holds; there are some.
    Any(Vec<Filter>),
}

/// Which end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// One of both.
    Either,
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {
    /// The EtherType, behind VLAN tags.
    EtherType(u16),
    /// The protocol over IPv4 or IPv6.
    Protocol(u8),
    /// Of IPv4 or IPv6 the one, and this protocol over it.
    Over(u16, u8),
    /// An Ethernet address.
    Ether(End, MacAddr),
    /// An address of a packet or of an ARP message.
    Net(End, Subnet),
    /// A port within these bounds, of TCP, UDP or SCTP.
    Port(End, u16, u16),
    /// The destination is everybody.
    Broadcast,
    /// The destination is a group, or everybody.
    Multicast,
}

impl Filter {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn parse(text: &str) -> Result<Filter, String> {
        parse::parse(text)
    }

    /// Whether a frame is wanted, by its first bytes.
    pub fn matches(&self, frame: &[u8]) -> bool {
        self.holds(&Headers::read(frame))
    }

    fn holds(&self, headers: &Headers) -> bool {
        match self {
            Filter::Is(test) => test.holds(headers),
            Filter::Not(other) => !other.holds(headers),
            Filter::All(all) => all.iter().all(|one| one.holds(headers)),
            Filter::Any(any) => any.iter().any(|one| one.holds(headers)),
        }
    }
}

impl End {
    fn any<T: Copy>(self, ends: Option<[T; 2]>, is: impl Fn(T) -> bool) -> bool {
        let Some([source, destination]) = ends else { return false };
        match self {
            End::Either => is(source) || is(destination),
            End::Source => is(source),
            End::Destination => is(destination),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            End::Either => "",
            End::Source => "src ",
            End::Destination => "dst ",
        }
    }
}

impl Test {
    fn holds(self, headers: &Headers) -> bool {
        let to = || headers.macs.map(|[_, to]| to);
        match self {
            Test::EtherType(kind) => headers.ethertype == Some(kind),
            Test::Protocol(protocol) => headers.protocol == Some(protocol),
            Test::Over(kind, protocol) => headers.ethertype == Some(kind) && headers.protocol == Some(protocol),
            Test::Ether(end, mac) => end.any(headers.macs, |own| own == mac),
            Test::Net(end, net) => end.any(headers.addresses, |own| net.contains(own)),
            Test::Port(end, first, last) => end.any(headers.ports, |own| (first..=last).contains(&own)),
            Test::Broadcast => to() == Some(MacAddr::BROADCAST),
            Test::Multicast => to().is_some_and(MacAddr::is_group),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Filter], word: &str| {
            f.write_str("(")?;
            for (i, part) in parts.iter().enumerate() {
                write!(f, "{}{part}", if i > 0 { word } else { "" })?;
            }
            f.write_str(")")
        };
        match self {
            Filter::Is(test) => test.fmt(f),
            Filter::Not(other) => write!(f, "not {other}"),
            Filter::All(all) => joined(f, all, " and "),
            Filter::Any(any) => joined(f, any, " or "),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Test::EtherType(kind) => match parse::ETHERTYPES.iter().find(|(_, other)| *other == kind) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "ether proto {kind:#06x}"),
            },
            Test::Protocol(protocol) => match parse::PROTOCOLS.iter().find(|(_, other)| *other == protocol) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "proto {protocol}"),
            },
            Test::Over(kind, protocol) => match parse::OVER.iter().find(|(_, of)| *of == (kind, protocol)) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "({} and {})", Test::EtherType(kind), Test::Protocol(protocol)),
            },
            Test::Ether(end, mac) => match end {
                End::Either => write!(f, "ether host {mac}"),
                end => write!(f, "ether {}{mac}", end.word()),
            },
            Test::Net(end, net) if net == Subnet::of(net.address) => write!(f, "{}host {}", end.word(), net.address),
            Test::Net(end, net) => write!(f, "{}net {}/{}", end.word(), net.address, net.prefix),
            Test::Port(end, first, last) if first == last => write!(f, "{}port {first}", end.word()),
            Test::Port(end, first, last) => write!(f, "{}portrange {first}-{last}", end.word()),
            Test::Broadcast => f.write_str("broadcast"),
            Test::Multicast => f.write_str("multicast"),
        }
    }
}

#[cfg(test)]
mod tests;
