//! Do the programs that people run work through vonic: with checked bytes, both ways, in both families, with small and with the largest packets,
//! and when the network loses some? `VONIC_LONG=1` has every combination, more of everything, and minutes of silence.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code; the table of figures is for people")]

mod apps;

use std::process::Command;
use std::time::Instant;

use apps::clients::{self, Figure};
use apps::servers;
use apps::{Amount, Family, Ground, Place};
use vonic_tests::*;

type Program = (&'static str, fn(&mut Ground, &Place) -> Figure);

/// What runs first in every place.
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
    ("netperf", clients::netperf),
    ("netperf UDP_RR", clients::netperf_datagrams),
];

fn long() -> bool {
    std::env::var_os("VONIC_LONG").is_some()
}

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

fn run(ground: &mut Ground, place: &Place, programs: &[Program], failures: &mut Vec<String>) {
    let chosen = std::env::var("VONIC_APPS").unwrap_or_default();
    for (name, program) in programs.iter().filter(|(name, _)| name.contains(&chosen)) {
        let begin = Instant::now();
        let figure = program(ground, place);
        let row = format!("{name:<26} {place} {:>5.1} s", begin.elapsed().as_secs_f64());
        match figure {
            Ok(figure) => eprintln!("{row}  {figure}"),
            Err(error) => {
                eprintln!("{row}  FAILED: {error:#}");
                failures.push(format!("{name} {place}: {error:#}"));
            }
        }
    }
}

/// What the host's kernel counts about TCP in the test's namespace, and the guest's in its own, where it is not 0: losses and what was
/// done about them.
fn counters(ground: &mut Ground) -> String {
    const TOLD: &[&str] = &[
        "RetransSegs", "InCsumErrors", "TCPTimeouts", "TCPLossProbes", "TCPFastRetrans", "TCPSpuriousRTOs", "TCPRcvQDrop", "RcvPruned",
        "PruneCalled", "OfoPruned", "TCPRcvCollapsed", "TCPBacklogDrop", "TCPZeroWindowDrop", "TCPOFOQueue", "TCPDSACKRecv", "TCPDSACKOldSent",
        "TCPAbortOnTimeout", "TCPToZeroWindowAdv", "TCPFromZeroWindowAdv", "ListenOverflows", "TCPWinProbe", "TCPChallengeACK", "EstabResets", "AttemptFails", "TCPSACKReorder",
    ];
    let told = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        let mut found = Vec::new();
        for pair in lines.chunks_exact(2) {
            for (name, value) in pair[0].split(' ').zip(pair[1].split(' ')) {
                if TOLD.contains(&name) && value != "0" {
                    found.push(format!("{name} {value}"));
                }
            }
        }
        found.join(", ")
    };
    let host = ["snmp", "netstat"].map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap()).concat();
    let guest = ground.guest.must("cat /proc/net/snmp /proc/net/netstat", seconds(10)).unwrap();
    format!("  host: {}\n  guest: {}", told(&host), told(&guest))
}

/// Every program in a guest, in one place after the other, the first of which lose nothing.
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
        run(&mut ground, &at(*family, *loss), PROGRAMS, &mut failures);
        eprintln!("{}", counters(&mut ground));
    }
    for (place, job) in &idle {
        match clients::end_idle(&mut ground, place, job) {
            Ok(figure) => eprintln!("{:<26} {place}          {figure}", "idle WebSocket"),
            Err(error) => failures.push(format!("idle WebSocket {place}: {error:#}")),
        }
    }
    eprintln!("{}", ground.bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
    eprintln!("{}", ground.bed.vonicd.vonic_text(&["conns"]).unwrap());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    ground.bed.vonicd.stop().unwrap();
}

const SHORT: Amount = Amount { file: 4_000_037, seconds: 1, idle: 20, streams: &[1, 8, 64] };

#[test]
fn user_mode_linux_with_ordinary_packets() {
    all(Vmm::Uml, 1500, SHORT, &[(Family::V4, false), (Family::V6, true)]);
}

#[test]
fn qemu_with_the_largest_packets() {
    all(Vmm::Qemu, 65520, Amount { streams: &[1, 8], ..SHORT }, &[(Family::V6, false), (Family::V4, true)]);
}
