//! How often does vonic itself copy payload? Never between a guest and a host socket, once from guest to guest; by its own counter, and
//! seen from outside.
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::mock::{MockConfig, VnetHeader, feature};
use vonic_tests::*;

fn two_vms() -> TestConfig {
    TestConfig::default().vm("a", 2, "").vm("b", 3, "")
}

fn no_copy_on_the_terminated_path(vmm: Vmm) {
    if !trace::tcp_peek_offset_works().unwrap() {
        skip!("this kernel has no SO_PEEK_OFF on TCP: vonic peeks over scratch memory, which it counts");
    }
    let bed = Bed::start(&two_vms()).unwrap();
    let mut guest = bed.guest("a", 2, vmm).unwrap();
    let server = bed.server().unwrap();
    guest.must(&format!("vonic-peer both 192.0.2.1:{} 67108864 1 4", server.address().port()), seconds(240)).unwrap();
    let carried = bed.vonicd.vm("a").unwrap();
    for direction in ["guest_to_host", "host_to_guest"] {
        assert!(carried[direction]["bytes"].as_u64().unwrap() > 4 * 67_108_864, "{carried}");
        assert_eq!(bed.vonicd.copied(direction).unwrap(), 0, "{direction}");
    }
    assert_eq!(bed.vonicd.copied("guest_to_guest").unwrap(), 0);
}

#[test]
fn nothing_is_copied_between_a_user_mode_linux_guest_and_the_host() {
    no_copy_on_the_terminated_path(Vmm::Uml);
}

#[test]
fn nothing_is_copied_between_a_qemu_guest_and_the_host() {
    no_copy_on_the_terminated_path(Vmm::Qemu);
}

#[test]
fn guest_to_guest_is_copied_once_byte_by_byte() {
    let bed = Bed::start(&two_vms()).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig { buffer: vec![600], posted: 250, ..MockConfig::default() }).unwrap();
    let before = bed.vonicd.copied("guest_to_guest").unwrap();
    let mut sum = 0;
    for length in [0, 1, 18, 64, 500, 1000, 1472] {
        let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
        let frame = frames::ping((mac(2), mac(3)), ip4(2), ip4(3), length as u16, &payload);
        a.send_frame(&VnetHeader::default(), &frame).unwrap();
        assert_eq!(b.receive_frame(seconds(5)).unwrap().unwrap().1, frame);
        sum += frame.len() as u64;
    }
    assert_eq!(bed.vonicd.copied("guest_to_guest").unwrap() - before, sum);
}

#[test]
fn a_large_segment_between_guests_is_copied_once() {
    let bed = Bed::start(&two_vms()).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig { buffer: vec![2048], posted: 250, ..MockConfig::default() }).unwrap();
    assert!(a.features() & feature::HOST_TSO4 != 0 && b.features() & feature::GUEST_TSO4 != 0);
    let before = bed.vonicd.copied("guest_to_guest").unwrap();
    let segment =
        frames::Tcp { ports: (1, 7), flags: frames::Tcp::ACK, text: vec![0x5a; 60_000], ..Default::default() };
    let frame = segment.frame((mac(2), mac(3)), ip4(2), ip4(3));
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::TCPV4,
        header_length: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        buffers: 0,
    };
    a.send_frame(&header, &frame).unwrap();
    let (header, received) = b.receive_frame(seconds(5)).unwrap().unwrap();
    assert_eq!((received.len(), header.gso_type, header.gso_size), (frame.len(), VnetHeader::TCPV4, 1460));
    assert_eq!(received[54..], frame[54..]);
    assert!(header.buffers > 20, "{header:?}");
    assert_eq!(bed.vonicd.copied("guest_to_guest").unwrap() - before, frame.len() as u64);
}

/// Real stacks: what both guests were sent is what was copied, once the addresses are resolved (vonic itself answers some ARP).
#[test]
fn tcp_between_guests_is_copied_once() {
    let bed = Bed::start(&two_vms()).unwrap();
    let mut a = bed.start_guest("a", 2, Vmm::Uml).unwrap();
    let mut b = bed.guest("b", 3, Vmm::Uml).unwrap();
    a.wait_ready().unwrap();
    let server = b.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    server.wait_output(&mut b, "listening", seconds(10)).unwrap();
    a.must("ping -c 1 -W 2 192.0.2.3; ip neigh replace 192.0.2.3 lladdr 52:54:00:00:00:03 dev eth0", seconds(10))
        .unwrap();
    b.must("ip neigh replace 192.0.2.2 lladdr 52:54:00:00:00:02 dev eth0", seconds(10)).unwrap();
    let delivered = || -> u64 {
        ["a", "b"].iter().map(|vm| bed.vonicd.vm(vm).unwrap()["host_to_guest"]["bytes"].as_u64().unwrap()).sum()
    };
    let before = (delivered(), bed.vonicd.copied("guest_to_guest").unwrap());
    a.must("vonic-peer both 192.0.2.3:7 67108864 1", seconds(120)).unwrap();
    let after = (delivered(), bed.vonicd.copied("guest_to_guest").unwrap());
    assert!(after.0 - before.0 > 2 * 67_108_864);
    assert_eq!(after.0 - before.0, after.1 - before.1);
}

fn seen_from_outside(vmm: Vmm) {
    if !trace::tcp_peek_offset_works().unwrap() {
        skip!("this kernel has no SO_PEEK_OFF on TCP: vonic peeks over scratch memory, which it counts");
    }
    let bed = Bed::start(&two_vms()).unwrap();
    let mut guest = bed.guest("a", 2, vmm).unwrap();
    let mut server = bed.server().unwrap();
    let engine = std::fs::read_to_string(bed.directory.path().join("run/engine.pid")).unwrap().trim().parse().unwrap();
    let tracer = trace::Tracer::start(engine, guest.process().pid()).unwrap();
    guest.must(&format!("vonic-peer both 192.0.2.1:{} 8000009 1 2", server.address().port()), seconds(120)).unwrap();
    // What a guest's program has sent, its kernel may still have.
    (0..2).for_each(|_| assert!(server.report(seconds(30)).unwrap()["error"].is_null()));
    let seen = tracer.finish().unwrap();
    assert!(seen.sends > 0 && seen.receives > 0 && seen.inside >= 4 * 8_000_009, "{seen:?}");
    assert!(seen.outside.is_empty() && seen.plain.is_empty(), "payload outside guest memory: {seen:?}");
}

#[test]
fn every_iovec_of_a_leg_lies_in_a_user_mode_linux_guests_memory() {
    seen_from_outside(Vmm::Uml);
}

#[test]
fn every_iovec_of_a_leg_lies_in_a_qemu_guests_memory() {
    seen_from_outside(Vmm::Qemu);
}
