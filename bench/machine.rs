//! What it was measured on, and with which versions of everybody.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use vonic_tests::{Context, Lab, Result, ensure};

/// The lab's packages whose versions matter: peers, guests, traffic.
const PACKAGES: &[&str] = &["passt", "dpdk", "openvswitch-switch-dpdk", "user-mode-linux", "iperf3", "netperf"];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Processors, memory and kernel, and how its senders of TCP are held back: one that is paced gives a guest fewer bytes at once.
pub fn description() -> String {
    let info = read("/proc/cpuinfo");
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |m| m.1);
    let memory = read("/proc/meminfo").lines().find_map(|line| kib(line, "MemTotal:")).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let control = read("/proc/sys/net/ipv4/tcp_congestion_control");
    let gib = (memory + (1 << 19)) >> 20;
    format!("{count} × {model}, {gib} GiB, Linux {}, TCP by {}", release.trim(), control.trim())
}

fn kib(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().trim_end_matches(" kB").parse().ok()
}

/// Bytes that programs can still have.
pub fn available() -> u64 {
    1024 * read("/proc/meminfo").lines().find_map(|line| kib(line, "MemAvailable:")).unwrap_or_default()
}

/// The load average of the last minute.
pub fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Ticks of all processors' time that the hypervisor has given to others, since the machine began (proc_stat(5)).
pub fn stolen() -> u64 {
    let all = read("/proc/stat");
    all.split_ascii_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}

/// What a program prints, without the last line's end.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_string())?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string())
}

/// The day, as 2026-01-31.
pub fn date() -> String {
    output("date", &["+%F"]).unwrap_or_default()
}

/// The commit that is checked out, with a plus if something differs from it that is not a result.
pub fn commit() -> String {
    // The checkout may be another user's: git would refuse that to root.
    let git = |words: &[&str]| output("git", &[&["-c", "safe.directory=*"], words].concat());
    let Ok(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--", ".", ":!RESULTS.md", ":!bench/results"]);
    if changed.is_ok_and(|lines| lines.is_empty()) { commit } else { commit + "+" }
}

/// Versions of peers, guests and traffic tools, by package of the lab; and of the compiler.
pub fn versions(lab: &Lab) -> BTreeMap<String, String> {
    let admin = format!("--admindir={}", lab.root().join("var/lib/dpkg").display());
    let version = |package: &str| {
        let installed = output("dpkg-query", &[&admin, "-W", "-f", "${Version}", package]);
        (package.to_string(), installed.unwrap_or_else(|_| "not installed".into()))
    };
    let mut versions: BTreeMap<String, String> = PACKAGES.iter().map(|package| version(package)).collect();
    versions.extend(output("rustc", &["--version"]).map(|text| ("rustc".to_string(), text)));
    versions
}

/// # Errors
/// If a program is not in the lab; with what to do.
pub fn has(lab: &Lab, program: &str) -> Result<()> {
    let found = lab.root().join(program.trim_start_matches('/'));
    ensure!(found.exists(), "{program} is not installed in the lab: run `make testbed`");
    Ok(())
}
