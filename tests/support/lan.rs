//! A bridge of the test's own namespace, and plain machines on it: namespaces, each at the end of a veth cable.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::Bed;
use crate::frames::{self, ip4};
use crate::guest::{Guest, GuestConfig, Vmm};
use crate::mock::{MockFrontend, VnetHeader};
use crate::netns::{Netns, ip, isolate};
use crate::vonicd::TestConfig;
use crate::{peer, seconds, sys, wait_until};

/// The bridge's name.
pub const BRIDGE: &str = "br0";

/// An interface of the host's, whose cable ends at the bridge.
pub const NIC: &str = "nic0";
/// For a VM's file: without any offload.
pub const PLAIN: &str =
    "features = { csum = false, guest_csum = false, tso = false, guest_tso = false, mrg_rxbuf = false }\n";

/// The other end of that cable.
pub const JACK: &str = "jack0";
/// A macvlan on [`NIC`], which lets guests' addresses up and has none of its own to say anything from.
pub const MACVLAN: &str = "mv0";

/// Makes the bridge in the calling thread's namespace and puts it up. It has no address, and says nothing of its own.
///
/// # Errors
/// If ip fails.
pub fn bridge(mtu: u16) -> Result<()> {
    ip(&format!("link add {BRIDGE} type bridge"))?;
    quiet(BRIDGE)?;
    ip(&format!("link set {BRIDGE} mtu {mtu} up"))
}

/// Makes [`NIC`] in the calling thread's namespace and puts it up; it has no IP address.
///
/// # Errors
/// If ip fails.
pub fn nic(mtu: u16) -> Result<()> {
    ip(&format!("link add {NIC} type veth peer name {JACK}"))?;
    for end in [NIC, JACK] {
        quiet(end)?;
        ip(&format!("link set {end} mtu {mtu} up"))?;
    }
    ip(&format!("link set {JACK} master {BRIDGE}"))
}

/// Makes [`MACVLAN`] in this mode and puts it up.
///
/// # Errors
/// If ip fails.
pub fn macvlan(mode: &str) -> Result<()> {
    ip(&format!("link add link {NIC} name {MACVLAN} type macvlan mode {mode}"))?;
    quiet(MACVLAN)?;
    ip(&format!("link set {MACVLAN} up"))
}

/// Has what is sent at once by this socket leave it as datagrams of `size` bytes each.
///
/// # Errors
/// The system's.
pub fn segment_datagrams(socket: &UdpSocket, size: u16) -> Result<()> {
    sys::segment_datagrams(socket.as_raw_fd(), size).context("UDP_SEGMENT")
}

/// `vonic vm show`'s uplink.
///
/// # Errors
/// As [`crate::Vonicd::vm`].
pub fn uplink(bed: &Bed, vm: &str) -> Result<Value> {
    Ok(bed.vonicd.vm(vm)?["uplink"].clone())
}

/// Whether a machine's neighbour table, asked for anew, finds VM `number` behind `mock`, and the answer comes back.
pub fn reaches(mock: &mut MockFrontend, number: u8, host: &Host) -> bool {
    let address = ip4(host.number);
    let is_answer = |frame: &[u8]| frames::arp_answer(frame, address).is_some();
    mock.send_frame(&VnetHeader::default(), &frames::arp_request(number, address)).is_ok()
        && mock
            .expect_frame("answer", Duration::from_millis(500), is_answer)
            .is_ok_and(|(_, frame)| frames::arp_answer(&frame, address) == Some(frames::mac(host.number)))
}

/// Waits until it does.
///
/// # Errors
/// If it does not within ten seconds.
pub fn wait_reaches(mock: &mut MockFrontend, number: u8, host: &Host) -> Result<()> {
    wait_until("the machine's answer", seconds(10), || reaches(mock, number, host))
}

/// Of what went between guests and machines vonic has copied nothing, on whatever path.
///
/// # Errors
/// If it has.
pub fn nothing_was_copied(bed: &Bed) -> Result<()> {
    for path in ["guest_to_uplink", "uplink_to_guest", "guest_to_host", "host_to_guest", "service"] {
        let copied = bed.vonicd.copied(path)?;
        ensure!(copied == 0, "{path}: {copied} bytes");
    }
    Ok(())
}

/// Streams of `bytes` both ways between a guest and a machine, opened by each, in both families; the server of the machine runs.
///
/// # Errors
/// If one does not go through, byte for byte.
pub fn streams(bed: &Bed, host: &Host, guest: &mut Guest, number: u8, bytes: u32) -> Result<()> {
    for server in servers(host.number) {
        guest.must(&format!("vonic-peer both {server} {bytes} 1 2"), seconds(120))?;
    }
    for server in servers(number) {
        let words = ["both", &server, &bytes.to_string(), "2", "2"];
        let done = peer(&words, Some(&host.netns), bed.directory.path(), seconds(120))?;
        ensure!(done["ok"] == true, "{done}");
    }
    Ok(())
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
    at(&format!("tap:{BRIDGE}"))
}

/// A configuration whose network `default` has this uplink.
pub fn at(uplink: &str) -> TestConfig {
    TestConfig { network: format!("uplink = \"{uplink}\"\n"), ..TestConfig::default() }
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

/// As [`start`], but the guests are at [`NIC`] by packet sockets; `vm` is appended to the files of `a` and `c`, `plain` to that of `b`.
///
/// # Errors
/// If a part is missing or does not start.
pub fn start_at_nic(mtu: u16, vm: &str, plain: &str) -> Result<(Bed, [Host; 2])> {
    isolate()?;
    bridge(mtu)?;
    nic(mtu)?;
    let hosts = [Host::new(10, mtu)?, Host::new(11, mtu)?];
    let lines = |more: &str| format!("mtu = {mtu}\n{more}");
    let config = at(&format!("packet:{NIC}")).vm("a", 2, &lines(vm)).vm("b", 3, &lines(plain)).vm("c", 4, &lines(vm));
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
