//! A bridge of the test's own namespace, and plain machines on it: namespaces, each at the end of a veth cable.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::bed::Bed;
use crate::frames::ip4;
use crate::guest::{Guest, GuestConfig, Vmm};
use crate::netns::{Netns, ip, isolate};
use crate::seconds;
use crate::vonicd::TestConfig;

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
///
/// # Errors
/// If there is no such interface.
pub fn quiet(interface: &str) -> Result<()> {
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

/// A configuration whose network `default` is the bridge.
pub fn bridged() -> TestConfig {
    TestConfig { network: format!("uplink = \"tap:{BRIDGE}\"\n"), ..TestConfig::default() }
}

/// A namespace of the test's own with the bridge, two machines on it (10 and 11), and the service with the VMs `a`, `b` and `c` (2, 3
/// and 4); `network` is appended to their network, `vm` to their files.
///
/// # Errors
/// If a part is missing or does not start.
pub fn start(mtu: u16, network: &str, vm: &str) -> Result<(Bed, [Host; 2])> {
    isolate()?;
    bridge(mtu)?;
    let hosts = [Host::new(10, mtu)?, Host::new(11, mtu)?];
    let lines = format!("mtu = {mtu}\n{vm}");
    let mut config = bridged();
    config.network.push_str(network);
    let vms = [("a", 2), ("b", 3), ("c", 4)];
    let config = vms.into_iter().fold(config, |config, (name, number)| config.vm(name, number, &lines));
    Ok((Bed::start_here(&config)?, hosts))
}

/// Starts a guest with IPv6 on VM `name`; [`settle`] follows.
///
/// # Errors
/// If it cannot be started.
pub fn start_guest(bed: &Bed, name: &str, number: u8, vmm: Vmm, device: Option<&str>) -> Result<Guest> {
    let plain = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    bed.start_configured(&GuestConfig { ip6: true, device: device.map(str::to_string), ..plain })
}

/// Waits for a started guest, gives it its IPv6 address, and starts a server on port 7 of both families.
///
/// # Errors
/// If it does not boot.
pub fn settle(guest: &mut Guest, number: u8) -> Result<()> {
    guest.wait_ready()?;
    // No time is spent on duplicate address detection; busybox's ip has no word for it.
    let address = format!("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add {}/64 dev eth0", ip6(number));
    guest.must(&address, seconds(5))?;
    let server = guest.spawn("vonic-peer serve [::]:7")?;
    server.wait_output(guest, "listening", seconds(10))
}

/// Where the server of guest or machine `number` listens, in both families.
pub fn servers(number: u8) -> [String; 2] {
    [format!("{}:7", ip4(number)), format!("[{}]:7", ip6(number))]
}
