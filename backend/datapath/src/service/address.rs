//! The service address: where vonic itself answers each guest, whatever its network's addresses are (RFC 3927 §2.1 keeps
//! 169.254.0.0/16 to the link, RFC 4291 §2.5.6 fe80::/10).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One per family: 169.254.169.254 and fe80::a9fe:a9fe.
pub const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe))];
/// The port on which it speaks HTTP.
pub const PORT: u16 = 80;

/// Whether this is the service's address: nothing that is sent there leaves vonic.
pub fn is_ours(address: IpAddr) -> bool {
    ADDRESSES.contains(&address)
}
