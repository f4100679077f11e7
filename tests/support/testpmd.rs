//! DPDK's testpmd with two virtio-user ports: a real frontend without a VM, which polls and never sleeps.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::directory::TempDir;
use crate::lab::Lab;
use crate::process::Process;

/// Frames of one of its bursts.
pub const BURST: u64 = 32;

/// How it is started.
#[derive(Debug, Clone)]
pub struct Testpmd {
    /// The backends' vhost-user sockets, in the test's directory. Port N has the MAC 02:00:00:00:00:0N.
    pub sockets: [PathBuf; 2],
    /// Of the net_virtio_user devices, beside path, size and MAC; separated by commas.
    pub device: String,
    /// Descriptors of each ring.
    pub ring: u64,
    /// Processors: the first forwards, the second has the rest to do.
    pub cores: [u8; 2],
    /// What it does with frames: `io` has each port send what the other received.
    pub forward: &'static str,
    /// More arguments of testpmd.
    pub arguments: Vec<String>,
    /// What it is told at the start, a line each.
    pub commands: String,
}

impl Testpmd {
    /// Rings of 1,024, in which 16 bursts of each port circulate.
    pub fn new(sockets: [PathBuf; 2]) -> Testpmd {
        Testpmd {
            sockets,
            device: String::new(),
            ring: 1024,
            cores: [1, 0],
            forward: "io",
            arguments: Vec::new(),
            commands: "start tx_first 16\n".into(),
        }
    }

    /// Starts it in the lab. Once a second it writes its counters and rates into its log.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, lab: &Lab, directory: &TempDir) -> Result<Process> {
        let commands = directory.lab_path(&directory.write("testpmd-commands", &self.commands)?)?;
        let mut command = Command::new("dpdk-testpmd");
        let [forwards, main] = self.cores;
        command.args(["-l", &format!("{main},{forwards}"), "--main-lcore", &main.to_string()]);
        command.args("--no-huge -m 1024 --no-pci --in-memory --no-telemetry".split(' '));
        for (number, socket) in self.sockets.iter().enumerate() {
            let (socket, ring, device) = (directory.lab_path(socket)?, self.ring, &self.device);
            command.arg("--vdev").arg(format!(
                "net_virtio_user{number},path={},queue_size={ring},mac=02:00:00:00:00:{number:02x},{device}",
                socket.display()
            ));
        }
        command.args("-- --nb-cores=1 --total-num-mbufs=65536 --stats-period=1".split(' '));
        command.args([format!("--forward-mode={}", self.forward), format!("--rxd={}", self.ring)]);
        command.args([format!("--txd={}", self.ring), format!("--cmdline-file={}", commands.display())]);
        command.args(["--eth-peer=0,02:00:00:00:00:01", "--eth-peer=1,02:00:00:00:00:00"]).args(&self.arguments);
        lab.start("testpmd", directory, &mut command)
    }
}

/// What the ports received in each second so far, in frames: the sum of both, from testpmd's log.
pub fn received_per_second(log: &str) -> Vec<u64> {
    let rate = |line: &str| line.trim().strip_prefix("Rx-pps:")?.split_ascii_whitespace().next()?.parse().ok();
    let rates: Vec<u64> = log.lines().filter_map(rate).collect();
    rates.chunks_exact(2).map(|ports| ports.iter().sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_both_ports_are_added_and_half_a_report_is_none() {
        let log = "  Rx-pps:      5          Rx-bps:   2400\n  Tx-pps: 9 Tx-bps: 1\n  Rx-pps:  7  Rx-bps: 1\n  Rx-pps:  1  Rx-bps: 1\n";
        assert_eq!(received_per_second(log), [12]);
    }
}
