//! From guest to guest: who negotiated what gets it, who did not gets plain frames, and nobody gets other bytes than were sent.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::time::Duration;

use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::wire::ramp;
use vonic_tests::*;

const CSUM: u64 = feature::PLAIN | feature::MRG_RXBUF | feature::GUEST_CSUM;
const TSO: u64 = CSUM | feature::GUEST_TSO4;
const SENDS: u64 = feature::CSUM | feature::HOST_TSO4;
const RING: u64 = feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC;

/// Payload of the large frame, its segments' size, and how many there are.
const LARGE: usize = 60_000;
const SEGMENT: u16 = 1448;
const SEGMENTS: usize = LARGE.div_ceil(SEGMENT as usize);
const SEQUENCE: u32 = 0xffff_8000;
const FLAGS: u8 = Tcp::ACK | Tcp::PSH | Tcp::FIN;
/// Timestamps (RFC 7323), so that headers are longer than the least.
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

fn receiver(features: u64, buffer: &[u32], posted: u16) -> MockConfig {
    MockConfig { features, buffer: buffer.to_vec(), posted, ..MockConfig::default() }
}

/// Every kind of receiver: what it negotiated, and how its buffers are cut.
fn receivers() -> Vec<(&'static str, MockConfig)> {
    let unmerged = |features: u64| features & !feature::MRG_RXBUF;
    vec![
        ("nothing", receiver(feature::PLAIN, &[1526], 64)),
        ("nothing, descriptors per part", receiver(feature::PLAIN, &[12, 14, 30, 1470], 64)),
        ("merged", receiver(feature::PLAIN | feature::MRG_RXBUF, &[1526], 64)),
        ("merged, tiny", receiver(feature::PLAIN | feature::MRG_RXBUF, &[256], 250)),
        ("checksums", receiver(CSUM, &[2048], 64)),
        ("checksums, unmerged", receiver(unmerged(CSUM), &[1000, 526], 64)),
        ("checksums, tiny", receiver(CSUM, &[256], 250)),
        ("large frames", receiver(TSO, &[65_562], 64)),
        ("large frames, unmerged", receiver(unmerged(TSO), &[12, 65_550], 64)),
        ("large frames, tiny", receiver(TSO, &[256], 250)),
    ]
}

struct Pair {
    a: MockFrontend,
    b: MockFrontend,
    bed: Bed,
}

impl Pair {
    fn start(from: u64, to: MockConfig, more: &str) -> Pair {
        let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, more)).unwrap();
        let (a, b) = Pair::connect(&bed, from, to);
        Pair { a, b, bed }
    }

    fn connect(bed: &Bed, from: u64, to: MockConfig) -> (MockFrontend, MockFrontend) {
        let wanted = to.features;
        let a = bed.mock("a", MockConfig { features: from, ..MockConfig::default() }).unwrap();
        let b = bed.mock("b", to).unwrap();
        assert_eq!((a.features(), b.features()), (from, wanted), "not all features are offered");
        (a, b)
    }

    fn copied(&self) -> u64 {
        self.bed.vonicd.copied("guest_to_guest").unwrap()
    }

    /// Sends, in several descriptors, indirect where negotiated.
    fn send(&mut self, header: &VnetHeader, frame: &[u8]) {
        let indirect = self.a.features() & feature::RING_INDIRECT_DESC != 0;
        self.a.send_shaped(header, frame, &[12, 14, 7], indirect).unwrap();
    }

    /// What b got, each frame checked; exactly `count` frames, whose bytes are what was copied since `before`.
    fn receive(&mut self, count: usize, before: u64) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut got = Vec::new();
        for at in 0..count {
            let heard = self.b.receive_frame(seconds(5)).unwrap();
            let (header, frame) = heard.with_context(|| format!("{at} of {count} frames came")).unwrap();
            verify(&header, &frame).unwrap();
            got.push((header, frame));
        }
        let bytes: u64 = got.iter().map(|(_, frame)| frame.len() as u64).sum();
        wait_until("the counter", seconds(5), || self.copied() - before >= bytes).unwrap();
        assert_eq!(self.copied() - before, bytes, "copied bytes are not the delivered frames' bytes");
        assert_eq!(self.b.receive_frame(Duration::from_millis(20)).unwrap(), None, "one frame too many");
        got
    }
}

fn tcp(text: &[u8]) -> Vec<u8> {
    let segment = Tcp {
        ports: (1000, 7),
        sequence: SEQUENCE,
        acknowledgment: 99,
        flags: FLAGS,
        window: 500,
        options: OPTIONS.to_vec(),
        text: text.to_vec(),
    };
    segment.frame((mac(2), mac(3)), ip4(2), ip4(3))
}

fn udp(data: &[u8]) -> Vec<u8> {
    frames::udp((mac(2), mac(3)), ip4(2), ip4(3), (1000, 7), data)
}

/// The same frame with its checksum left to the device: the pseudo header's sum in its field.
fn partial(mut frame: Vec<u8>) -> (VnetHeader, Vec<u8>) {
    let offset: u16 = if frame[23] == 6 { 16 } else { 6 };
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20;
    let sum = !frames::checksum(&frames::pseudo_header(ip4(2), address(&frame), frame[23], length));
    let field = 34 + usize::from(offset);
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    let header =
        VnetHeader { flags: VnetHeader::NEEDS_CSUM, csum_start: 34, csum_offset: offset, ..VnetHeader::default() };
    (header, frame)
}

fn address(frame: &[u8]) -> std::net::Ipv4Addr {
    [frame[30], frame[31], frame[32], frame[33]].into()
}

/// A large frame as a driver with HOST_TSO4 sends it.
fn large(size: u16, text: &[u8]) -> (VnetHeader, Vec<u8>) {
    let (header, frame) = partial(tcp(text));
    (VnetHeader { gso_type: VnetHeader::TCPV4, gso_size: size, header_length: 66, ..header }, frame)
}

/// A frame with a complete checksum arrives as it is, whoever gets it.
fn plain_frames(pair: &mut Pair, what: &str) {
    for frame in [tcp(&ramp(1001)), tcp(&[]), udp(&ramp(999)), udp(&ramp(0)), frames::arp_request(2, ip4(3))] {
        let before = pair.copied();
        pair.send(&VnetHeader::default(), &frame);
        let got = pair.receive(1, before).remove(0);
        assert_eq!((got.0.flags, got.0.gso_type), (0, 0), "{what}");
        assert!(got.1 == frame, "{what}: another frame arrived");
    }
}

/// A partial checksum arrives so only where it was negotiated, else complete; of odd and even lengths.
fn partial_frames(pair: &mut Pair, what: &str) {
    let takes = pair.b.features() & feature::GUEST_CSUM != 0;
    for length in [0, 1, 2, 63, 64, 65, 1000, 1001] {
        for complete in [tcp(&ramp(length)), udp(&ramp(length))] {
            let before = pair.copied();
            let (header, frame) = partial(complete.clone());
            pair.send(&header, &frame);
            let (header, got) = pair.receive(1, before).remove(0);
            assert_eq!((header.flags, header.gso_type), (u8::from(takes), 0), "{what}, {length}");
            assert!(got == if takes { frame } else { complete }, "{what}, {length}: another frame arrived");
        }
    }
}

/// A large frame arrives whole only where that was negotiated, else in segments as if the sender had cut it.
fn large_frames(pair: &mut Pair, what: &str) {
    let text = ramp(LARGE);
    let (sent, frame) = large(SEGMENT, &text);
    let before = pair.copied();
    pair.send(&sent, &frame);
    if pair.b.features() & feature::GUEST_TSO4 != 0 {
        let (header, got) = pair.receive(1, before).remove(0);
        assert_eq!(VnetHeader { buffers: 0, ..header }, sent, "{what}");
        assert!(got == frame, "{what}: another frame arrived");
        return;
    }
    let takes = pair.b.features() & feature::GUEST_CSUM != 0;
    let got = pair.receive(SEGMENTS, before);
    let mut sequence = SEQUENCE;
    for (at, (header, frame)) in got.iter().enumerate() {
        let last = at + 1 == SEGMENTS;
        assert_eq!((header.flags, header.gso_type), (u8::from(takes), 0), "{what}, {at}");
        let segment = Tcp::parse(frame).unwrap();
        assert_eq!((segment.sequence, segment.ports), (sequence, (1000, 7)), "{what}, {at}");
        assert_eq!((segment.acknowledgment, segment.window), (99, 500), "{what}, {at}");
        assert_eq!(segment.flags, if last { FLAGS } else { Tcp::ACK }, "{what}, {at}: FIN and PSH go last");
        assert_eq!(segment.options, OPTIONS, "{what}, {at}");
        assert!(last || segment.text.len() == usize::from(SEGMENT), "{what}, {at}: {}", segment.text.len());
        // RFC 791: the sender's identification was 1; each segment has its own, the rest of the header is the same.
        assert_eq!(frame[18..20], (1 + at as u16).to_be_bytes(), "{what}, {at}: identification");
        assert_eq!((&frame[..16], &frame[20..24]), (&got[0].1[..16], &[0x40, 0, 64, 6][..]), "{what}, {at}");
        sequence = sequence.wrapping_add(segment.text.len() as u32);
    }
    let joined: Vec<u8> = got.iter().flat_map(|(_, frame)| Tcp::parse(frame).unwrap().text).collect();
    assert!(joined == text, "{what}: other bytes arrived");
}

#[test]
fn each_receiver_gets_what_it_negotiated() {
    let all = receivers();
    let mut pair = Pair::start(feature::PLAIN | SENDS, all[0].1.clone(), "");
    for (what, config) in all {
        pair = again(pair, feature::PLAIN | SENDS, config);
        plain_frames(&mut pair, what);
        partial_frames(&mut pair, what);
        large_frames(&mut pair, what);
    }
}

/// The same service, both VMs connected anew.
fn again(pair: Pair, from: u64, to: MockConfig) -> Pair {
    let Pair { a, b, bed } = pair;
    drop((a, b));
    // A process that another test is just starting may hold the old connections until its exec: closed here is not yet hung up.
    for name in ["a", "b"] {
        wait_until("the old connection's end", seconds(5), || bed.vonicd.vm(name).unwrap()["connected"] == false)
            .unwrap();
    }
    let (a, b) = Pair::connect(&bed, from, to);
    Pair { a, b, bed }
}

#[test]
fn ring_features_change_nothing_of_it() {
    let mut pair = Pair::start(feature::PLAIN | SENDS, receiver(feature::PLAIN, &[1526], 64), "");
    let rings = [0, feature::RING_EVENT_IDX, feature::RING_INDIRECT_DESC, RING];
    for (at, ring) in rings.into_iter().enumerate() {
        for (what, merge) in [("unmerged", 0), ("merged", feature::MRG_RXBUF)] {
            // Each side has another set, so that all are met by all.
            let from = feature::PLAIN | SENDS | ring | merge;
            let to = feature::PLAIN | rings[(at + 1) % rings.len()] | merge;
            for offloads in [0, feature::GUEST_CSUM, feature::GUEST_CSUM | feature::GUEST_TSO4] {
                let config = receiver(to | offloads, &[65_562], 60);
                pair = again(pair, from, config);
                let what = format!("{what}, {from:x} to {:x}", to | offloads);
                plain_frames(&mut pair, &what);
                partial_frames(&mut pair, &what);
                large_frames(&mut pair, &what);
            }
        }
    }
}

#[test]
fn a_checksum_of_zero_is_never_written_as_none() {
    let mut pair = Pair::start(feature::PLAIN | SENDS, receiver(feature::PLAIN, &[1526], 64), "");
    // A word chosen so that the sum comes out as 0: in UDP that is sent as ffff (RFC 768).
    let zero = u16::from_be_bytes(udp(&[0, 0])[40..42].try_into().unwrap());
    let complete = udp(&zero.to_be_bytes());
    assert_eq!(complete[40..42], [0xff, 0xff]);
    let (header, frame) = partial(complete.clone());
    let before = pair.copied();
    pair.send(&header, &frame);
    assert!(pair.receive(1, before)[0].1 == complete);
}

#[test]
fn a_broadcast_suits_each_receiver() {
    let config = TestConfig::default().vm("a", 2, "").vm("b", 3, "").vm("c", 4, "");
    let bed = Bed::start(&config).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", receiver(feature::PLAIN, &[1526], 64)).unwrap();
    let mut c = bed.mock("c", receiver(CSUM, &[300], 64)).unwrap();
    let all = ip4(255);
    let complete = frames::udp((mac(2), frames::BROADCAST), ip4(2), all, (1000, 7), &ramp(1111));
    let (header, frame) = partial(complete.clone());
    a.send_frame(&header, &frame).unwrap();
    for (mock, wanted, flags) in [(&mut b, &complete, 0), (&mut c, &frame, VnetHeader::NEEDS_CSUM)] {
        let (header, got) = mock.receive_frame(seconds(5)).unwrap().unwrap();
        verify(&header, &got).unwrap();
        assert_eq!(header.flags, flags);
        assert!(&got == wanted);
    }
    assert_eq!(bed.vonicd.copied("guest_to_guest").unwrap(), 2 * complete.len() as u64);
}

#[test]
fn no_packet_beyond_the_receivers_mtu() {
    for features in [feature::PLAIN | feature::MRG_RXBUF, CSUM, TSO] {
        let mut pair = Pair::start(feature::PLAIN | SENDS, receiver(features, &[2048], 120), "mtu = 1000");
        let drops = |pair: &Pair| pair.bed.vonicd.drops("b", "oversized").unwrap();
        let before = pair.copied();
        // 1001 bytes of IP, whole or in each segment, are one too many; then 1000 are not.
        pair.send(&VnetHeader::default(), &tcp(&ramp(949)));
        pair.send(&VnetHeader::default(), &udp(&ramp(973)));
        let (header, frame) = partial(udp(&ramp(973)));
        pair.send(&header, &frame);
        let (header, frame) = large(949, &ramp(10_000));
        pair.send(&header, &frame);
        pair.send(&VnetHeader::default(), &tcp(&ramp(948)));
        assert_eq!(pair.receive(1, before)[0].1.len(), 1014);
        assert_eq!(drops(&pair), 4);
        let before = pair.copied();
        let (header, frame) = large(948, &ramp(10_000));
        pair.send(&header, &frame);
        let count = if features & feature::GUEST_TSO4 == 0 { 10_000usize.div_ceil(948) } else { 1 };
        pair.receive(count, before);
        assert_eq!(drops(&pair), 4);
    }
}

#[test]
fn a_frame_larger_than_the_only_buffer_is_dropped_whole() {
    let unmerged = TSO & !feature::MRG_RXBUF;
    let mut pair = Pair::start(feature::PLAIN | SENDS, receiver(unmerged, &[12, 1514], 64), "");
    let before = pair.copied();
    let (header, frame) = large(SEGMENT, &ramp(LARGE));
    pair.send(&header, &frame);
    pair.send(&VnetHeader::default(), &tcp(&ramp(700)));
    assert!(pair.receive(1, before)[0].1 == tcp(&ramp(700)));
    assert_eq!(pair.bed.vonicd.drops("b", "no_room").unwrap(), 1);
}
