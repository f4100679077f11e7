//! IP subnets of both families.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A subnet: a network address whose host bits are zero, and a prefix length of 0 to 32 (IPv4) or 128 (IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// The network address.
    pub address: IpAddr,
    /// The prefix length in bits.
    pub prefix: u8,
}

/// An address as a number, and the bits that its family has.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl Subnet {
    /// The subnet of this one address.
    pub fn of(address: IpAddr) -> Subnet {
        Subnet { address, prefix: bits(address).1 }
    }

    fn with(self, bits: u128) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        }
    }

    /// The bits that differ within the subnet, set.
    fn host_bits(self) -> u128 {
        let width = bits(self.address).1;
        match width.saturating_sub(self.prefix) {
            128 => u128::MAX,
            free => (1 << free) - 1,
        }
    }

    /// The IPv4 subnet mask; of an IPv6 subnet nothing.
    pub fn mask4(self) -> Option<Ipv4Addr> {
        self.address.is_ipv4().then(|| Ipv4Addr::from_bits(!(self.host_bits() as u32)))
    }

    /// Whether the address lies in this subnet; one of the other family does not.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && bits(address).0 & !self.host_bits() == bits(self.address).0
    }

    /// The subnet's last address: IPv4's directed broadcast where the prefix is shorter than 31 (RFC 919, RFC 3021).
    pub fn last(self) -> IpAddr {
        self.with(bits(self.address).0 | self.host_bits())
    }

    /// Whether a host may have the address: inside, and not the network address (IPv6: the routers' anycast address, RFC 4291
    /// §2.6.1) nor IPv4's broadcast.
    pub fn is_host(self, address: IpAddr) -> bool {
        let reserved = address == self.address || (address.is_ipv4() && address == self.last());
        self.contains(address) && (self.host_bits() <= 1 || !reserved)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The `n`th address of the subnet, counted from its network address, for examples in messages.
    pub fn nth(self, n: u32) -> IpAddr {
        self.with(bits(self.address).0 | (u128::from(n) & self.host_bits()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;

    /// Reads `ADDRESS/PREFIX`; a bare address is a subnet of one. The error says what to write.
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("'{s}' is not an IP subnet: write it as 192.0.2.0/24 or 2001:db8::/64");
        let (address, prefix) = match s.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (s, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = bits(address).1;
        let prefix = match prefix {
            None => width,
            Some(prefix) => Some(prefix)
                .filter(|p| !p.is_empty() && p.len() <= 3 && p.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|p| p.parse::<u8>().ok())
                .filter(|p| *p <= width)
                .ok_or_else(wrong)?,
        };
        let subnet = Subnet { address, prefix };
        let network = subnet.with(bits(address).0 & !subnet.host_bits());
        if network != address {
            return Err(format!("'{s}' has bits set behind its prefix: write {network}/{prefix}"));
        }
        Ok(subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(s: &str) -> Subnet {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn members_edges_and_overlap() {
        let s = subnet("192.0.2.64/26");
        assert!(s.contains(ip("192.0.2.64")) && s.contains(ip("192.0.2.127")));
        assert!(!s.contains(ip("192.0.2.63")) && !s.contains(ip("192.0.2.128")));
        assert_eq!(s.last().to_string(), "192.0.2.127");
        assert_eq!(s.mask4(), Some([255, 255, 255, 192].into()));
        assert!(!s.is_host(ip("192.0.2.64")) && !s.is_host(ip("192.0.2.127")));
        assert!(s.is_host(ip("192.0.2.65")));
        assert!(s.overlaps(subnet("192.0.2.0/24")) && subnet("192.0.2.0/24").overlaps(s));
        assert!(!s.overlaps(subnet("192.0.2.0/26")));
        assert!(subnet("0.0.0.0/0").contains(ip("203.0.113.9")));
        assert_eq!(subnet("198.51.100.7"), subnet("198.51.100.7/32"));
        assert_eq!(s.to_string(), "192.0.2.64/26");
    }

    #[test]
    fn both_families_and_never_across() {
        let s = subnet("2001:db8:0:1::/64");
        assert!(s.contains(ip("2001:db8:0:1::7")) && !s.contains(ip("2001:db8:0:2::7")));
        assert!(s.is_host(ip("2001:db8:0:1:ffff:ffff:ffff:ffff")) && !s.is_host(ip("2001:db8:0:1::")));
        assert_eq!((s.nth(5), s.mask4()), (ip("2001:db8:0:1::5"), None));
        let (all4, all6) = (subnet("0.0.0.0/0"), subnet("::/0"));
        assert!(all6.contains(ip("::1")) && !all6.contains(ip("192.0.2.1")) && !all4.contains(ip("::1")));
        assert!(!all4.overlaps(all6) && all6.overlaps(s));
        assert_eq!(subnet("2001:db8::7"), Subnet::of(ip("2001:db8::7")));
    }

    #[test]
    fn errors_say_what_to_write() {
        for bad in ["", "x", "192.0.2.0/", "192.0.2.0/33", "192.0.2.0/+8", "192.0.2/24", "2001:db8::/129", "::/1x"] {
            assert!(bad.parse::<Subnet>().unwrap_err().contains("write it as 192.0.2.0/24"), "{bad}");
        }
        assert!("192.0.2.1/24".parse::<Subnet>().unwrap_err().ends_with("write 192.0.2.0/24"));
        assert!("2001:db8::1/64".parse::<Subnet>().unwrap_err().ends_with("write 2001:db8::/64"));
    }
}
