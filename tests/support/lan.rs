//! A bridge of the test's own namespace, and plain machines on it: namespaces, each at the end of a veth cable.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::frames::ip4;
use crate::netns::{Netns, ip};

/// The bridge's name.
pub const BRIDGE: &str = "br0";

/// Makes the bridge in the calling thread's namespace and puts it up. It has no address, and says nothing of its own.
///
/// # Errors
/// If ip fails.
pub fn bridge(mtu: u16) -> Result<()> {
    ip(&format!("link add {BRIDGE} type bridge"))?;
    quiet(BRIDGE)?;
    ip(&format!("link set {BRIDGE} mtu {mtu} up"))
}

/// Keeps an interface of the calling thread's namespace from speaking IPv6 by itself.
fn quiet(interface: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    std::fs::write(&path, "1").with_context(|| path)
}

/// A machine on the bridge.
#[derive(Debug)]
pub struct Host {
    /// Its namespace, in which its interface is called `eth0`.
    pub netns: Netns,
    /// It has the MAC 52:54:00:00:00:NN, and the addresses 192.0.2.NN and 2001:db8::NN (as decimal digits).
    pub number: u8,
    port: String,
}

impl Host {
    /// Plugs a new one in.
    ///
    /// # Errors
    /// If ip fails.
    pub fn new(number: u8, mtu: u16) -> Result<Host> {
        let netns = Netns::new()?;
        let port = format!("p{number}");
        let fd = format!("/proc/{}/fd/{}", std::process::id(), netns.fd().as_raw_fd());
        ip(&format!("link add {port} type veth peer name eth0 netns {fd}"))?;
        quiet(&port)?;
        let host = Host { netns, number, port };
        host.netns.ip(&format!("link set eth0 address 52:54:00:00:00:{number:02x} mtu {mtu}"))?;
        host.netns.ip(&format!("addr add {}/24 dev eth0", ip4(number)))?;
        host.netns.ip(&format!("addr add {}/64 dev eth0 nodad", ip6(number)))?;
        host.netns.ip("link set eth0 up")?;
        ip(&format!("link set {} mtu {mtu} up", host.port))?;
        host.plug()?;
        Ok(host)
    }

    /// Puts its cable into the bridge, as after the bridge was made anew.
    ///
    /// # Errors
    /// If ip fails.
    pub fn plug(&self) -> Result<()> {
        ip(&format!("link set {} master {BRIDGE}", self.port))
    }
}

/// The IPv6 address of guest or host `number`.
pub fn ip6(number: u8) -> String {
    format!("2001:db8::{number}")
}
