//! A guest behind passt, the peer of terminated traffic.

use std::process::Command;

use vonic_tests::{Guest, GuestConfig, Lab, Process, Result, TempDir, seconds, wait_until};

use crate::machine;

/// passt and its guest, in this thread's network.
pub struct Passt {
    pub guest: Guest,
    _process: Process,
}

impl Passt {
    /// netserver and passt ask for no address of a family that the host has on its loopback only (getaddrinfo(3), AI_ADDRCONFIG):
    /// there has to be another interface.
    pub fn start(lab: &Lab, directory: &TempDir, mtu: u16) -> Result<Passt> {
        machine::has(lab, "/usr/bin/passt")?;
        let mut command = Command::new("passt");
        command.args(["--vhost-user", "-f", "-s", "/tmp/passt.sock", "--no-dhcp", "-a", "192.0.2.2", "-n", "24"]);
        command.args(["-g", "192.0.2.1", "-4"]);
        let process = lab.start("passt", directory, &mut command)?;
        wait_until("passt", seconds(10), || process.log().contains("You can start qemu"))?;
        let plain = GuestConfig::new("p", 2, &directory.path().join("passt.sock"));
        let guest = Guest::boot(lab, directory, &GuestConfig { memory: 512, mtu: Some(mtu), ..plain })?;
        Ok(Passt { guest, _process: process })
    }
}
