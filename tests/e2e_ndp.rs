//! Neighbours, routers and DHCPv6: do guests find the gateway, each other and their addresses, and can none take another's?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::Ipv6Addr;
use std::time::Duration;

use vonic_tests::frames::{Mac, mac};
use vonic_tests::lies::{Family, Identity, Scene, icmp6, ip6, lies, udp6};
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader};
use vonic_tests::*;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

fn three_vms() -> Bed {
    let config = TestConfig::both_families().vm("a", 2, "").vm("b", 3, "").vm("c", 4, "");
    Bed::start(&config).unwrap()
}

/// A guest without a stack that has heard its router.
fn guest(bed: &Bed, name: &str) -> (MockFrontend, Vec<u8>) {
    let mut mock = bed.mock(name, MockConfig::default()).unwrap();
    let (_, frame) = mock.expect_frame("router advertisement", seconds(5), |frame| is_icmp6(frame, 134)).unwrap();
    (mock, frame)
}

fn is_icmp6(frame: &[u8], kind: u8) -> bool {
    frame.len() > 54 && frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == kind
}

fn send(mock: &mut MockFrontend, frame: &[u8]) {
    assert_eq!(mock.send_frame(&VnetHeader::default(), frame).unwrap(), 0);
}

fn group(address: Ipv6Addr) -> Mac {
    let octets = address.octets();
    [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
}

/// "Has somebody `target`?" from a guest that is about to take it (RFC 4862 §5.4.2).
fn probe(from: u8, target: Ipv6Addr) -> Vec<u8> {
    let octets = target.octets();
    let low = u16::from_be_bytes([octets[14], octets[15]]);
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(octets[13]), low);
    icmp6((mac(from), group(to)), (Ipv6Addr::UNSPECIFIED, to), 135, &[&[0; 4][..], &octets].concat())
}

#[test]
fn lies_are_dropped_counted_and_reach_nobody() {
    let bed = three_vms();
    let (mut a, _) = guest(&bed, "a");
    let (mut c, _) = guest(&bed, "c");
    let scene = Scene { me: Identity::of(2), other: Identity::of(3), to: Identity::of(4) };
    let mut told = 0;
    for lie in lies(&[Family::V6]) {
        let before = bed.vonicd.drops("a", lie.reason).unwrap();
        send(&mut a, &(lie.frame)(&scene));
        wait_until(lie.name, seconds(5), || bed.vonicd.drops("a", lie.reason).unwrap() > before).unwrap();
        assert_eq!(bed.vonicd.drops("a", lie.reason).unwrap(), before + 1, "{}", lie.name);
        told += 1;
    }
    assert!(told > 10, "{told}");
    // The truth passes.
    let truth = udp6((mac(2), mac(4)), ip6(2), ip6(4), (7, 7), b"truth");
    send(&mut a, &truth);
    assert_eq!(c.receive_frame(seconds(5)).unwrap().unwrap().1, truth);
    assert_eq!(c.receive_frame(Duration::from_millis(200)).unwrap(), None);
}

#[test]
fn probes_reach_the_owner_and_claim_only_what_is_free() {
    let bed = three_vms();
    let (mut a, advertisement) = guest(&bed, "a");
    let (mut b, _) = guest(&bed, "b");
    assert_eq!(advertisement[59] & 0xc0, 0xc0, "addresses come by DHCPv6");
    let gateway: Mac = advertisement[6..12].try_into().unwrap();
    // The gateway says itself that its address is taken, to all nodes (RFC 4861 §7.2.4).
    send(&mut a, &probe(2, ip6(1)));
    let (_, answer) = a.expect_frame("the gateway's answer", seconds(5), |frame| is_icmp6(frame, 136)).unwrap();
    assert_eq!((&answer[38..54], &answer[62..78]), (&ALL_NODES.octets()[..], &ip6(1).octets()[..]));
    assert_eq!((answer[58], answer[21], &answer[80..86]), (0xa0, 255, &gateway[..]));
    // b hears the question about its own address, and not the one before.
    let about_b = probe(2, ip6(3));
    send(&mut a, &about_b);
    assert_eq!(b.receive_frame(seconds(5)).unwrap().unwrap().1, about_b);
    let (spoofed, claimed) = ("spoofed_address", Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77));
    let speak = |a: &mut MockFrontend, src: Ipv6Addr| send(a, &udp6((mac(2), mac(3)), src, ip6(3), (7, 7), b"from"));
    speak(&mut a, ip6(3));
    speak(&mut a, claimed);
    wait_until("two drops", seconds(5), || bed.vonicd.drops("a", spoofed).unwrap() == 2).unwrap();
    send(&mut a, &probe(2, claimed));
    speak(&mut a, claimed);
    b.expect_frame("the claimed address", seconds(5), |frame| frame[20] == 17 && frame[22..38] == claimed.octets())
        .unwrap();
    assert_eq!(bed.vonicd.drops("a", spoofed).unwrap(), 2);
}

#[test]
fn a_router_solicitation_is_answered_and_goes_no_further() {
    let bed = three_vms();
    let (mut a, _) = guest(&bed, "a");
    let (mut b, _) = guest(&bed, "b");
    let link_local = Identity::of(2).link_local();
    let body = [&[0; 4][..], &[1, 1], &mac(2)].concat();
    send(&mut a, &icmp6((mac(2), group(ALL_ROUTERS)), (link_local, ALL_ROUTERS), 133, &body));
    let (_, answer) = a.expect_frame("router advertisement", seconds(5), |frame| is_icmp6(frame, 134)).unwrap();
    assert_eq!((&answer[..6], &answer[38..54]), (&mac(2)[..], &link_local.octets()[..]));
    assert_eq!(u16::from_be_bytes([answer[60], answer[61]]), 1800);
    assert_eq!(&answer[102..118], ip6(0).octets());
    assert_eq!(b.receive_frame(Duration::from_millis(200)).unwrap(), None);
}

#[test]
fn real_guests_find_their_router_their_address_and_conflicts() {
    let bed = three_vms();
    let mut guests: Vec<Guest> = [("a", 2), ("b", 3)]
        .map(|(name, number)| {
            let plain = GuestConfig::new(name, number, &bed.socket(name));
            bed.start_configured(&GuestConfig { ip6: true, ..plain }).unwrap()
        })
        .into();
    for guest in &mut guests {
        guest.wait_ready().unwrap();
    }
    // Each by its own busybox; the script writes down what it was told.
    for (guest, number) in guests.iter_mut().zip([2, 3]) {
        wait_until("a default route", seconds(15), || {
            guest.must("ip -6 route", seconds(5)).is_ok_and(|routes| routes.contains("default via fe80::"))
        })
        .unwrap();
        guest
            .must("printf '#!/bin/sh\\nenv >/run/told.$1\\n' >/run/script && chmod +x /run/script", seconds(5))
            .unwrap();
        guest.must("busybox udhcpc6 -i eth0 -f -q -n -s /run/script", seconds(30)).unwrap();
        let told = guest.must("cat /run/told.bound", seconds(5)).unwrap();
        // This client writes all digits.
        let address = told.lines().find_map(|line| line.strip_prefix("ipv6=")).unwrap();
        assert_eq!(address.parse(), Ok(ip6(number)), "{told}");
        guest.must(&format!("ip addr add {}/64 dev eth0", ip6(number)), seconds(5)).unwrap();
    }
    let a = &mut guests[0];
    a.must(&format!("ping6 -c 2 -W 5 {}", ip6(1)), seconds(20)).unwrap();
    a.must("ping6 -c 2 -W 5 -I eth0 fe80::a9fe:a9fe", seconds(20)).unwrap();
    a.must(&format!("ping6 -c 2 -W 5 {}", ip6(3)), seconds(20)).unwrap();
    // Both of them are told that what they try to take is taken: b by a's kernel, a by the gateway.
    for (place, taken) in [(1, 2), (0, 1)] {
        guests[place].must(&format!("ip addr add {}/64 dev eth0", ip6(taken)), seconds(5)).unwrap();
        wait_until("a failed address", seconds(10), || {
            guests[place].must("ip addr show dev eth0", seconds(5)).is_ok_and(|shown| shown.contains("dadfailed"))
        })
        .unwrap();
    }
    for name in ["a", "b"] {
        assert_eq!(bed.vonicd.drops(name, "spoofed_ndp").unwrap(), 0, "{name}");
    }
    drop(guests);
    bed.vonicd.stop().unwrap();
}
