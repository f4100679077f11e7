//! Ports, and where a forward listens, as they are written in the files.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::{Listen, ListenHost};

/// The longest name of a Linux interface in bytes: IFNAMSIZ less the terminating zero.
const INTERFACE_NAME: usize = 15;

/// Reads `PORT` or `FIRST-LAST`, none of them 0. The error says what to write.
pub(super) fn ports(s: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    let port = |s: &str| {
        Some(s)
            .filter(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|s| s.parse::<u16>().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("'{s}' is not a port: write a number from 1 to 65535, or a range as 8000-8010"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("'{s}' runs backwards: write {last}-{first}"));
    }
    Ok(first..=last)
}

/// Reads `ADDRESS:PORT`, `INTERFACE:PORT` or `*:PORT`, where `PORT` may be a range and an IPv6 address stands in brackets. The error
/// says what to write.
pub(super) fn listen(s: &str) -> Result<Listen, String> {
    if s.ends_with(']') || s.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("'{s}' has no port, or no brackets: write it as [::1]:8080"));
    }
    let Some((host, port)) = s.rsplit_once(':') else {
        return Err(format!("'{s}' has no port: write it as 127.0.0.1:8080, [::1]:8080, eth0:8080 or *:8080"));
    };
    Ok(Listen { host: listen_host(host)?, ports: ports(port)? })
}

/// Whether Linux lets an interface have this name.
pub(super) fn is_interface(name: &str) -> bool {
    (1..=INTERFACE_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
}

fn listen_host(host: &str) -> Result<ListenHost, String> {
    if host == "*" {
        return Ok(ListenHost::Any);
    }
    if host == "localhost" {
        return Err("a host's name is not looked up: write 127.0.0.1 or [::1]".to_string());
    }
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return listen_v6(address);
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return match address {
            a if a.is_multicast() || a.is_broadcast() => Err(nobodys(a.into())),
            a => Ok(ListenHost::Address(IpAddr::V4(a))),
        };
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("an IPv6 address stands in brackets: write [{host}]"));
    }
    if !is_interface(host) || host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("'{host}' is neither an IP address nor an interface: write 127.0.0.1, [::1], eth0 or *"));
    }
    Ok(ListenHost::Interface(host.to_string()))
}

/// Reads what stands in brackets.
fn listen_v6(s: &str) -> Result<ListenHost, String> {
    // A scope, as in fe80::1%eth0, is an interface's name.
    let (address, scope) = s.split_once('%').map_or((s, None), |(address, scope)| (address, Some(scope)));
    let Ok(address) = address.parse::<Ipv6Addr>() else {
        return Err(format!("'{s}' is not an IPv6 address: write it as [::1]"));
    };
    match address {
        a if a.is_multicast() => Err(nobodys(a.into())),
        a if a.is_unicast_link_local() || scope.is_some() => {
            let interface = scope.filter(|scope| is_interface(scope)).unwrap_or("eth0");
            Err(format!("'{s}' has a meaning on one link only: write its interface, as {interface}"))
        }
        a => match a.to_ipv4_mapped() {
            Some(v4) => Err(format!("{a} is an IPv4 address: write {v4}")),
            None => Ok(ListenHost::Address(IpAddr::V6(a))),
        },
    }
}

fn nobodys(address: IpAddr) -> String {
    format!("{address} is nobody's own address: write an address of this host, or *")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_good_and_bad() {
        assert_eq!(ports("80"), Ok(80..=80));
        assert_eq!(ports("1-65535"), Ok(1..=65535));
        assert_eq!(ports("9-9"), Ok(9..=9));
        for bad in ["", "0", "65536", "-", "1-", "-1", "a", "1-2-3", "+1", "0-5", "1:2", " 1"] {
            assert!(ports(bad).unwrap_err().contains("write a number from 1 to 65535"), "{bad}");
        }
        assert!(ports("20-10").unwrap_err().ends_with("write 10-20"));
    }

    #[test]
    fn listeners_display_as_they_are_written() {
        for good in ["127.0.0.1:8080", "198.51.100.7:8000-8010", "eth0:80", "br-lan.7:80-81", "*:443", "0.0.0.0:80"] {
            assert_eq!(listen(good).unwrap().to_string(), good);
        }
        for good in ["[::1]:8080", "[2001:db8::1]:8000-8010", "[::]:80"] {
            assert_eq!(listen(good).unwrap().to_string(), good);
        }
        assert_eq!(listen("[2001:DB8:0::1]:80").unwrap().to_string(), "[2001:db8::1]:80");
    }

    #[test]
    fn bad_listeners_are_told_what_to_write() {
        for (bad, mend) in [
            ("8080", "write it as 127.0.0.1:8080"),
            ("localhost:80", "write 127.0.0.1"),
            ("224.0.0.1:80", "write an address of this host"),
            ("300.0.0.1:80", "write 127.0.0.1, [::1], eth0 or *"),
            (":80", "write 127.0.0.1, [::1], eth0 or *"),
            ("2001:db8::1:80", "write it as [::1]:8080"),
            ("::1", "write it as [::1]:8080"),
            ("[::1]", "write it as [::1]:8080"),
            ("[]:80", "write it as [::1]"),
            ("[::1:80", "write 127.0.0.1, [::1], eth0 or *"),
            ("[127.0.0.1]:80", "write it as [::1]"),
            ("[ff02::1]:80", "write an address of this host"),
            ("[fe80::1]:80", "write its interface, as eth0"),
            ("[fe80::1%lan7]:80", "write its interface, as lan7"),
            ("[::ffff:127.0.0.1]:80", "write 127.0.0.1"),
            ("[::1]:0", "write a number from 1 to 65535"),
            ("an-interface-too-long:80", "write 127.0.0.1, [::1], eth0 or *"),
            ("eth 0:80", "write 127.0.0.1, [::1], eth0 or *"),
            ("eth0:0", "write a number from 1 to 65535"),
            ("eth0:", "write a number from 1 to 65535"),
        ] {
            let message = listen(bad).unwrap_err();
            assert!(message.contains(mend), "{bad}: {message}");
        }
    }
}
