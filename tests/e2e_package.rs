//! The host's package, installed as an operator does it: is it the same each time it is made, does what it brings serve, and does it leave
//! nothing behind when it goes? `make long-test` boots a guest with systemd as its first program, which starts the service as hardened as
//! the unit says.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::{Path, PathBuf};
use std::process::Command;

use vonic_packaging::{bill, completions, man};
use vonic_tests::layer::{self, BARE, LAYER, make_package, systemd_first};
use vonic_tests::*;

/// Where vonicd and vonic are.
fn programs() -> PathBuf {
    Vonicd::client().unwrap().parent().unwrap().to_path_buf()
}

/// Makes the package, as `make deb` does, in the test's directory; its name.
fn package(directory: &TempDir) -> String {
    let reference = directory.path().join("reference");
    for part in ["man", "completions"] {
        std::fs::create_dir_all(reference.join(part)).unwrap();
    }
    man::write(&reference.join("man")).unwrap();
    completions::write(&reference.join("completions")).unwrap();
    std::fs::write(reference.join("vonic.cdx.json"), bill::json().unwrap().to_string()).unwrap();
    make_package(directory, "host", &[&programs(), &reference]).unwrap()
}

/// A command in the guest's own root.
fn inside(guest: &mut Guest, command: &str) -> String {
    layer::inside(guest, command).unwrap()
}

fn run(program: &str, arguments: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_same_programs_make_the_same_package() {
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let packages = folders.each_ref().map(|folder| folder.path().join(package(folder)));
    let [one, other] = packages.each_ref().map(|package| std::fs::read(package).unwrap());
    assert!(one == other, "{} and {} bytes", one.len(), other.len());
    let list = run("dpkg-deb", &["-c".as_ref(), &packages[0]]);
    for (mode, path) in [
        ("-rwxr-xr-x", "./usr/bin/vonicd"),
        ("-rwxr-xr-x", "./usr/bin/vonic"),
        ("-rw-r--r--", "./usr/lib/systemd/system/vonic.service"),
        ("-rw-r--r--", "./usr/share/man/man8/vonicd.8.gz"),
        ("-rw-r--r--", "./usr/share/man/man1/vonic-vm-list.1.gz"),
        ("-rw-r--r--", "./usr/share/man/man5/vonic.toml.5.gz"),
        ("-rw-r--r--", "./usr/share/bash-completion/completions/vonic"),
        ("-rw-r--r--", "./usr/share/doc/vonic/examples/vms.d/web1.toml"),
        ("-rw-r--r--", "./usr/share/doc/vonic/examples/prometheus/alerts.yml"),
        ("-rw-r--r--", "./usr/share/doc/vonic/vonic.cdx.json"),
        ("-rw-r--r--", "./etc/vonic/vonic.toml"),
    ] {
        let line = list.lines().find(|line| line.ends_with(&format!(" {path}")));
        assert!(line.is_some_and(|line| line.starts_with(mode) && line.contains("root/root")), "{path} in\n{list}");
    }
    assert!(!list.contains("/usr/local"), "{list}");
}

/// What vonicd is started by, of the unit that was installed, as the user that it says; without a service manager.
const START: &str = "install -d -o vonic -g vonic /run/vonic && start=$(sed -n s/^ExecStart=//p /usr/lib/systemd/system/vonic.service) && \
    user=$(sed -n s/^User=//p /usr/lib/systemd/system/vonic.service) && \
    { setpriv --reuid $user --regid $user --clear-groups --no-new-privs --bounding-set=-all $start >/tmp/vonicd.log 2>&1 & } && \
    for i in $(seq 200); do vonic vm list >/dev/null 2>&1 && exit; sleep 0.1; done; cat /tmp/vonicd.log; exit 1";
/// Every file of the guest's root but those in which users and packages are noted, and what those who note keep of before.
const FILES: &str = "find / -xdev ! -path \"/tmp/*\" ! -path \"/run/*\" ! -path \"/var/lib/dpkg*\" ! -path \"/var/log/*\" ! -path \"/etc/*-\" \
    ! -name .pwd.lock | sort";

#[test]
fn the_package_is_installed_serves_and_goes() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let package = package(&bed.directory);
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    guest.must(LAYER, seconds(20)).unwrap();
    guest.must(BARE, seconds(20)).unwrap();
    inside(&mut guest, &format!("{FILES} >/tmp/before"));
    inside(&mut guest, &format!("dpkg -i /tmp/{package}"));
    let status =
        inside(&mut guest, "dpkg-query -W -f \"\\${db:Status-Status} \\${Version}\" vonic; echo; vonicd --version");
    let (version, said) = status.strip_prefix("installed ").and_then(|rest| rest.split_once('\n')).unwrap();
    assert!(said.starts_with(&format!("vonicd {version} (")), "{status}");
    assert_eq!(inside(&mut guest, "systemctl is-enabled vonic.service"), "enabled");
    assert_eq!(inside(&mut guest, "dpkg -V vonic"), "", "what is there is what was packed");
    let said = inside(
        &mut guest,
        "TMPDIR=/run systemd-analyze verify --man=no --recursive-errors=no vonic.service vonic.socket && echo good",
    );
    assert!(said.ends_with("good") && !said.contains("vonic"), "{said}");

    inside(
        &mut guest,
        "cp /usr/share/doc/vonic/examples/vms.d/web1.toml /etc/vonic/vms.d/ && sed -i /address6/d /etc/vonic/vms.d/web1.toml",
    );
    assert!(inside(&mut guest, "vonicd --check").contains("1 networks, 1 VMs"));
    inside(&mut guest, START);
    assert!(inside(&mut guest, "vonic vm list").contains("web1"));
    assert_eq!(inside(&mut guest, "stat -c %U:%a /run/vonic/web1.sock"), "vonic:600");
    // As postinst has it done where the service runs: the newer program lies in the older one's place.
    inside(&mut guest, "vonic upgrade /usr/bin/vonicd && vonic vm list | grep -q web1");
    let user = inside(&mut guest, "stat -c %U /proc/$(cat /run/vonic/engine.pid)");
    assert_eq!(user, "vonic");

    // An operator's file outlives the package, and goes with a purge.
    let stop = "master=$(sed -n s/^PPid:.//p /proc/$(cat /run/vonic/engine.pid)/status) && kill $master && \
        while [ -e /proc/$master ]; do sleep 0.1; done";
    inside(&mut guest, stop);
    inside(&mut guest, "dpkg -r vonic");
    assert_eq!(
        inside(&mut guest, "ls /etc/vonic /etc/vonic/vms.d"),
        "/etc/vonic:\nvms.d\nvonic.toml\n\n/etc/vonic/vms.d:\nweb1.toml"
    );
    inside(&mut guest, "dpkg -P vonic");
    let left = inside(&mut guest, &format!("{FILES} | comm -13 /tmp/before -"));
    assert_eq!(left, "", "what is left of it");
    assert_eq!(inside(&mut guest, "ls -d /run/vonic 2>/dev/null; getent passwd vonic; getent group vonic; true"), "");
}

/// The service under systemd itself: as a user of its own without privileges, with those of a drop-in, and upgraded in place.
#[test]
#[ignore = "minutes: make long-test"]
fn systemd_starts_hardens_and_upgrades_the_service() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let package = package(&bed.directory);
    // What the guest's kernel has as modules, in the order in which they need each other; a bridge for the end.
    let install = format!(
        "for name in tun llc stp bridge; do insmod $(find /usr/lib/uml/modules -name $name.ko); done\n\
         ip link add br0 type bridge && ip link set br0 up\nchroot /run/root dpkg -i /tmp/{package} >/dev/null"
    );
    bed.directory.write("first.sh", systemd_first(&install)).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let active = |guest: &mut Guest| {
        let booted = wait_until("the service", seconds(90), || {
            guest.must("systemctl is-active vonic || true", seconds(30)).unwrap() == "active"
        });
        booted
            .with_context(|| {
                guest.must("systemctl status --no-pager vonic; dmesg | tail -n 80", seconds(30)).unwrap_or_default()
            })
            .unwrap();
    };
    active(&mut guest);
    let pid = |guest: &mut Guest| guest.must("systemctl show -P MainPID vonic", seconds(20)).unwrap();
    let of = |guest: &mut Guest, what: &str| {
        let pid = pid(guest);
        guest.must(&format!("sed -n 's/^{what}:[[:space:]]*//p' /proc/{pid}/status"), seconds(10)).unwrap()
    };
    for set in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        assert_eq!(of(&mut guest, set), "0000000000000000");
    }
    assert_eq!((of(&mut guest, "NoNewPrivs").as_str(), of(&mut guest, "Seccomp").as_str()), ("1", "2"));
    let vm = "printf 'mac = \"52:54:00:00:00:09\"\\naddress4 = \"192.0.2.9\"\\n' >/etc/vonic/vms.d/web9.toml && systemctl reload vonic";
    guest.must(vm, seconds(30)).unwrap();
    guest.must("vonic vm list | grep -q web9 && vonic engine restart", seconds(30)).unwrap();
    // The same package again, as an update is: the master is another one, and whoever waits for the VM's socket notices nothing.
    let (before, socket) = (pid(&mut guest), guest.must("stat -c %i /run/vonic/web9.sock", seconds(10)).unwrap());
    guest.must(&format!("dpkg -i /tmp/{package}"), seconds(60)).unwrap();
    assert_ne!(pid(&mut guest), before, "vonic upgrade");
    assert_eq!(guest.must("stat -c %i /run/vonic/web9.sock", seconds(10)).unwrap(), socket);
    assert_eq!(guest.must("systemctl show -P NRestarts vonic", seconds(20)).unwrap(), "0");
    // With the drop-in it may make taps, and nothing else that it might not before.
    let bridged = "install -D -t /etc/systemd/system/vonic.service.d /usr/share/doc/vonic/examples/vonic.service.d/bridge.conf && \
        printf '[network.default]\\nuplink = \"tap:br0\"\\n' >/etc/vonic/vonic.toml && systemctl daemon-reload && systemctl restart vonic";
    guest.must(bridged, seconds(60)).unwrap();
    active(&mut guest);
    assert_eq!(of(&mut guest, "CapEff"), "0000000000001000", "CAP_NET_ADMIN");
    let tap = wait_until("the tap", seconds(20), || {
        guest.must("ls /sys/class/net/br0/brif", seconds(10)).unwrap() == "vonic-web9"
    });
    tap.with_context(|| guest.must("vonic vm show web9; journalctl -u vonic", seconds(20)).unwrap_or_default())
        .unwrap();
    guest.must("dpkg -P vonic", seconds(60)).unwrap();
    assert_eq!(
        guest.must("systemctl is-active vonic || true; ls /etc/vonic 2>/dev/null || true", seconds(20)).unwrap(),
        "inactive"
    );
}
