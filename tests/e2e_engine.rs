//! The engine is replaced on request, hangs, and dies again and again of one VM: who notices?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_record::{Checkpoint, vm_number};
use vonic_tests::line::Line;
use vonic_tests::mock::{GUEST_TO_HOST, VnetHeader, feature};
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

const FORWARD: &str = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7031\"\nport = 7\n";

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {signal} {pid}");
}

/// Ends the engine, and waits for the next one.
fn end_engine(bed: &Bed, manner: &str) {
    let old = bed.vonicd.engine().unwrap();
    signal(old, manner);
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
}

fn status(bed: &Bed) -> Value {
    bed.vonicd.vonic(&["engine", "status", "--json"]).unwrap()
}

/// The status once its `key` is `value`.
fn status_with(bed: &Bed, key: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    wait_for(key, seconds(10), || Ok(Some(status(bed)).filter(|status| status[key] == value))).unwrap()
}

/// Who stands by, among the master's children.
fn standby(bed: &mut Bed) -> u32 {
    let (master, engine) = (bed.vonicd.process().pid(), bed.vonicd.engine().unwrap());
    wait_for("a standby", seconds(10), || {
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        let others = children.split_whitespace().map(|pid| pid.parse().unwrap()).filter(|&pid: &u32| pid != engine);
        Ok(others.min())
    })
    .unwrap()
}

/// The checkpoint that the engines share, by the engine's descriptor table.
fn checkpoint(bed: &Bed) -> Checkpoint {
    let table = format!("/proc/{}/fd", bed.vonicd.engine().unwrap());
    let is_it = |path: &std::path::Path| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:vonic-checkpoint"))
    };
    let path = fs::read_dir(table).unwrap().map(|entry| entry.unwrap().path()).find(|path| is_it(path)).unwrap();
    Checkpoint::open(File::options().read(true).write(true).open(path).unwrap().into()).unwrap()
}

/// A real guest's streams, both openers, both ways, while engines are replaced and one is stopped.
#[test]
fn a_guests_streams_outlive_engines_that_are_replaced_or_hang() {
    let config = TestConfig { service: "heartbeat_ms = 500".into(), ..TestConfig::default() };
    let mut bed = Bed::start(&config.vm("a", 2, FORWARD)).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let server = bed.server().unwrap();
    let served = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let carrier = "cat /sys/class/net/eth0/carrier_changes";
    let before = guest.must(carrier, seconds(10)).unwrap();
    let to_host = format!("192.0.2.1:{}", server.address().port());
    let out = guest.spawn(&format!("vonic-peer both {to_host} 50000017 3 4")).unwrap();
    let directory = bed.directory.path().to_path_buf();
    let into = std::thread::spawn(move || {
        peer(&["both", "127.0.0.1:7031", "50000017", "5", "4"], None, &directory, seconds(120))
    });
    for replaced in 1..=4 {
        std::thread::sleep(Duration::from_millis(200));
        let (old, next) = (bed.vonicd.engine().unwrap(), standby(&mut bed));
        let answer = bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap();
        assert_eq!(answer["pid"], next, "{answer}");
        assert!(old != next && answer["replaced"] == replaced && answer["deaths"] == 0, "{answer}");
        assert_eq!(answer["last_takeover"]["planned"], true, "{answer}");
    }
    let stopped = Instant::now();
    end_engine(&bed, "STOP");
    // Asked every 250 ms, it has 500 ms for an answer.
    let took = stopped.elapsed();
    assert!((Duration::from_millis(490)..seconds(3)).contains(&took), "{took:?}");
    let status = status_with(&bed, "deaths", 1);
    let reason = status["last_death"]["reason"].as_str().unwrap();
    assert!(reason.contains("its worker does not answer for 500ms"), "{status}");
    let done = out.wait(&mut guest, seconds(120)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    let into = into.join().unwrap().unwrap();
    assert_eq!(into["ok"], true, "{into}");
    assert_eq!(guest.must(carrier, seconds(10)).unwrap(), before);
    let text = bed.vonicd.vonic_text(&["engine", "status"]).unwrap();
    assert!(text.contains("replaced       4") && text.contains("somebody has stopped the process"), "{text}");
    let log = bed.vonicd.log();
    assert_eq!(log.matches("a VMM connected").count(), 1, "{log}");
    bed.vonicd.stop().unwrap();
}

/// What is not to outlive an engine is reset on both sides, at once; its neighbour in the same VM goes on.
#[test]
fn without_failover_both_ends_are_reset() {
    let forwards = format!("failover = false\n{FORWARD}failover = true\n{}", FORWARD.replace("7031", "7032"));
    let bed = Bed::start(&TestConfig::default().vm("a", 2, &forwards)).unwrap();
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let shown = bed.vonicd.vm("a").unwrap();
    assert_eq!((&shown["failover"], &shown["forwards"][0]), (&false.into(), &"tcp 127.0.0.1:7031 -> 7".into()));
    assert_eq!(shown["forwards"][1], "tcp 127.0.0.1:7032 -> 7 (without failover)");
    let mut out = Line::guest_opens(&mut guest, 4000).unwrap();
    let mut into = Line::world_opens(&mut guest, ([127, 0, 0, 1], 7032).into(), 7).unwrap();
    let mut stays = Line::world_opens(&mut guest, ([127, 0, 0, 1], 7031).into(), 7).unwrap();
    for line in [&mut out, &mut into, &mut stays] {
        line.exchange(&mut guest).unwrap();
    }
    end_engine(&bed, "KILL");
    // Unasked: a guest that only listens would else wait for ever.
    let mut expected = [&out, &into].map(|line| (line.conn().ports, line.conn().rcv_nxt)).to_vec();
    let resets = |guest: &mut HandGuest| {
        let (_, frame) = guest.mock.receive_frame(seconds(5)).unwrap().unwrap();
        frames::Tcp::parse(&frame).filter(|segment| segment.flags & frames::Tcp::RST != 0)
    };
    while !expected.is_empty() {
        let Some(reset) = resets(&mut guest) else { continue };
        expected.retain(|(ports, next)| ((ports.1, ports.0), *next) != (reset.ports, reset.sequence));
    }
    out.host_sees_reset().unwrap();
    into.host_sees_reset().unwrap();
    stays.exchange(&mut guest).unwrap();
    let mut again = Line::guest_opens(&mut guest, 4000).unwrap();
    again.exchange(&mut guest).unwrap();
    assert_eq!(bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len(), 2);
    bed.vonicd.stop().unwrap();
}

/// Two VMs, of which `a` is what engines die of.
struct Poisoned {
    bed: Bed,
    checkpoint: Checkpoint,
    a: HandGuest,
    b: HandGuest,
    /// A frame of `a`'s that nobody takes.
    waits: Option<u16>,
}

impl Poisoned {
    fn start() -> Poisoned {
        let bed = Bed::start(&TestConfig::default().vm("a", 2, FORWARD).vm("b", 3, "")).unwrap();
        let checkpoint = checkpoint(&bed);
        let [a, b] = [("a", 2), ("b", 3)].map(|(name, at)| HandGuest::start(&bed, name, at, feature::ALL).unwrap());
        Poisoned { bed, checkpoint, a, b, waits: None }
    }

    /// An engine dies while at work on `a`.
    fn die(&mut self) {
        // Stopped, so that its worker does not begin with somebody else's before it is hit.
        let engine = self.bed.vonicd.engine().unwrap();
        signal(engine, "STOP");
        self.checkpoint.header().work_on(0, vm_number("a"));
        // One that no handler takes: other threads would run on meanwhile.
        signal(engine, "TRAP");
        end_engine(&self.bed, "CONT");
        self.b.mock.gateway_answers(3).unwrap();
    }

    /// Twice: `a` is in quarantine.
    fn poison(&mut self) {
        let dead = status(&self.bed)["deaths"].as_u64().unwrap();
        self.die();
        self.a.mock.gateway_answers(2).unwrap();
        self.die();
        let status = status_with(&self.bed, "deaths", dead + 2);
        assert_eq!(status["quarantined"], serde_json::json!(["a"]), "{status}");
        assert_eq!(self.state("a"), "quarantined");
    }

    /// What the list says of a VM's state.
    fn state(&self, vm: &str) -> String {
        let list = self.bed.vonicd.vonic_text(&["vm", "list"]).unwrap();
        let row = list.lines().find(|line| line.starts_with(vm)).unwrap();
        row.split_whitespace().nth(4).unwrap().to_string()
    }

    /// A frame of `a` stays where it is.
    fn is_left_alone(&mut self) {
        let frame = frames::arp_request(2, frames::ip4(1));
        let head = self.a.mock.queue_frame_on(0, &VnetHeader::default(), &frame).unwrap();
        self.a.mock.notify_on(0).unwrap();
        let frame = self.a.mock.receive_frame(Duration::from_millis(300)).unwrap();
        assert!(frame.is_none(), "{frame:?}");
        self.b.mock.gateway_answers(3).unwrap();
        self.waits = Some(head);
    }

    /// The frame that has waited is taken, and answered.
    fn is_served(&mut self, deaths: u64) {
        self.a.mock.wait_sent(self.waits.take().unwrap()).unwrap();
        assert!(self.a.mock.receive_frame(seconds(5)).unwrap().is_some());
        self.a.mock.gateway_answers(2).unwrap();
        let status = status(&self.bed);
        assert_eq!((&status["quarantined"], &status["deaths"]), (&serde_json::json!([]), &deaths.into()), "{status}");
        assert_eq!(self.state("a"), "running");
    }

    fn dead(&self) -> u64 {
        self.bed.vonicd.stats().unwrap()["vms"]["a"]["engine_deaths"].as_u64().unwrap()
    }
}

/// From the second death on the VM's rings are left alone and its connections reset; the others feel one takeover for each. It ends by
/// a restart of the engine, by a change of the VM's file, or with its VMM, and begins again by two further deaths.
#[test]
fn a_vm_that_engines_die_of_is_left_alone() {
    let mut poisoned = Poisoned::start();
    let mut cut = Line::guest_opens(&mut poisoned.a, 4000).unwrap();
    let mut stays = Line::guest_opens(&mut poisoned.b, 4000).unwrap();
    cut.exchange(&mut poisoned.a).unwrap();
    poisoned.poison();
    cut.host_sees_reset().unwrap();
    poisoned.is_left_alone();
    let shown = poisoned.bed.vonicd.vm("a").unwrap();
    assert!(shown["last_error"].as_str().unwrap().contains("vonic engine restart"), "{shown}");
    assert!(poisoned.bed.vonicd.log().contains("a: in quarantine"));
    // A death that nobody is to blame for leaves it where it is.
    end_engine(&poisoned.bed, "KILL");
    poisoned.b.mock.gateway_answers(3).unwrap();
    assert_eq!(poisoned.state("a"), "quarantined");
    poisoned.bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap();
    assert_eq!(poisoned.dead(), 2);
    poisoned.is_served(3);

    poisoned.poison();
    poisoned.is_left_alone();
    let changed =
        format!("mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\nlabels = {{ mended = \"yes\" }}\n{FORWARD}");
    poisoned.bed.directory.write("etc/vms.d/a.toml", changed).unwrap();
    poisoned.bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    poisoned.is_served(5);

    poisoned.poison();
    poisoned.is_left_alone();
    assert_eq!(poisoned.dead(), 6);
    let Poisoned { bed, a, b, .. } = poisoned;
    drop(a);
    wait_until("the end of the VMM", seconds(5), || bed.vonicd.vm("a").unwrap()["connected"] == false).unwrap();
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    Line::guest_opens(&mut a, 4000).unwrap().exchange(&mut a).unwrap();
    let mut b = b;
    b.mock.gateway_answers(3).unwrap();
    stays.exchange(&mut b).unwrap();
    bed.vonicd.stop().unwrap();
}

/// A newer vonicd knows what engines of the older one have died of, whichever formats it writes.
#[test]
fn a_quarantine_outlives_upgrades() {
    let mut poisoned = Poisoned::start();
    poisoned.die();
    poisoned.a.mock.gateway_answers(2).unwrap();
    let same = Vonicd::copy(&poisoned.bed.directory).unwrap();
    poisoned.bed.vonicd.upgrade(&same).unwrap();
    // What `b` asks of everybody comes to `a`, which takes it last.
    for (guest, number) in [(&mut poisoned.b, 3), (&mut poisoned.a, 2)] {
        guest.mock.gateway_answers(number).unwrap();
    }
    assert_eq!(poisoned.state("a"), "running");
    // The second is the second of both.
    poisoned.die();
    for program in [same, Vonicd::of_next_format().unwrap()] {
        assert_eq!(status_with(&poisoned.bed, "deaths", 2)["quarantined"], serde_json::json!(["a"]));
        poisoned.bed.vonicd.upgrade(&program).unwrap();
        assert_eq!((poisoned.state("a").as_str(), poisoned.dead()), ("quarantined", 2));
    }
    poisoned.is_left_alone();
    poisoned.bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap();
    poisoned.is_served(2);
    poisoned.bed.vonicd.stop().unwrap();
}

/// The header says whose frames are being taken, and nobody's when none are. A neighbour is named in passing only, while the worker looks whether
/// its rings have anything to publish.
#[test]
fn the_header_names_whom_the_worker_is_at_work_for() {
    let mut poisoned = Poisoned::start();
    let numbers = ["a", "b"].map(vm_number);
    let header = poisoned.checkpoint.header();
    let whom = || (0..header.workers()).find_map(|worker| header.working_on(worker));
    wait_until("rest", seconds(5), || whom().is_none()).unwrap();
    for (at, other) in [(0, 1), (1, 0)] {
        let guest = if at == 0 { &mut poisoned.a } else { &mut poisoned.b };
        let frame = frames::arp_request(2 + at as u8, frames::ip4(1));
        let mut named = [0; 2];
        wait_for("its number", seconds(20), || {
            for _ in 0..32 {
                guest.mock.queue_frame_on(0, &VnetHeader::default(), &frame)?;
            }
            guest.mock.notify_on(0)?;
            let until = Instant::now() + Duration::from_millis(2);
            let seen = std::iter::from_fn(|| (Instant::now() < until).then(whom));
            let seen: Vec<u64> = seen.flatten().collect();
            let times = |at: usize| seen.iter().filter(|vm| **vm == numbers[at]).count();
            named[at] += times(at);
            named[other] += times(other);
            while guest.mock.wait_used(GUEST_TO_HOST, Duration::from_millis(20))?.is_some() {}
            while guest.mock.receive_frame(Duration::ZERO)?.is_some() {}
            Ok((named[at] >= 100).then_some(()))
        })
        .unwrap();
        assert!(named[at] > 3 * named[other], "{named:?}");
        wait_until("rest", seconds(5), || whom().is_none()).unwrap();
    }
    poisoned.bed.vonicd.stop().unwrap();
}
