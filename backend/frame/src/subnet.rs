//! IPv4 subnets.
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 subnet: a network address whose host bits are zero, and a prefix length of 0 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet4 {
    /// The network address.
    pub address: Ipv4Addr,
    /// The prefix length in bits, at most 32.
    pub prefix: u8,
}

impl Subnet4 {
    /// The subnet mask as 32 bits in host order.
    pub const fn mask(self) -> u32 {
        match self.prefix {
            0 => 0,
            bits => u32::MAX << (32 - bits as u32),
        }
    }

    /// Whether the address lies in this subnet.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.address.to_bits()
    }

    /// The subnet's last address: its directed broadcast where the prefix is shorter than 31 (RFC 919, RFC 3021).
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// Whether a host may have the address: inside, and neither the network address nor the broadcast.
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && (self.prefix >= 31 || (address != self.address && address != self.broadcast()))
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Subnet4) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The `n`th address of the subnet, counted from its network address, for examples in messages.
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | (n & !self.mask()))
    }
}

impl fmt::Display for Subnet4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet4 {
    type Err = String;

    /// Reads `ADDRESS/PREFIX`; a bare address is a subnet of one. The error says what to write.
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("'{s}' is not an IPv4 subnet: write it as 192.0.2.0/24");
        let (address, prefix) = match s.split_once('/') {
            Some((address, prefix)) => (address, prefix),
            None => (s, "32"),
        };
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix = Some(prefix)
            .filter(|p| !p.is_empty() && p.len() <= 2 && p.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|p| p.parse::<u8>().ok())
            .filter(|p| *p <= 32)
            .ok_or_else(wrong)?;
        let network = Ipv4Addr::from_bits(address.to_bits() & Subnet4 { address, prefix }.mask());
        if network != address {
            return Err(format!("'{s}' has bits set behind its prefix: write {network}/{prefix}"));
        }
        Ok(Subnet4 { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(s: &str) -> Subnet4 {
        s.parse().unwrap()
    }

    #[test]
    fn members_edges_and_overlap() {
        let s = subnet("192.0.2.64/26");
        assert!(s.contains("192.0.2.64".parse().unwrap()) && s.contains("192.0.2.127".parse().unwrap()));
        assert!(!s.contains("192.0.2.63".parse().unwrap()) && !s.contains("192.0.2.128".parse().unwrap()));
        assert_eq!(s.broadcast().to_string(), "192.0.2.127");
        assert!(!s.is_host("192.0.2.64".parse().unwrap()) && !s.is_host("192.0.2.127".parse().unwrap()));
        assert!(s.is_host("192.0.2.65".parse().unwrap()));
        assert!(s.overlaps(subnet("192.0.2.0/24")) && subnet("192.0.2.0/24").overlaps(s));
        assert!(!s.overlaps(subnet("192.0.2.0/26")));
        assert!(subnet("0.0.0.0/0").contains("203.0.113.9".parse().unwrap()));
        assert_eq!(subnet("198.51.100.7"), subnet("198.51.100.7/32"));
        assert_eq!(s.to_string(), "192.0.2.64/26");
    }

    #[test]
    fn errors_say_what_to_write() {
        for bad in ["", "x", "192.0.2.0/", "192.0.2.0/33", "192.0.2.0/+8", "192.0.2/24", "2001:db8::/64"] {
            assert!(bad.parse::<Subnet4>().unwrap_err().contains("write it as 192.0.2.0/24"), "{bad}");
        }
        assert!("192.0.2.1/24".parse::<Subnet4>().unwrap_err().ends_with("write 192.0.2.0/24"));
    }
}
