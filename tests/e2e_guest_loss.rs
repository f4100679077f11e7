//! Frames get lost and overtake each other between the guest's TCP and vonic: does every byte arrive, and does the guest's kernel learn of its
//! losses by the leg's SACK blocks?
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
fn what_the_guest_loses_and_reorders_on_its_way_is_made_good() {
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
    // What the host sends is acknowledged over the same queue.
    moves(&mut guest, &mut server, "recv", 10_000_019);
}
