//! What does a guest lose by bad input on its rings? One frame or one ring, with a name for the reason; and nobody else loses anything.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::time::Duration;

use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::mock::{
    BUFFERS, Chain, Descriptor, GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature, flag,
};
use vonic_tests::*;

/// The victim of its own input, and its neighbour.
struct Two {
    a: MockFrontend,
    b: MockFrontend,
    bed: Bed,
}

impl Two {
    fn start(config: MockConfig) -> Two {
        let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
        let a = bed.mock("a", config).unwrap();
        let b = bed.mock("b", MockConfig::default()).unwrap();
        let mut two = Two { a, b, bed };
        two.both_work("at the start");
        two
    }

    fn both_work(&mut self, after: &str) {
        self.a.gateway_answers(2).with_context(|| format!("a, {after}")).unwrap();
        self.b_works(after);
    }

    fn b_works(&mut self, after: &str) {
        self.b.gateway_answers(3).with_context(|| format!("b, {after}")).unwrap();
        let frame = frames::ping((mac(3), frames::BROADCAST), ip4(3), ip4(1), 1, after.as_bytes());
        assert_eq!(self.b.send_frame(&VnetHeader::default(), &frame).unwrap(), 0);
    }

    fn drops(&self, reason: &str) -> u64 {
        self.bed.vonicd.drops("a", reason).unwrap()
    }

    /// `bad` gives the device one frame, which must be dropped for `reason` and cost nothing more. It returns the chain's head.
    fn one_frame_is_lost(&mut self, what: &str, reason: &str, bad: impl FnOnce(&mut MockFrontend) -> Result<u16>) {
        let before = self.drops(reason);
        let head = bad(&mut self.a).unwrap();
        let used = self.a.wait_sent(head).with_context(|| what.to_string()).unwrap();
        assert_eq!(used, 0, "{what}: a used length on a ring that the device reads");
        wait_until(what, seconds(5), || self.drops(reason) > before).with_context(|| self.all_drops()).unwrap();
        assert_eq!(self.drops(reason), before + 1, "{what}: {}", self.all_drops());
        self.both_work(what);
    }

    fn all_drops(&self) -> String {
        format!("a's drops: {}", self.bed.vonicd.vm("a").unwrap()["drops_by_reason"])
    }
}

/// Makes a chain of `descriptors` available on the transmit ring; `next` in them counts within the chain.
fn transmit(mock: &mut MockFrontend, descriptors: &[Descriptor]) -> Result<u16> {
    let memory = mock.memory().clone();
    let ring = mock.ring(GUEST_TO_HOST);
    let places = ring.reserve(descriptors.len())?;
    for (place, descriptor) in places.iter().zip(descriptors) {
        let next = places.get(usize::from(descriptor.next)).copied().unwrap_or(descriptor.next);
        ring.write_descriptor(&memory, *place, Descriptor { next, ..*descriptor })?;
    }
    ring.make_available(&memory, places[0])?;
    ring.notify(&memory)?;
    Ok(places[0])
}

/// The frame of an ARP request at `BUFFERS`, with its header: 72 bytes.
fn good_frame(mock: &MockFrontend) -> u32 {
    use vm_memory::Bytes;
    let content = [&VnetHeader::default().encode()[..], &frames::arp_request(2, ip4(1))].concat();
    mock.memory().write_slice(&content, vm_memory::GuestAddress(BUFFERS)).unwrap();
    content.len() as u32
}

const fn at(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, length, flags, next }
}

#[test]
fn a_malformed_chain_costs_one_frame() {
    let mut two = Two::start(MockConfig::default());
    let length = good_frame(&two.a);
    let hole = 0x4000_0000;
    let end = BUFFERS + two.a.regions()[1].size;
    let next = flag::NEXT;
    let cases: &[(&str, &str, &[Descriptor])] = &[
        ("next outside the table", "bad_descriptor", &[at(BUFFERS, 12, next, 60_000)]),
        ("a descriptor that follows itself", "chain_too_long", &[at(BUFFERS, 12, next, 0)]),
        ("a loop of two", "chain_too_long", &[at(BUFFERS, 12, next, 1), at(BUFFERS, 60, next, 0)]),
        ("an address in a hole", "bad_address", &[at(hole, length, 0, 0)]),
        ("a second address in a hole", "bad_address", &[at(BUFFERS, 12, next, 1), at(hole, 60, 0, 0)]),
        ("an address beyond the last region", "bad_address", &[at(end, length, 0, 0)]),
        ("a range over the last region's end", "bad_address", &[at(end - 10, length, 0, 0)]),
        ("a range that wraps", "bad_address", &[at(u64::MAX - 10, length, 0, 0)]),
        ("a writable descriptor", "wrong_direction", &[at(BUFFERS, length, flag::WRITE, 0)]),
        (
            "a writable second descriptor",
            "wrong_direction",
            &[at(BUFFERS, 12, next, 1), at(BUFFERS, 60, flag::WRITE, 0)],
        ),
        ("an indirect table of 17 bytes", "bad_indirect", &[at(BUFFERS, 17, flag::INDIRECT, 0)]),
        ("an empty indirect table", "bad_indirect", &[at(BUFFERS, 0, flag::INDIRECT, 0)]),
        ("an indirect table in a hole", "bad_indirect", &[at(hole, 32, flag::INDIRECT, 0)]),
        ("indirect and next", "bad_indirect", &[at(BUFFERS, 32, flag::INDIRECT | next, 1), at(BUFFERS, 60, 0, 0)]),
        ("less than a header", "truncated", &[at(BUFFERS, 8, 0, 0)]),
        ("a header alone", "truncated", &[at(BUFFERS, 12, 0, 0)]),
        ("half an Ethernet header", "truncated", &[at(BUFFERS, 20, 0, 0)]),
        ("more than a frame may have", "oversized", &[at(BUFFERS, 12, next, 1), at(BUFFERS, 80_000, 0, 0)]),
        ("four gigabytes", "bad_address", &[at(BUFFERS, u32::MAX, 0, 0)]),
    ];
    for (what, reason, descriptors) in cases {
        two.one_frame_is_lost(what, reason, |mock| {
            good_frame(mock);
            transmit(mock, descriptors)
        });
    }
}

#[test]
fn a_nested_indirect_table_costs_one_frame() {
    use vm_memory::Bytes;
    let mut two = Two::start(MockConfig::default());
    two.one_frame_is_lost("a table within a table", "bad_indirect", |mock| {
        let mut table = Vec::new();
        table.extend(BUFFERS.to_le_bytes());
        table.extend(32u32.to_le_bytes());
        table.extend(flag::INDIRECT.to_le_bytes());
        table.extend(0u16.to_le_bytes());
        mock.memory().write_slice(&table, vm_memory::GuestAddress(BUFFERS))?;
        transmit(mock, &[at(BUFFERS, 16, flag::INDIRECT, 0)])
    });
}

#[test]
fn a_malformed_virtio_net_header_costs_one_frame() {
    let mut two = Two::start(MockConfig::default());
    let link = (mac(2), frames::BROADCAST);
    let segment =
        Tcp { ports: (1, 7), flags: Tcp::ACK, text: vec![0; 4000], ..Tcp::default() }.frame(link, ip4(2), ip4(1));
    let good = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::TCPV4,
        header_length: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        buffers: 0,
    };
    let cases = [
        ("an unknown GSO type", VnetHeader { gso_type: 0x3f, ..good }),
        ("UDP segmentation, which was not negotiated", VnetHeader { gso_type: 3, ..good }),
        ("GSO without a checksum request", VnetHeader { flags: 0, ..good }),
        ("segments of no bytes", VnetHeader { gso_size: 0, ..good }),
        ("a checksum that starts behind the frame", VnetHeader { csum_start: 60_000, ..good }),
        ("a checksum field behind the frame", VnetHeader { csum_offset: 60_000, ..good }),
    ];
    for (what, header) in cases {
        two.one_frame_is_lost(what, "bad_vnet_header", |mock| {
            let memory = mock.memory().clone();
            let content = [&header.encode()[..], &segment].concat();
            let chain = Chain { lengths: vec![content.len() as u32], writable: false, indirect: false };
            let ring = mock.ring(GUEST_TO_HOST);
            let head = ring.add(&memory, &chain, &content)?;
            ring.notify(&memory)?;
            Ok(head)
        });
    }
}

#[test]
fn offloads_that_were_not_negotiated_are_refused() {
    let mut two = Two::start(MockConfig { features: feature::PLAIN, ..MockConfig::default() });
    let before = two.drops("bad_vnet_header");
    let frame = frames::arp_request(2, ip4(1));
    let header = VnetHeader { flags: VnetHeader::NEEDS_CSUM, csum_start: 14, csum_offset: 10, ..VnetHeader::default() };
    two.a.send_frame(&header, &frame).unwrap();
    two.both_work("a checksum request without CSUM");
    assert_eq!(two.drops("bad_vnet_header"), before + 1);
}

#[test]
fn a_malformed_packet_costs_one_frame() {
    let mut two = Two::start(MockConfig::default());
    let gateway = two.a.gateway_answers(2).unwrap();
    let good = Tcp { ports: (1000, 9), flags: Tcp::SYN, window: 9000, text: b"text".to_vec(), ..Tcp::default() };
    let good = good.frame((mac(2), gateway), ip4(2), ip4(1));
    let change = |place: usize, byte: u8| {
        let mut frame = good.clone();
        frame[place] = byte;
        frame
    };
    // Header checksum made right again after a change.
    let summed = |mut frame: Vec<u8>| {
        frame[24..26].fill(0);
        let sum = frames::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let mut tagged = good.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let cases = [
        ("IP version 5", "bad_header", summed(change(14, 0x55))),
        ("an IP header of 4 bytes", "bad_header", summed(change(14, 0x41))),
        ("a packet longer than its frame", "truncated", summed(change(16, 0x40))),
        (
            "a packet shorter than its header",
            "bad_header",
            summed({
                let mut frame = change(16, 0);
                frame[17] = 19;
                frame
            }),
        ),
        ("a wrong IP checksum", "bad_checksum", change(24, good[24] ^ 1)),
        ("a wrong TCP checksum", "bad_checksum", change(50, good[50] ^ 1)),
        ("a TCP header of 4 bytes", "bad_header", change(46, 0x10)),
        ("a TCP header longer than its packet", "truncated", change(46, 0xf0)),
        ("a VLAN tag", "vlan_tagged", tagged),
    ];
    for (what, reason, frame) in cases {
        let before = two.drops(reason);
        two.a.send_frame(&VnetHeader::default(), &frame).unwrap();
        wait_until(what, seconds(5), || two.drops(reason) > before).with_context(|| two.all_drops()).unwrap();
        assert_eq!(two.drops(reason), before + 1, "{what}: {}", two.all_drops());
        two.both_work(what);
    }
}

/// The state of a's ring as `vonic vm show` tells it.
fn ring_state(two: &Two, index: usize) -> String {
    let detail = two.bed.vonicd.vm("a").unwrap();
    let rings = detail["rings"].as_array().unwrap();
    let ring = rings.iter().find(|ring| ring["index"] == index).with_context(|| detail.to_string()).unwrap();
    ring["state"].as_str().unwrap().to_string()
}

/// A ring that lies stops alone and says so; set up again, it works.
fn a_ring_is_lost(what: &str, index: usize, lie: impl FnOnce(&mut MockFrontend)) {
    let mut two = Two::start(MockConfig::default());
    assert_eq!(ring_state(&two, index), "running");
    lie(&mut two.a);
    wait_until(what, seconds(5), || !["running", "stopped"].contains(&ring_state(&two, index).as_str())).unwrap();
    assert_eq!(ring_state(&two, 1 - index), "running", "{what}: the other ring");
    two.b_works(what);
    assert!(two.bed.vonicd.vm("a").unwrap()["last_error"].is_string(), "{what}: last_error");

    drop(two.a);
    let gone = || two.bed.vonicd.vm("a").unwrap()["connected"] == false;
    wait_until("the end of the old connection", seconds(5), gone).unwrap();
    two.a = two.bed.mock("a", MockConfig::default()).unwrap();
    two.both_work(what);
}

#[test]
fn an_available_index_beyond_the_ring_stops_that_ring() {
    a_ring_is_lost("an available index 300 ahead of a ring of 256", GUEST_TO_HOST, |mock| {
        let memory = mock.memory().clone();
        let ring = mock.ring(GUEST_TO_HOST);
        ring.set_available_index(&memory, ring.next_available.wrapping_add(300)).unwrap();
        ring.kick.write(1).unwrap();
    });
}

#[test]
fn a_head_outside_the_table_stops_that_ring() {
    a_ring_is_lost("head 256 of 256", GUEST_TO_HOST, |mock| {
        let memory = mock.memory().clone();
        let ring = mock.ring(GUEST_TO_HOST);
        ring.make_available(&memory, 256).unwrap();
        ring.kick.write(1).unwrap();
    });
}

#[test]
fn a_lie_on_the_receive_ring_stops_that_ring() {
    a_ring_is_lost("head 60000 on the receive ring", HOST_TO_GUEST, |mock| {
        let memory = mock.memory().clone();
        let ring = mock.ring(HOST_TO_GUEST);
        // Ahead of it lie good buffers, which frames for the guest use up first.
        ring.set_available_index(&memory, ring.next_available.wrapping_add(400)).unwrap();
        ring.kick.write(1).unwrap();
        let frame = frames::arp_request(2, ip4(1));
        drop(mock.send_frame(&VnetHeader::default(), &frame));
    });
}

#[test]
fn a_guest_without_buffers_loses_its_frames_and_blocks_nobody() {
    let mut two = Two::start(MockConfig { posted: 4, ..MockConfig::default() });
    // b's own broadcasts have come here too.
    while two.a.receive_frame(Duration::from_millis(200)).unwrap().is_some() {}
    let before = two.drops("no_room");
    let frame = frames::ping((mac(3), mac(2)), ip4(3), ip4(2), 1, b"to a");
    for _ in 0..10 {
        two.b.send_frame(&VnetHeader::default(), &frame).unwrap();
    }
    wait_until("the drops", seconds(5), || two.drops("no_room") >= before + 6)
        .with_context(|| two.all_drops())
        .unwrap();
    for _ in 0..4 {
        assert_eq!(two.a.receive_frame(seconds(5)).unwrap().unwrap().1, frame);
    }
    two.both_work("ten frames for four buffers");
}

#[test]
fn a_flooding_guest_leaves_its_neighbour_its_share() {
    let mut two = Two::start(MockConfig::default());
    let frame = frames::ping((mac(2), mac(9)), ip4(2), ip4(9), 1, &[0; 1000]);
    let content = [&VnetHeader::default().encode()[..], &frame].concat();
    let memory = two.a.memory().clone();
    let chain = Chain { lengths: vec![content.len() as u32], writable: false, indirect: false };
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let ring = two.a.ring(GUEST_TO_HOST);
        while ring.take_used(&memory).unwrap().is_some() {}
        while ring.outstanding() < 250 {
            ring.add(&memory, &chain, &content).unwrap();
        }
        ring.notify(&memory).unwrap();
        let start = std::time::Instant::now();
        two.b.gateway_answers(3).unwrap();
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_millis(500), "b waited {slowest:?}");
    assert!(two.drops("unknown_destination") > 10_000, "{}", two.all_drops());
}
