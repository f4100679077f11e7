//! Many hosts: two of them, joined by VXLAN under their bridges (RFC 7348). Are their guests on one network, and does a guest that moves
//! from one host to the other under load stay on it?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::Command;

use vonic_tests::lan::{self, BRIDGE, servers, settle};
use vonic_tests::*;

/// What is left of the wire's 1500 bytes: less IPv4, UDP, VXLAN and the inner Ethernet header (RFC 7348 §4.3, §5).
const MTU: u16 = 1500 - 20 - 8 - 8 - 14;
/// The guest that moves.
const MOVER: &str = "web1";
const NUMBER: u8 = 2;

/// A host: a namespace with an address on the wire, a bridge, and VXLAN as one of the bridge's ports.
struct Machine {
    netns: Netns,
    bed: Bed,
}

impl Machine {
    /// Host `number`, 1 or 2, with the VM `vm` of its own; the guest that moves may come to either.
    fn new(number: u8, vm: (&str, u8)) -> Result<Machine> {
        let netns = Netns::new()?;
        netns.plug(&format!("h{number}"), "eth0")?;
        ip(&format!("link set h{number} master wire"))?;
        netns.ip(&format!("addr add 198.51.100.{number}/24 dev eth0"))?;
        netns
            .ip(&format!("link add vxlan0 type vxlan id 42 dstport 4789 remote 198.51.100.{} dev eth0", 3 - number))?;
        netns.ip(&format!("link add {BRIDGE} type bridge"))?;
        for interface in ["vxlan0", BRIDGE] {
            netns.run(|| lan::quiet(interface))?;
        }
        netns.ip(&format!("link set vxlan0 master {BRIDGE} up"))?;
        netns.ip(&format!("link set {BRIDGE} up"))?;
        let mtu = format!("mtu = {MTU}");
        let config = lan::bridged().vm(vm.0, vm.1, &mtu).vm(MOVER, NUMBER, &mtu);
        let directory = TempDir::new()?;
        let vonicd = Vonicd::start_with(&directory, &config, Some(&netns), &[])?;
        Ok(Machine { netns, bed: Bed { vonicd, lab: Lab::open()?, directory } })
    }

    fn guest(&self, name: &str, number: u8) -> Guest {
        let config = GuestConfig::new(name, number, &self.bed.socket(name));
        self.bed.start_configured(&GuestConfig { ip6: true, ..config }).unwrap()
    }

    /// The guest that moves, or a VMM that waits for it, started by what `vonic vm command` prints here.
    fn mover(&self, more: &[&str]) -> Guest {
        let accelerator = if self.bed.lab.kvm() { "--kvm" } else { "--tcg" };
        let words = ["vm", "command", MOVER, "--vmm", "qemu", "--memory", "128M", accelerator, "--config-dir"];
        let mut vonic = Command::new(Vonicd::client().unwrap());
        let output = vonic.args(words).arg(self.bed.vonicd.config_dir()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line = String::from_utf8(output.stdout).unwrap();
        let line = line.replace(&format!("{}/", self.bed.directory.path().display()), "/tmp/");
        self.bed.directory.write("mover.sh", format!("#!/bin/sh\nexec {} \"$@\"\n", line.trim_end())).unwrap();
        let launcher = ["sh", "/tmp/mover.sh", "-global", "virtio-net-pci.romfile="].iter().chain(more);
        let config = GuestConfig::new(MOVER, NUMBER, &self.bed.socket(MOVER)).on(Vmm::Qemu);
        let launcher = Some(launcher.map(ToString::to_string).collect());
        self.bed.start_configured(&GuestConfig { ip6: true, launcher, ..config }).unwrap()
    }

    /// Behind which port of its bridge the host has learnt a guest to be.
    fn learnt(&self, number: u8) -> String {
        let show = || Ok(Command::new("bridge").args(["fdb", "show", "br", BRIDGE]).output()?);
        let text = String::from_utf8(self.netns.run(show).unwrap().stdout).unwrap();
        let mac = format!("52:54:00:00:00:{number:02x} ");
        let line = text.lines().find(|line| line.starts_with(&mac) && !line.contains("dst ")).unwrap_or_default();
        line.split_ascii_whitespace().nth(2).unwrap_or("nowhere").to_string()
    }

    /// Packets that this host's kernel has cut in pieces, as it does with what the wire is too small for.
    fn fragments(&self) -> u64 {
        let snmp = self.netns.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?)).unwrap();
        let mut lines = snmp.lines().filter(|line| line.starts_with("Ip: ")).map(str::split_ascii_whitespace);
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        names.zip(values).find(|(name, _)| *name == "FragCreates").unwrap().1.parse().unwrap()
    }
}

/// Two hosts at one wire; nothing but VXLAN joins their bridges. Without VXLAN in the kernel there is no such test.
fn hosts() -> Option<[Machine; 2]> {
    isolate().unwrap();
    ip("link add wire type bridge").unwrap();
    ip("link set wire up").unwrap();
    if let Err(error) = ip("link add probe type vxlan id 1 dstport 4789 remote 198.51.100.1 dev wire") {
        skipped(&format!("this kernel has no VXLAN: {error:#}"));
        return None;
    }
    ip("link del probe").unwrap();
    Some([Machine::new(1, ("a", 10)).unwrap(), Machine::new(2, ("b", 11)).unwrap()])
}

/// Frames of the guests' full size pass, and the largest that they send is the largest that passes.
fn full_frames_pass(from: &mut Guest, to: u8) {
    for (address, headers) in [(frames::ip4(to).to_string(), 28), (lan::ip6(to), 48)] {
        let ping = |size: u16| format!("ping -c 1 -W 5 -M do -s {size} {address}");
        from.must(&ping(MTU - headers), seconds(20)).unwrap();
        let larger = from.run(&ping(MTU - headers + 1), seconds(20)).unwrap();
        assert_ne!(larger.status, 0, "{}", larger.stdout);
    }
}

/// Streams of checked bytes towards a guest, both ways, one after the other until [`stop`].
fn load(guest: &mut Guest, server: &str) -> Job {
    let stream = format!("vonic-peer both {server} 1000003 $n 2");
    let job = format!("n=1; until [ -e /run/stop ]; do {stream} || exit 1; n=$((n+1)); echo round $n; done");
    let job = guest.spawn(&job).unwrap();
    job.wait_output(guest, "round", seconds(60)).unwrap();
    job
}

fn stop(guest: &mut Guest, job: &Job) {
    guest.must("touch /run/stop", seconds(10)).unwrap();
    let done = job.wait(guest, seconds(90)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
}

#[test]
fn guests_of_two_hosts_are_on_one_network_and_one_moves_under_load() {
    let Some([here, there]) = hosts() else { return };
    let mut a = here.guest("a", 10);
    let mut b = there.guest("b", 11);
    let mut mover = here.mover(&["-monitor", "unix:/tmp/monitor,server=on,wait=off"]);
    let mut arrived = there.mover(&["-incoming", "tcp:127.0.0.1:4444"]);
    for (guest, number) in [(&mut a, 10), (&mut b, 11), (&mut mover, NUMBER)] {
        settle(guest, number).unwrap();
    }
    full_frames_pass(&mut a, 11);
    full_frames_pass(&mut b, 10);
    for server in servers(11) {
        a.must(&format!("vonic-peer both {server} 4000037 1 2"), seconds(60)).unwrap();
    }
    assert_eq!(mover.must("cat /sys/class/net/eth0/mtu", seconds(10)).unwrap().trim(), MTU.to_string());
    assert_eq!([here.learnt(NUMBER), there.learnt(NUMBER)], ["vonic-web1", "vxlan0"]);

    // By each family from each host's guest, and by what the mover itself has begun.
    let [mover4, mover6] = servers(NUMBER);
    let (from_a, from_b) = (load(&mut a, &mover4), load(&mut b, &mover6));
    let own = load(&mut mover, &servers(11)[0]);
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../qemu-configs/qemu-migrate.sh"));
    here.bed.directory.write("migrate.sh", script.unwrap()).unwrap();
    let mut migrate = Command::new("sh");
    migrate.args(["/tmp/migrate.sh", "/tmp/monitor", "tcp:127.0.0.1:4444"]);
    // A translated guest's pages change faster than they are copied.
    migrate.env("DOWNTIME_MS", "2000").env("BANDWIDTH", "4G");
    let mut migrate = here.bed.lab.start("migrate", &here.bed.directory, &mut migrate).unwrap();
    let moved = migrate.wait(seconds(90)).unwrap();
    assert!(moved.success(), "{}", migrate.log());
    arrived.arrive(mover);
    let mut mover = arrived;
    stop(&mut mover, &own);
    stop(&mut a, &from_a);
    stop(&mut b, &from_b);
    assert_eq!([here.learnt(NUMBER), there.learnt(NUMBER)], ["vxlan0", "vonic-web1"]);
    for server in servers(NUMBER) {
        a.must(&format!("vonic-peer both {server} 1000003 7 2"), seconds(60)).unwrap();
    }
    assert_eq!([here.fragments(), there.fragments()], [0, 0], "the guests' MTU leaves room for VXLAN");
}
