//! Frames get lost and overtake each other within the guest, before and behind vonic: does every byte arrive, and does the guest's kernel learn
//! of its losses by the leg's SACK blocks instead of by its timeout?
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::Value;
use vonic_tests::*;

/// A counter of the guest's TCP.
fn counter(guest: &mut Guest, name: &str) -> u64 {
    let text = guest.must(&format!("nstat -asz {name}"), seconds(10)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| text.clone()).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The guest moves `bytes` to or from the host.
fn moves(guest: &mut Guest, server: &mut PeerServer, operation: &str, bytes: u64) {
    let command = format!("vonic-peer {operation} 192.0.2.1:{} {bytes} 7", server.address().port());
    let result: Value = serde_json::from_str(&guest.must(&command, seconds(60)).unwrap()).unwrap();
    assert_eq!(result["failures"], serde_json::json!([]), "{result}");
    let report = server.report(seconds(10)).unwrap();
    assert!(report["error"].is_null(), "{report}");
}

#[test]
fn losses_within_the_guest_are_made_good_both_ways() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let mut server = bed.server().unwrap();
    let module = |name: &str| format!("insmod $(find /usr/lib/uml/modules -name {name}.ko)");
    // Each frame is one segment, so that a loss is one, and not of 64 KiB. Every twentieth and some more go at once, the others later.
    let prepare = format!(
        "ethtool -K eth0 tso off gso off && {} && tc qdisc add dev eth0 root netem delay 1ms reorder 95% gap 20",
        module("sch_netem")
    );
    guest.must(&prepare, seconds(10)).unwrap();
    moves(&mut guest, &mut server, "send", 1_000_003);
    // RFC 2018 §8: without a block in a duplicate ACK none would begin.
    assert!(counter(&mut guest, "TcpExtTCPSackRecovery") > 0, "no recovery began by a block");
    guest.must("tc qdisc replace dev eth0 root netem loss 5%", seconds(10)).unwrap();
    moves(&mut guest, &mut server, "send", 5_000_011);
    guest.must("tc qdisc del dev eth0 root", seconds(10)).unwrap();

    let rules = "add table ip t; add chain ip t in { type filter hook input priority 0; }; \
        add rule ip t in meta l4proto tcp numgen random mod 100 < 4 drop";
    let prepare = format!("{} && {} && nft '{rules}'", module("nf_tables"), module("nft_numgen"));
    guest.must(&prepare, seconds(10)).unwrap();
    moves(&mut guest, &mut server, "recv", 10_000_019);
    let repeated = bed.vonicd.vm("a").unwrap()["tcp"]["retransmitted"].as_u64().unwrap();
    assert!(repeated > 0, "nothing was lost");
}
