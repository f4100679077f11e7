//! vonic beside passt: TCP streams each way, transactions, and guest to guest, on user-mode Linux guests with small and with the largest
//! packets. Each round measures vonic and passt in turn; what counts is the median and the ratio, since machines drift. `make bench` runs
//! it; `VONIC_BENCH_ROUNDS` is for a first look. `vonic-bench takeover` (`make bench-takeover`) measures something else: how long guests wait when an
//! engine dies.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod takeover;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::Value;
use vonic_tests::{
    Bed, Context, Error, Guest, GuestConfig, Lab, Netns, Process, Result, TempDir, TestConfig, Vmm, isolate, seconds,
    wait_until,
};

/// Pairs of measurements, unless VONIC_BENCH_ROUNDS says otherwise; the median of the ratios is what is reported.
const ROUNDS: usize = 5;
/// Seconds of each measurement.
const LENGTH: u32 = 3;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        None => [1500, 65520].into_iter().try_for_each(bench),
        Some("takeover") => takeover::bench(),
        Some(other) => Err(Error::msg(format!("unknown bench {other}: none, or takeover"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A guest behind some backend, and the port at which it finds the host's iperf3 server.
struct Side {
    guest: Guest,
    port: u16,
    _server: Process,
}

/// A row of the table.
#[derive(Clone, Copy)]
enum Measurement {
    /// Gbit/s of so many streams to the host, or from it.
    Streams(u32, bool),
    /// Transactions a second of one of netperf's tests.
    Transactions(&'static str),
}

const MEASUREMENTS: &[Measurement] = &[
    Measurement::Streams(1, false),
    Measurement::Streams(1, true),
    Measurement::Streams(8, false),
    Measurement::Streams(8, true),
    Measurement::Streams(64, false),
    Measurement::Streams(64, true),
    Measurement::Transactions("TCP_RR"),
    Measurement::Transactions("TCP_CRR"),
    Measurement::Transactions("UDP_RR"),
];

impl Measurement {
    fn name(self) -> String {
        match self {
            Measurement::Streams(count, false) => format!("guest to host, {count} streams"),
            Measurement::Streams(count, true) => format!("host to guest, {count} streams"),
            Measurement::Transactions(test) => format!("netperf {test}, per second"),
        }
    }

    fn of(self, side: &mut Side) -> Result<f64> {
        match self {
            Measurement::Streams(count, reverse) => {
                let direction = if reverse { "-R" } else { "" };
                iperf(&mut side.guest, "192.0.2.1", side.port, &format!("-P {count} {direction}"))
            }
            Measurement::Transactions(test) => netperf(&mut side.guest, test),
        }
    }
}

fn bench(mtu: u16) -> Result<()> {
    isolate()?;
    // netserver asks for no address of a family that the host has on its loopback only (getaddrinfo(3), AI_ADDRCONFIG).
    let outside = Netns::new()?;
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24")?;
    let lab = Lab::open()?;
    // netperf opens more connections a second than a VM may by default.
    let more = format!("mtu = {mtu}\nlimits = {{ new_per_second = 1000000 }}");
    let bed = Bed::start_here(&TestConfig::default().vm("a", 2, &more).vm("b", 3, &more))?;
    let guest = |name: &str, number| {
        let config =
            GuestConfig { memory: 512, ..GuestConfig::new(name, number, &bed.vonicd.socket(name)).on(Vmm::Uml) };
        Guest::boot(&bed.lab, &bed.directory, &config)
    };
    let server = iperf_server(&bed.lab, &bed.directory, 5201)?;
    let mut vonic = Side { guest: guest("a", 2)?, port: 5201, _server: server };
    let mut other = guest("b", 3)?;
    other.must("TMPDIR=/run iperf3 -s -D", seconds(10))?;

    let directory = TempDir::new()?;
    let (_passt, socket) = passt(&lab, &directory)?;
    let config = GuestConfig { memory: 512, mtu: Some(mtu), ..GuestConfig::new("p", 2, &socket) };
    let server = iperf_server(&lab, &directory, 5202)?;
    let mut passt = Side { guest: Guest::boot(&lab, &directory, &config)?, port: 5202, _server: server };
    let _netserver =
        lab.start("netserver", &directory, Command::new("netserver").args(["-D", "-4", "-L", "127.0.0.1"]))?;

    let rounds = std::env::var("VONIC_BENCH_ROUNDS").map_or(Ok(ROUNDS), |text| text.parse())?;
    println!("{rounds} pairs of {LENGTH} s, Gbit/s, MTU {mtu}; peer: {}", version(&lab, &directory)?);
    println!("{:<28} {:>9} {:>9} {:>8}", "", "vonic", "passt", "ratio");
    for measurement in MEASUREMENTS {
        let pairs: Result<Vec<(f64, f64)>> =
            (0..rounds).map(|_| Ok((measurement.of(&mut vonic)?, measurement.of(&mut passt)?))).collect();
        let pairs = pairs?;
        let ratio = median(pairs.iter().map(|(a, b)| a / b));
        let (ours, theirs) = (median(pairs.iter().map(|p| p.0)), median(pairs.iter().map(|p| p.1)));
        println!("{:<28} {ours:>9.2} {theirs:>9.2} {ratio:>8.2}", measurement.name());
    }
    let pairs: Result<Vec<f64>> = (0..rounds).map(|_| iperf(&mut vonic.guest, "192.0.2.3", 5201, "")).collect();
    println!("{:<28} {:>9.2} {:>9} {:>8}", "guest to guest, 1 stream", median(pairs?.into_iter()), "-", "-");
    println!("{}", serde_json::to_string_pretty(&bed.vonicd.stats()?["copied_bytes"])?);
    Ok(())
}

fn passt(lab: &Lab, directory: &TempDir) -> Result<(Process, PathBuf)> {
    let mut command = Command::new("passt");
    command.args(["--vhost-user", "-f", "-s", "/tmp/passt.sock", "--no-dhcp", "-a", "192.0.2.2", "-n", "24"]);
    command.args(["-g", "192.0.2.1", "-4"]);
    let process = lab.start("passt", directory, &mut command)?;
    wait_until("passt", seconds(10), || process.log().contains("You can start qemu"))?;
    Ok((process, directory.path().join("passt.sock")))
}

fn version(lab: &Lab, directory: &TempDir) -> Result<String> {
    let mut process = lab.start("passt-version", directory, Command::new("passt").arg("--version"))?;
    process.wait(seconds(10))?;
    Ok(process.log().lines().next().unwrap_or_default().to_string())
}

fn iperf_server(lab: &Lab, directory: &TempDir, port: u16) -> Result<Process> {
    let name = format!("iperf3-{port}");
    let process =
        lab.start(&name, directory, Command::new("iperf3").args(["-s", "--forceflush", "-p", &port.to_string()]))?;
    wait_until("iperf3", seconds(10), || process.log().contains("listening"))?;
    Ok(process)
}

/// Transactions a second, by a fixed data port, as address translation needs it.
fn netperf(guest: &mut Guest, test: &str) -> Result<f64> {
    let command = format!("netperf -P 0 -H 192.0.2.1 -t {test} -l {LENGTH} -- -P ,12866");
    let said = guest.must(&command, seconds(60))?;
    let rate = said.lines().find_map(|line| line.split_ascii_whitespace().nth(5)?.parse().ok());
    rate.with_context(|| format!("netperf's rate in {said}"))
}

/// Received Gbit/s of all streams together.
fn iperf(guest: &mut Guest, to: &str, port: u16, more: &str) -> Result<f64> {
    let text =
        guest.must(&format!("TMPDIR=/run iperf3 -c {to} -p {port} -t {LENGTH} -O 1 -i 0 -J {more}"), seconds(60))?;
    let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3's rate")?;
    Ok(rate / 1e9)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
