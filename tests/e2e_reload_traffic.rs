//! Thirty reloads while four guests' streams run: VMs come, change and go, by files and by the API, and files are spoilt for a moment. Do
//! the streams notice? VONIC_LONG=1 has a hundred of them.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::*;

fn reloads() -> u64 {
    if std::env::var_os("VONIC_LONG").is_some() { 100 } else { 30 }
}

/// The same changes in every run.
const SEED: u64 = 0x0005_eed0_f1e5;
/// Bytes of one stream, each way. Several reloads fall into each.
const BYTES: u64 = 50_000_017;
/// The guests whose streams must not notice: the first two talk to each other, the third to the host, the host to the fourth.
const STREAMERS: [(&str, u8); 4] = [("s1", 2), ("s2", 3), ("s3", 4), ("s4", 5)];
const FORWARD: &str = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7005\"\nport = 7\n";
/// Numbers of the VMs that come and go.
const NUMBERS: std::ops::Range<u8> = 20..28;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// A VM's file as the test means it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Vm {
    number: u8,
    other_network: bool,
    mtu: u16,
    connections: u32,
    label: u64,
    forward: bool,
}

impl Vm {
    fn new(number: u8) -> Vm {
        Vm { number, other_network: false, mtu: 1500, connections: 100, label: 0, forward: false }
    }

    fn text(&self) -> String {
        let number = self.number;
        let (network, subnet) = if self.other_network { ("other", "198.51.100") } else { ("default", "192.0.2") };
        let mut text = format!(
            "mac = \"52:54:00:00:00:{number:02x}\"\nnetwork = \"{network}\"\naddress4 = \"{subnet}.{number}\"\nmtu = {}\n\
             labels = {{ round = \"{}\" }}\nlimits = {{ connections = {} }}\n",
            self.mtu, self.label, self.connections
        );
        if self.forward {
            text.push_str(&format!("[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:72{number}\"\nport = 80\n"));
        }
        text
    }

    /// Another VM file, different in one key.
    fn change(&mut self, random: &mut Random, round: u64) {
        match random.below(5) {
            0 => self.mtu = if self.mtu == 1500 { 1400 } else { 1500 },
            1 => self.connections += 1,
            2 => self.label = round,
            3 => self.forward = !self.forward,
            _ => self.other_network = !self.other_network,
        }
    }
}

struct Service {
    bed: Bed,
    random: Random,
    vms: BTreeMap<String, Vm>,
    /// Drivers of some of them.
    mocks: BTreeMap<String, MockFrontend>,
    /// Numbers that nobody has; the last to be given back is the first to be given out.
    free: Vec<u8>,
    /// How often each kind of round was.
    kinds: BTreeMap<&'static str, u32>,
}

impl Service {
    fn start() -> Service {
        let mut config = TestConfig { network: String::new(), ..TestConfig::default() };
        for (name, subnet) in [("default", "192.0.2"), ("other", "198.51.100")] {
            let gateway = format!("{subnet}.1");
            config.service.push_str(&format!(
                "[network.{name}]\nsubnet4 = \"{subnet}.0/24\"\ngateway4 = \"{gateway}\"\nhost_loopback4 = \"{gateway}\"\n"
            ));
        }
        for (name, number) in STREAMERS {
            config = config.vm(name, number, if name == "s4" { FORWARD } else { "" });
        }
        let bed = Bed::start(&config).unwrap();
        let random = Random(SEED);
        Service {
            bed,
            random,
            vms: BTreeMap::new(),
            mocks: BTreeMap::new(),
            free: NUMBERS.rev().collect(),
            kinds: BTreeMap::new(),
        }
    }

    fn write(&self, name: &str, text: &str) {
        self.bed.directory.write(&format!("etc/vms.d/{name}.toml"), text).unwrap();
    }

    fn delete(&self, name: &str) {
        std::fs::remove_file(self.bed.vonicd.config_dir().join(format!("vms.d/{name}.toml"))).unwrap();
    }

    /// One of the VMs that come and go.
    fn any(&mut self) -> Option<String> {
        let names: Vec<String> = self.vms.keys().cloned().collect();
        (!names.is_empty()).then(|| names[self.random.below(names.len())].clone())
    }

    /// What the command's report says, or else the log: added, changed and removed.
    fn reload(&mut self, by_signal: bool) -> Option<Value> {
        if !by_signal {
            let output = self.bed.vonicd.vonic_output(&["reload", "--json"]).unwrap();
            return Some(serde_json::from_slice(&output.stdout).unwrap());
        }
        let reloads = |log: String| log.matches(" reload: ").count();
        let before = reloads(self.bed.vonicd.log());
        self.bed.vonicd.process().signal(libc::SIGHUP).unwrap();
        wait_until("a reload in the log", seconds(20), || reloads(self.bed.vonicd.log()) > before).unwrap();
        None
    }

    /// The service knows the streamers and the VMs meant, and their sockets are there and no other.
    fn is_as_meant(&self, why: &str) {
        let rows = self.bed.vonicd.vonic(&["vm", "list", "--json"]).unwrap();
        let listed =
            rows.as_array().unwrap().iter().map(|row| (row["name"].as_str().unwrap(), row["mac"].as_str().unwrap()));
        let mac = |number: u8| format!("52:54:00:00:00:{number:02x}");
        let mut wanted: Vec<(String, String)> =
            STREAMERS.map(|(name, number)| (name.to_string(), mac(number))).to_vec();
        wanted.extend(self.vms.iter().map(|(name, vm)| (name.clone(), mac(vm.number))));
        wanted.sort();
        let mut listed: Vec<_> = listed.map(|(name, mac)| (name.to_string(), mac.to_string())).collect();
        listed.sort();
        assert_eq!(listed, wanted, "{why}");
        for (name, vm) in &self.vms {
            assert_eq!(self.bed.vonicd.vm(name).unwrap()["mtu"], vm.mtu, "{why}: {name}");
        }
        let sockets = || {
            let entries = std::fs::read_dir(self.bed.vonicd.directory().join("run")).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.retain(|name| name.ends_with(".sock") && name != "api.sock");
            names.sort();
            names.iter().map(|name| name.trim_end_matches(".sock").to_string()).collect::<Vec<_>>()
        };
        let names: Vec<String> = wanted.into_iter().map(|(name, _)| name).collect();
        wait_until(&format!("{why}: the sockets {names:?}"), seconds(10), || sockets() == names).unwrap();
    }

    /// A driver starts on the VM: its MAC is its own, whoever had it before.
    fn drive(&mut self, name: &str) {
        let vm = &self.vms[name];
        let served = || std::os::unix::net::UnixStream::connect(self.bed.socket(name)).is_ok();
        wait_until(&format!("{name}'s socket"), seconds(10), served).unwrap();
        let mut mock = self.bed.mock(name, MockConfig::default()).unwrap();
        if !vm.other_network {
            mock.gateway_answers(vm.number).unwrap();
        }
        self.mocks.insert(name.to_string(), mock);
    }

    fn note(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
    }

    /// The same by the API, which is in force when it is answered.
    fn put(&mut self, name: &str, text: &str) {
        let file = self.bed.directory.write("new.toml", text).unwrap().display().to_string();
        let report = self.bed.vonicd.vonic(&["vm", "add", &file, "--name", name, "--json"]).unwrap();
        assert_eq!((&report["changed"], &report["errors"]), (&serde_json::json!([name]), &serde_json::json!([])));
        self.note("put");
    }

    /// One change, one reload, and the state after it.
    fn round(&mut self, round: u64) {
        let by_signal = round % 3 == 2;
        let (mut added, mut changed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        let choice = self.random.below(6);
        let target = if choice < 2 { None } else { self.any() };
        match (choice, target) {
            (0 | 1, _) | (_, None) => {
                let Some(number) = self.free.pop() else { return self.remove_one(round) };
                let name = format!("v{round}");
                self.write(&name, &Vm::new(number).text());
                self.vms.insert(name.clone(), Vm::new(number));
                added.push(name);
                self.note("added");
            }
            (2, Some(name)) => {
                self.delete(&name);
                self.free.push(self.vms.remove(&name).unwrap().number);
                removed.push(name);
                self.note("removed");
            }
            (3, Some(name)) => return self.spoil(&name, by_signal),
            (_, Some(name)) => {
                let mut vm = self.vms[&name].clone();
                vm.change(&mut self.random, round);
                self.write(&name, &vm.text());
                self.vms.insert(name.clone(), vm);
                changed.push(name);
                self.note("changed");
            }
        }
        // A streamer's own file changes too, in what needs no other device.
        let (name, number) = STREAMERS[self.random.below(3)];
        let text = &TestConfig::default().vm(name, number, &format!("labels = {{ round = \"{round}\" }}")).vms[name];
        if round % 3 == 1 {
            self.put(name, text);
        } else {
            self.write(name, text);
            changed.push(name.to_string());
            changed.sort();
        }
        if let Some(report) = self.reload(by_signal) {
            let [of_added, of_changed, of_removed] = [&added, &changed, &removed].map(|names| serde_json::json!(names));
            assert_eq!(
                (&report["added"], &report["changed"], &report["removed"], &report["errors"]),
                (&of_added, &of_changed, &of_removed, &serde_json::json!([])),
                "round {round}"
            );
        }
        self.is_as_meant(&format!("round {round}: +{added:?} ~{changed:?} -{removed:?}"));
        added.iter().for_each(|name| self.drive(name));
        removed.iter().for_each(|name| drop(self.mocks.remove(name)));
    }

    fn remove_one(&mut self, round: u64) {
        let name = self.any().unwrap();
        self.delete(&name);
        self.free.push(self.vms.remove(&name).unwrap().number);
        self.reload(false);
        self.is_as_meant(&format!("round {round}: the last number was taken, -{name}"));
        self.mocks.remove(&name);
    }

    /// A file that is broken for a moment changes nothing, and neither does its mending.
    fn spoil(&mut self, name: &str, by_signal: bool) {
        self.note("spoilt");
        let whole = self.vms[name].text();
        for (text, errors) in
            [(whole.replace("mtu = ", "mtu == "), true), (whole.replace("mac", "mca"), true), (whole, false)]
        {
            self.write(name, &text);
            if let Some(report) = self.reload(by_signal) {
                let nothing = ["added", "changed", "removed"].iter().all(|what| report[what] == serde_json::json!([]));
                let named = report["errors"].to_string().contains(&format!("{name}.toml"));
                assert!(nothing && named == errors, "{name} was spoilt: {report}");
            }
            self.is_as_meant(&format!("{name} was spoilt"));
        }
    }
}

/// Streams one after the other until the file `enough` is there; each must be exact.
fn streams(peer: &str, address: &str, enough: &str, seed: u64) -> String {
    format!(
        "n=0; until [ -e {enough} ]; do {peer} both {address} {BYTES} $(({seed} + n)) || exit 1; n=$((n + 1)); done; echo rounds=$n"
    )
}

fn rounds(output: &str) -> u32 {
    output.rsplit_once("rounds=").and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn streams_run_on_through_reloads() {
    let mut service = Service::start();
    let mut host = service.bed.server().unwrap();
    let mut guests = STREAMERS.map(|(name, number)| service.bed.start_guest(name, number, Vmm::Uml).unwrap());
    for guest in &mut guests {
        guest.wait_ready().unwrap();
        guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap().wait_output(guest, "listening", seconds(10)).unwrap();
    }
    let to_host = format!("192.0.2.1:{}", host.address().port());
    let addresses = [(0, "192.0.2.3:7", 100), (1, "192.0.2.2:7", 200), (2, to_host.as_str(), 300)];
    let start = |(at, address, seed): (usize, &str, u64), guests: &mut [Guest; 4]| {
        (at, guests[at].spawn(&streams("vonic-peer", address, "/run/enough", seed)).unwrap())
    };
    let jobs = addresses.map(|stream| start(stream, &mut guests));
    let enough = service.bed.directory.path().join("enough");
    let peer = peer_program().unwrap();
    let of_host = streams(&peer.display().to_string(), "127.0.0.1:7005", &enough.display().to_string(), 400);
    let log = service.bed.directory.path().join("streams.log");
    let mut of_host = Process::start("streams", Command::new("sh").args(["-c", &of_host]), None, &log).unwrap();

    for round in 0..reloads() {
        service.round(round);
        assert!(of_host.ended().is_none(), "the host's stream ended in round {round}: {}", of_host.log());
    }

    let kinds = &service.kinds;
    assert!(
        kinds.len() == 5 && kinds.values().all(|count| *count >= 2),
        "the seed leaves a kind of round out: {kinds:?}"
    );

    std::fs::write(&enough, "").unwrap();
    for (at, job) in jobs {
        guests[at].must("touch /run/enough", seconds(5)).unwrap();
        let done = job.wait(&mut guests[at], seconds(120)).unwrap();
        assert!(done.status == 0 && rounds(&done.stdout) > 0, "{}: {}", STREAMERS[at].0, done.stdout);
    }
    let status = of_host.wait(seconds(120)).unwrap();
    assert!(status.success() && rounds(&of_host.log()) > 0, "{}", of_host.log());
    assert!(host.report(seconds(10)).unwrap()["error"].is_null());
    let log = service.bed.vonicd.log();
    for (name, _) in STREAMERS {
        assert_eq!(service.bed.vonicd.vm(name).unwrap()["tcp"]["reset"], 0, "{name}");
        assert_eq!(log.matches(&format!("{name}: a VMM connected")).count(), 1, "{name} has connected again");
        assert!(!log.contains(&format!("{name}: the VMM disconnected")), "{name}");
    }
    drop(guests);
    service.bed.vonicd.stop().unwrap();
}
