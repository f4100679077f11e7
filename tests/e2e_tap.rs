//! Guests at a bridge of the host, each by a tap: do they and the bridge's other machines reach each other, byte for byte, in both
//! families, with every offload and with none?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::lan::{self, PLAIN, nothing_was_copied, servers, settle, streams};
use vonic_tests::*;

/// Streams between two guests; of IPv6, whose large frames the switch does not cut yet, an echo.
fn between(from: &mut Guest, to: u8, bytes: u32) {
    let [server, _] = servers(to);
    from.must(&format!("vonic-peer both {server} {bytes} 3 2"), seconds(120)).unwrap();
    from.must(&format!("ping -c 2 -W 2 {}", lan::ip6(to)), seconds(10)).unwrap();
}

/// Two guests under different VMMs, with each other and with a machine. Returns the frames that the first one was sent.
fn everybody_talks(mtu: u16, vm: &str, device: Option<&str>) -> (Bed, f64) {
    let (bed, hosts) = lan::start(mtu, "", vm).unwrap();
    let mut a = lan::start_guest(&bed, "a", 2, Vmm::Uml, None).unwrap();
    let mut b = lan::start_guest(&bed, "b", 3, Vmm::Qemu, device).unwrap();
    settle(&mut a, 2).unwrap();
    settle(&mut b, 3).unwrap();
    let _server = PeerServer::start("host", bed.directory.path(), "[::]:7", Some(&hosts[0].netns)).unwrap();
    streams(&bed, &hosts[0], &mut a, 2, 20_000_003).unwrap();
    let sent = &bed.vonicd.vm("a").unwrap()["host_to_guest"];
    let mean = sent["bytes"].as_f64().unwrap() / sent["frames"].as_f64().unwrap();
    streams(&bed, &hosts[0], &mut b, 3, 5_000_011).unwrap();
    nothing_was_copied(&bed).unwrap();
    // But for the guests' questions to everybody, which the other guest hears too.
    assert!(bed.vonicd.copied("guest_to_guest").unwrap() < 10_000);
    between(&mut a, 3, 3_000_017);
    // Of what guests of one vonicd say to each other the bridge sees nothing, and vonic copies it once.
    assert!(bed.vonicd.copied("guest_to_guest").unwrap() > 12_000_000);
    nothing_was_copied(&bed).unwrap();
    for reason in ["spoofed_mac", "bad_vnet_header", "oversized", "uplink_down", "uplink_full", "unknown_destination"] {
        assert_eq!(bed.vonicd.drops("a", reason).unwrap() + bed.vonicd.drops("b", reason).unwrap(), 0, "{reason}");
    }
    (bed, mean)
}

#[test]
fn streams_are_whole_with_every_offload() {
    let (bed, mean) = everybody_talks(1500, "", None);
    assert!(mean > 3000.0, "large frames come up as they are: {mean} bytes each");
    bed.vonicd.stop().unwrap();
}

#[test]
fn streams_are_whole_in_jumbo_frames() {
    let (_bed, mean) = everybody_talks(9000, "", None);
    assert!(mean > 3000.0, "{mean}");
}

#[test]
fn streams_are_whole_without_offloads() {
    let (_bed, mean) = everybody_talks(1500, PLAIN, None);
    assert!(mean < 1515.0, "{mean}");
}

#[test]
fn streams_are_whole_in_jumbo_frames_without_offloads() {
    let (_bed, mean) = everybody_talks(9000, PLAIN, None);
    assert!(mean < 9015.0, "{mean}");
}

#[test]
fn a_driver_that_takes_less_than_is_offered_gets_no_more_than_that() {
    let (_bed, _) = everybody_talks(1500, "", Some("guest_csum=off,guest_tso4=off,guest_tso6=off,mrg_rxbuf=off"));
}

#[test]
fn large_packets_that_are_no_tcp_pass_in_fragments() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut a = lan::start_guest(&bed, "a", 2, Vmm::Uml, None).unwrap();
    settle(&mut a, 2).unwrap();
    a.must(&format!("ping -c 3 -i 0.2 -s 20000 -W 2 {}", frames::ip4(hosts[0].number)), seconds(20)).unwrap();
    a.must(&format!("ping -c 3 -i 0.2 -s 20000 -W 2 {}", lan::ip6(hosts[0].number)), seconds(20)).unwrap();
}
