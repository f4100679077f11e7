//! Do the programs that people run work through vonic: with checked bytes, both ways, in both families, with small and with the largest packets,
//! and when the network loses some? `VONIC_LONG=1` has every combination, more of everything, and minutes of silence.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code; the table of figures is for people")]

mod apps;

use std::process::Command;
use std::time::Instant;

use apps::clients::{self, Figure};
use apps::servers;
use apps::{Amount, Family, Ground, Place, check};
use serde_json::Value;
use vonic_tests::*;

type Program = (&'static str, fn(&mut Ground, &Place) -> Figure);

/// What runs in every place.
const PROGRAMS: &[Program] = &[
    ("ping", clients::ping),
    ("curl, down and up", clients::curl),
    ("wget", clients::wget),
    ("16 downloads at once", clients::parallel_downloads),
    ("dig by TCP", clients::dig_tcp),
    ("dig by UDP", clients::dig_udp),
    ("long poll", clients::long_poll),
    ("ssh and scp to the world", clients::ssh),
    ("ssh and scp to the guest", servers::ssh_server),
    ("wrk on the guest's server", servers::web_server),
    ("iperf3 from the guest", clients::iperf3),
    ("iperf3 from the world", servers::iperf3_server),
    ("short connections", clients::short_connections),
    ("netperf", clients::netperf),
];

fn nft(text: &str) {
    let output = Command::new("nft").arg(text).output().unwrap();
    assert!(output.status.success(), "nft {text}: {}", String::from_utf8_lossy(&output.stderr));
}

/// From now on the test's own namespace loses one packet in a hundred.
fn lose() {
    nft("add table inet loss");
    nft("add chain inet loss in { type filter hook input priority 0; }");
    nft("add rule inet loss in numgen random mod 100 < 1 counter drop");
}

/// A row of the table, and a failure if it is one.
fn row(name: &str, place: &Place, took: f64, figure: Figure, failures: &mut Vec<String>) {
    match figure {
        Ok(figure) => eprintln!("{name:<26} {place} {took:>5.1} s  {figure}"),
        Err(error) => {
            eprintln!("{name:<26} {place} {took:>5.1} s  FAILED");
            failures.push(format!("{name} {place}: {error:#}"));
        }
    }
}

fn run(ground: &mut Ground, place: &Place, failures: &mut Vec<String>) {
    for (name, program) in PROGRAMS {
        let begin = Instant::now();
        let figure = program(ground, place);
        row(name, place, begin.elapsed().as_secs_f64(), figure, failures);
    }
}

/// What a kernel counted about TCP segments that were lost, thrown away, or sent again; of /proc/net/snmp and netstat, whose lines go in
/// pairs of names and numbers.
fn counted(text: &str) -> String {
    const TOLD: &[&str] = &[
        "RetransSegs",
        "TCPTimeouts",
        "TCPLossProbes",
        "TCPDSACKRecv",
        "TCPRcvQDrop",
        "PruneCalled",
        "TCPZeroWindowDrop",
        "InCsumErrors",
        "TCPAbortOnTimeout",
    ];
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks_exact(2).flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')));
    let told = pairs.filter(|(name, value)| TOLD.contains(name) && *value != "0");
    told.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

/// Nothing was dropped or is left that should not be: no malformed frame, no connection that has not ended.
fn nothing_is_odd(ground: &mut Ground) -> Result<()> {
    // Segments that cross a reset, and what finds the guest's ring empty.
    const USUAL: &[&str] = &["no_connection", "no_room"];
    let host = ["snmp", "netstat"].map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")));
    let host: Vec<String> = host.into_iter().collect::<std::io::Result<_>>()?;
    let guest = ground.guest.must("cat /proc/net/snmp /proc/net/netstat", seconds(10))?;
    eprintln!("host:  {}\nguest: {}", counted(&host.concat()), counted(&guest));
    let ended = |rows: &Value| {
        let mut rows = rows.as_array().into_iter().flatten();
        rows.all(|row| row["protocol"] != "tcp" || row["state"] == "TIME-WAIT")
    };
    let vonicd = &ground.bed.vonicd;
    let all_ended = || vonicd.vonic(&["conns", "--json"]).is_ok_and(|rows| ended(&rows));
    wait_until("every connection's end", seconds(20), all_ended)
        .with_context(|| vonicd.vonic_text(&["conns"]).unwrap_or_default())?;
    let shown = vonicd.vm("a")?;
    eprintln!("drops: {}", shown["drops_by_reason"]);
    let mut drops = shown["drops_by_reason"].as_object().into_iter().flatten();
    check(drops.all(|(reason, _)| USUAL.contains(&reason.as_str())), || shown["drops_by_reason"].to_string())?;
    check(shown["last_error"].is_null(), || shown["last_error"].to_string())
}

/// Every program in a guest, in one place after the other, those that lose nothing first; and WebSockets that are silent for so long.
fn all(vmm: Vmm, mtu: u16, amount: Amount, places: &[(Family, bool)]) {
    let mut failures = Vec::new();
    let mut ground = Ground::start(vmm, mtu, amount).unwrap();
    let at = |family, loss| Place { vmm, mtu, family, loss };
    let idle: Vec<(Place, Job)> = [at(Family::V4, false), at(Family::V6, false)]
        .into_iter()
        .map(|place| (place, clients::start_idle(&mut ground, &place).unwrap()))
        .collect();
    let mut losing = false;
    for (family, loss) in places {
        if *loss && !losing {
            lose();
            losing = true;
        }
        run(&mut ground, &at(*family, *loss), &mut failures);
    }
    for (place, job) in &idle {
        let figure = clients::end_idle(&mut ground, job);
        row("idle WebSocket", place, amount.idle.into(), figure, &mut failures);
    }
    if let Err(error) = nothing_is_odd(&mut ground) {
        failures.push(format!("{error:#}"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    ground.bed.vonicd.stop().unwrap();
}

const UML: Amount = Amount { file: 4_000_037, seconds: 1, idle: 20, streams: &[1, 8, 64] };
/// Without KVM, translation makes programs start slowly.
const QEMU: Amount = Amount { file: 1_000_003, seconds: 1, idle: 20, streams: &[8] };
const LONG: Amount = Amount { file: 16_000_057, seconds: 5, idle: 300, streams: &[1, 8, 64] };
const MTUS: [u16; 2] = [1500, 65520];
const EVERYWHERE: &[(Family, bool)] =
    &[(Family::V4, false), (Family::V6, false), (Family::V4, true), (Family::V6, true)];

fn long() -> bool {
    std::env::var_os("VONIC_LONG").is_some()
}

#[test]
fn user_mode_linux_guests() {
    match long() {
        true => MTUS.iter().for_each(|mtu| all(Vmm::Uml, *mtu, LONG, EVERYWHERE)),
        false => all(Vmm::Uml, MTUS[0], UML, &[(Family::V4, false), (Family::V6, true)]),
    }
}

#[test]
fn qemu_guests() {
    match long() {
        true => MTUS.iter().for_each(|mtu| all(Vmm::Qemu, *mtu, LONG, EVERYWHERE)),
        false => all(Vmm::Qemu, MTUS[1], QEMU, &[(Family::V6, false)]),
    }
}
