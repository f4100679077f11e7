//! What putting received segments together, and calling guests later for bulk, gains and costs: a machine on a bridge whose kernel cuts
//! what it sends (no TSO, no GSO) sends to a user-mode Linux guest, and the guest asks for small answers. Each setting in turn, round by
//! round: rates, what the engine's processor time for a gigabyte is, segments per large frame, calls per megabyte.
use std::process::Command;

use crate::row::median;
use serde_json::Value;
use vonic_tests::lan::{self, Host};
use vonic_tests::{
    Bed, Context, Guest, GuestConfig, Lab, Process, Result, TempDir, Vmm, isolate, netperf, seconds, wait_until,
};

/// Settings: what it is called, lines of the network, lines of the VM.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("off", "coalesce_us = 0", "coalesce = false"),
    ("coalesce_us = 0", "coalesce_us = 0", "coalesce = true"),
    ("coalesce_us = 20", "coalesce_us = 20", "coalesce = true"),
    ("coalesce_us = 50", "coalesce_us = 50", "coalesce = true"),
    ("call_us = 50", "coalesce_us = 0", "coalesce = true\ncall_us = 50"),
    ("call_us = 200", "coalesce_us = 0", "coalesce = true\ncall_us = 200"),
];

/// Seconds of each measurement.
const LENGTH: u32 = 2;

/// One measurement: its figures by name.
type Figures = Vec<(&'static str, f64)>;

/// Prints the table.
///
/// # Errors
/// Where something does not start.
pub fn bench() -> Result<()> {
    let rounds: usize = std::env::var("VONIC_BENCH_ROUNDS").map_or(Ok(3), |text| text.parse())?;
    isolate()?;
    lan::bridge(1500)?;
    let host = Host::new(10, 1500)?;
    let lab = Lab::open()?;
    let mut ethtool = Command::new("chroot");
    ethtool.arg(lab.root()).args(["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off"]);
    host.netns.run(|| ethtool.status().context("ethtool").map(drop))?;
    let bed = Bed::start_here(&lan::bridged().vm("a", 2, ""))?;
    let config = GuestConfig { memory: 512, ..GuestConfig::new("a", 2, &bed.socket("a")).on(Vmm::Uml) };
    let mut guest = Guest::boot(&bed.lab, &bed.directory, &config)?;
    let directory = TempDir::new()?;
    let _servers = servers(&lab, &directory, &host)?;
    let mut of: Vec<Vec<Figures>> = vec![Vec::new(); SETTINGS.len()];
    for _ in 0..rounds {
        for ((_, network, vm), figures) in SETTINGS.iter().zip(&mut of) {
            set(&bed, network, vm)?;
            figures.push(measure(&bed, &mut guest)?);
        }
    }
    for ((name, ..), rounds) in SETTINGS.iter().zip(of) {
        print!("{name:<18}");
        for (at, (what, _)) in rounds[0].iter().enumerate() {
            print!(" {what} {:>9.2}", median(&rounds.iter().map(|figures| figures[at].1).collect::<Vec<_>>()));
        }
        println!();
    }
    Ok(())
}

/// Servers on the sending machine, out of the lab.
fn servers(lab: &Lab, directory: &TempDir, host: &Host) -> Result<[Process; 2]> {
    let start = |name: &str, arguments: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(lab.root()).arg(name).args(arguments);
        Process::start(name, &mut command, Some(&host.netns), &directory.path().join(format!("{name}.log")))
    };
    let iperf = start("iperf3", &["-s", "--forceflush"])?;
    wait_until("iperf3", seconds(10), || iperf.log().contains("listening"))?;
    Ok([iperf, start("netserver", &["-D", "-4"])?])
}

/// Puts a setting in force; the guest's device stays.
fn set(bed: &Bed, network: &str, vm: &str) -> Result<()> {
    let folder = bed.vonicd.config_dir();
    let change = |file: &str, keys: [&str; 3], lines: &str| -> Result<()> {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path)?;
        let kept: Vec<&str> = text.lines().filter(|line| !keys.iter().any(|key| line.starts_with(key))).collect();
        let text = format!("{}\n{lines}\n", kept.join("\n"));
        Ok(std::fs::write(&path, text)?)
    };
    change("vonic.toml", ["coalesce_us", "coalesce ", "none"], network)?;
    change("vms.d/a.toml", ["coalesce", "call_us", "none"], vm)?;
    bed.vonicd.vonic_text(&["reload"]).map(drop)
}

/// The engine's processor time in seconds.
fn processor_time(bed: &Bed) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bed.vonicd.engine()?))?;
    let behind_name = stat.rsplit_once(") ").context("a process without a name")?.1;
    let ticks = behind_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    Ok(ticks / 100.0)
}

fn measure(bed: &Bed, guest: &mut Guest) -> Result<Figures> {
    let counted = |name: &str| -> Result<f64> {
        bed.vonicd.vm("a")?["coalesced"][name].as_f64().context("a counter of what was put together")
    };
    let interrupts = |guest: &mut Guest| -> Result<f64> {
        let text = guest.must("cat /proc/interrupts", seconds(10))?;
        let of = |line: &str| line.contains("virtio").then(|| line.split_whitespace().nth(1)?.parse::<f64>().ok())?;
        Ok(text.lines().filter_map(of).sum())
    };
    let before = (processor_time(bed)?, counted("segments")?, counted("aggregates")?, interrupts(guest)?);
    let (copied, waited, ended) = (bed.vonicd.copied("coalesce")?, counted("waited_us")?, counted("single")?);
    let command = format!("TMPDIR=/run iperf3 -c 192.0.2.10 -R -t {LENGTH} -i 0 -J");
    let report: Value = serde_json::from_str(&guest.must(&command, seconds(60))?).context("iperf3's report")?;
    let received = &report["end"]["sum_received"];
    let rate = received["bits_per_second"].as_f64().context("iperf3's rate")? / 1e9;
    let bytes = received["bytes"].as_f64().context("iperf3's bytes")?;
    let aggregates = (counted("aggregates")? - before.2).max(1.0);
    let figures = vec![
        ("Gbit/s", rate),
        ("engine s/GB", (processor_time(bed)? - before.0) / (bytes / 1e9)),
        ("segments/frame", (counted("segments")? - before.1) / aggregates),
        ("waited us/frame", (counted("waited_us")? - waited) / (aggregates + counted("single")? - ended)),
        ("copied %", (bed.vonicd.copied("coalesce")? - copied) as f64 / bytes * 100.0),
        ("calls/MB", (interrupts(guest)? - before.3) / (bytes / 1e6)),
    ];
    let eight = format!("TMPDIR=/run iperf3 -c 192.0.2.10 -R -P 8 -t {LENGTH} -i 0 -J");
    let report: Value = serde_json::from_str(&guest.must(&eight, seconds(60))?).context("iperf3's report")?;
    let eight = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3's rate")? / 1e9;
    let said = netperf(guest, "TCP_RR", "192.0.2.10", LENGTH.into(), "", seconds(60))?;
    let rate = said.lines().find_map(|line| line.split_ascii_whitespace().nth(5)?.parse::<f64>().ok());
    let rr = rate.with_context(|| format!("netperf's rate in {said}"))?;
    Ok([figures, vec![("8 streams", eight), ("TCP_RR/s", rr)]].concat())
}
