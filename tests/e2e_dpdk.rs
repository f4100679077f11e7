//! DPDK's virtio-user, a real frontend without a VM: do the frames that testpmd sends once go round and round between its two ports?
//!
//! In io forwarding each port sends what the other received, so the first frames form two closed circles, each of one transmit and one
//! receive ring. A ring that is larger than its circle can never be full: whatever is lost then, vonic lost.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::thread;
use std::time::Duration;

use serde_json::Value;
use vonic_tests::testpmd::{BURST, Testpmd};
use vonic_tests::*;

const VMS: [&str; 2] = ["fe0", "fe1"];

/// One run of testpmd.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// Of the net_virtio_user devices.
    options: &'static str,
    /// Descriptors of each ring.
    ring: u64,
    /// Bursts that each port sends first.
    bursts: u64,
    /// How long the frames must circulate.
    time: Duration,
    /// Virtio features, and whether the driver must have taken them.
    features: &'static [(&'static str, bool)],
    /// Lines for the VMs' files.
    vm: &'static str,
}

/// 2 × 16 bursts of 32 frames through rings of 1,024.
const USUAL: Case =
    Case { options: "", ring: 1024, bursts: 16, time: seconds(3), features: &[("version_1", true)], vm: "" };

/// Two ports on the switch, filtered by MAC alone: testpmd sends 198.18.0.1 → 198.18.0.2 from both.
fn config(case: &Case) -> TestConfig {
    let mut config = TestConfig {
        network: "subnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\n".into(),
        ..TestConfig::default()
    };
    for (number, name) in VMS.into_iter().enumerate() {
        config.vms.insert(name.to_string(), format!("mac = \"02:00:00:00:00:{number:02x}\"\n{}", case.vm));
    }
    config
}

fn testpmd(bed: &Bed, case: &Case) -> Process {
    let config = Testpmd {
        device: case.options.to_string(),
        ring: case.ring,
        commands: format!("start tx_first {}\n", case.bursts),
        ..Testpmd::new(VMS.map(|name| bed.socket(name)))
    };
    config.start(&bed.lab, &bed.directory).unwrap()
}

fn frames(stats: &Value, vm: usize, way: &str) -> u64 {
    stats["vms"][VMS[vm]][way]["frames"].as_u64().unwrap()
}

/// Frames to `vm` that were dropped; for want of room in its ring is the only reason that there may be.
fn no_room(stats: &Value, vm: usize) -> u64 {
    let drops = &stats["vms"][VMS[vm]]["drops_by_reason"];
    let reasons: Vec<&String> = drops.as_object().unwrap().keys().collect();
    assert!(reasons.iter().all(|reason| *reason == "no_room"), "{drops}");
    let counts = drops["no_room"].as_object();
    assert!(
        counts.is_none_or(|counts| counts.iter().all(|(way, count)| way == "host_to_guest" || count == 0)),
        "{drops}"
    );
    counts.map_or(0, |counts| counts["host_to_guest"].as_u64().unwrap())
}

/// The sum over both ports of one figure of testpmd's last report.
fn reported(log: &str, name: &str) -> u64 {
    let report = log.rsplit_once("Accumulated forward statistics").map(|(_, report)| report);
    let report = report.with_context(|| format!("no report of testpmd:\n{log}")).unwrap();
    let figure = report.split_once(&format!("{name}:")).unwrap().1.split_ascii_whitespace().next();
    figure.unwrap().parse().unwrap()
}

/// In every second each port sends more frames than there are in both circles: they all go on, not a few of them.
fn circulate(bed: &Bed, case: &Case) {
    let all = 2 * case.bursts * BURST;
    let started = |stats: &Value| (0..2).all(|vm| frames(stats, vm, "guest_to_host") > all);
    wait_until("the first frames", seconds(30), || started(&bed.vonicd.stats().unwrap())).unwrap();
    for _ in 0..case.time.as_secs() {
        let before = bed.vonicd.stats().unwrap();
        thread::sleep(seconds(1));
        let after = bed.vonicd.stats().unwrap();
        for (vm, name) in VMS.iter().enumerate() {
            let more = frames(&after, vm, "guest_to_host") - frames(&before, vm, "guest_to_host");
            assert!(more > all, "{case:?}: {name} sent {more} frames in a second");
        }
    }
}

/// The driver took what it was to take, and its rings have the size that it was told.
fn is_as_asked(vm: &Value, case: &Case) {
    let has = |list: &str, name: &str| vm[list].as_array().unwrap().iter().any(|feature| feature == name);
    for (name, taken) in case.features {
        assert_eq!(has("features_negotiated", name), *taken, "{case:?}: {name} in {vm}");
    }
    // testpmd takes in-order completion unless it is told not to.
    let in_order = !case.options.contains("in_order=0");
    assert_eq!(has("features_negotiated", "in_order"), in_order, "{case:?}: {vm}");
    let runs = |ring: &Value| ring["size"] == case.ring && ring["state"] == "running";
    assert!(vm["rings"].as_array().unwrap().iter().all(runs), "{case:?}: {vm}");
}

/// What the frames came to.
#[derive(Debug, PartialEq, Eq)]
struct Fate {
    /// Still in the rings.
    circulating: u64,
    /// Lost by vonic.
    no_room: u64,
    /// Lost by testpmd, whose transmit ring was full.
    refused: u64,
}

fn run(case: &Case) -> Fate {
    let bed = Bed::start(&config(case)).unwrap();
    let mut testpmd = testpmd(&bed, case);
    circulate(&bed, case);
    // While testpmd stands still, vonic has nothing in hand: what one port sent, the other was given, or it was dropped there.
    testpmd.signal(libc::SIGSTOP).unwrap();
    let at_rest = |stats: &Value| {
        (0..2).all(|vm| {
            frames(stats, vm, "guest_to_host") == frames(stats, 1 - vm, "host_to_guest") + no_room(stats, 1 - vm)
        })
    };
    wait_until("every frame at its place", seconds(10), || at_rest(&bed.vonicd.stats().unwrap())).unwrap();
    VMS.iter().for_each(|vm| is_as_asked(&bed.vonicd.vm(vm).unwrap(), case));
    testpmd.signal(libc::SIGCONT).unwrap();
    // Forwarding ends before the ports do: the report is about whole circles.
    testpmd.signal(libc::SIGTERM).unwrap();
    let status = testpmd.wait(seconds(30)).unwrap();
    assert!(status.success(), "{status}");
    let (log, stats) = (testpmd.log(), bed.vonicd.stats().unwrap());
    bed.vonicd.stop().unwrap();
    // Once the first port is closed, the other's last frames find nobody: that is not counted as circulating.
    let lost: u64 = (0..2)
        .map(|vm| stats["vms"][VMS[vm]]["drops_by_reason"]["no_room"]["host_to_guest"].as_u64().unwrap_or(0))
        .sum();
    let fate = Fate {
        circulating: reported(&log, "TX-packets") - reported(&log, "RX-packets") - lost,
        no_room: lost,
        refused: reported(&log, "TX-dropped"),
    };
    assert_eq!(fate.circulating + fate.no_room + fate.refused, 2 * case.bursts * BURST, "{case:?}: {fate:?}");
    fate
}

/// Runs the cases; nothing may be lost in any of them.
fn all_stay(cases: &[Case]) {
    if !has_two_cores() {
        skip!("testpmd keeps one core busy, and vonic needs another");
    }
    for case in cases {
        assert_eq!(run(case), Fate { circulating: 2 * case.bursts * BURST, no_room: 0, refused: 0 });
    }
}

fn has_two_cores() -> bool {
    thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2)
}

#[test]
fn the_first_1024_frames_circulate_with_mergeable_buffers() {
    let features = &[("mrg_rxbuf", true)];
    all_stay(&[Case { options: "mrg_rxbuf=1,in_order=0", time: seconds(10), features, ..USUAL }]);
}

#[test]
fn the_first_1024_frames_circulate_with_a_buffer_per_frame() {
    let features = &[("mrg_rxbuf", false)];
    all_stay(&[Case { options: "mrg_rxbuf=0,in_order=0", time: seconds(10), features, ..USUAL }]);
}

#[test]
fn a_driver_that_wants_packed_rings_gets_split_ones() {
    all_stay(&[Case { options: "packed_vq=1", features: &[("version_1", true), ("packed", false)], ..USUAL }]);
}

#[test]
fn in_order_is_taken() {
    let orders = ["mrg_rxbuf=1,in_order=1", "mrg_rxbuf=0,in_order=1"];
    all_stay(&orders.map(|options| Case { options, ..USUAL }));
}

#[test]
fn small_rings_do_as_well() {
    let orders = ["mrg_rxbuf=1,in_order=0", "mrg_rxbuf=0,in_order=0"];
    all_stay(&orders.map(|options| Case { options, ring: 256, bursts: 4, ..USUAL }));
}

/// testpmd listens, and vonic connects.
#[test]
fn a_frontend_may_be_the_server() {
    let case = Case { options: "server=1", vm: "socket_mode = \"client\"\n", ..USUAL };
    all_stay(&[case]);
}

/// More first frames than the rings hold: some are lost, each is accounted for, and the rest go on.
#[test]
fn what_does_not_fit_is_lost_for_want_of_room_alone() {
    if !has_two_cores() {
        skip!("testpmd keeps one core busy, and vonic needs another");
    }
    let fate = run(&Case { options: "mrg_rxbuf=1,in_order=0", ring: 256, bursts: 32, ..USUAL });
    assert!(fate.circulating >= 256, "{fate:?}");
}
