//! Frames of a fixed size between two virtio-user ports, through vonic's switch, DPDK's vhost driver with plain forwarding, and OVS.
//!
//! testpmd's ports in front are the same for all; they forward on processor 1, and the backend has processor 0.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use vonic_tests::testpmd::{BURST, Testpmd, received_per_second};
use vonic_tests::{Context, Lab, Process, Result, TempDir, TestConfig, Vonicd, ensure, isolate, wait_for};

use crate::book::{Book, Stage};
use crate::machine;
use crate::ovs::Ovs;
use crate::plan::Sample;
use crate::row::{Case, Target};

/// What circulates.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// Frames of so many bytes, without their check sequence, in two circles: each port sends what the other received.
    Size(u16),
    /// Of 64, 576 and 1500 bytes, as 9 : 5 : 2, which comes near the Internet's mix of 7 : 4 : 1 and gives bursts of whole frames.
    Mixed,
    /// Of 64 bytes in one circle: each port returns what it received to its sender, addresses swapped, so that each speaks only from its
    /// own.
    Returned,
}

/// Whom the frames go through.
#[derive(Clone, Copy, PartialEq)]
enum Backend {
    Vonic,
    Testpmd,
    Ovs,
}

const TESTPMD: &str = "testpmd net_vhost, io";
const OVS: &str = "OVS-DPDK, learning switch";

const fn case(id: &'static str, load: &'static str, peer: &'static str, floor: f64, aim: f64) -> Case {
    Case { id, load, unit: "Mpps each way", peer, target: Target::Ratio { floor, aim } }
}

static CASES: [(Case, Load, Backend); 5] = [
    (
        case("packets-64", "virtio-user, 64 B, MAC filter and anti-spoofing", TESTPMD, 1.0, 1.2),
        Load::Size(64),
        Backend::Testpmd,
    ),
    (
        case("packets-64-ovs", "virtio-user, 64 B, MAC filter and anti-spoofing", OVS, 2.0, 4.0),
        Load::Size(64),
        Backend::Ovs,
    ),
    (
        case("packets-1500", "virtio-user, 1500 B, MAC filter and anti-spoofing", TESTPMD, 1.0, 1.2),
        Load::Size(1500),
        Backend::Testpmd,
    ),
    (
        case(
            "packets-mixed",
            "virtio-user, 64, 576 and 1500 B as 9 : 5 : 2, MAC filter and anti-spoofing",
            TESTPMD,
            1.0,
            1.2,
        ),
        Load::Mixed,
        Backend::Testpmd,
    ),
    (
        Case {
            target: Target::Beside,
            ..case(
                "packets-64-addresses",
                "virtio-user, 64 B returned, MAC and address anti-spoofing",
                TESTPMD,
                0.0,
                0.0,
            )
        },
        Load::Returned,
        Backend::Testpmd,
    ),
];

pub static STAGE: Stage = Stage { name: "packets", cases: || CASES.iter().map(|(case, ..)| case).collect(), run };

fn run(book: &mut Book<'_>) -> Result<()> {
    isolate()?;
    let lab = Lab::open()?;
    machine::has(&lab, "/usr/bin/dpdk-testpmd")?;
    for (case, load, peer) in &CASES {
        book.row(case, |plan| {
            plan.pairs(
                case.peer,
                || rate(&lab, Backend::Vonic, *load, plan.seconds),
                || match peer {
                    Backend::Ovs => switched_rate(&lab, *load, plan.seconds),
                    _ => rate(&lab, *peer, *load, plan.seconds),
                },
            )
        });
    }
    Ok(())
}

/// Each side starts anew for each measurement: only one pair of pollers has room on two processors.
fn rate(lab: &Lab, backend: Backend, load: Load, time: u64) -> Result<Sample> {
    let directory = TempDir::new()?;
    let service = match backend {
        Backend::Vonic => Service::vonic(&directory, load)?,
        Backend::Testpmd => Service::testpmd(lab, &directory)?,
        Backend::Ovs => Service::ovs(lab, &directory)?,
    };
    let mut front = Testpmd::new(service.sockets());
    if backend == Backend::Ovs {
        front.device = "server=1".into();
    }
    (front.forward, front.commands) = match load {
        Load::Size(size) => ("io", format!("set txpkts {size}\nstart tx_first 16\n")),
        Load::Mixed => ("io", mixed()),
        Load::Returned => ("5tswap", "set txpkts 64\nstart tx_first 28\n".into()),
    };
    // Frames that wait in the rings when forwarding starts are the load itself.
    front.arguments = vec!["--no-flush-rx".into()];
    if load == Load::Returned {
        front.arguments.extend(["--port-topology=loop".into(), format!("--tx-ip={},{}", ADDRESSES[0], ADDRESSES[1])]);
    }
    let mut front = front.start(lab, &directory)?;
    let rate = steady(&mut front, time).with_context(|| service.log())?;
    service.check(load)?;
    Ok(Sample::from(rate / 1e6))
}

/// OVS drops what comes before it has learnt who is where. If that is all that there is, nothing circulates, and it has to start anew.
fn switched_rate(lab: &Lab, load: Load, time: u64) -> Result<Sample> {
    let mut tries = (0..3).map(|_| rate(lab, Backend::Ovs, load, time));
    tries.find(|rate| rate.is_ok()).unwrap_or_else(|| rate(lab, Backend::Ovs, load, time))
}

fn mixed() -> String {
    let part = |(size, bursts)| format!("set txpkts {size}\nstart tx_first {bursts}\n");
    [(64, 9), (576, 5), (1500, 2)].map(part).join("stop\n")
}

/// Frames a second each way, over so many seconds, once all of them are on their way.
fn steady(front: &mut Process, time: u64) -> Result<f64> {
    let moving = |rates: &[u64]| rates.iter().position(|rate| *rate > 16 * BURST);
    // The second in which the first of them came was no whole one, and while it started the processors were others'.
    let wanted = time as usize;
    let rates = wait_for("testpmd's rates", Duration::from_secs(time + 30), || {
        ensure!(front.ended().is_none(), "testpmd ended:\n{}", front.log());
        let rates = received_per_second(&front.log());
        Ok(moving(&rates).and_then(|first| Some(rates.get(first + 2..first + 2 + wanted)?.to_vec())))
    });
    let rates = rates.with_context(|| front.log())?;
    Ok(rates.iter().sum::<u64>() as f64 / wanted as f64 / 2.0)
}

const NAMES: [&str; 2] = ["fe0", "fe1"];
const ADDRESSES: [&str; 2] = ["192.0.2.2", "192.0.2.3"];

/// A backend that runs.
enum Service<'a> {
    Vonic(Vonicd),
    Testpmd(Process, &'a TempDir),
    Ovs(Ovs, &'a TempDir),
}

impl Service<'_> {
    /// Two VMs that have no address are filtered by MAC alone. The peers choose their processor themselves.
    fn vonic<'a>(directory: &TempDir, load: Load) -> Result<Service<'a>> {
        let network = "subnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\n";
        let mut config = TestConfig { network: network.into(), ..TestConfig::default() };
        for (number, (name, address)) in NAMES.iter().zip(ADDRESSES).enumerate() {
            let address = if load == Load::Returned { format!("address4 = \"{address}\"\n") } else { String::new() };
            config.vms.insert(name.to_string(), format!("mac = \"02:00:00:00:00:{number:02x}\"\n{address}"));
        }
        let pinned = ["taskset", "-c", "0"];
        Ok(Service::Vonic(Vonicd::start_with(directory, &config, None, &pinned)?))
    }

    fn testpmd<'a>(lab: &Lab, directory: &'a TempDir) -> Result<Service<'a>> {
        let mut command = Command::new("dpdk-testpmd");
        command.args("-l 0,1 --main-lcore 1 --no-huge -m 1024 --no-pci --in-memory --no-telemetry".split(' '));
        for (number, name) in NAMES.iter().enumerate() {
            command.arg("--vdev").arg(format!("net_vhost{number},iface=/tmp/{name}.sock,queues=1"));
        }
        command.args("-- --nb-cores=1 --forward-mode=io --auto-start --total-num-mbufs=65536".split(' '));
        // Without anybody to type, it would end at once.
        command.arg("--stats-period=3600");
        let mut process = lab.start("net_vhost", directory, &mut command)?;
        wait_for("net_vhost's sockets", Duration::from_secs(30), || {
            ensure!(process.ended().is_none(), "net_vhost ended:\n{}", process.log());
            Ok(NAMES.iter().all(|name| socket(directory, name).exists()).then_some(()))
        })?;
        Ok(Service::Testpmd(process, directory))
    }

    fn ovs<'a>(lab: &Lab, directory: &'a TempDir) -> Result<Service<'a>> {
        Ok(Service::Ovs(Ovs::start(lab, directory, NAMES)?, directory))
    }

    fn sockets(&self) -> [PathBuf; 2] {
        match self {
            Service::Vonic(vonicd) => NAMES.map(|name| vonicd.socket(name)),
            Service::Testpmd(_, directory) | Service::Ovs(_, directory) => NAMES.map(|name| socket(directory, name)),
        }
    }

    fn log(&self) -> String {
        match self {
            Service::Vonic(vonicd) => vonicd.log(),
            Service::Testpmd(process, _) => process.log(),
            Service::Ovs(ovs, _) => ovs.log(),
        }
    }

    /// What vonic forwarded was filtered, and nothing of it refused but what had no room.
    fn check(self, load: Load) -> Result<()> {
        let Service::Vonic(vonicd) = self else { return Ok(()) };
        for reason in ["spoofed_mac", "spoofed_address", "unknown_destination", "oversized"] {
            let drops = vonicd.drops(NAMES[0], reason)? + vonicd.drops(NAMES[1], reason)?;
            // Of a circle that is returned, the second port's own first frames have the first one's addresses.
            let first = if load == Load::Returned && reason == "spoofed_address" { 28 * BURST } else { 0 };
            ensure!(drops == first, "{drops} frames were dropped as {reason}, not {first}");
        }
        Ok(())
    }
}

fn socket(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join(format!("{name}.sock"))
}
