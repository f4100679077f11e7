//! Each virtio feature switched off alone: is it not offered, nor what needs it, and does every byte still arrive as it was sent? And what
//! those that are on promise: CWR in first segments only, group frames only to whoever listens.
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::frames::{self, Mac, Tcp, ip4, mac};
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::wire::ramp;
use vonic_tests::*;

/// Every key with its bits, and the keys that go with it (virtio 1.3 §5.1.3.1).
const KEYS: &[(&str, u64, &[&str])] = &[
    ("csum", feature::CSUM, &["tso", "ecn"]),
    ("guest_csum", feature::GUEST_CSUM, &["guest_tso", "guest_ecn"]),
    ("tso", feature::HOST_TSO4 | feature::HOST_TSO6, &["ecn"]),
    ("guest_tso", feature::GUEST_TSO4 | feature::GUEST_TSO6, &["guest_ecn"]),
    ("ecn", feature::HOST_ECN, &[]),
    ("guest_ecn", feature::GUEST_ECN, &[]),
    ("mrg_rxbuf", feature::MRG_RXBUF, &[]),
    ("event_idx", feature::RING_EVENT_IDX, &[]),
    ("indirect", feature::RING_INDIRECT_DESC, &[]),
    ("in_order", feature::IN_ORDER, &[]),
    ("mtu", feature::MTU, &[]),
    ("status", feature::STATUS, &[]),
    ("ctrl_vq", feature::CTRL_VQ, &["ctrl_rx", "ctrl_vlan", "ctrl_mac", "announce"]),
    ("ctrl_rx", feature::CTRL_RX | feature::CTRL_RX_EXTRA, &[]),
    ("ctrl_vlan", feature::CTRL_VLAN, &[]),
    ("ctrl_mac", feature::CTRL_MAC_ADDR, &[]),
    ("announce", feature::GUEST_ANNOUNCE, &[]),
];

const SEGMENT: usize = 1448;
const LARGE: usize = 20_000;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// VIRTIO_NET_HDR_GSO_ECN.
const GSO_ECN: u8 = 0x80;
const OK: u8 = 0;

fn all() -> u64 {
    KEYS.iter().fold(feature::PLAIN, |bits, (_, bit, _)| bits | bit)
}

/// The bits that go when a key is off.
fn gone(key: &str) -> u64 {
    let (_, bits, others) = KEYS.iter().find(|(name, ..)| *name == key).unwrap();
    let of = |name: &&str| KEYS.iter().find(|(other, ..)| other == name).unwrap().1;
    bits | others.iter().map(of).fold(0, |bits, more| bits | more)
}

fn connect(bed: &Bed, name: &str, features: u64) -> MockFrontend {
    // What is behind the last pair of queues a driver knows by the feature.
    let mock = bed.mock(name, MockConfig { features, ..MockConfig::default() }).unwrap();
    assert_eq!(mock.features(), features, "{name}");
    mock
}

/// A frame of a stream, as a driver with these features sends it: large, with the first byte of `flags` in its first segment only.
fn frame(features: u64, from: u8, to: u8, (sequence, flags, text): (u32, u8, &[u8])) -> Vec<(VnetHeader, Vec<u8>)> {
    let large = features & feature::HOST_TSO4 != 0 && (flags & CWR == 0 || features & feature::HOST_ECN != 0);
    let size = if large { text.len() } else { SEGMENT };
    let link: (Mac, Mac) = (mac(from), mac(to));
    let cut = |(at, part): (usize, &[u8])| {
        let segment = Tcp {
            ports: (1000, 7),
            sequence: sequence.wrapping_add((at * size) as u32),
            acknowledgment: 5,
            flags: if at == 0 { flags } else { flags & !CWR },
            window: 500,
            text: part.to_vec(),
            ..Tcp::default()
        };
        let mut frame = segment.frame(link, ip4(from), ip4(to));
        let mut header = VnetHeader::default();
        if features & feature::CSUM != 0 {
            let sum = !frames::checksum(&frames::pseudo_header(ip4(from), ip4(to), 6, 20 + part.len()));
            frame[50..52].copy_from_slice(&sum.to_be_bytes());
            header = VnetHeader { flags: VnetHeader::NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..header };
        }
        if large {
            let ecn = if flags & CWR != 0 { GSO_ECN } else { 0 };
            (header.gso_type, header.gso_size, header.header_length) = (VnetHeader::TCPV4 | ecn, SEGMENT as u16, 54);
        }
        (header, frame)
    };
    text.chunks(size).enumerate().map(cut).collect()
}

/// Sends a stream in large frames, each of which says CWR if it may, and checks what comes of it.
fn stream(from: (&mut MockFrontend, u8), to: (&mut MockFrontend, u8), what: &str) {
    let (sends, takes) = (from.0.features(), to.0.features());
    let mut sequence = u32::MAX - 30_000;
    for round in 0..4usize {
        let mut text = ramp(LARGE + round);
        text.iter_mut().for_each(|byte| *byte = byte.wrapping_add(round as u8));
        let flags = Tcp::ACK | ECE | CWR;
        let indirect = sends & feature::RING_INDIRECT_DESC != 0;
        for (header, frame) in frame(sends, from.1, to.1, (sequence, flags, &text)) {
            from.0.send_shaped(&header, &frame, &[12, 14, 7], indirect).unwrap();
        }
        let mut got = Vec::new();
        while got.len() < text.len() {
            let ours = |frame: &[u8]| frame[..12] == [mac(to.1), mac(from.1)].concat();
            let (header, frame) = to.0.expect_frame(what, seconds(5), ours).unwrap();
            let (ecn, kind) = (header.gso_type & GSO_ECN != 0, header.gso_type & !GSO_ECN);
            verify(&VnetHeader { gso_type: kind, ..header }, &frame).unwrap();
            assert!(header.flags == 0 || takes & feature::GUEST_CSUM != 0, "{what}");
            assert!(kind == 0 || takes & feature::GUEST_TSO4 != 0, "{what}");
            assert!(!ecn || takes & feature::GUEST_ECN != 0, "{what}");
            let segment = Tcp::parse(&frame).unwrap();
            assert_eq!(segment.sequence, sequence.wrapping_add(got.len() as u32), "{what}");
            let first = got.is_empty();
            // RFC 3168 §6.1.2: the sender says it once.
            assert_eq!(segment.flags, if first { flags } else { flags & !CWR }, "{what}, {}", got.len());
            assert!(kind == 0 || ecn == first, "{what}");
            assert!(kind != 0 || segment.text.len() <= SEGMENT, "{what}");
            got.extend(segment.text);
        }
        assert!(got == text, "{what}: other bytes arrived");
        sequence = sequence.wrapping_add(text.len() as u32);
    }
}

#[test]
fn with_any_one_feature_off_nothing_that_needs_it_is_offered_and_every_byte_arrives() {
    let numbers = 10u8..;
    let off = |key: &str| format!("features = {{ {key} = false }}");
    let config = TestConfig::default().vm("peer", 2, "").vm("all", 3, "");
    let config = KEYS.iter().zip(numbers.clone()).fold(config, |config, ((key, ..), n)| config.vm(key, n, &off(key)));
    let bed = Bed::start(&config).unwrap();
    let mut peer = connect(&bed, "peer", all());
    let mut every = connect(&bed, "all", all());
    stream((&mut peer, 2), (&mut every, 3), "with all");
    stream((&mut every, 3), (&mut peer, 2), "of all");
    for ((key, _, others), number) in KEYS.iter().zip(numbers) {
        let mut mock = connect(&bed, key, all() & !gone(key));
        let vm = bed.vonicd.vm(key).unwrap();
        for (name, ..) in KEYS {
            let on = name != key && !others.contains(name);
            for list in ["features_offered", "features_negotiated"] {
                let has = vm[list].as_array().unwrap().iter().any(|feature| feature == name);
                assert_eq!(has, on, "{name} with {key} off: {list} {}", vm[list]);
            }
        }
        stream((&mut peer, 2), (&mut mock, number), &format!("to one without {key}"));
        stream((&mut mock, number), (&mut peer, 2), &format!("of one without {key}"));
        commands(&mut mock, key);
    }
}

/// Each command is done where its feature was negotiated, and refused elsewhere.
fn commands(mock: &mut MockFrontend, key: &str) {
    if mock.features() & feature::CTRL_VQ == 0 {
        return;
    }
    let broadcast_off: (u8, u8, &[u8]) = (0, 5, &[0]);
    for (bit, (class, command, data)) in [
        (feature::CTRL_RX, (0, 1, &[1][..])),
        (feature::CTRL_RX_EXTRA, broadcast_off),
        (feature::CTRL_VLAN, (2, 0, &[7, 0])),
        (feature::CTRL_VLAN, (2, 1, &[7, 0])),
        (feature::GUEST_ANNOUNCE, (3, 0, &[])),
    ] {
        let done = mock.command(class, command, data).unwrap() == OK;
        assert_eq!(done, mock.features() & bit != 0, "{class}.{command} with {key} off");
    }
    assert_ne!(mock.command(2, 0, &[0, 0x10]).unwrap(), OK, "there is no VLAN 4096");
}

#[test]
fn a_guest_that_says_which_groups_it_listens_to_gets_no_others() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut a = connect(&bed, "a", all());
    let mut b = connect(&bed, "b", all());
    let group = |n: u8| [1, 0, 0x5e, 0, 0, n];
    let table = |groups: &[u8]| {
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend((groups.len() as u32).to_le_bytes());
        groups.iter().for_each(|n| bytes.extend(group(*n)));
        bytes
    };
    let mut heard = |b: &mut MockFrontend| {
        let mut sent = vec![frames::BROADCAST];
        sent.extend((0..3).map(group));
        // The guest's own: behind it nothing is under way any more.
        sent.push(mac(3));
        for to in &sent {
            let frame = frames::udp((mac(2), *to), ip4(2), ip4(255), (9, 9), b"to whoever listens");
            a.send_frame(&VnetHeader::default(), &frame).unwrap();
        }
        let mut got = Vec::new();
        while got.last() != Some(&mac(3)) {
            let (_, frame) = b.expect_frame("a group's", seconds(5), |frame| frame[6..12] == mac(2)).unwrap();
            got.push(<[u8; 6]>::try_from(&frame[..6]).unwrap());
        }
        got.pop();
        got
    };
    let every = vec![frames::BROADCAST, group(0), group(1), group(2)];
    assert_eq!(heard(&mut b), every, "a driver that has said nothing gets everything");
    assert_eq!(b.command(1, 0, &table(&[1])).unwrap(), OK);
    assert_eq!(heard(&mut b), [frames::BROADCAST, group(1)]);
    assert_eq!(b.command(0, 1, &[1]).unwrap(), OK);
    assert_eq!(heard(&mut b), every, "all groups");
    assert_eq!(b.command(0, 1, &[0]).unwrap(), OK);
    assert_eq!(b.command(0, 5, &[1]).unwrap(), OK);
    assert_eq!(heard(&mut b), [group(1)], "no broadcasts");
    assert_eq!(b.command(0, 0, &[1]).unwrap(), OK);
    assert_eq!(heard(&mut b), every, "promiscuous");
    assert_eq!(b.command(0, 0, &[0]).unwrap(), OK);
    assert_ne!(b.command(1, 0, &[0, 0, 0, 0, 9, 0, 0, 0, 1]).unwrap(), OK, "a table that is not whole");
    assert_eq!(heard(&mut b), [group(1)], "which changes nothing");
}
