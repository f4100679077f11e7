//! Reads expressions: `or` binds least, then `and`, then `not`; `||`, `&&` and `!` are the same.
use super::headers::{ARP, IPV4, IPV6};
use super::{End, Filter, Test};
use std::net::IpAddr;
use std::str::FromStr;
use vonic_frame::{MacAddr, PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP, Subnet};

/// Bytes of an expression.
pub const LENGTH_MAX: usize = 4096;
/// Parentheses and negations within each other.
pub const DEPTH_MAX: usize = 32;

/// Names that ask for an EtherType.
pub(super) const ETHERTYPES: &[(&str, u16)] = &[("ip", IPV4), ("ip6", IPV6), ("arp", ARP)];
/// Names that ask for a protocol over either IP.
pub(super) const PROTOCOLS: &[(&str, u8)] = &[("tcp", PROTOCOL_TCP), ("udp", PROTOCOL_UDP)];
/// Names that ask for a protocol over one of them.
pub(super) const OVER: &[(&str, (u16, u8))] = &[("icmp", (IPV4, PROTOCOL_ICMP)), ("icmp6", (IPV6, PROTOCOL_ICMP6))];

/// What can be asked, for who asked for something else.
const KNOWN: &str = "host, net, port, portrange (each with src or dst in front if wanted), ether host, ether src, ether dst, ether proto, \
                     proto, ip, ip6, arp, tcp, udp, icmp, icmp6, broadcast, multicast";

/// What stands in the text, one behind the other.
struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
    depth: usize,
}

pub(super) fn parse(text: &str) -> Result<Filter, String> {
    if text.len() > LENGTH_MAX {
        return Err(format!("it is longer than {LENGTH_MAX} bytes"));
    }
    let mut words = Words { words: split(text), next: 0, depth: 0 };
    if words.words.is_empty() {
        return Err(format!("it says nothing; ask for {KNOWN}"));
    }
    let filter = words.any()?;
    match words.peek() {
        None => Ok(filter),
        Some(")") => Err("there is a ')' without its '('".to_string()),
        Some(word) => Err(format!("'{word}' follows without 'and' or 'or'")),
    }
}

/// Cuts at blanks, and around what stands for itself.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for mut part in text.split_whitespace() {
        while !part.is_empty() {
            let sign = ["(", ")", "&&", "||", "!"].into_iter().find(|sign| part.starts_with(sign));
            let end = sign.map_or_else(|| part.find(['(', ')', '&', '|', '!']).unwrap_or(part.len()), str::len);
            // A sign that is none is a word, too, and refused later.
            let end = if end == 0 { part.chars().next().map_or(1, char::len_utf8) } else { end };
            let (word, rest) = part.split_at(end);
            words.push(word);
            part = rest;
        }
    }
    words
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    /// Takes the next word if it is one of these.
    fn takes(&mut self, wanted: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| wanted.contains(&word));
        self.next += usize::from(found);
        found
    }

    /// The next word, which has to be `what`.
    fn word(&mut self, what: &str) -> Result<&'a str, String> {
        let behind = self.next.checked_sub(1).and_then(|before| self.words.get(before));
        let place = behind.map_or_else(|| "at the beginning".to_string(), |word| format!("behind '{word}'"));
        let word = self.peek().ok_or_else(|| format!("{place} {what} is missing"))?;
        self.next += 1;
        Ok(word)
    }

    fn any(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.all()?];
        while self.takes(&["or", "||"]) {
            parts.push(self.all()?);
        }
        Ok(joined(parts, Filter::Any))
    }

    fn all(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.one()?];
        while self.takes(&["and", "&&"]) {
            parts.push(self.one()?);
        }
        Ok(joined(parts, Filter::All))
    }

    fn one(&mut self) -> Result<Filter, String> {
        let (negated, opened) = (self.takes(&["not", "!"]), self.takes(&["("]));
        if !negated && !opened {
            return self.question();
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} parentheses and negations are within each other"));
        }
        let inner = if opened { self.any()? } else { self.one()? };
        if opened && !self.takes(&[")"]) {
            return Err("there is a '(' without its ')'".to_string());
        }
        self.depth -= 1;
        Ok(if negated { Filter::Not(Box::new(inner)) } else { inner })
    }

    /// A protocol, and what is asked of its addresses or ports; or that alone.
    fn question(&mut self) -> Result<Filter, String> {
        let word = self.word("something to ask for")?;
        let of = |list: &[(&str, u16)]| list.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind);
        let protocol = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, protocol)| *protocol);
        let over = OVER.iter().find(|(name, _)| *name == word).map(|(_, over)| *over);
        let test = match word {
            "ether" => return self.ether(),
            "broadcast" => return Ok(Filter::Is(Test::Broadcast)),
            "multicast" => return Ok(Filter::Is(Test::Multicast)),
            "proto" => {
                return self.number("the number of a protocol", 0, u8::MAX).map(|n| Filter::Is(Test::Protocol(n)));
            }
            _ => match (of(ETHERTYPES), protocol, over) {
                (Some(kind), ..) => Test::EtherType(kind),
                (_, Some(protocol), _) => Test::Protocol(protocol),
                (_, _, Some((kind, protocol))) => Test::Over(kind, protocol),
                _ => {
                    self.next -= 1;
                    return self.end();
                }
            },
        };
        // As in `tcp port 80`.
        let more = matches!(self.peek(), Some("src" | "dst" | "host" | "net" | "port" | "portrange"));
        if more { Ok(Filter::All(vec![Filter::Is(test), self.end()?])) } else { Ok(Filter::Is(test)) }
    }

    /// `[src|dst] host|net|port|portrange ID`; behind `src` and `dst` an address is a host.
    fn end(&mut self) -> Result<Filter, String> {
        let end = self.direction();
        let what = self.word("host, net, port or portrange")?;
        let test = match what {
            "host" => Test::Net(end, Subnet::of(self.parsed::<IpAddr>("an address as 192.0.2.2 or 2001:db8::2")?)),
            "net" => {
                let net = self.word("a net as 192.0.2.0/24")?;
                Test::Net(end, net.parse()?)
            }
            "port" => {
                let port = self.number("a port", 0, u16::MAX)?;
                Test::Port(end, port, port)
            }
            "portrange" => {
                let range = self.word("two ports as 6000-6010")?;
                let ports = range.split_once('-').and_then(|(a, b)| Some((digits(a)?, digits(b)?)));
                let (first, last) = ports
                    .filter(|(first, last)| first <= last)
                    .ok_or_else(|| format!("'{range}' is no range of ports: write it as 6000-6010"))?;
                Test::Port(end, first, last)
            }
            address if end != End::Either && address.parse::<IpAddr>().is_ok() => {
                Test::Net(end, address.parse::<Subnet>()?)
            }
            other => return Err(format!("'{other}' is nothing to ask for; ask for {KNOWN}")),
        };
        Ok(Filter::Is(test))
    }

    fn ether(&mut self) -> Result<Filter, String> {
        let end = self.direction();
        if end == End::Either && self.takes(&["proto"]) {
            let word = self.word("an EtherType")?;
            let kind = word.strip_prefix("0x").map_or_else(|| digits(word), |hex| u16::from_str_radix(hex, 16).ok());
            let kind = kind.ok_or_else(|| format!("'{word}' is no EtherType: write it as 0x0800"))?;
            return Ok(Filter::Is(Test::EtherType(kind)));
        }
        if self.takes(&["host"]) || end != End::Either {
            let mac = self.parsed::<MacAddr>("an address as 52:54:00:00:00:02")?;
            return Ok(Filter::Is(Test::Ether(end, mac)));
        }
        Err("behind 'ether' stands host, src, dst or proto".to_string())
    }

    fn direction(&mut self) -> End {
        if self.takes(&["src"]) {
            End::Source
        } else if self.takes(&["dst"]) {
            End::Destination
        } else {
            End::Either
        }
    }

    fn parsed<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.word(what)?;
        word.parse().map_err(|_| format!("'{word}' is not {what}"))
    }

    fn number<T: FromStr + PartialOrd + std::fmt::Display>(
        &mut self,
        what: &str,
        least: T,
        most: T,
    ) -> Result<T, String> {
        let word = self.word(what)?;
        let number = digits::<T>(word).filter(|number| (&least..=&most).contains(&number));
        number.ok_or_else(|| format!("'{word}' is not {what}: write a number from {least} to {most}"))
    }
}

/// A number of nothing but digits.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

fn joined(mut parts: Vec<Filter>, join: fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => join(parts),
    }
}
