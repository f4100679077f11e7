//! Segments from a bridge that continue each other: does a guest that takes large frames get them as such, and cut again are they the
//! very same bytes, whatever else comes between?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::IpAddr;

use vonic_peer::packet::Wire;
use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::lan::{self, Host};
use vonic_tests::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::wire::ramp;
use vonic_tests::*;

const SEGMENT: usize = 1400;
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
const TSO: u64 = feature::PLAIN | feature::MRG_RXBUF | feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6;

/// One connection's sender.
struct Sender {
    v6: bool,
    next: Tcp,
}

impl Sender {
    fn new(v6: bool, port: u16) -> Sender {
        let next = Tcp {
            ports: (port, 7),
            sequence: u32::MAX - 20_000,
            acknowledgment: 99,
            flags: Tcp::ACK,
            window: 500,
            options: TIMESTAMPS.to_vec(),
            text: Vec::new(),
        };
        Sender { v6, next }
    }

    /// The next segment, with so much text.
    fn send(&mut self, flags: u8, len: usize) -> Vec<u8> {
        let mut segment = Tcp { flags, text: ramp(len), ..self.next.clone() };
        let at = self.next.sequence as u8;
        segment.text.iter_mut().for_each(|byte| *byte = byte.wrapping_add(at));
        self.next.sequence = self.next.sequence.wrapping_add(len as u32);
        self.frame(&segment)
    }

    fn frame(&self, segment: &Tcp) -> Vec<u8> {
        let address = |number: u8| if self.v6 { lan::ip6(number).parse().unwrap() } else { IpAddr::from(ip4(number)) };
        segment.frame_of((mac(10), mac(2)), (address(10), address(2)))
    }

    fn bulk(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.send(Tcp::ACK, SEGMENT)).collect()
    }
}

/// A guest whose buffers are posted when frames are waiting, so that it is known what can be read at once.
struct Late {
    mock: MockFrontend,
    bed: Bed,
    host: Host,
}

impl Late {
    fn start(vm: &str, features: u64, buffer: &[u32], posted: u16) -> Late {
        let (bed, [host, _]) = lan::start(1500, "", vm).unwrap();
        let mock = Late::connect(&bed, features, buffer, posted);
        Late { mock, bed, host }
    }

    fn connect(bed: &Bed, features: u64, buffer: &[u32], posted: u16) -> MockFrontend {
        let config = MockConfig { features, buffer: buffer.to_vec(), posted, ..MockConfig::default() };
        let mut mock = MockFrontend::connect(&bed.socket("a"), config).unwrap();
        mock.negotiate().unwrap();
        assert_eq!(mock.features(), features);
        mock.share_memory().unwrap();
        mock.start_rings().unwrap();
        mock
    }

    /// The same service, the VM connected anew.
    fn again(self, features: u64, buffer: &[u32], posted: u16) -> Late {
        let Late { mock, bed, host } = self;
        drop(mock);
        wait_until("the old connection's end", seconds(5), || bed.vonicd.vm("a").unwrap()["connected"] == false)
            .unwrap();
        let mock = Late::connect(&bed, features, buffer, posted);
        Late { mock, bed, host }
    }

    fn send(&self, frames: &[Vec<u8>]) {
        let send = || {
            let wire = Wire::open("eth0")?;
            frames.iter().try_for_each(|frame| wire.send(frame)).map_err(Error::from)
        };
        self.host.netns.run(send).unwrap();
    }

    fn counted(&self, name: &str) -> u64 {
        self.bed.vonicd.vm("a").unwrap()["coalesced"][name].as_u64().unwrap()
    }

    /// Sends `frames`, posts buffers, and takes what comes of them: the number of frames, and the frames that they are cut into.
    fn pass(&mut self, frames: &[Vec<u8>]) -> (usize, Vec<Vec<u8>>) {
        self.send(frames);
        self.mock.post_buffers().unwrap();
        self.take(frames.len())
    }

    /// What comes until there are `wanted` frames of the sender's, large ones cut.
    fn take(&mut self, wanted: usize) -> (usize, Vec<Vec<u8>>) {
        let (mut count, mut got) = (0, Vec::new());
        while got.len() < wanted {
            let (header, frame) = self.receive();
            got.extend(cut(&header, frame));
            count += 1;
        }
        (count, got)
    }

    /// The next frame of the sender's; what its kernel says by itself, which is for groups, is passed over.
    fn receive(&mut self) -> (VnetHeader, Vec<u8>) {
        let ours = |frame: &[u8]| frame[..12] == [mac(2), mac(10)].concat();
        let (header, frame) = self.mock.expect_frame("a frame", seconds(5), ours).unwrap();
        check(header, &frame);
        (header, frame)
    }
}

/// DATA_VALID (virtio 1.3 §5.1.6.4): the checksum has been looked at.
const DATA_VALID: u8 = 2;

/// Whether a frame is what its headers say, with a right checksum where that is said to be known.
fn check(header: VnetHeader, frame: &[u8]) {
    if frame[12..14] == [8, 0] {
        let flags = header.flags & !DATA_VALID;
        verify(&VnetHeader { flags, ..header }, frame).unwrap();
    }
}

/// The frames that a large one was made of; one with its checksum left to the device gets it.
fn cut(header: &VnetHeader, frame: Vec<u8>) -> Vec<Vec<u8>> {
    if header.flags & VnetHeader::NEEDS_CSUM == 0 {
        return vec![frame];
    }
    let v6 = frame[12..14] == [0x86, 0xdd];
    let whole = Tcp::parse(&frame).unwrap();
    let size = if header.gso_type == 0 { whole.text.len().max(1) } else { usize::from(header.gso_size) };
    assert_eq!(
        header.gso_type,
        if header.gso_size == 0 {
            0
        } else if v6 {
            4
        } else {
            VnetHeader::TCPV4
        }
    );
    let (last, sender) = (whole.text.len().div_ceil(size) - 1, Sender::new(v6, 0));
    let part = |(at, text): (usize, &[u8])| {
        let flags = if at == last { whole.flags } else { whole.flags & !(Tcp::PSH | Tcp::FIN) };
        let sequence = whole.sequence.wrapping_add((at * size) as u32);
        sender.frame(&Tcp { flags, sequence, text: text.to_vec(), ..whole.clone() })
    };
    whole.text.chunks(size).enumerate().map(part).collect()
}

/// Whether these are the same frames in the same order.
fn same(got: &[Vec<u8>], sent: &[Vec<u8>], what: &str) {
    let head = |frame: &[u8]| frames::hex(&frame[..frame.len().min(90)]);
    for (at, (got, sent)) in got.iter().zip(sent).enumerate() {
        let differs = got.iter().zip(sent).position(|(a, b)| a != b);
        let lens = (got.len(), sent.len());
        assert!(got == sent, "{what}: frame {at}: {lens:?}, at {differs:?}\n{}\n{}", head(got), head(sent));
    }
    assert_eq!(got.len(), sent.len(), "{what}");
}

/// Frames of all kinds, many of which continue each other, with how many remain at best.
fn mixture(v6: bool) -> (Vec<Vec<u8>>, usize) {
    let mut one = Sender::new(v6, 1000);
    let mut frames = one.bulk(10);
    frames.push(one.send(Tcp::ACK | Tcp::PSH, 700)); // 1
    frames.extend(one.bulk(5)); // 2
    frames.push(one.send(Tcp::ACK, 20)); // ends it
    frames.push(one.send(Tcp::ACK, 20)); // 3: small ones wait for nothing
    frames.extend(one.bulk(2)); // 4
    frames.push(frames::udp(
        (mac(10), mac(2)),
        ip4(10),
        ip4(2),
        (9, 9),
        b"something else, and no shorter than a frame has to be",
    )); // 5
    frames.extend(one.bulk(2)); // 6
    one.next.sequence = one.next.sequence.wrapping_add(5);
    frames.extend(one.bulk(2)); // 7: a gap
    one.next.window += 1;
    frames.extend(one.bulk(2)); // 8: another window
    one.next.acknowledgment += 1;
    frames.extend(one.bulk(2)); // 9: another acknowledgment
    one.next.options[7] += 1;
    frames.extend(one.bulk(2)); // 10: another time
    frames.extend(Sender::new(v6, 1001).bulk(2)); // 11: another connection
    // 12 and 13: another family. The first, whose headers have another length than what it was read behind, is taken for itself.
    frames.extend(Sender::new(!v6, 1002).bulk(2));
    frames.push(one.send(Tcp::ACK | Tcp::FIN, 33)); // 14
    (frames, 14)
}

/// A bulk of 3 segments, of which the second's checksum is wrong.
fn corrupt(v6: bool) -> Vec<Vec<u8>> {
    let mut frames = Sender::new(v6, 1003).bulk(3);
    *frames[1].last_mut().unwrap() ^= 1;
    frames
}

#[test]
fn what_continues_becomes_one_frame_and_every_byte_of_it_is_the_senders() {
    let large: [u32; 1] = [65_562];
    let mut late = Late::start("", TSO, &large, 20);
    let unmerged = TSO & !feature::MRG_RXBUF;
    for (what, features, buffer, posted) in [
        ("large", TSO, &large[..], 20),
        ("merged", TSO, &[1526][..], 200),
        ("merged, tiny", TSO, &[256][..], 250),
        ("merged, cut", TSO, &[12, 54, 1900][..], 80),
        ("unmerged", unmerged, &large[..], 20),
    ] {
        for v6 in [false, true] {
            late = late.again(features, buffer, posted);
            let (frames, at_best) = mixture(v6);
            let (count, got) = late.pass(&frames);
            same(&got, &frames, &format!("{what}, {v6}"));
            // While buffers are being posted there are too few for more than one frame; tiny ones always are.
            let most = if buffer == [256] { frames.len() } else { at_best + 8 };
            assert!((at_best..=most).contains(&count), "{what}, {v6}: {count}");
        }
    }
    assert!(late.counted("aggregates") > 0);
}

#[test]
fn what_is_copied_for_it_is_counted_and_only_that() {
    let mut late = Late::start("", TSO, &[1526], 200);
    let frames = Sender::new(false, 1000).bulk(40);
    let copied = || late.bed.vonicd.copied("coalesce").unwrap();
    assert_eq!(copied(), 0);
    let bytes = (SEGMENT * frames.len()) as u64;
    let (count, got) = late.pass(&frames);
    assert!(count <= 8 && got == frames, "{count}");
    let [aggregates, segments, coalesced, single] =
        ["aggregates", "segments", "bytes", "single"].map(|name| late.counted(name));
    assert!(aggregates + single <= count as u64 && segments >= 32 && coalesced <= bytes);
    assert_eq!(coalesced, segments * SEGMENT as u64);
    assert_eq!(late.bed.vonicd.copied("coalesce").unwrap(), 0, "nothing is copied where segments follow each other");
    assert_eq!(late.bed.vonicd.copied("uplink_to_guest").unwrap(), 0);
    // Two connections in turn: what was read behind the other's segment is moved, once.
    let mut late = late.again(TSO, &[1526], 200);
    let (mut a, mut b) = (Sender::new(false, 1001), Sender::new(false, 1002));
    let frames: Vec<Vec<u8>> = (0..20).flat_map(|_| [a.send(Tcp::ACK, SEGMENT), b.send(Tcp::ACK, SEGMENT)]).collect();
    let (_, got) = late.pass(&frames);
    let of = |port: u16, all: &[Vec<u8>]| -> Vec<Vec<u8>> {
        all.iter().filter(|frame| frame[34..36] == port.to_be_bytes()).cloned().collect()
    };
    assert!(of(1001, &got) == of(1001, &frames) && of(1002, &got) == of(1002, &frames));
    let copied = late.bed.vonicd.copied("coalesce").unwrap();
    assert!(copied > 0 && copied <= (SEGMENT * frames.len()) as u64, "at most one copy of each byte: {copied}");
}

/// Connections that take turns have less and less looked at, but for 63 frames at most: then a connection that has the cable to itself is put
/// together again.
#[test]
fn connections_that_took_turns_are_forgotten_soon() {
    let mut late = Late::start("", TSO, &[1526], 250);
    let (mut a, mut b) = (Sender::new(false, 1001), Sender::new(false, 1002));
    for turns in [2, 4, 100] {
        let frames: Vec<_> = (0..turns).flat_map(|_| [a.bulk(1), b.bulk(1)]).flatten().collect();
        let (_, got) = late.pass(&frames);
        same(&got, &frames, "in turn");
        // How many remain hangs on how fast the driver posts buffers; where it was given up, all do.
        let before = late.counted("aggregates");
        for frames in [a.bulk(64), a.bulk(40)] {
            let (_, got) = late.pass(&frames);
            same(&got, &frames, "alone");
        }
        assert!(late.counted("aggregates") > before, "nothing was put together after {turns} turns");
    }
}

#[test]
fn what_nobody_has_verified_is_not_merged() {
    let mut late = Late::start("", TSO, &[1526], 200);
    for v6 in [false, true] {
        let frames = corrupt(v6);
        late.send(&frames);
        late.mock.post_buffers().unwrap();
        for expected in frames {
            let ours = |frame: &[u8]| frame[..12] == [mac(2), mac(10)].concat();
            let (header, frame) = late.mock.expect_frame("a frame", seconds(5), ours).unwrap();
            assert_eq!(header.flags & VnetHeader::NEEDS_CSUM, 0);
            assert!(frame == expected, "a wrong segment goes to its guest as it is");
        }
        late = late.again(TSO, &[1526], 200);
    }
    assert_eq!(late.counted("aggregates"), 0);
}

#[test]
fn it_can_be_switched_off_and_is_for_a_guest_that_takes_no_large_frames() {
    let mut late = Late::start("coalesce = false", TSO, &[1526], 200);
    let frames = Sender::new(false, 1000).bulk(10);
    let (count, got) = late.pass(&frames);
    assert!(count == 10 && got == frames);
    assert_eq!(late.bed.vonicd.vm("a").unwrap()["coalesce"], false);
    let file = late.bed.vonicd.config_dir().join("vms.d/a.toml");
    let on = std::fs::read_to_string(&file).unwrap().replace("coalesce = false", "coalesce = true");
    std::fs::write(&file, on).unwrap();
    late.bed.vonicd.vonic_text(&["reload"]).unwrap();
    // The VMM stays connected: nothing of its device has changed.
    let frames = Sender::new(false, 1001).bulk(10);
    late.mock.post_buffers().unwrap();
    late.send(&frames);
    same(&late.take(frames.len()).1, &frames, "after a reload");
    let plain = feature::PLAIN | feature::MRG_RXBUF | feature::GUEST_CSUM;
    for features in [plain, plain | feature::GUEST_TSO6] {
        late = late.again(features, &[1526], 200);
        let frames = Sender::new(false, 1002).bulk(10);
        let (count, got) = late.pass(&frames);
        assert!(count == 10 && got == frames);
    }
}

/// With a timer segments that come one by one are put together, too; what else the guest is sent comes behind them; and whatever
/// happens to its queues meanwhile loses nothing.
#[test]
fn a_frame_that_waits_keeps_its_place() {
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    let host = Host::new(10, 1500).unwrap();
    let mut config = lan::bridged().vm("a", 2, "").vm("b", 3, "");
    config.network.push_str("coalesce_us = 1000\n");
    let bed = Bed::start_here(&config).unwrap();
    let mock = Late::connect(&bed, TSO, &[1526], 200);
    let mut late = Late { mock, bed, host };
    late.mock.post_buffers().unwrap();
    let mut b = late.bed.mock("b", MockConfig::default()).unwrap();
    let mut sender = Sender::new(false, 1000);
    let mut sent = Vec::new();
    let mut got = Vec::new();
    for round in 0..60u32 {
        let frames = sender.bulk(3);
        late.send(&frames);
        sent.extend(frames);
        match round % 4 {
            0 => {
                // From the other guest, by the switch.
                let frame = frames::udp((mac(3), mac(2)), ip4(3), ip4(2), (9, 9), &round.to_be_bytes());
                b.send_frame(&VnetHeader::default(), &frame).unwrap();
            }
            1 => late.mock.stop_ring(GUEST_TO_HOST).and_then(|_| late.mock.start_ring(GUEST_TO_HOST)).unwrap(),
            2 => late.mock.share_memory().unwrap(),
            _ => {}
        }
        got.extend(late.take(sent.len() - got.len()).1);
        same(&got, &sent, &format!("round {round}"));
    }
    assert!(late.counted("aggregates") > 0 && late.counted("ended_waited") > 0);
    assert_eq!(late.bed.vonicd.drops("a", "no_room").unwrap(), 0);
    assert!(late.mock.ring(HOST_TO_GUEST).outstanding() <= 200);
}
