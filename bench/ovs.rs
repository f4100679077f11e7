//! Open vSwitch on DPDK with two ports that connect as clients, and its default rule: a learning switch.

use std::process::Command;
use std::time::Duration;

use vonic_tests::{Lab, Process, Result, TempDir, ensure, seconds, wait_for};

use crate::machine;

/// Debian chooses between the plain one and this by its alternatives.
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const DATABASE: &str = "unix:/tmp/ovs-db.sock";

/// The database and the switch.
pub struct Ovs {
    switch: Process,
    _database: Process,
}

impl Ovs {
    /// With a port on `NAME.sock` in `directory` for each name.
    pub fn start(lab: &Lab, directory: &TempDir, names: [&str; 2]) -> Result<Ovs> {
        machine::has(lab, SWITCH)?;
        let run = |name: &str, program: &str, words: &[&str]| {
            let mut process = lab.start(name, directory, ovs(program).args(words))?;
            let status = process.wait(seconds(30))?;
            ensure!(status.success(), "{program} {words:?}: {status}\n{}", process.log());
            Ok::<(), vonic_tests::Error>(())
        };
        run("ovsdb-tool", "ovsdb-tool", &["create", "/tmp/ovs.db", "/usr/share/openvswitch/vswitch.ovsschema"])?;
        let mut command = ovs("ovsdb-server");
        command.args(["/tmp/ovs.db", &format!("--remote=p{DATABASE}"), "--unixctl=/tmp/ovsdb.ctl"]);
        let mut database = lab.start("ovsdb-server", directory, &mut command)?;
        let socket = directory.path().join("ovs-db.sock");
        wait_for("ovsdb-server", Duration::from_secs(10), || {
            ensure!(database.ended().is_none(), "ovsdb-server ended:\n{}", database.log());
            Ok(socket.exists().then_some(()))
        })?;
        let vsctl = |words: &str| {
            let words: Vec<&str> = ["--db", DATABASE].into_iter().chain(words.split(' ')).collect();
            run("ovs-vsctl", "ovs-vsctl", &words)
        };
        vsctl("--no-wait init")?;
        let settings = ["dpdk-init=true", "pmd-cpu-mask=0x1", "per-port-memory=false"];
        for setting in settings {
            vsctl(&format!("--no-wait set Open_vSwitch . other_config:{setting}"))?;
        }
        // Not split at its blanks.
        let extra = "other_config:dpdk-extra=\"--no-huge -m 2048 --no-pci --in-memory --no-telemetry\"";
        run("ovs-vsctl", "ovs-vsctl", &["--db", DATABASE, "--no-wait", "set", "Open_vSwitch", ".", extra])?;
        let mut command = ovs(SWITCH);
        command.args([DATABASE, "--unixctl=/tmp/ovs.ctl"]);
        let mut switch = lab.start("ovs-vswitchd", directory, &mut command)?;
        let ports = names.map(|name| {
            format!("-- add-port br0 {name} -- set Interface {name} type=dpdkvhostuserclient options:vhost-server-path=/tmp/{name}.sock")
        });
        let bridge = "--timeout=25 add-br br0 -- set bridge br0 datapath_type=netdev";
        let made = vsctl(&format!("{bridge} {}", ports.join(" ")));
        ensure!(switch.ended().is_none(), "ovs-vswitchd ended:\n{}", switch.log());
        made?;
        Ok(Ovs { switch, _database: database })
    }

    pub fn log(&self) -> String {
        self.switch.log()
    }
}

/// A program of OVS, which would write into the lab otherwise.
fn ovs(program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, "/tmp");
    }
    command
}
