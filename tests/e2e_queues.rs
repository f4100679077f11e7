//! Do several queue pairs and the control queue carry what one pair carries, whoever enables, disables, stops, breaks or moves them?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::io::Read;

use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::mock::{Chain, GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature, flag};
use vonic_tests::wire::{Conn, HOST, HandGuest, ramp};
use vonic_tests::*;

/// A receive and a transmit queue of the second pair.
const RX1: usize = 2 + HOST_TO_GUEST;
const TX1: usize = 2 + GUEST_TO_HOST;
/// Flows by which the tests find out where frames go: enough that chance puts all on one queue once in 2^63.
const FLOWS: u16 = 64;

/// VIRTIO_NET_OK, VIRTIO_NET_ERR.
const OK: u8 = 0;
const ERR: u8 = 1;

/// `a` has two pairs, `b` has one.
struct Two {
    a: MockFrontend,
    b: MockFrontend,
    bed: Bed,
    round: u8,
}

impl Two {
    fn start(features: u64) -> Two {
        let bed = bed("");
        let config = MockConfig { features, queue_pairs: 2, ..MockConfig::default() };
        let a = bed.mock("a", config).unwrap();
        let b = bed.mock("b", MockConfig::default()).unwrap();
        Two { a, b, bed, round: 0 }
    }

    /// Sends two frames of each flow from `b` and says how many came on each pair of `a`: all, in order, and a flow's on one pair.
    fn spread(&mut self) -> [usize; 2] {
        self.round += 1;
        let frame = |flow: u16, number: u8| {
            let ports = (5000 + flow, 7000);
            frames::udp((mac(3), mac(2)), ip4(3), ip4(2), ports, &[self.round, number, b'x'])
        };
        let mut wanted: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for flow in 0..FLOWS {
            wanted.insert(flow, vec![frame(flow, 0), frame(flow, 1)]);
        }
        let mut came = [0; 2];
        for number in 0..2 {
            for flow in 0..FLOWS {
                self.b.send_frame(&VnetHeader::default(), &wanted[&flow][number]).unwrap();
            }
            let mut left = FLOWS;
            wait_until("a frame of each flow", seconds(5), || {
                for (pair, came) in came.iter_mut().enumerate() {
                    while let Some((_, frame)) = self.a.receive_frame_on(pair, seconds(0)).unwrap() {
                        let flow = u16::from_be_bytes([frame[34], frame[35]]) - 5000;
                        let expected = wanted.get_mut(&flow).unwrap();
                        assert_eq!(frame, expected[number], "flow {flow}");
                        expected[number].push(pair as u8);
                        *came += 1;
                        left -= 1;
                    }
                }
                left == 0
            })
            .unwrap();
        }
        for (flow, frames) in &wanted {
            assert_eq!(frames[0].last(), frames[1].last(), "flow {flow} changed its pair");
        }
        came
    }

    /// The second pair is used no more, and nothing is lost by that.
    fn only_the_first(&mut self, after: &str) {
        assert_eq!(self.spread(), [2 * usize::from(FLOWS), 0], "{after}");
    }

    fn both(&mut self, after: &str) {
        // Enabling is answered before the worker has heard of it; a question that it answers itself comes behind that.
        self.bed.vonicd.vonic(&["conns", "--json"]).unwrap();
        let came = self.spread();
        assert!(came.iter().all(|frames| *frames >= usize::from(FLOWS) / 4), "{after}: {came:?}");
    }

    fn drops(&self, reason: &str) -> u64 {
        self.bed.vonicd.drops("a", reason).unwrap()
    }
}

fn bed(service: &str) -> Bed {
    let config = TestConfig { service: service.into(), ..TestConfig::default() };
    Bed::start(&config.vm("a", 2, "queue_pairs = 2").vm("b", 3, "")).unwrap()
}

/// Sends a frame on a pair and waits for its return.
fn send_on(mock: &mut MockFrontend, pair: usize, frame: &[u8]) {
    mock.queue_frame_on(pair, &VnetHeader::default(), frame).unwrap();
    mock.notify_on(pair).unwrap();
    assert!(mock.wait_used(2 * pair + GUEST_TO_HOST, seconds(5)).unwrap().is_some(), "pair {pair}");
}

#[test]
fn flows_spread_over_the_pairs_in_order_and_both_carry_what_the_guest_sends() {
    let mut two = Two::start(feature::ALL | feature::MQ);
    assert_eq!(two.a.device_config(10).unwrap()[8..], [2, 0], "max_virtqueue_pairs");
    two.both("the start");
    for (round, pair) in [0, 1, 1, 0].into_iter().enumerate() {
        let frame = frames::ping((mac(2), mac(3)), ip4(2), ip4(3), round as u16, b"from both pairs");
        send_on(&mut two.a, pair, &frame);
        two.b.expect_frame("a's ping", seconds(5), |got| got == frame).unwrap();
    }
    // What the file does not give is not offered.
    assert_eq!(two.b.features() & feature::MQ, 0);
    let rings = two.bed.vonicd.vm("a").unwrap()["rings"].clone();
    let directions: Vec<_> = rings.as_array().unwrap().iter().map(|ring| ring["direction"].as_str().unwrap()).collect();
    assert_eq!(directions, ["host_to_guest", "guest_to_host", "host_to_guest", "guest_to_host"]);
    two.bed.vonicd.stop().unwrap();
}

#[test]
fn a_pair_that_is_disabled_stopped_or_broken_hands_its_flows_to_the_other() {
    let mut two = Two::start(feature::ALL | feature::MQ);
    for round in 0..3 {
        two.a.enable_ring(RX1, false).unwrap();
        two.only_the_first(&format!("disabled, round {round}"));
        two.a.enable_ring(RX1, true).unwrap();
        two.both(&format!("enabled again, round {round}"));
        let base = two.a.stop_ring(RX1).unwrap();
        assert_eq!(base, two.a.ring(RX1).last_used);
        two.only_the_first(&format!("stopped, round {round}"));
        two.a.start_ring(RX1).unwrap();
        two.both(&format!("started again, round {round}"));
    }
    let memory = two.a.memory().clone();
    let lie = two.a.ring(RX1).next_available.wrapping_add(1000);
    two.a.ring(RX1).set_available_index(&memory, lie).unwrap();
    two.only_the_first("it lied");
    let rings = two.bed.vonicd.vm("a").unwrap()["rings"].clone();
    assert!(rings[RX1]["state"].as_str().unwrap().starts_with("broken: available index"), "{rings}");
    assert_eq!(rings[TX1]["state"], "running");
    assert_eq!(two.drops("no_room") + two.drops("port_down"), 0);
    two.bed.vonicd.stop().unwrap();
}

#[test]
fn the_second_pair_alone_is_enough() {
    let bed = bed("");
    let features = feature::ALL | feature::MQ;
    let config = MockConfig { features, queue_pairs: 2, ..MockConfig::default() };
    let mut a = MockFrontend::connect(&bed.socket("a"), config).unwrap();
    a.negotiate().unwrap();
    a.share_memory().unwrap();
    for index in [RX1, TX1] {
        a.start_ring(index).unwrap();
    }
    a.post_buffers().unwrap();
    send_on(&mut a, 1, &frames::arp_request(2, ip4(1)));
    let (_, answer) = a.receive_frame_on(1, seconds(5)).unwrap().unwrap();
    assert!(frames::arp_answer(&answer, ip4(1)).is_some());
    bed.vonicd.stop().unwrap();
}

/// "the back-end must not supply any new RX packets, but must process and discard any TX packets" (vhost-user specification, "Ring states"),
/// as long as the device runs; of a device whose every queue is disabled nobody knows whether its memory is still its own.
#[test]
fn frames_on_a_disabled_queue_are_returned_and_go_nowhere() {
    let mut two = Two::start(feature::ALL | feature::MQ);
    let ping = |number| frames::ping((mac(2), mac(3)), ip4(2), ip4(3), number, b"on a disabled queue");
    two.a.enable_ring(TX1, false).unwrap();
    send_on(&mut two.a, 1, &ping(1));
    assert_eq!(two.drops("queue_disabled"), 1);
    two.a.enable_ring(GUEST_TO_HOST, false).unwrap();
    for pair in [0, 1] {
        two.a.queue_frame_on(pair, &VnetHeader::default(), &ping(2)).unwrap();
        two.a.notify_on(pair).unwrap();
    }
    two.b.gateway_answers(3).unwrap();
    for index in [GUEST_TO_HOST, TX1] {
        assert_eq!(two.a.wait_used(index, std::time::Duration::from_millis(100)).unwrap(), None, "ring {index}");
    }
    // What waited is taken up when the queue is enabled again.
    two.a.enable_ring(TX1, true).unwrap();
    two.a.enable_ring(GUEST_TO_HOST, true).unwrap();
    for index in [GUEST_TO_HOST, TX1] {
        assert!(two.a.wait_used(index, seconds(5)).unwrap().is_some(), "ring {index}");
    }
    let (_, frame) = two.b.expect_frame("the ping", seconds(5), |frame| frame[12..14] == [8, 0]).unwrap();
    assert_eq!(frame, ping(2));
    two.bed.vonicd.stop().unwrap();
}

/// A ring that was disabled may be laid out anew at the same place: user-mode Linux, whose driver was loaded again, tells it no otherwise.
#[test]
fn a_ring_that_is_enabled_again_stands_where_guest_memory_says() {
    let bed = bed("");
    let mut a = bed.mock("b", MockConfig::default()).unwrap();
    for round in 0..3 {
        for _ in 0..=round {
            a.gateway_answers(3).unwrap();
        }
        for index in [GUEST_TO_HOST, HOST_TO_GUEST] {
            a.enable_ring(index, false).unwrap();
        }
        a.forget_rings().unwrap();
        for index in [HOST_TO_GUEST, GUEST_TO_HOST] {
            a.enable_ring(index, true).unwrap();
        }
        a.post_buffers().unwrap();
        a.gateway_answers(3).unwrap();
    }
    bed.vonicd.stop().unwrap();
}

/// A guest moves a connection to its other queue while segments wait in the old one: none of them is taken for lost.
#[test]
fn segments_of_one_round_are_put_in_order_over_both_queues() {
    // Without polling the worker sleeps until it is kicked.
    let bed = bed("poll_us = 0");
    let config = MockConfig { features: feature::ALL | feature::MQ, queue_pairs: 2, ..MockConfig::default() };
    let mut guest = HandGuest::start_configured(&bed, "a", 2, config).unwrap();
    guest.mock.enable_ring(RX1, false).unwrap();
    let (mut conn, mut host) = Conn::new(HOST, (40_000, 0)).connect(&mut guest).unwrap();
    let mut last = conn.snd_nxt;
    for round in 0..50usize {
        let text = ramp(4000 + 13 * round);
        let both = || {
            // The older half in the queue that is looked at second.
            for (pieces, pair) in [(&text[..2000], 1), (&text[2000..], 0)] {
                for piece in pieces.chunks(700) {
                    let frame = guest.frame(HOST, &conn.segment(Tcp::ACK | Tcp::PSH, piece));
                    guest.mock.queue_frame_on(pair, &VnetHeader::default(), &frame)?;
                    conn.snd_nxt = conn.snd_nxt.wrapping_add(piece.len() as u32);
                }
            }
            guest.mock.notify_on(0)?;
            guest.mock.notify_on(1)
        };
        bed.vonicd.in_one_round(both).unwrap();
        let mut got = vec![0; text.len()];
        host.read_exact(&mut got).unwrap();
        assert_eq!(got, text, "round {round}");
        // No acknowledgement is a duplicate: none asks for what came in the same round.
        while last != conn.snd_nxt {
            let segment = conn.expect(&mut guest, "acknowledgement").unwrap();
            assert_ne!(segment.acknowledgment, last, "round {round}");
            last = segment.acknowledgment;
        }
        for index in [GUEST_TO_HOST, TX1] {
            while guest.mock.wait_used(index, seconds(0)).unwrap().is_some() {}
        }
    }
    drop(host);
    bed.vonicd.stop().unwrap();
}

fn with_control() -> u64 {
    feature::ALL | feature::MQ | feature::CTRL_VQ | feature::CTRL_RX | feature::CTRL_MAC_ADDR
}

#[test]
fn commands_are_answered() {
    let mut two = Two::start(with_control());
    let own = mac(2);
    let table = |unicast: u32, multicast: u32, bytes: usize| {
        let mut data = unicast.to_le_bytes().to_vec();
        data.resize(4 + 6 * unicast.min(64) as usize, 2);
        data.extend(multicast.to_le_bytes());
        data.resize(data.len() + bytes, 3);
        data
    };
    let cases: &[(&str, u8, u8, &[u8], u8)] = &[
        ("promiscuous on", 0, 0, &[1], OK),
        ("promiscuous off", 0, 0, &[0], OK),
        ("all multicast", 0, 1, &[1], OK),
        ("promiscuous 2", 0, 0, &[2], ERR),
        ("promiscuous nothing", 0, 0, &[], ERR),
        ("no broadcast (CTRL_RX_EXTRA)", 0, 5, &[1], ERR),
        ("empty MAC tables", 1, 0, &table(0, 0, 0), OK),
        ("MAC tables", 1, 0, &table(2, 1, 6), OK),
        ("MAC tables cut short", 1, 0, &table(2, 2, 6), ERR),
        ("a MAC table of many", 1, 0, &table(u32::MAX, 0, 0), ERR),
        ("half a MAC table", 1, 0, &[0, 0], ERR),
        ("its own MAC", 1, 1, &own, OK),
        ("another MAC", 1, 1, &mac(3), ERR),
        ("half a MAC", 1, 1, &own[..3], ERR),
        ("VLAN", 2, 0, &[5, 0], ERR),
        ("announce", 3, 0, &[], ERR),
        ("no pairs", 4, 0, &[0, 0], ERR),
        ("three pairs", 4, 0, &[3, 0], ERR),
        ("two pairs", 4, 0, &[2, 0], OK),
        ("half a number of pairs", 4, 0, &[1], ERR),
        ("RSS", 4, 1, &[0; 40], ERR),
        ("offloads", 5, 0, &[0; 8], ERR),
        ("an unknown class", 200, 200, &[1, 2, 3], ERR),
        ("no data", 77, 1, &[], ERR),
    ];
    for round in 0..20 {
        for (what, class, command, data, answer) in cases {
            assert_eq!(two.a.command(*class, *command, data).unwrap(), *answer, "{what}, round {round}");
        }
    }
    assert_eq!(two.bed.vonicd.vm("a").unwrap()["drops_by_reason"].as_object().unwrap().len(), 0);
    two.a.gateway_answers(2).unwrap();
    two.bed.vonicd.stop().unwrap();
}

/// A name, the reason for which it is dropped, its descriptors.
type Malformed<'a> = (&'a str, &'a str, &'a [(u64, u32, u16)]);

#[test]
fn a_malformed_command_is_returned_and_the_next_is_answered() {
    let mut two = Two::start(with_control());
    let (data, write) = (b"\x00\x00\x01", flag::WRITE);
    let cases: &[Malformed] = &[
        ("no place for an answer", "truncated", &[(0, 3, 0)]),
        ("an empty place for an answer", "truncated", &[(0, 3, 0), (0x1000, 0, write)]),
        ("no command", "truncated", &[(0x1000, 1, write)]),
        ("half a command", "truncated", &[(0, 1, 0), (0x1000, 1, write)]),
        ("readable behind writable", "wrong_direction", &[(0x1000, 1, write), (0, 3, 0)]),
        ("an indirect table of 3 bytes", "bad_indirect", &[(0, 3, flag::INDIRECT)]),
    ];
    for (what, reason, descriptors) in cases {
        let before = two.drops(reason);
        let used = two.a.control_chain(data, descriptors).with_context(|| what.to_string()).unwrap();
        assert_eq!(used.length, 0, "{what}");
        wait_until(what, seconds(5), || two.drops(reason) == before + 1).unwrap();
        assert_eq!(two.a.command(0, 0, &[1]).unwrap(), OK, "after {what}");
    }
    // A queue that lies stands still alone.
    let (memory, index) = (two.a.memory().clone(), two.a.control());
    let lie = two.a.ring(index).next_available.wrapping_add(999);
    two.a.ring(index).set_available_index(&memory, lie).unwrap();
    two.a.ring(index).kick.write(1).unwrap();
    wait_until("the queue's end", seconds(5), || {
        two.bed.vonicd.vm("a").unwrap()["rings"][index]["state"].as_str().unwrap().starts_with("broken")
    })
    .unwrap();
    two.a.gateway_answers(2).unwrap();
    two.b.gateway_answers(3).unwrap();
    two.bed.vonicd.stop().unwrap();
}

/// virtio 1.3 §5.1.6.5.6: one pair until the driver asks for more; none beyond what it asked for once it has the answer.
#[test]
fn the_driver_says_over_the_control_queue_how_many_pairs_it_uses() {
    let mut two = Two::start(with_control());
    two.only_the_first("nothing was asked for");
    for round in 0..3 {
        assert_eq!(two.a.command(4, 0, &[2, 0]).unwrap(), OK);
        two.both(&format!("two were asked for, round {round}"));
        assert_eq!(two.a.command(4, 0, &[1, 0]).unwrap(), OK);
        two.only_the_first(&format!("one was asked for, round {round}"));
    }
    assert_eq!(two.a.command(4, 0, &[2, 0]).unwrap(), OK);
    let control = two.a.control();
    two.a.stop_ring(control).unwrap();
    two.a.start_ring(control).unwrap();
    two.only_the_first("the control queue was started again");
    two.bed.vonicd.stop().unwrap();
}

/// Without MQ the control queue is number 2 (virtio 1.3 §5.1.2), whatever the device could have.
#[test]
fn the_control_queues_place_depends_on_mq() {
    let bed = bed("");
    let features = with_control() & !feature::MQ;
    for (name, number, queue_pairs) in [("a", 2, 1), ("b", 3, 1)] {
        let mut mock = bed.mock(name, MockConfig { features, queue_pairs, ..MockConfig::default() }).unwrap();
        assert_eq!(mock.control(), 2);
        assert_eq!(mock.command(0, 0, &[1]).unwrap(), OK);
        assert_eq!(mock.command(4, 0, &[1, 0]).unwrap(), ERR, "MQ was not negotiated");
        mock.gateway_answers(number).unwrap();
        assert_eq!(bed.vonicd.vm(name).unwrap()["rings"][2]["direction"], "control");
    }
    bed.vonicd.stop().unwrap();
}

/// IN_ORDER with EVENT_IDX and MRG_RXBUF: the mock's rings refuse any other order, here over merged frames, bad chains between good ones,
/// and buffers that can hold nothing.
#[test]
fn buffers_come_back_in_order() {
    for features in [feature::ALL | feature::IN_ORDER, feature::PLAIN | feature::IN_ORDER] {
        let bed = bed("");
        let merges = features & feature::MRG_RXBUF != 0;
        let buffer = if merges { vec![300] } else { vec![1600] };
        let config = MockConfig { features, buffer, posted: 100, ..MockConfig::default() };
        let mut a = bed.mock("b", config).unwrap();
        let mut b = bed.mock("a", MockConfig::default()).unwrap();
        assert_ne!(a.features() & feature::IN_ORDER, 0, "IN_ORDER is offered");
        for round in 0..200u16 {
            let memory = a.memory().clone();
            if round % 8 == 3 {
                // Of the wrong direction, and one that can hold no frame.
                let ring = a.ring(HOST_TO_GUEST);
                ring.add(&memory, &Chain { lengths: vec![1000], writable: false, indirect: false }, &[]).unwrap();
                ring.add(&memory, &Chain { lengths: vec![20], writable: true, indirect: false }, &[]).unwrap();
                a.post_buffers().unwrap();
            }
            let data = vec![round as u8; usize::from(round) * 7 % 1200];
            let frame = frames::ping((mac(2), mac(3)), ip4(2), ip4(3), round, &data);
            b.send_frame(&VnetHeader::default(), &frame).unwrap();
            // Whatever has come, and the rest with the next.
            while a.wait_used(HOST_TO_GUEST, seconds(0)).unwrap().is_some() {}
            a.post_buffers().unwrap();
            // And those that the guest sends, bad ones among them.
            let bad = Chain { lengths: vec![500], writable: true, indirect: false };
            a.ring(GUEST_TO_HOST).add(&memory, &bad, &[]).unwrap();
            a.queue_frame_on(0, &VnetHeader::default(), &frames::arp_request(3, ip4(1))).unwrap();
            a.notify_on(0).unwrap();
            for _ in 0..2 {
                assert!(a.wait_used(GUEST_TO_HOST, seconds(5)).unwrap().is_some(), "round {round}");
            }
        }
        let (wrong, small) = ("wrong_direction", "small_buffer");
        assert!(bed.vonicd.drops("b", wrong).unwrap() > 200);
        assert!(merges || bed.vonicd.drops("b", small).unwrap() > 0);
        assert!(bed.vonicd.vm("b").unwrap()["host_to_guest"]["frames"].as_u64().unwrap() > 250);
        bed.vonicd.stop().unwrap();
    }
}
