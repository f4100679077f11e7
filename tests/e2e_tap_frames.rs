//! Frame by frame between guests, their taps and the bridge: does everybody get what is theirs exactly once, and nobody anything else?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use vm_memory::{Bytes, GuestAddress};
use vonic_peer::packet::Wire;
use vonic_tests::frames::{self, BROADCAST, Mac, hex, ip4, mac};
use vonic_tests::lan::{self, Host};
use vonic_tests::mock::{GUEST_TO_HOST, MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::*;

/// Of nobody's concern on any network (IEEE 802, local experimental EtherType 1).
const EXPERIMENTAL: u16 = 0x88b5;
const MOMENT: Duration = Duration::from_millis(300);

fn numbered(to: Mac, from: u8, number: u16) -> Vec<u8> {
    frames::ethernet(to, mac(from), EXPERIMENTAL, &number.to_be_bytes())
}

/// The next of the test's own frames that comes to a mock; what machines and the bridge say by themselves (MLD, IGMP, duplicate address
/// detection) is passed over.
fn next(mock: &mut MockFrontend, limit: Duration) -> Option<Vec<u8>> {
    let ours = |frame: &[u8]| frame[12..14] == EXPERIMENTAL.to_be_bytes();
    mock.expect_frame("frame", limit, ours).ok().map(|(_, frame)| frame)
}

/// The group frames that `number` sends, each kind in another quantity: ARP, IPv4 broadcast, IPv4 and IPv6 multicast.
fn group_frames(number: u8) -> [(Vec<u8>, u64); 4] {
    let udp = |to: Mac, address| frames::udp((mac(number), to), ip4(number), address, (9, 9), b"to the group");
    [
        (frames::arp_request(number, ip4(99)), 3),
        (udp(BROADCAST, ip4(255)), 5),
        (udp([1, 0, 0x5e, 0, 0, 1], [224, 0, 0, 1].into()), 7),
        (frames::ethernet([0x33, 0x33, 0, 0, 0, 1], mac(number), EXPERIMENTAL, b"to all nodes"), 9),
    ]
}

/// What everybody but `number` must have heard of [`group_frames`], by EtherType.
const HEARD: [(&str, u64); 3] = [("0806", 3), ("0800", 12), ("88b5", 9)];

/// Group frames by `SOURCE/ETHERTYPE`, as `vonic-peer sniff` counts them.
type Groups = BTreeMap<String, u64>;

fn groups(report: &str) -> Groups {
    let line = report.lines().find(|line| line.contains("\"groups\"")).unwrap();
    serde_json::from_value(serde_json::from_str::<Value>(line).unwrap()["groups"].clone()).unwrap()
}

/// Whether `listener` heard of `speakers` each group frame once, and nothing of itself.
fn heard_once(listener: u8, speakers: &[u8], groups: &Groups) {
    for speaker in speakers {
        for (kind, count) in HEARD {
            let expected = if *speaker == listener { None } else { Some(&count) };
            let got = groups.get(&format!("52:54:00:00:00:{speaker:02x}/{kind}"));
            assert_eq!(got, expected, "{listener} of {speaker}, {kind}: {groups:?}");
        }
    }
}

#[test]
fn every_group_frame_comes_exactly_once_to_everybody_else() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut guests = [("a", 2, Vmm::Uml), ("b", 3, Vmm::Qemu)]
        .map(|(name, number, vmm)| bed.start_guest(name, number, vmm).unwrap());
    let mut c = bed.mock("c", MockConfig::default()).unwrap();
    let mut sniffers = Vec::new();
    for guest in &mut guests {
        guest.wait_ready().unwrap();
        let sniffer = guest.spawn("vonic-peer sniff eth0 /run/stop").unwrap();
        sniffer.wait_output(guest, "listening", seconds(10)).unwrap();
        sniffers.push(sniffer);
    }
    let stop = bed.directory.path().join("stop");
    let ears = hosts.each_ref().map(|host| {
        let log = bed.directory.path().join(format!("sniff-{}.log", host.number));
        let mut command = std::process::Command::new(peer_program().unwrap());
        command.args(["sniff", "eth0"]).arg(&stop);
        let ear = Process::start("sniff", &mut command, Some(&host.netns), &log).unwrap();
        wait_until("the sniffer", seconds(5), || ear.log().contains("listening")).unwrap();
        ear
    });

    for (frame, count) in group_frames(4) {
        for _ in 0..count {
            c.send_frame(&VnetHeader::default(), &frame).unwrap();
        }
    }
    for (guest, number) in guests.iter_mut().zip([2, 3]) {
        for (frame, count) in group_frames(number) {
            guest.must(&format!("vonic-peer inject eth0 {} {count}", hex(&frame)), seconds(10)).unwrap();
        }
    }
    for host in &hosts {
        host.netns
            .run(|| {
                let wire = Wire::open("eth0")?;
                for (frame, count) in group_frames(host.number) {
                    (0..count).try_for_each(|_| wire.send(&frame))?;
                }
                Ok(())
            })
            .unwrap();
    }

    let speakers = [2, 3, 4, 10, 11];
    let mut of_c = Groups::new();
    while let Some((_, frame)) = c.receive_frame(MOMENT).unwrap() {
        let source = frame[6..12].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        *of_c.entry(format!("{source}/{}", hex(&frame[12..14]))).or_default() += 1;
    }
    heard_once(4, &speakers, &of_c);
    for ((guest, sniffer), number) in guests.iter_mut().zip(sniffers).zip([2, 3]) {
        guest.must("touch /run/stop", seconds(5)).unwrap();
        let report = sniffer.wait(guest, seconds(10)).unwrap();
        assert_eq!(report.status, 0, "frames for others came to {number}: {report:?}");
        heard_once(number, &speakers, &groups(&report.stdout));
    }
    std::fs::write(&stop, "").unwrap();
    for (mut ear, host) in ears.into_iter().zip(&hosts) {
        ear.wait(seconds(5)).unwrap();
        heard_once(host.number, &speakers, &groups(&ear.log()));
    }
}

/// The frames that have come out of VM `vm`'s tap, seen from the host's side, while `work` ran and a moment after.
fn out_of_tap(vm: &str, work: impl FnOnce()) -> Vec<Vec<u8>> {
    let wire = Wire::open(&format!("vonic-{vm}")).unwrap();
    work();
    let mut seen = Vec::new();
    while let Some(frame) = wire.receive(MOMENT).unwrap() {
        seen.push(frame);
    }
    seen
}

#[test]
fn what_is_spoofed_never_reaches_the_bridge() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    let to_host = (mac(2), mac(10));
    let cases = [
        ("spoofed_mac", frames::ethernet(mac(10), mac(3), EXPERIMENTAL, b"b's MAC")),
        ("spoofed_mac", frames::ethernet(BROADCAST, mac(11), EXPERIMENTAL, b"a machine's MAC")),
        ("spoofed_mac", frames::ping((mac(9), mac(10)), ip4(2), ip4(10), 1, b"nobody's MAC")),
        ("spoofed_address", frames::ping(to_host, ip4(3), ip4(10), 1, b"b's address")),
        ("spoofed_address", frames::ping(to_host, ip4(1), ip4(10), 1, b"nobody's address")),
        ("spoofed_address", frames::ping((mac(2), BROADCAST), ip4(11), ip4(255), 1, b"a machine's address")),
        ("spoofed_arp", frames::arp(mac(2), 1, (mac(2), ip4(10)), ([0; 6], ip4(99)))),
        ("spoofed_arp", frames::arp(mac(2), 2, (mac(3), ip4(2)), (mac(10), ip4(10)))),
        ("rogue_server", frames::udp((mac(2), BROADCAST), ip4(2), ip4(255), (67, 68), b"an offer")),
        ("vlan_tagged", frames::ethernet(mac(10), mac(2), 0x8100, &[0, 5, 0x88, 0xb5])),
    ];
    let seen = out_of_tap("a", || {
        for (reason, frame) in &cases {
            let before = bed.vonicd.drops("a", reason).unwrap();
            a.send_frame(&VnetHeader::default(), frame).unwrap();
            assert_eq!(bed.vonicd.drops("a", reason).unwrap(), before + 1, "{reason} for {}", hex(frame));
        }
    });
    assert_eq!(seen, Vec::<Vec<u8>>::new());
    assert_eq!(next(&mut b, MOMENT), None);
    let honest = numbered(mac(10), 2, 7);
    let seen = out_of_tap("a", || assert_eq!(a.send_frame(&VnetHeader::default(), &honest).unwrap(), 0));
    assert_eq!(seen, [honest]);
    drop(hosts);
}

/// A guest that changes its frame's source while vonic looks at it: what was checked is what goes out.
#[test]
fn a_source_that_changes_behind_the_check_does_not_get_out() {
    let (bed, _hosts) = lan::start(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let (memory, wire) = (a.memory().clone(), Wire::open("vonic-a").unwrap());
    // The mock sends from one buffer, again and again: the last byte of the source behind 12 bytes of virtio-net header.
    let place = GuestAddress(a.ring(GUEST_TO_HOST).buffer(0) + 12 + 11);
    let stop = AtomicBool::new(false);
    let (own, foreign, refused) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                [2u8, 3].into_iter().for_each(|byte| memory.store(byte, place, Ordering::Relaxed).unwrap());
            }
        });
        let ear = scope.spawn(|| {
            let (mut own, mut foreign) = (0, 0);
            while let Some(frame) = wire.receive(MOMENT).unwrap() {
                *if frame[6..12] == mac(2) { &mut own } else { &mut foreign } += 1;
            }
            (own, foreign)
        });
        let frame = numbered(mac(10), 2, 0);
        let refused = || bed.vonicd.drops("a", "spoofed_mac");
        // How often the writer runs meanwhile is the scheduler's choice.
        let sent = (0..20).try_for_each(|_| {
            if refused()? < 100 {
                (0..5000).try_for_each(|_| a.send_frame(&VnetHeader::default(), &frame).map(drop))?;
            }
            Ok::<_, anyhow::Error>(())
        });
        stop.store(true, Ordering::Relaxed);
        sent.unwrap();
        let (own, foreign) = ear.join().unwrap();
        (own, foreign, refused().unwrap())
    });
    assert_eq!(foreign, 0);
    assert!(own > 100 && refused >= 100, "it changed while vonic looked: {own} sent, {refused} refused");
}

/// Sends `frames` from a machine.
fn host_sends(host: &Host, frames: &[Vec<u8>]) {
    let send = || {
        let wire = Wire::open("eth0")?;
        frames.iter().try_for_each(|frame| wire.send(frame)).map_err(Error::from)
    };
    host.netns.run(send).unwrap();
}

#[test]
fn what_is_for_nobody_here_goes_up_once_and_never_down() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    // What the bridge says to a machine that is off is not kept for it.
    host_sends(&hosts[0], &[numbered(BROADCAST, 10, 1), numbered(mac(2), 10, 2)]);
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    let lost = numbered(mac(99), 2, 3);
    let seen = out_of_tap("a", || assert_eq!(a.send_frame(&VnetHeader::default(), &lost).unwrap(), 0));
    assert_eq!(seen, [lost]);
    // The bridge floods these, to every tap; then come some that are for one, and for both.
    let flood: Vec<Vec<u8>> = (0..50).map(|n| numbered(mac(98), 10, n)).collect();
    host_sends(&hosts[0], &flood);
    let last = [numbered(mac(3), 10, 60), numbered(BROADCAST, 10, 61)];
    host_sends(&hosts[0], &last);
    assert_eq!(next(&mut a, seconds(5)).unwrap(), last[1]);
    assert_eq!(next(&mut b, seconds(5)).unwrap(), last[0]);
    assert_eq!(next(&mut b, seconds(5)).unwrap(), last[1]);
    for mock in [&mut a, &mut b] {
        assert_eq!(next(mock, MOMENT), None);
    }
    // The kernel sorts them out: vonic has seen none.
    for name in ["a", "b"] {
        assert_eq!(bed.vonicd.drops(name, "unknown_destination").unwrap(), 0);
    }
}

#[test]
fn an_isolated_network_reaches_its_uplink_only() {
    let (bed, hosts) = lan::start(1500, "isolated = true\n", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    for frame in [numbered(mac(3), 2, 1), numbered(BROADCAST, 2, 2), numbered(mac(10), 2, 3)] {
        a.send_frame(&VnetHeader::default(), &frame).unwrap();
    }
    assert_eq!(bed.vonicd.drops("a", "isolated").unwrap(), 1);
    assert_eq!(next(&mut b, MOMENT), None);
    let all = numbered(BROADCAST, 10, 4);
    host_sends(&hosts[0], std::slice::from_ref(&all));
    assert_eq!(next(&mut a, seconds(5)).unwrap(), all);
    assert_eq!(next(&mut b, seconds(5)).unwrap(), all);
}

/// Receives `count` numbered frames in order.
fn in_order(mock: &mut MockFrontend, count: u16) {
    for number in 0..count {
        let frame = next(mock, seconds(5)).with_context(|| format!("frame {number}")).unwrap();
        assert_eq!(frame[14..16], number.to_be_bytes());
    }
}

/// A guest that posts few buffers at a time is waited for: frames stay in the tap's queue.
#[test]
fn a_guest_without_buffers_loses_nothing_that_its_tap_can_hold() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let frames: Vec<Vec<u8>> = (0..400).map(|n| numbered(mac(2), 10, n)).collect();
    let event_idx = feature::ALL & !feature::RING_EVENT_IDX;
    let plain = feature::ALL & !(feature::MRG_RXBUF | feature::GUEST_TSO4 | feature::GUEST_TSO6);
    for (features, buffer, posted) in
        [(feature::ALL, 1526, 2), (feature::ALL, 1526, 60), (event_idx, 1526, 2), (plain, 1526, 2), (plain, 1526, 1)]
    {
        let config = MockConfig { features, buffer: vec![buffer], posted, ..MockConfig::default() };
        let mut a = bed.mock("a", config).unwrap();
        host_sends(&hosts[0], &frames);
        in_order(&mut a, 400);
        assert_eq!(next(&mut a, MOMENT), None);
    }
    assert_eq!(bed.vonicd.drops("a", "no_room").unwrap(), 0);
}

/// A frame that the guest's one buffer does not hold is dropped whole and counted; the buffer is used for the next.
#[test]
fn a_frame_beyond_the_guests_buffers_is_dropped_and_counted() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let plain = feature::ALL & !(feature::MRG_RXBUF | feature::GUEST_TSO4 | feature::GUEST_TSO6);
    let mut a =
        bed.mock("a", MockConfig { features: plain, buffer: vec![512], posted: 4, ..MockConfig::default() }).unwrap();
    let long = frames::ethernet(mac(2), mac(10), EXPERIMENTAL, &[7; 1000]);
    // 500 bytes and a header of 12 are what a buffer holds.
    let exact = frames::ethernet(mac(2), mac(10), EXPERIMENTAL, &[8; 486]);
    let beyond = frames::ethernet(mac(2), mac(10), EXPERIMENTAL, &[9; 487]);
    host_sends(&hosts[0], &[long, beyond, exact.clone()]);
    assert_eq!(next(&mut a, seconds(5)).unwrap(), exact);
    assert_eq!(bed.vonicd.drops("a", "no_room").unwrap(), 2);
}
