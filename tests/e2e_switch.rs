//! Three guests on one vonicd: does every pair talk, does nobody hear what is not theirs, and does nobody speak under another's name?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::frames::{self, Tcp, hex, ip4, mac};
use vonic_tests::mock::{MockConfig, VnetHeader};
use vonic_tests::*;

const NAMES: [(&str, u8); 3] = [("a", 2), ("b", 3), ("c", 4)];

fn three_vms() -> TestConfig {
    NAMES.into_iter().fold(TestConfig::default(), |config, (name, number)| config.vm(name, number, ""))
}

/// Two under user-mode Linux, one under QEMU; each serves on port 7 and listens for frames that are not its own.
fn three_guests(bed: &Bed) -> (Vec<Guest>, Vec<Job>) {
    let vmms = [Vmm::Uml, Vmm::Uml, Vmm::Qemu];
    let start = |((name, number), vmm)| bed.start_guest(name, number, vmm).unwrap();
    let mut guests: Vec<Guest> = NAMES.into_iter().zip(vmms).map(start).collect();
    let mut sniffers = Vec::new();
    for guest in &mut guests {
        guest.wait_ready().unwrap();
        let server = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
        server.wait_output(guest, "listening", seconds(10)).unwrap();
        let sniffer = guest.spawn("vonic-peer sniff eth0 /run/stop").unwrap();
        sniffer.wait_output(guest, "listening", seconds(10)).unwrap();
        sniffers.push(sniffer);
    }
    (guests, sniffers)
}

fn nobody_heard_what_is_not_theirs(guests: &mut [Guest], sniffers: Vec<Job>) {
    for (guest, sniffer) in guests.iter_mut().zip(sniffers) {
        guest.must("touch /run/stop", seconds(5)).unwrap();
        let heard = sniffer.wait(guest, seconds(10)).unwrap();
        assert!(heard.status == 0 && heard.stdout.contains("\"others\":{}"), "{heard:?}");
    }
}

#[test]
fn all_pairs_talk_and_nothing_is_misdelivered() {
    let bed = Bed::start(&three_vms()).unwrap();
    let (mut guests, sniffers) = three_guests(&bed);
    for (place, guest) in guests.iter_mut().enumerate() {
        for number in NAMES.iter().map(|(_, number)| *number).filter(|number| *number != NAMES[place].1) {
            guest.must(&format!("ping -c 2 -W 2 192.0.2.{number}"), seconds(15)).unwrap();
        }
    }
    // All six directed pairs at once.
    let mut jobs = Vec::new();
    for (place, guest) in guests.iter_mut().enumerate() {
        for (other, (_, number)) in NAMES.iter().enumerate().filter(|(other, _)| *other != place) {
            let seed = 10 * place + other;
            jobs.push((place, guest.spawn(&format!("vonic-peer both 192.0.2.{number}:7 16000057 {seed} 2")).unwrap()));
        }
    }
    for (place, job) in jobs {
        let done = job.wait(&mut guests[place], seconds(180)).unwrap();
        assert_eq!(done.status, 0, "{}", done.stdout);
    }
    nobody_heard_what_is_not_theirs(&mut guests, sniffers);
    drop(guests);
    bed.vonicd.stop().unwrap();
}

#[test]
fn spoofed_frames_are_dropped_counted_and_reach_nobody() {
    let bed = Bed::start(&three_vms()).unwrap();
    let (mut guests, sniffers) = three_guests(&bed);
    // c knows the true b.
    guests[2].must("ping -c 1 -W 2 192.0.2.3", seconds(10)).unwrap();
    let before = bed.vonicd.vm("c").unwrap()["host_to_guest"]["frames"].as_u64().unwrap();

    let to_c = (mac(2), mac(4));
    let cases = [
        ("spoofed_mac", frames::ping((mac(3), mac(4)), ip4(2), ip4(4), 1, b"b's MAC")),
        ("spoofed_mac", frames::ping((mac(9), mac(4)), ip4(2), ip4(4), 1, b"nobody's MAC")),
        ("spoofed_mac", frames::arp(mac(3), 1, (mac(3), ip4(3)), ([0; 6], ip4(4)))),
        ("spoofed_address", frames::ping(to_c, ip4(3), ip4(4), 1, b"b's address")),
        ("spoofed_address", frames::ping(to_c, [198, 51, 100, 7].into(), ip4(4), 1, b"nobody's address")),
        (
            "spoofed_address",
            Tcp { ports: (1, 7), flags: Tcp::SYN, window: 9000, ..Tcp::default() }.frame(to_c, ip4(3), ip4(4)),
        ),
        ("spoofed_arp", frames::arp(mac(2), 2, (mac(2), ip4(3)), (mac(4), ip4(4)))),
        ("spoofed_arp", frames::arp(mac(2), 1, (mac(3), ip4(3)), ([0; 6], ip4(4)))),
        ("spoofed_arp", frames::arp(mac(2), 2, (mac(2), ip4(1)), (frames::BROADCAST, ip4(1)))),
    ];
    for (reason, frame) in &cases {
        let count = bed.vonicd.drops("a", reason).unwrap();
        guests[0].must(&format!("vonic-peer inject eth0 {} 3", hex(frame)), seconds(10)).unwrap();
        wait_until(reason, seconds(5), || bed.vonicd.drops("a", reason).unwrap() >= count + 3).unwrap();
        assert_eq!(bed.vonicd.drops("a", reason).unwrap(), count + 3, "{reason} for {}", hex(frame));
    }
    let after = bed.vonicd.vm("c").unwrap()["host_to_guest"]["frames"].as_u64().unwrap();
    assert_eq!(before, after, "spoofed frames reached c");
    let neighbours = guests[2].must("ip neigh", seconds(5)).unwrap();
    let of_b = neighbours.lines().find(|line| line.starts_with("192.0.2.3 ")).unwrap();
    assert!(of_b.contains("52:54:00:00:00:03"), "{neighbours}");
    nobody_heard_what_is_not_theirs(&mut guests, sniffers);
}

#[test]
fn a_frame_to_nobody_goes_nowhere_and_a_broadcast_to_all_others() {
    let bed = Bed::start(&three_vms()).unwrap();
    let mut mocks = NAMES.map(|(name, _)| bed.mock(name, MockConfig::default()).unwrap());
    let [a, b, c] = &mut mocks;
    let lost = frames::ping((mac(2), mac(9)), ip4(2), ip4(9), 1, b"to nobody");
    let all = frames::ping((mac(2), frames::BROADCAST), ip4(2), ip4(255), 1, b"to all");
    let one = frames::ping((mac(2), mac(3)), ip4(2), ip4(3), 1, b"to b");
    for frame in [&lost, &all, &one] {
        assert_eq!(a.send_frame(&VnetHeader::default(), frame).unwrap(), 0);
    }
    assert_eq!(b.receive_frame(seconds(5)).unwrap().unwrap().1, all);
    assert_eq!(b.receive_frame(seconds(5)).unwrap().unwrap().1, one);
    assert_eq!(c.receive_frame(seconds(5)).unwrap().unwrap().1, all);
    // What was to come has come; nothing follows.
    for mock in [a, b, c] {
        assert_eq!(mock.receive_frame(std::time::Duration::from_millis(200)).unwrap(), None);
    }
    assert_eq!(bed.vonicd.drops("a", "unknown_destination").unwrap(), 1);
}

#[test]
fn guests_of_an_isolated_network_reach_the_gateway_and_not_each_other() {
    let mut config = three_vms();
    config.network.push_str("isolated = true\n");
    let bed = Bed::start(&config).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    a.send_frame(&VnetHeader::default(), &frames::ping((mac(2), mac(3)), ip4(2), ip4(3), 1, b"to b")).unwrap();
    a.gateway_answers(2).unwrap();
    b.gateway_answers(3).unwrap();
    assert_eq!(b.receive_frame(std::time::Duration::from_millis(200)).unwrap(), None);
    assert_eq!(bed.vonicd.drops("a", "isolated").unwrap(), 1);
}
