//! vonic beside passt: one TCP stream each way, and guest to guest, on user-mode Linux guests. Each round measures vonic and
//! passt in turn; what counts is the median and the ratio, since machines drift. `make bench` runs it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::Value;
use vonic_tests::{
    Bed, Context, Guest, GuestConfig, Lab, Process, Result, TempDir, TestConfig, Vmm, isolate, seconds, wait_until,
};

/// Pairs of measurements; the median of the ratios is what is reported.
const ROUNDS: usize = 5;
/// Seconds of each stream.
const LENGTH: u32 = 3;

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A guest behind some backend, and the address and port at which it finds the host's iperf3 server.
struct Side {
    guest: Guest,
    _server: Process,
}

fn bench() -> Result<()> {
    isolate()?;
    let lab = Lab::open()?;
    let config = TestConfig::default().vm("a", 2, "").vm("b", 3, "");
    let bed = Bed::start(&config)?;
    let guest = |name: &str, number| {
        let config =
            GuestConfig { memory: 512, ..GuestConfig::new(name, number, &bed.vonicd.socket(name)).on(Vmm::Uml) };
        Guest::boot(&bed.lab, &bed.directory, &config)
    };
    let server = iperf_server(&bed.lab, &bed.directory, 5201)?;
    let mut vonic = Side { guest: guest("a", 2)?, _server: server };
    let mut other = guest("b", 3)?;
    other.must("TMPDIR=/run iperf3 -s -D", seconds(10))?;

    let directory = TempDir::new()?;
    let (_passt, socket) = passt(&lab, &directory)?;
    let config = GuestConfig { memory: 512, ..GuestConfig::new("p", 2, &socket) };
    let server = iperf_server(&lab, &directory, 5202)?;
    let mut passt = Side { guest: Guest::boot(&lab, &directory, &config)?, _server: server };

    println!("{ROUNDS} pairs of {LENGTH} s, Gbit/s, MTU 1500, one stream; peer: {}", version(&lab, &directory)?);
    println!("{:<28} {:>8} {:>8} {:>8}", "", "vonic", "passt", "ratio");
    for (what, reverse) in [("guest to host", ""), ("host to guest", "-R")] {
        let mut pairs = Vec::new();
        for _ in 0..ROUNDS {
            let ours = iperf(&mut vonic.guest, "192.0.2.1", 5201, reverse)?;
            pairs.push((ours, iperf(&mut passt.guest, "192.0.2.1", 5202, reverse)?));
        }
        let ratio = median(pairs.iter().map(|(a, b)| a / b));
        let (ours, theirs) = (median(pairs.iter().map(|p| p.0)), median(pairs.iter().map(|p| p.1)));
        println!("{what:<28} {ours:>8.2} {theirs:>8.2} {ratio:>8.2}");
    }
    let pairs: Result<Vec<f64>> = (0..ROUNDS).map(|_| iperf(&mut vonic.guest, "192.0.2.3", 5201, "")).collect();
    println!("{:<28} {:>8.2} {:>8} {:>8}", "guest to guest", median(pairs?.into_iter()), "-", "-");
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

/// Received Gbit/s of one stream.
fn iperf(guest: &mut Guest, to: &str, port: u16, more: &str) -> Result<f64> {
    let text = guest.must(&format!("TMPDIR=/run iperf3 -c {to} -p {port} -t {LENGTH} -O 1 -J {more}"), seconds(60))?;
    let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3's rate")?;
    Ok(rate / 1e9)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
