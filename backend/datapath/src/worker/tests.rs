//! The short way of frames is shown to be the general one: the same frames, once with and once without it, leave the same bytes in
//! every guest's memory, the same used rings and the same counters. And so do they while somebody captures them, who sees all of them.
use super::*;
use crate::capture::{CaptureReader, CaptureSpec, Captured, capture};
use crate::command::RingCommand;
use crate::port::feature;
use crate::spec::PortSpec;
use crate::stats::{PortStats, Way};
use crate::switch::tests::{member, network};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vonic_frame::DropReason;
use vonic_queue::{MemoryMap, RingSetup, handover};
use vonic_record::Shared;

const SIZE: u16 = 64;
const MEMORY: usize = 1 << 18;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Port numbers, which are also the last byte of MAC and address.
const SENDER: u8 = 2;
const RECEIVERS: [u8; 2] = [3, 4];

/// A guest's memory and how far it is used up.
pub(super) struct Guest {
    memory: GuestMemoryMmap<()>,
    descriptors: [u16; 4],
    posted: [u16; 4],
    next: u64,
}

pub(super) fn setup(queue: u16) -> RingSetup {
    let base = u64::from(queue) * 0x4000;
    RingSetup { size: SIZE, descriptors: base, available: base + 0x1000, used: base + 0x2000, event_idx: false }
}

impl Guest {
    pub(super) fn new() -> Guest {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        Guest { memory, descriptors: [0; 4], posted: [0; 4], next: 0x10000 }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(super) fn room(&mut self, len: usize) -> u64 {
        // At any alignment.
        self.next += len as u64 + 3;
        self.next - len as u64
    }

    fn descriptor(&self, at: u64, (address, len): (u64, usize), flags: u16, next: u16) {
        let words = [address, len as u64 | u64::from(flags) << 32 | u64::from(next) << 48];
        self.write(at, &words.map(u64::to_le_bytes).concat());
    }

    /// Posts a chain of these buffers, if there are descriptors left.
    pub(super) fn post(&mut self, queue: u16, buffers: &[(u64, usize)], flags: u16, indirect: bool) {
        let q = usize::from(queue);
        let head = self.descriptors[q];
        let needed = if indirect { 1 } else { buffers.len() as u16 };
        if head + needed > SIZE || buffers.is_empty() {
            return;
        }
        self.descriptors[q] += needed;
        let ring = setup(queue);
        let table = if indirect { self.room(16 * buffers.len()) } else { ring.descriptors };
        let first = if indirect { 0 } else { head };
        for (i, buffer) in buffers.iter().enumerate() {
            let n = first + i as u16;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(table + 16 * u64::from(n), *buffer, flags | more, n + 1);
        }
        if indirect {
            self.descriptor(ring.descriptors + 16 * u64::from(head), (table, 16 * buffers.len()), INDIRECT, 0);
        }
        self.write(ring.available + 4 + 2 * u64::from(self.posted[q]), &head.to_le_bytes());
        self.posted[q] += 1;
        self.write(ring.available + 2, &self.posted[q].to_le_bytes());
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY];
        self.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }
}

/// A frame and the way it is posted.
#[derive(Clone, Debug)]
struct Sent {
    dst: u8,
    src: u8,
    address: u8,
    /// 0: UDP, 1: TCP, 2: another protocol over IPv4, 3: ARP, 4: IPv6, 5: another EtherType, 6: VLAN.
    kind: u8,
    ports: (u16, u16),
    payload: usize,
    padding: usize,
    vnet: [u8; 12],
    /// Bytes changed behind all that: place and difference.
    lies: Vec<(usize, u8)>,
    sum_is_right: bool,
    cuts: Vec<usize>,
    indirect: bool,
    queue: u16,
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

impl Sent {
    fn transport(&self) -> Vec<u8> {
        let mut out = [self.ports.0, self.ports.1].map(u16::to_be_bytes).concat();
        match self.kind {
            1 => out.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]),
            _ => out.extend([(8 + self.payload as u16).to_be_bytes(), [0, 0]].concat()),
        }
        out.extend((0..self.payload).map(|i| i as u8));
        out
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.vnet.to_vec();
        let dst = match self.dst {
            0xff => [0xff; 6],
            n => [2, 0, 0, 0, 0, n],
        };
        out.extend([dst, [2, 0, 0, 0, 0, self.src]].concat());
        let transport = self.transport();
        match self.kind {
            0..=2 => {
                let mut header = vec![0x45, 0];
                header.extend((20 + transport.len() as u16).to_be_bytes());
                header.extend([0, 1, 0x40, 0, 64, [17, 6, 47][usize::from(self.kind)], 0, 0]);
                header.extend([192, 0, 2, self.address, 192, 0, 2, 3]);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                out.extend([8, 0]);
                out.extend(header);
            }
            3 => {
                out.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, self.src, 192, 0, 2, self.address]);
                out.extend([0, 0, 0, 0, 0, 0, 192, 0, 2, 3]);
            }
            4 => {
                out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                out.extend((transport.len() as u16).to_be_bytes());
                out.extend([17, 64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.address]);
                out.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            }
            5 => out.extend([0x88, 0xcc]),
            _ => out.extend([0x81, 0]),
        }
        out.extend(transport);
        out.extend(std::iter::repeat_n(0xaa, self.padding));
        for (at, difference) in &self.lies {
            let at = at % out.len();
            out[at] ^= difference;
        }
        if self.sum_is_right && out.len() >= 46 {
            out[36..38].fill(0);
            let sum = checksum(&out[26..46]);
            out[36..38].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }

    fn post(&self, guest: &mut Guest) {
        let bytes = self.bytes();
        let at = guest.room(bytes.len());
        guest.write(at, &bytes);
        let (mut buffers, mut start) = (Vec::new(), 0);
        for cut in &self.cuts {
            let end = (start + cut).min(bytes.len());
            buffers.push((at + start as u64, end - start));
            start = end;
        }
        buffers.push((at + start as u64, bytes.len() - start));
        guest.post(self.queue, &buffers, 0, self.indirect);
    }
}

fn vnet() -> impl Strategy<Value = [u8; 12]> {
    let partial = (0u16..80, 0u16..20).prop_map(|(start, offset)| {
        let mut header = [1, 0, 9, 9, 9, 9, 0, 0, 0, 0, 7, 7];
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        header
    });
    let usual = Just([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
    let plain = Just([0; 12]);
    let large = Just([1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0]);
    prop_oneof![6 => plain, 2 => usual, 2 => partial, 1 => large, 1 => any::<[u8; 12]>(), 1 => Just([2; 12])]
}

prop_compose! {
    fn sent()(
        dst in prop_oneof![6 => Just(3u8), 3 => Just(4u8), 1 => Just(SENDER), 1 => Just(9u8), 1 => Just(0xff)],
        src in prop_oneof![12 => Just(SENDER), 1 => 0u8..6],
        address in prop_oneof![12 => Just(SENDER), 1 => 0u8..12],
        kind in prop_oneof![8 => 0u8..2, 1 => 2u8..7],
        ports in prop_oneof![8 => (1000u16..1004, Just(2000u16)), 1 => (66u16..70, 66u16..70)],
        payload in prop_oneof![4 => 0usize..40, 2 => 40usize..200, 1 => 200usize..1600],
        padding in prop_oneof![3 => Just(0usize), 1 => 0usize..40],
        vnet in vnet(),
        lies in prop_oneof![4 => Just(Vec::new()), 3 => prop::collection::vec((12usize..74, any::<u8>()), 1..3)],
        sum_is_right: bool,
        cuts in prop_oneof![8 => Just(Vec::new()), 1 => prop::collection::vec(0usize..70, 1..3)],
        indirect in prop::bool::weighted(0.1),
        queue in prop_oneof![4 => Just(1u16), 1 => Just(3u16)],
    ) -> Sent {
        Sent { dst, src, address, kind, ports, payload, padding, vnet, lies, sum_is_right, cuts, indirect, queue }
    }
}

/// The buffers of a chain that a receiver posts: their lengths.
fn posted() -> impl Strategy<Value = (u16, Vec<usize>, bool)> {
    let len = prop_oneof![6 => Just(1700usize), 2 => 60usize..200, 1 => 0usize..20];
    let lens = prop_oneof![6 => len.clone().prop_map(|len| vec![len]), 1 => prop::collection::vec(len, 1..4)];
    (prop_oneof![3 => Just(0u16), 1 => Just(2u16)], lens, prop::bool::weighted(0.1))
}

#[derive(Clone, Debug)]
struct Scenario {
    features: [u64; 3],
    has_address: bool,
    isolated: bool,
    mtu: u16,
    frames: Vec<Sent>,
    buffers: [Vec<(u16, Vec<usize>, bool)>; 2],
}

fn features() -> impl Strategy<Value = u64> {
    let some = (any::<[bool; 5]>(), prop::bool::weighted(0.9)).prop_map(|(some, merges)| {
        let bits = [feature::CSUM, feature::GUEST_CSUM, feature::GUEST_TSO4, feature::HOST_TSO4, feature::MQ];
        let chosen = bits.iter().zip(some).filter(|(_, on)| *on).fold(0, |all, (bit, _)| all | bit);
        chosen | if merges { feature::MRG_RXBUF } else { 0 }
    });
    (some, prop::bool::weighted(0.9)).prop_map(|(bits, modern)| bits | if modern { feature::VERSION_1 } else { 0 })
}

prop_compose! {
    fn scenario()(
        features in prop::array::uniform3(features()),
        has_address: bool,
        isolated in prop::bool::weighted(0.05),
        mtu in prop_oneof![Just(1500u16), 68u16..1500],
        frames in prop::collection::vec(sent(), 1..24),
        first in prop::collection::vec(posted(), 0..24),
        second in prop::collection::vec(posted(), 0..24),
    ) -> Scenario {
        Scenario { features, has_address, isolated, mtu, frames, buffers: [first, second] }
    }
}

fn spec(n: u8, scenario: &Scenario) -> PortSpec {
    PortSpec { mtu: scenario.mtu, queue_pairs: 2, ..member(n, scenario.has_address) }
}

/// What is left when a scenario has run: memories, counters, how many frames went the short way, and what was captured.
type Left = (Vec<Vec<u8>>, Vec<Shared<PortStats>>, Option<usize>, Vec<Vec<Captured>>);

/// How a scenario is run.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// As always.
    Short,
    /// Without the short way.
    General,
    /// With a capture of every port.
    Watched,
}

pub(super) fn start(handle: &mut WorkerHandle, spec: PortSpec, bits: u64, guest: &Guest) {
    let port = spec.port;
    let send = |handle: &mut WorkerHandle, command| assert!(handle.send(command).is_ok());
    send(handle, Command::Attach(Box::new(spec)));
    send(handle, Command::Features { port, bits });
    let map = Arc::new(MemoryMap::new(guest.memory.clone()));
    send(handle, Command::Memory { port, map, done: handover().0 });
    let queues = if bits & feature::MQ == 0 { 2 } else { 4 };
    for index in 0..queues {
        let (setup, enabled) = (setup(index), true);
        let ring = RingCommand { port, index, setup, kick: None, call: None, enabled, done: None };
        send(handle, Command::Ring(Box::new(ring)));
    }
}

/// Captures a port's frames from now on.
fn watch(handle: &mut WorkerHandle, port: PortId) -> CaptureReader {
    let (capturer, reader, _) =
        capture(CaptureSpec { number: 1, ways: [true; 2], snaplen: u32::MAX, filter: None }).unwrap();
    assert!(handle.send(Command::Capture { port, capturer: Box::new(capturer) }).is_ok());
    reader
}

fn seen(reader: &mut CaptureReader) -> Vec<Captured> {
    let mut seen = Vec::new();
    while reader.read(|frame, bytes| {
        assert_eq!(bytes.len(), frame.len as usize);
        seen.push(*frame);
    }) {}
    seen
}

/// One for which no time passes.
pub(super) fn worker() -> (Worker, WorkerHandle) {
    let checkpoint = Arc::new(Checkpoint::create(16).unwrap());
    let config =
        WorkerConfig { checkpoint, takes_over: false, poll: Poll::For(0), peek_mode: None, turn_us: crate::TURN_US };
    let (mut worker, handle) = Worker::new(config, Box::new(|_| {})).unwrap();
    worker.clock = Clock::still();
    (worker, handle)
}

fn run(scenario: &Scenario, how: How) -> Left {
    let (mut worker, mut handle) = worker();
    worker.short_way = if how == How::General { None } else { Some(0) };
    let mut guests = [(); 3].map(|()| Guest::new());
    scenario.frames.iter().for_each(|sent| sent.post(&mut guests[0]));
    for (guest, buffers) in guests[1..].iter_mut().zip(&scenario.buffers) {
        for (queue, lens, indirect) in buffers {
            let buffers: Vec<_> = lens.iter().map(|len| (guest.room(*len), *len)).collect();
            guest.post(*queue, &buffers, WRITE, *indirect);
        }
    }
    let network = network(scenario.isolated);
    assert!(handle.send(Command::Network(Box::new(network.spec))).is_ok());
    let specs = [RECEIVERS[0], RECEIVERS[1], SENDER].map(|n| spec(n, scenario));
    let stats = specs.each_ref().map(|spec| spec.stats.clone());
    let mut readers = Vec::new();
    for (spec, i) in specs.into_iter().zip([1, 2, 0]) {
        let port = spec.port;
        start(&mut handle, spec, scenario.features[i], &guests[i]);
        readers.extend((how == How::Watched).then(|| watch(&mut handle, port)));
    }
    assert!(worker.apply_commands());
    while worker.round() {}
    worker.served.count(&worker.ports, worker.now + std::time::Duration::from_micros(37));
    worker.publish_captures(true);
    let captured = readers.iter_mut().map(seen).collect();
    (guests.iter().map(Guest::bytes).collect(), stats.into(), worker.short_way, captured)
}

fn counters(left: &Left) -> Vec<String> {
    left.1.iter().map(|stats| format!("{:?}", **stats)).collect()
}

proptest! {
    #[test]
    fn both_ways_of_a_frame_come_to_the_same(scenario in scenario()) {
        let (short, general) = (run(&scenario, How::Short), run(&scenario, How::General));
        prop_assert_eq!(counters(&short), counters(&general), "counters");
        for (port, (short, general)) in short.0.iter().zip(&general.0).enumerate() {
            prop_assert!(short == general, "memory of guest {}", port);
        }
    }

    #[test]
    fn a_capture_sees_every_frame_and_changes_nothing(scenario in scenario()) {
        let (short, watched) = (run(&scenario, How::Short), run(&scenario, How::Watched));
        for (port, (short, watched)) in short.0.iter().zip(&watched.0).enumerate() {
            prop_assert!(short == watched, "memory of guest {}", port);
        }
        for ((unwatched, stats), frames) in short.1.iter().zip(&watched.1).zip(&watched.3) {
            for way in Way::ALL {
                prop_assert_eq!(unwatched.traffic(way), stats.traffic(way));
                let drops = |of: &PortStats| DropReason::ALL.iter().map(|reason| of.drops(way, *reason)).collect::<Vec<_>>();
                prop_assert_eq!(drops(unwatched), drops(stats));
            }
            let given = frames.iter().filter(|frame| frame.way == Way::HostToGuest && frame.dropped.is_none());
            let sum = given.fold((0, 0), |(count, bytes), frame| (count + 1, bytes + u64::from(frame.len)));
            prop_assert_eq!(sum, stats.traffic(Way::HostToGuest));
            // What is not even a frame is not seen.
            let refused = |reason: DropReason| frames.iter().filter(|f| f.dropped == Some(reason)).count() as u64;
            let drops = |reason| Way::ALL.iter().map(|way| stats.drops(*way, reason)).sum::<u64>();
            for reason in [DropReason::SpoofedMac, DropReason::SpoofedAddress, DropReason::BadVnetHeader] {
                prop_assert_eq!(refused(reason), drops(reason), "{}", reason.name());
            }
            // Answers of vonic's own that find no room are not made.
            prop_assert!(refused(DropReason::NoRoom) <= drops(DropReason::NoRoom));
        }
    }
}

#[test]
fn what_is_simple_goes_the_short_way_and_lands() {
    let frame = Sent {
        dst: 3,
        src: SENDER,
        address: SENDER,
        kind: 0,
        ports: (1000, 2000),
        payload: 22,
        padding: 0,
        vnet: [0; 12],
        lies: Vec::new(),
        sum_is_right: true,
        cuts: Vec::new(),
        indirect: false,
        queue: 1,
    };
    let frames: Vec<_> = [3, 3, 4, 3].map(|dst| Sent { dst, ..frame.clone() }).into();
    let buffers = [(); 2].map(|()| vec![(0, vec![1700], false); 4]);
    let features = [feature::VERSION_1 | feature::MRG_RXBUF; 3];
    let scenario = Scenario { features, has_address: true, isolated: false, mtu: 1500, frames, buffers };
    let (memories, stats, short, _) = run(&scenario, How::Short);
    assert_eq!(short, Some(4));
    // In one burst of four, whose latency is counted for each.
    let latency: Vec<_> = stats[2].latency.places().filter(|(_, count)| *count > 0).collect();
    assert_eq!((latency, stats[2].latency.sum()), (vec![(Some(64), 4)], 4 * 37));
    assert_eq!((stats[0].latency.sum(), run(&scenario, How::Watched).2), (0, Some(0)));
    let used = |guest: usize| u16::from_le_bytes([memories[guest][0x2002], memories[guest][0x2003]]);
    // And what the router says of itself.
    assert_eq!((used(1), used(2)), (3 + 1, 1 + 1));
}
