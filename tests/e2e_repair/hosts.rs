//! Two hosts and a peer on one bridge, and a service address that moves between the hosts.
use anyhow::Result;
use std::net::SocketAddr;
use vonic_tests::{Netns, ip, isolate};

/// The calling thread's namespace is the peer's, with the bridge.
pub struct Hosts {
    hosts: [Netns; 2],
    at: usize,
}

const SERVICE: [&str; 2] = ["198.51.100.2/32", "2001:db8:5::2/128"];

/// The peer's address, with any port.
pub fn peer(v6: bool) -> SocketAddr {
    if v6 { "[2001:db8:5::1]:0" } else { "198.51.100.1:0" }.parse().unwrap()
}

/// The address that moves, with any port.
pub fn service(v6: bool) -> SocketAddr {
    if v6 { "[2001:db8:5::2]:0" } else { "198.51.100.2:0" }.parse().unwrap()
}

impl Hosts {
    pub fn new() -> Result<Hosts> {
        isolate()?;
        ip("link add br0 type bridge")?;
        ip("addr add 198.51.100.1/24 dev br0")?;
        ip("addr add 2001:db8:5::1/64 dev br0 nodad")?;
        ip("link set br0 up")?;
        let hosts = [Netns::new()?, Netns::new()?];
        for (n, host) in hosts.iter().enumerate() {
            host.plug(&format!("h{n}"), "eth0")?;
            ip(&format!("link set h{n} master br0"))?;
            // An interface without any address loses its routes. The preferred source is the address that moves, where it is.
            host.ip(&format!("addr add 203.0.113.{}/32 dev eth0", 1 + n))?;
            host.ip(&format!("addr add 2001:db8:6::{}/128 dev eth0 nodad", 1 + n))?;
            host.ip("route add 198.51.100.0/24 dev eth0")?;
            host.ip("route add 2001:db8:5::/64 dev eth0")?;
        }
        let hosts = Hosts { hosts, at: 0 };
        hosts.add()?;
        Ok(hosts)
    }

    /// Where the address is.
    pub fn here(&self) -> &Netns {
        &self.hosts[self.at]
    }

    /// Where it is not.
    pub fn there(&self) -> &Netns {
        &self.hosts[1 - self.at]
    }

    /// The address moves.
    pub fn swap(&mut self) -> Result<()> {
        SERVICE.iter().try_for_each(|address| self.here().ip(&format!("addr del {address} dev eth0")))?;
        self.here().ip("route replace 198.51.100.0/24 dev eth0")?;
        self.here().ip("route replace 2001:db8:5::/64 dev eth0")?;
        self.at = 1 - self.at;
        self.add()?;
        ip("neigh flush dev br0")
    }

    fn add(&self) -> Result<()> {
        self.here().ip(&format!("addr add {} dev eth0", SERVICE[0]))?;
        self.here().ip("route replace 198.51.100.0/24 dev eth0 src 198.51.100.2")?;
        self.here().ip(&format!("addr add {} dev eth0 nodad", SERVICE[1]))?;
        self.here().ip("route replace 2001:db8:5::/64 dev eth0 src 2001:db8:5::2")
    }
}
