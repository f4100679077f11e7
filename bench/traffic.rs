//! What guests send: iperf3's streams and netperf's transactions, and the servers for them on the host.

use std::process::Command;

use serde_json::Value;
use vonic_tests::{Context, Guest, Lab, Process, Result, TempDir, netperf, seconds, wait_until};

use crate::plan::Sample;

/// Where guests of all sides find the host.
pub const HOST: &str = "192.0.2.1";

/// Ways of a stream, seen from the guest.
#[derive(Clone, Copy)]
pub enum Way {
    ToHost,
    FromHost,
    Both,
}

/// iperf3 as a client.
#[derive(Clone, Copy)]
pub struct Streams {
    pub count: u32,
    pub way: Way,
}

impl Streams {
    pub const fn one(way: Way) -> Streams {
        Streams { count: 1, way }
    }

    /// Received Gbit/s of all streams together, after a second that does not count.
    pub fn run(self, guest: &mut Guest, to: &str, port: u16, time: u64) -> Result<Sample> {
        let way = match self.way {
            Way::ToHost => "",
            Way::FromHost => "-R",
            Way::Both => "--bidir",
        };
        let count = self.count;
        let command = format!("TMPDIR=/run iperf3 -c {to} -p {port} -t {time} -O 1 -i 0 -J -P {count} {way}");
        let text = guest.must(&command, seconds(time + 60))?;
        let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
        let rate = |sum: &str| report["end"][sum]["bits_per_second"].as_f64();
        let there = rate("sum_received").with_context(|| format!("iperf3's rate in {text}"))?;
        let back = matches!(self.way, Way::Both).then(|| rate("sum_received_bidir_reverse").context("the other way"));
        Ok(Sample::from((there + back.transpose()?.unwrap_or(0.0)) / 1e9))
    }
}

/// An iperf3 server of this thread's network.
pub fn stream_server(lab: &Lab, directory: &TempDir, port: u16) -> Result<Process> {
    let name = format!("iperf3-{port}");
    let mut command = Command::new("iperf3");
    let server = lab.start(&name, directory, command.args(["-s", "--forceflush", "-p", &port.to_string()]))?;
    wait_until("iperf3", seconds(10), || server.log().contains("listening"))?;
    Ok(server)
}

/// netperf's server, which has one control port for all.
pub fn transaction_server(lab: &Lab, directory: &TempDir) -> Result<Process> {
    lab.start("netserver", directory, Command::new("netserver").args(["-D", "-4", "-L", "127.0.0.1"]))
}

/// Transactions a second of one of netperf's tests, and how long they took; by a fixed data port, as address translation needs it.
pub fn transactions(guest: &mut Guest, test: &str, time: u64) -> Result<Sample> {
    const WANTED: [&str; 4] = ["THROUGHPUT", "P50_LATENCY", "P90_LATENCY", "P99_LATENCY"];
    let keys = WANTED.join(",");
    let said = netperf(guest, test, HOST, time, &format!("-j -- -P ,12866 -k {keys}"), seconds(60))?;
    let figure = |name: &str| {
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')?.trim().parse().ok());
        value.with_context(|| format!("netperf's {name} in {said}"))
    };
    let [rate, p50, p90, p99] = WANTED.map(figure);
    Ok(Sample { value: rate?, percentiles: Some([p50?, p90?, p99?]) })
}
