//! Do guests' pings get out to the world, and back? Sizes, hops, errors and their senders with real guests; limits, rules, identifiers
//! and what a host may refuse with frames made by hand.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::Ipv4Addr;

use serde_json::json;
use vonic_tests::frames::{self, checksum, ip4, mac};
use vonic_tests::mock::{MockConfig, VnetHeader, feature};
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

/// The hop behind the host, and an address behind that.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// The host (198.51.100.1), a router, and a host behind it on a line of 1000 bytes.
struct World {
    bed: Bed,
    _router: Netns,
    _far: Netns,
}

impl World {
    fn start(config: &TestConfig) -> World {
        let bed = Bed::start(config).unwrap();
        let (router, far) = (Netns::new().unwrap(), Netns::new().unwrap());
        router.cable("near", "198.51.100.1/24", "198.51.100.2/24").unwrap();
        let between = || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            far.cable("far", "203.0.113.1/24", "203.0.113.2/24")
        };
        router.run(between).unwrap();
        far.ip("route add default via 203.0.113.1").unwrap();
        ip("route add 203.0.113.0/24 via 198.51.100.2").unwrap();
        World { bed, _router: router, _far: far }
    }

    fn icmp(&self, vm: &str, counter: &str) -> u64 {
        self.bed.vonicd.vm(vm).unwrap()["icmp"][counter].as_u64().unwrap()
    }
}

fn lost_none(output: &str) -> bool {
    output.contains(" 0% packet loss")
}

fn pings(vmm: Vmm) {
    let world = World::start(&TestConfig::default().vm("a", 2, ""));
    let mut guest = world.bed.guest("a", 2, vmm).unwrap();
    for size in [0, 1, 7, 56, 1471, 1472] {
        for to in [ROUTER, FAR] {
            let said = guest.must(&format!("ping -c 2 -W 5 -s {size} {to}"), seconds(20)).unwrap();
            assert!(lost_none(&said), "{size} bytes to {to}: {said}");
        }
    }
    // Larger ones come in fragments, and go so.
    for size in [1473, 8000, 65_000, 65_507] {
        let said = guest.must(&format!("ping -c 2 -W 5 -s {size} {FAR}"), seconds(20)).unwrap();
        assert!(lost_none(&said), "{size} bytes: {said} {}", world.bed.vonicd.vm("a").unwrap());
    }
    assert_eq!(world.bed.vonicd.drops("a", "fragment").unwrap(), 0);
    // The first hop says that the second is out of reach; the far host is two hops away, since vonic counts as none.
    let said = guest.run(&format!("ping -c 1 -W 5 -t 1 {FAR}"), seconds(10)).unwrap();
    assert!(said.status != 0, "{said:?}");
    assert!(lost_none(&guest.must(&format!("ping -c 1 -W 5 -t 2 {FAR}"), seconds(10)).unwrap()));
    assert_eq!(world.icmp("a", "errors"), 1);
    // Nothing is copied, and no connection was made.
    assert_eq!(
        world.bed.vonicd.copied("guest_to_host").unwrap() + world.bed.vonicd.copied("host_to_guest").unwrap(),
        0
    );
    world.bed.vonicd.stop().unwrap();
}

#[test]
fn a_uml_guest_pings_the_world() {
    pings(Vmm::Uml);
}

#[test]
fn a_qemu_guest_pings_the_world() {
    pings(Vmm::Qemu);
}

/// What ping and traceroute print of the errors that vonic passes on: who said what.
#[test]
fn errors_come_from_who_found_them() {
    let world = World::start(&TestConfig::default().vm("a", 2, "mtu = 9000"));
    let mut guest = world.bed.guest("a", 2, Vmm::Uml).unwrap();
    let mut ping = |arguments: &str| guest.run(&format!("ping -c 1 -W 6 {arguments}"), seconds(20)).unwrap().stdout;
    for (arguments, words) in [
        ("-t 1 203.0.113.2", "From 198.51.100.2 icmp_seq=1 Time to live exceeded"),
        ("203.0.113.77", "From 198.51.100.2 icmp_seq=1 Destination Host Unreachable"),
        ("192.88.99.1", "From 192.0.2.1 icmp_seq=1 Destination Net Unreachable"),
        ("-M do -s 3000 203.0.113.2", "Frag needed and DF set (mtu = 1500)"),
        ("-M dont -s 8000 198.51.100.2", " 0% packet loss"),
    ] {
        let said = ping(arguments);
        assert!(said.contains(words), "{words:?} is not in the answer to ping {arguments}: {said}");
    }
    let own = ping("-W 1 198.51.100.1");
    assert!(own.contains("100% packet loss") && world.bed.vonicd.drops("a", "denied").unwrap() >= 1, "{own}");
    world.bed.vonicd.stop().unwrap();
}

/// An echo request of VM `number` by hand.
#[derive(Clone, Copy)]
struct Echo {
    number: u8,
    to: Ipv4Addr,
    id: u16,
    sequence: u16,
    ttl: u8,
    code: u8,
}

impl Echo {
    fn new(number: u8, to: Ipv4Addr, id: u16, sequence: u16) -> Echo {
        Echo { number, to, id, sequence, ttl: 64, code: 0 }
    }

    /// The ICMP message with `data`.
    fn message(&self, data: &[u8]) -> Vec<u8> {
        let mut message = vec![8, self.code, 0, 0];
        message.extend([self.id.to_be_bytes(), self.sequence.to_be_bytes()].concat());
        message.extend(data);
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        message
    }

    fn frame(&self, guest: &HandGuest, message: &[u8]) -> Vec<u8> {
        let mut packet = frames::ipv4(ip4(self.number), self.to, 1, message);
        packet[8] = self.ttl;
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        frames::ethernet(guest.gateway, mac(self.number), 0x0800, &packet)
    }

    fn send(&self, guest: &mut HandGuest, data: &[u8]) {
        let frame = self.frame(guest, &self.message(data));
        guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
    }
}

/// An ICMP message that a guest got, all its checksums found right: who sent it, and the message.
fn hear(guest: &mut HandGuest, number: u8) -> (Ipv4Addr, Vec<u8>) {
    let is_icmp = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 1;
    let (header, frame) = guest.mock.expect_frame("an ICMP message", seconds(5), is_icmp).unwrap();
    assert_eq!((header.flags, header.gso_type, header.buffers), (0, 0, 1), "{header:?}");
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let packet = &frame[14..14 + length];
    assert_eq!((checksum(&packet[..20]), checksum(&packet[20..])), (0, 0), "{packet:02x?}");
    assert_eq!((&frame[..6], &packet[16..20]), (&mac(number)[..], &ip4(number).octets()[..]));
    let source: [u8; 4] = packet[12..16].try_into().unwrap();
    (source.into(), packet[20..].to_vec())
}

/// The reply to `echo` with `data`.
fn expect_reply(guest: &mut HandGuest, echo: &Echo, data: &[u8]) {
    let (from, message) = hear(guest, echo.number);
    let mut wanted = echo.message(data);
    wanted[0] = 0;
    assert_eq!((from, &message[..2], &message[4..]), (echo.to, &wanted[..2], &wanted[4..]));
}

/// Open descriptors of vonicd's two processes, which share one table.
fn descriptors(bed: &mut Bed) -> usize {
    usage::settled_descriptors(bed.vonicd.process().pid()).unwrap()
}

fn by_hand(more: &str) -> (World, HandGuest) {
    let world = World::start(&TestConfig::default().vm("a", 2, more).vm("b", 3, ""));
    let guest = HandGuest::start(&world.bed, "a", 2, feature::ALL).unwrap();
    (world, guest)
}

#[test]
fn two_guests_with_the_same_identifier_get_their_own_replies() {
    let (world, mut a) = by_hand("");
    let mut b = HandGuest::start(&world.bed, "b", 3, feature::PLAIN).unwrap();
    for round in 0..3 {
        let (of_a, of_b) = (Echo::new(2, FAR, 77, round), Echo::new(3, FAR, 77, round));
        of_a.send(&mut a, b"a's");
        of_b.send(&mut b, b"that of b");
        expect_reply(&mut b, &of_b, b"that of b");
        expect_reply(&mut a, &of_a, b"a's");
    }
    // One identifier towards two addresses, and a chain of many pieces.
    let near = Echo::new(2, ROUTER, 77, 9);
    let data: Vec<u8> = (0..1001u32).map(|i| i as u8).collect();
    let frame = near.frame(&a, &near.message(&data));
    a.mock.send_shaped(&VnetHeader::default(), &frame, &[12, 14, 20, 3, 5, 1, 200, 7], false).unwrap();
    expect_reply(&mut a, &near, &data);
    assert_eq!((world.icmp("a", "opened"), world.icmp("b", "opened")), (2, 1));
    assert_eq!((world.icmp("a", "requests"), world.icmp("a", "replies")), (4, 4));
    world.bed.vonicd.stop().unwrap();
}

#[test]
fn what_is_no_good_request_goes_no_further() {
    let (world, mut guest) = by_hand("");
    let good = Echo::new(2, FAR, 5, 1);
    let drops = |reason: &str| world.bed.vonicd.drops("a", reason).unwrap();
    let mut wrong = good.message(b"data");
    wrong[9] ^= 1;
    let wrong_sum = good.frame(&guest, &wrong);
    let mut timestamp = good.message(&[0; 12]);
    timestamp[0] = 13;
    let timestamp = good.frame(&guest, &timestamp);
    let coded = Echo { code: 1, ..good }.frame(&guest, &Echo { code: 1, ..good }.message(b""));
    let dead = Echo { ttl: 0, ..good }.frame(&guest, &good.message(b""));
    for (frame, reason, count) in [
        (wrong_sum, "bad_checksum", 1),
        (timestamp, "unsupported", 1),
        (coded, "bad_header", 1),
        (dead, "bad_header", 2),
        (Echo::new(2, [127, 0, 0, 1].into(), 5, 1).frame(&guest, &good.message(b"")), "denied", 1),
        (Echo::new(2, [192, 0, 2, 9].into(), 5, 1).frame(&guest, &good.message(b"")), "denied", 2),
    ] {
        guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
        wait_until(reason, seconds(5), || drops(reason) == count).unwrap();
    }
    assert_eq!(world.icmp("a", "opened"), 0);
    good.send(&mut guest, b"");
    expect_reply(&mut guest, &good, b"");
    world.bed.vonicd.stop().unwrap();
}

#[test]
fn errors_quote_the_request_as_the_guest_sent_it() {
    let (world, mut guest) = by_hand("");
    for sequence in [1, 2] {
        let echo = Echo { ttl: 1, ..Echo::new(2, FAR, 0xabcd, sequence) };
        echo.send(&mut guest, b"traceroute");
        let (from, message) = hear(&mut guest, 2);
        assert_eq!((from, &message[..2]), (ROUTER, &[11, 0][..]));
        assert_eq!((&message[8 + 12..8 + 16], &message[8 + 16..8 + 20]), (&ip4(2).octets()[..], &FAR.octets()[..]));
        assert_eq!(message[8 + 20..], echo.message(b"traceroute")[..8], "type, code, checksum, identifier, sequence");
    }
    // The flow lives on.
    let echo = Echo::new(2, FAR, 0xabcd, 3);
    echo.send(&mut guest, b"reply");
    expect_reply(&mut guest, &echo, b"reply");
    assert_eq!((world.icmp("a", "opened"), world.icmp("a", "errors")), (1, 2));
    world.bed.vonicd.stop().unwrap();
}

/// Without buffers replies wait in the kernel's queue, and come when there are some.
#[test]
fn replies_wait_for_buffers() {
    let world = World::start(&TestConfig::default().vm("a", 2, ""));
    let config = MockConfig { posted: 2, ..MockConfig::default() };
    let mut guest = HandGuest::start_configured(&world.bed, "a", 2, config).unwrap();
    for id in [1, 2] {
        (0..5).for_each(|sequence| Echo::new(2, FAR, id, sequence).send(&mut guest, b"later"));
    }
    wait_until("two replies", seconds(5), || world.icmp("a", "replies") == 2).unwrap();
    let mut heard: Vec<Vec<u8>> = (0..10).map(|_| hear(&mut guest, 2).1[4..8].to_vec()).collect();
    heard.sort();
    let all: Vec<Vec<u8>> = (1..=2).flat_map(|id| (0..5).map(move |sequence| vec![0, id, 0, sequence])).collect();
    assert_eq!(heard, all);
    assert_eq!(world.bed.vonicd.drops("a", "no_room").unwrap(), 0);
    world.bed.vonicd.stop().unwrap();
}

#[test]
fn egress_rules_and_reloads_decide_about_running_pings_too() {
    let rule = |action: &str, proto: &str, to: &str| {
        format!("[[egress]]\naction = \"{action}\"\nproto = \"{proto}\"\nto = \"{to}\"\n")
    };
    let open = [rule("deny", "icmp", "198.51.100.0/24"), rule("allow", "icmp", "203.0.113.0/24")].concat();
    let (world, mut guest) = by_hand(&open);
    let drops = || world.bed.vonicd.drops("a", "denied").unwrap();
    let (near, far) = (Echo::new(2, ROUTER, 1, 1), Echo::new(2, FAR, 1, 1));
    far.send(&mut guest, b"");
    expect_reply(&mut guest, &far, b"");
    near.send(&mut guest, b"");
    wait_until("a drop", seconds(5), || drops() == 1).unwrap();
    // TCP is another protocol; with rules and no match: deny.
    let closed =
        format!("mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\n{}", rule("allow", "tcp", "0.0.0.0/0"));
    world.bed.directory.write("etc/vms.d/a.toml", closed).unwrap();
    assert_eq!(world.bed.vonicd.vonic(&["reload", "--json"]).unwrap()["errors"], json!([]));
    assert_eq!(world.icmp("a", "open"), 0, "the flow has ended with its permission");
    far.send(&mut guest, b"");
    wait_until("a drop", seconds(5), || drops() == 2).unwrap();
    world.bed.vonicd.stop().unwrap();
}

#[test]
fn a_guest_has_so_many_flows_and_the_idle_end() {
    let (mut world, mut guest) = by_hand("");
    let before = descriptors(&mut world.bed);
    for id in 0..70 {
        let echo = Echo::new(2, FAR, id, 0);
        echo.send(&mut guest, b"");
        expect_reply(&mut guest, &echo, b"");
    }
    assert_eq!((world.icmp("a", "opened"), world.icmp("a", "evicted"), world.icmp("a", "open")), (70, 6, 64));
    assert_eq!(descriptors(&mut world.bed), before + 64);
    // Identifier 6 is the oldest now, unless it is used.
    for id in [6, 100] {
        let echo = Echo::new(2, FAR, id, 1);
        echo.send(&mut guest, b"");
        expect_reply(&mut guest, &echo, b"");
    }
    let again = Echo::new(2, FAR, 6, 2);
    again.send(&mut guest, b"");
    expect_reply(&mut guest, &again, b"");
    assert_eq!((world.icmp("a", "opened"), world.icmp("a", "evicted")), (71, 7));
    wait_until("the end of the idle flows", seconds(45), || world.icmp("a", "open") == 0).unwrap();
    assert_eq!(descriptors(&mut world.bed), before);
    again.send(&mut guest, b"back");
    expect_reply(&mut guest, &again, b"back");
    // A guest that goes takes its flows along.
    drop(guest);
    wait_until("the end of the guest's flows", seconds(5), || world.icmp("a", "open") == 0).unwrap();
    world.bed.vonicd.stop().unwrap();
}

#[test]
fn new_flows_have_a_rate() {
    let (world, mut guest) = by_hand("limits = { new_per_second = 5 }");
    for id in 0..30 {
        Echo::new(2, FAR, id, 0).send(&mut guest, b"");
    }
    let (opened, dropped) = (world.icmp("a", "opened"), world.bed.vonicd.drops("a", "limit").unwrap());
    assert!((5..=10).contains(&opened) && opened + dropped == 30, "{opened} opened, {dropped} dropped");
    world.bed.vonicd.stop().unwrap();
}

/// An administrator's refusal is answered, counted, and told once with what to do.
#[test]
fn a_host_that_refuses_ping_sockets_is_told_of() {
    let (world, mut guest) = by_hand("");
    let permit = |range| std::fs::write("/proc/sys/net/ipv4/ping_group_range", range).unwrap();
    let hint = "sysctl net.ipv4.ping_group_range=\"0 2147483647\"";
    permit("1 0");
    for sequence in 0..10 {
        let echo = Echo::new(2, FAR, 9, sequence);
        echo.send(&mut guest, b"");
        let (from, message) = hear(&mut guest, 2);
        assert_eq!((from, &message[..2]), (ip4(1), &[3, 13][..]));
        assert_eq!(message[28..36], echo.message(b"")[..8]);
    }
    assert_eq!(world.bed.vonicd.drops("a", "not_permitted").unwrap(), 10);
    let shown = world.bed.vonicd.vm("a").unwrap();
    assert!(shown["hints"][0].as_str().unwrap().contains(hint), "{shown}");
    assert!(world.bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap().contains(hint));
    assert_eq!(world.bed.vonicd.log().matches(hint).count(), 1, "{}", world.bed.vonicd.log());
    permit("0 2147483647");
    let echo = Echo::new(2, FAR, 9, 10);
    echo.send(&mut guest, b"");
    expect_reply(&mut guest, &echo, b"");
    wait_until("the end of the hint", seconds(5), || world.bed.vonicd.vm("a").unwrap()["hints"] == json!([])).unwrap();
    world.bed.vonicd.stop().unwrap();
}
