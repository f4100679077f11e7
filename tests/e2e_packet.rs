//! Guests at an interface of the host by packet sockets: do they and others there reach each other, byte for byte, in both families, with
//! every offload and with none; does everybody get what is theirs exactly once, and nobody anything else?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use vonic_peer::packet::Wire;
use vonic_tests::frames::{self, BROADCAST, Mac, hex, ip4, mac};
use vonic_tests::lan::{self, Host, JACK, MACVLAN, NIC, PLAIN, nothing_was_copied, servers, settle, streams};
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::*;

/// Of nobody's concern on any network (IEEE 802, local experimental EtherType 1).
const EXPERIMENTAL: u16 = 0x88b5;
const MOMENT: Duration = Duration::from_millis(300);

/// The mean frame that a VM was sent.
fn mean(bed: &Bed, vm: &str) -> f64 {
    let sent = &bed.vonicd.vm(vm).unwrap()["host_to_guest"];
    sent["bytes"].as_f64().unwrap() / sent["frames"].as_f64().unwrap()
}

/// A guest with every offload and one with none, with each other and with a machine.
fn everybody_talks(mtu: u16, bytes: u32) -> Bed {
    let (bed, hosts) = lan::start_at_nic(mtu, "", PLAIN).unwrap();
    let mut a = lan::start_guest(&bed, "a", 2, Vmm::Uml, None).unwrap();
    let mut b = lan::start_guest(&bed, "b", 3, Vmm::Uml, None).unwrap();
    settle(&mut a, 2).unwrap();
    settle(&mut b, 3).unwrap();
    let _server = PeerServer::start("host", bed.directory.path(), "[::]:7", Some(&hosts[0].netns)).unwrap();
    streams(&bed, &hosts[0], &mut a, 2, bytes).unwrap();
    streams(&bed, &hosts[0], &mut b, 3, bytes / 4).unwrap();
    assert!(
        mean(&bed, "a") > 3000.0 && mean(&bed, "b") < f64::from(mtu) + 15.0,
        "{} {}",
        mean(&bed, "a"),
        mean(&bed, "b")
    );
    // Large packets that are no TCP pass in fragments.
    for guest in [&mut a, &mut b] {
        for host in [ip4(10).to_string(), lan::ip6(10)] {
            guest.must(&format!("ping -c 2 -i 0.2 -s 20000 -W 2 {host}"), seconds(20)).unwrap();
        }
    }
    nothing_was_copied(&bed).unwrap();
    // But for the guests' questions to everybody, which the other guest hears too.
    assert!(bed.vonicd.copied("guest_to_guest").unwrap() < 10_000);
    let [server, _] = servers(3);
    a.must(&format!("vonic-peer both {server} 3000017 3 2"), seconds(120)).unwrap();
    // Of what guests of one vonicd say to each other the interface sees nothing, and vonic copies it once.
    assert!(bed.vonicd.copied("guest_to_guest").unwrap() > 12_000_000);
    nothing_was_copied(&bed).unwrap();
    for reason in [
        "spoofed_mac",
        "bad_vnet_header",
        "oversized",
        "uplink_down",
        "uplink_full",
        "unknown_destination",
        "truncated",
    ] {
        assert_eq!(bed.vonicd.drops("a", reason).unwrap() + bed.vonicd.drops("b", reason).unwrap(), 0, "{reason}");
    }
    bed
}

#[test]
fn streams_are_whole_with_every_offload_and_with_none() {
    let bed = everybody_talks(1500, 6_000_011);
    bed.vonicd.stop().unwrap();
}

#[test]
fn streams_are_whole_in_jumbo_frames() {
    everybody_talks(9000, 2_000_003);
}

fn numbered(to: Mac, from: u8, number: u16) -> Vec<u8> {
    frames::ethernet(to, mac(from), EXPERIMENTAL, &number.to_be_bytes())
}

/// The next of the test's own frames that comes to a mock; what machines say by themselves is passed over.
fn next(mock: &mut MockFrontend, limit: Duration) -> Option<Vec<u8>> {
    let ours = |frame: &[u8]| frame[12..14] == EXPERIMENTAL.to_be_bytes();
    mock.expect_frame("frame", limit, ours).ok().map(|(_, frame)| frame)
}

/// Sends `frames` from a machine.
fn host_sends(host: &Host, frames: &[Vec<u8>]) {
    let send = || {
        let wire = Wire::open("eth0")?;
        frames.iter().try_for_each(|frame| wire.send(frame)).map_err(Error::from)
    };
    host.netns.run(send).unwrap();
}

/// The group frames that `number` sends, each kind in another quantity: ARP, IPv4 broadcast, IPv4 and IPv6 multicast.
fn group_frames(number: u8) -> Vec<Vec<u8>> {
    let udp = |to: Mac, address| frames::udp((mac(number), to), ip4(number), address, (9, 9), b"to the group");
    let all = [
        (frames::arp_request(number, ip4(99)), 3),
        (udp(BROADCAST, ip4(255)), 5),
        (udp([1, 0, 0x5e, 0, 0, 1], [224, 0, 0, 1].into()), 7),
        (frames::ethernet([0x33, 0x33, 0, 0, 0, 1], mac(number), EXPERIMENTAL, b"to all nodes"), 9),
    ];
    all.into_iter().flat_map(|(frame, count)| std::iter::repeat_n(frame, count)).collect()
}

/// Whether `listener` heard of every speaker each group frame once, and nothing of itself.
fn heard_once(listener: u8, heard: impl IntoIterator<Item = Vec<u8>>) {
    let mut counts = BTreeMap::new();
    for frame in heard {
        *counts.entry((frame[11], hex(&frame[12..14]))).or_insert(0) += 1;
    }
    for speaker in [2, 3, 4, 10, 11] {
        for (kind, count) in [("0806", 3), ("0800", 12), ("88b5", 9)] {
            let expected = if speaker == listener { None } else { Some(&count) };
            let got = counts.get(&(speaker, kind.to_string()));
            assert_eq!(got, expected, "{listener} of {speaker}, {kind}: {counts:?}");
        }
    }
}

/// What `ip -d` says of an interface.
fn link(name: &str) -> String {
    let output = std::process::Command::new("ip").args(["-d", "link", "show", "dev", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that a wire has heard up to a quiet moment.
fn drain(wire: &Wire) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| wire.receive(MOMENT).unwrap()).collect()
}

/// Three guests and two machines each send group frames, and unicast to each other, at `interface`.
fn everybody_gets_their_own(bed: &Bed, hosts: &[Host; 2]) {
    let mut mocks =
        ["a", "b", "c"].map(|name| bed.mock(name, MockConfig { posted: 200, ..MockConfig::default() }).unwrap());
    let ears = hosts.each_ref().map(|host| host.netns.run(|| Ok(Wire::open("eth0")?)).unwrap());
    let mut from_a = Vec::new();
    for (mock, number) in mocks.iter_mut().zip(2..) {
        for frame in group_frames(number) {
            mock.send_frame(&VnetHeader::default(), &frame).unwrap();
        }
    }
    for host in hosts {
        host_sends(host, &group_frames(host.number));
    }
    for (mock, number) in mocks.iter_mut().zip(2..) {
        let heard = std::iter::from_fn(|| mock.receive_frame(MOMENT).unwrap().map(|(_, frame)| frame));
        heard_once(number, heard);
    }
    for (ear, host) in ears.iter().zip(hosts) {
        heard_once(host.number, drain(ear));
    }
    // Between guests by vonic, the rest by the interface; what is for nobody here goes up once, and never down.
    let unicast = [numbered(mac(3), 2, 1), numbered(mac(10), 2, 2), numbered(mac(99), 2, 3)];
    for frame in &unicast {
        mocks[0].send_frame(&VnetHeader::default(), frame).unwrap();
    }
    let flood: Vec<Vec<u8>> = (0..50).map(|n| numbered(mac(98), 10, n)).chain([numbered(mac(4), 10, 60)]).collect();
    host_sends(&hosts[0], &flood);
    assert_eq!(next(&mut mocks[1], seconds(5)).unwrap(), unicast[0]);
    assert_eq!(next(&mut mocks[2], seconds(5)).unwrap(), flood[50]);
    mocks.iter_mut().for_each(|mock| assert_eq!(next(mock, MOMENT), None));
    from_a.extend(drain(&ears[0]).into_iter().filter(|frame| frame[6..12] == mac(2)));
    assert_eq!(from_a, unicast[1..]);
    // The kernel sorts them out: vonic has seen none.
    for name in ["a", "b", "c"] {
        assert_eq!(bed.vonicd.drops(name, "unknown_destination").unwrap(), 0);
    }
}

#[test]
fn at_a_veth_everybody_gets_their_own_once_and_the_operator_a_warning() {
    let (bed, hosts) = lan::start_at_nic(1500, "", "").unwrap();
    everybody_gets_their_own(&bed, &hosts);
    assert!(link(NIC).contains("promiscuity 1 "), "{}", link(NIC));
    let uplink = bed.vonicd.vm("b").unwrap()["uplink"].clone();
    assert_eq!(
        (&uplink["kind"], &uplink["interface"], &uplink["error"]),
        (&"packet:nic0".into(), &"nic0".into(), &().into())
    );
    assert!(uplink["warnings"][0].as_str().unwrap().starts_with("'nic0' is promiscuous: its driver"), "{uplink}");
    assert_eq!(bed.vonicd.log().matches("network default: 'nic0' is promiscuous").count(), 1);
    assert!(bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap().contains("'nic0' is promiscuous"));
}

#[test]
fn at_a_macvlan_nothing_is_promiscuous() {
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    lan::nic(1500).unwrap();
    lan::macvlan("passthru nopromisc").unwrap();
    let hosts = [10, 11].map(|number| Host::new(number, 1500).unwrap());
    let config = lan::at(&format!("packet:{MACVLAN}")).vm("a", 2, "").vm("b", 3, "").vm("c", 4, "");
    let bed = Bed::start_here(&config).unwrap();
    everybody_gets_their_own(&bed, &hosts);
    assert!(link(MACVLAN).contains("promiscuity 0 "), "{}", link(MACVLAN));
    assert_eq!(bed.vonicd.vm("a").unwrap()["uplink"]["warnings"], serde_json::json!([]));
    spoofs_stay_inside(&bed);
}

/// What is spoofed does not reach the interface's other side.
fn spoofs_stay_inside(bed: &Bed) {
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let to_host = (mac(2), mac(10));
    let cases = [
        ("spoofed_mac", frames::ethernet(mac(10), mac(3), EXPERIMENTAL, b"b's MAC")),
        ("spoofed_mac", frames::ethernet(BROADCAST, mac(11), EXPERIMENTAL, b"a machine's MAC")),
        ("spoofed_address", frames::ping(to_host, ip4(3), ip4(10), 1, b"b's address")),
        ("spoofed_address", frames::ping((mac(2), BROADCAST), ip4(11), ip4(255), 1, b"a machine's address")),
        ("spoofed_arp", frames::arp(mac(2), 1, (mac(2), ip4(10)), ([0; 6], ip4(99)))),
        ("rogue_server", frames::udp((mac(2), BROADCAST), ip4(2), ip4(255), (67, 68), b"an offer")),
        ("vlan_tagged", frames::ethernet(mac(10), mac(2), 0x8100, &[0, 5, 0x88, 0xb5])),
    ];
    let wire = Wire::open(JACK).unwrap();
    for (reason, frame) in &cases {
        let before = bed.vonicd.drops("a", reason).unwrap();
        a.send_frame(&VnetHeader::default(), frame).unwrap();
        assert_eq!(bed.vonicd.drops("a", reason).unwrap(), before + 1, "{reason} for {}", hex(frame));
    }
    let honest = numbered(mac(10), 2, 7);
    a.send_frame(&VnetHeader::default(), &honest).unwrap();
    assert_eq!(drain(&wire), [honest]);
}

/// A frame with a tag of IEEE 802.1Q in front of its EtherType.
fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00], &tag.to_be_bytes(), &frame[12..]].concat()
}

/// The kernel takes tags off before a socket sees the frame.
#[test]
fn another_vlans_frames_do_not_come_in_without_their_tag() {
    let (bed, hosts) = lan::start_at_nic(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    // VLAN 5; VLAN 0, which is none, with a priority; VLAN 5 for everybody; a tag behind a tag.
    let sent = [
        tagged(&numbered(mac(2), 10, 1), 5),
        tagged(&numbered(mac(2), 10, 2), 7 << 13),
        tagged(&numbered(BROADCAST, 10, 3), 0x2005),
        tagged(&tagged(&numbered(mac(2), 10, 4), 6), 0),
        numbered(mac(2), 10, 5),
    ];
    host_sends(&hosts[0], &sent);
    assert_eq!(next(&mut a, seconds(5)).unwrap()[12..16], [0x88, 0xb5, 0, 2]);
    assert_eq!(next(&mut a, seconds(5)).unwrap()[14..16], [0, 5]);
    assert_eq!(next(&mut a, MOMENT), None);
    assert_eq!(bed.vonicd.drops("a", "vlan_tagged").unwrap(), 1);
}

/// A machine that lets its kernel cut what it sends: the cable to the interface leaves that to whoever takes it.
#[test]
fn runs_of_datagrams_are_cut_for_guests() {
    let (bed, hosts) = lan::start_at_nic(1500, "", "").unwrap();
    let plain = feature::ALL & !(feature::MRG_RXBUF | feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_CSUM);
    for (features, posted) in [(feature::ALL, 60), (plain, 60), (feature::ALL & !feature::GUEST_TSO4, 60)] {
        let mut a = bed.mock("a", MockConfig { features, posted, ..MockConfig::default() }).unwrap();
        let sent: Vec<u8> = (0..12_345u32).map(|at| (at % 251) as u8).collect();
        hosts[0].netns.ip("neigh replace 192.0.2.2 lladdr 52:54:00:00:00:02 dev eth0").unwrap();
        let send = || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            lan::segment_datagrams(&socket, 1000)?;
            Ok(socket.send_to(&sent, "192.0.2.2:9")?)
        };
        assert_eq!(hosts[0].netns.run(send).unwrap(), sent.len());
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let (header, frame) =
                a.expect_frame("datagram", seconds(5), |frame| frame[12..14] == [8, 0] && frame[23] == 17).unwrap();
            verify(&header, &frame).unwrap();
            assert_eq!(header.gso_type, 0);
            assert!(frame.len() == 1042 || got.len() == 12_000, "{}", frame.len());
            got.extend_from_slice(&frame[42..]);
        }
        assert_eq!(got, sent);
    }
    assert_eq!(bed.vonicd.copied("uplink_to_guest").unwrap(), 0);
}

/// A guest that posts few buffers at a time is waited for: frames stay in the socket. What has no room there is counted.
#[test]
fn a_guest_without_buffers_loses_nothing_but_what_is_counted() {
    let (bed, hosts) = lan::start_at_nic(1500, "", "").unwrap();
    let frames: Vec<Vec<u8>> = (0..400).map(|n| numbered(mac(2), 10, n)).collect();
    let plain = feature::ALL & !(feature::MRG_RXBUF | feature::GUEST_TSO4 | feature::GUEST_TSO6);
    // What the interface says to a machine that is off is not kept for it.
    host_sends(&hosts[0], &[numbered(BROADCAST, 10, 1), numbered(mac(2), 10, 2)]);
    for (features, posted) in [(feature::ALL, 2), (plain, 2), (plain, 1)] {
        let mut a =
            bed.mock("a", MockConfig { features, buffer: vec![1526], posted, ..MockConfig::default() }).unwrap();
        host_sends(&hosts[0], &frames);
        for frame in &frames {
            assert_eq!(next(&mut a, seconds(5)).as_ref(), Some(frame));
        }
        assert_eq!(next(&mut a, MOMENT), None);
    }
    assert_eq!(bed.vonicd.drops("a", "no_room").unwrap(), 0);
    let small = MockConfig { features: plain, buffer: vec![512], posted: 4, ..MockConfig::default() };
    let mut a = bed.mock("a", small).unwrap();
    // 500 bytes and a header of 12 are what a buffer holds.
    let [exact, beyond] = [486, 487].map(|len| frames::ethernet(mac(2), mac(10), EXPERIMENTAL, &vec![8; len]));
    host_sends(&hosts[0], &[beyond, exact.clone()]);
    assert_eq!(next(&mut a, seconds(5)).unwrap(), exact);
    assert_eq!(bed.vonicd.drops("a", "no_room").unwrap(), 1);
    let mut b = bed.mock("b", MockConfig { posted: 8, ..MockConfig::default() }).unwrap();
    let long = frames::ethernet(mac(3), mac(10), EXPERIMENTAL, &[7; 1400]);
    let many = vec![long; 6000];
    host_sends(&hosts[0], &many);
    let lost = bed.vonicd.drops("b", "uplink_overflow").unwrap() as usize;
    let got = std::iter::from_fn(|| next(&mut b, MOMENT)).count();
    // What machines say to everybody of themselves may be among what is lost.
    let others = (lost + got).wrapping_sub(many.len());
    assert!(lost > 0 && got > 1000 && others < 20, "{lost} lost, {got} got");
}
