//! The agent's package, installed in a guest as an operator does it: does it run there, and does it leave nothing behind when it goes?
//! `make long-test` boots a guest with systemd as its first program, which starts the service.
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::Value;
use vonic_tests::layer::{self, BARE, LAYER, make_package, systemd_first};
use vonic_tests::*;

/// Makes the package, as `make agent-deb` does, in the test's directory; its name.
fn package(directory: &TempDir) -> String {
    make_package(directory, "agent", &[&agent_program().unwrap()]).unwrap()
}

/// A command in the guest's own root.
fn inside(guest: &mut Guest, command: &str) -> String {
    layer::inside(guest, command).unwrap()
}

fn reports(bed: &Bed) -> bool {
    let vm = bed.vonicd.vm("a").unwrap();
    vm["agent"]["version"].is_string() && vm["agent"]["silent"] == false
}

#[test]
fn the_package_is_installed_runs_and_goes() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let package = package(&bed.directory);
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    guest.must(LAYER, seconds(20)).unwrap();
    guest.must(BARE, seconds(20)).unwrap();
    inside(&mut guest, &format!("dpkg -i /tmp/{package}"));
    let status = inside(
        &mut guest,
        "dpkg-query -W -f \"\\${db:Status-Status} \\${Version}\" vonic-agent; echo; vonic-agent --version",
    );
    let version = status.strip_prefix("installed ").and_then(|rest| rest.split_once('\n')).unwrap();
    assert_eq!(version.1, format!("vonic-agent {}", version.0), "{status}");
    assert_eq!(inside(&mut guest, "systemctl is-enabled vonic-agent"), "enabled");
    // As systemd reads it; what it says of other units is not about this one.
    let said = inside(
        &mut guest,
        "TMPDIR=/run systemd-analyze verify --man=no --recursive-errors=no vonic-agent.service && echo good",
    );
    assert!(said.ends_with("good") && !said.contains("vonic-agent"), "{said}");
    inside(&mut guest, "vonic-agent --once");
    assert!(reports(&bed), "{}", bed.vonicd.vm("a").unwrap());
    // A second time, as an update is; somebody has switched it off meanwhile.
    inside(&mut guest, &format!("systemctl --quiet disable vonic-agent && dpkg -i /tmp/{package}"));
    assert_eq!(inside(&mut guest, "systemctl is-enabled vonic-agent || true"), "disabled");
    inside(&mut guest, "systemctl --quiet enable vonic-agent && dpkg -r vonic-agent");
    let left =
        inside(&mut guest, "find / -xdev -name \"*vonic-agent*\" ! -path \"/tmp/*\" ! -path \"/var/lib/dpkg/*\"");
    assert_eq!(left, "", "what is left of it");
}

/// The service under systemd itself: started at boot, kept alive, as a user of its own without privileges.
#[test]
#[ignore = "minutes: make long-test"]
fn systemd_starts_the_service() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let package = package(&bed.directory);
    let first = systemd_first(&format!("chroot /run/root dpkg -i /tmp/{package} >/dev/null"));
    bed.directory.write("first.sh", first).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let is_active = "systemctl is-active vonic-agent || true";
    let boot = wait_until("the service", seconds(90), || guest.must(is_active, seconds(30)).unwrap() == "active");
    boot.with_context(|| {
        guest
            .must("systemctl status --no-pager vonic-agent; journalctl -n 50; dmesg | tail -n 50", seconds(30))
            .unwrap_or_default()
    })
    .unwrap();
    assert_eq!(guest.must("cat /proc/1/comm", seconds(10)).unwrap(), "systemd");
    wait_until("a report", seconds(30), || reports(&bed)).unwrap();
    let show = |guest: &mut Guest, what: &str| {
        guest.must(&format!("systemctl show -P {what} vonic-agent"), seconds(20)).unwrap()
    };
    let (pid, user) = (show(&mut guest, "MainPID"), show(&mut guest, "User"));
    assert!(pid.parse::<u32>().unwrap() > 1 && user == "vonic-agent", "{pid} {user}");
    let status = guest.must(&format!("cat /proc/{pid}/status"), seconds(10)).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_ascii_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    assert!(line("Uid:").iter().all(|uid| uid != "0"), "{status}");
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), ["0000000000000000"], "{status}");
    }
    assert_eq!(line("NoNewPrivs:"), ["1"]);
    // It comes back when it ends, and reports again.
    let seen = |bed: &Bed| bed.vonicd.vm("a").unwrap()["guest"]["uptime_seconds"].as_u64().unwrap();
    let before = seen(&bed);
    guest.must(&format!("kill -9 {pid}"), seconds(10)).unwrap();
    let again = |guest: &mut Guest| {
        let now = show(guest, "MainPID");
        now != pid && now != "0"
    };
    wait_until("it is back", seconds(60), || again(&mut guest)).unwrap();
    wait_until("a report of it", seconds(60), || seen(&bed) > before + 5).unwrap();
    assert_eq!(show(&mut guest, "NRestarts"), "1");
    guest.must("systemctl stop vonic-agent", seconds(30)).unwrap();
    assert_eq!(show(&mut guest, "Result"), "success");
    let vm: Value = bed.vonicd.vm("a").unwrap();
    assert_eq!(vm["tcp"]["reset"], 0, "{vm}");
}
