//! Ethernet addresses.
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The link-local address of an interface with this address (RFC 4291 §2.5.6 and appendix A).
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let word = u16::from_be_bytes;
        Ipv6Addr::new(0xfe80, 0, 0, 0, word([a ^ 2, b]), word([c, 0xff]), word([0xfe, d]), word([e, f]))
    }

    /// The address to which an IPv6 multicast packet is sent (RFC 2464 §7).
    pub const fn of_group(group: Ipv6Addr) -> MacAddr {
        let [.., a, b, c, d] = group.octets();
        MacAddr([0x33, 0x33, a, b, c, d])
    }

    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Whether this is a group address: multicast or broadcast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    /// Reads six pairs of hexadecimal digits with colons between them.
    fn from_str(s: &str) -> Result<Self, String> {
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(|| wrong(s))?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong(s))?;
        }
        if parts.next().is_some() { Err(wrong(s)) } else { Ok(MacAddr(out)) }
    }
}

fn wrong(s: &str) -> String {
    format!("'{s}' is not a MAC address: write it as 52:54:00:00:00:02")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_errors() {
        let m: MacAddr = "52:54:00:00:0a:02".parse().unwrap();
        assert_eq!(m.to_string(), "52:54:00:00:0a:02");
        for bad in [
            "",
            "52:54:00:00:0a",
            "52:54:00:00:0a:02:03",
            "5:54:00:00:0a:02",
            "52-54-00-00-0a-02",
            "zz:54:00:00:0a:02",
            "+1:54:00:00:0a:02",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
