use super::*;
use crate::message::Request::*;
use crate::testing::{memory_file, message, number, ring, ring_addresses, single, some_fd, table};
use std::os::unix::net::UnixStream;

const OFFERED: u64 = 1 << 32 | PROTOCOL_FEATURES | 0x29;
const PROTOCOL: u64 = CONFIG | REPLY_ACK | BACKEND_REQ | RESET_DEVICE | MEM_SLOTS | 1;
const USER: u64 = 0x7f00_0000_0000;

/// A front that knows a session with two rings, as after the handshake.
fn front() -> Front {
    let mut front = Front::default();
    assert!(front.learn(GetFeatures, &number(GetFeatures, OFFERED)).unwrap().is_empty());
    let next = front.learn(GetProtocolFeatures, &number(GetProtocolFeatures, PROTOCOL)).unwrap();
    assert_eq!(next.iter().map(|m| m.request().unwrap()).collect::<Vec<_>>(), [SetProtocolFeatures, GetQueueNum]);
    assert_eq!(next[0].u64_at(0), Some(PROTOCOL));
    front.learn(SetProtocolFeatures, &number(SetProtocolFeatures, 0)).unwrap();
    front.learn(GetQueueNum, &number(GetQueueNum, 2)).unwrap();
    front
}

/// The same with features, protocol features and a megabyte of memory at guest address 0.
fn running() -> Front {
    let mut front = front();
    for request in [number(SetProtocolFeatures, PROTOCOL), number(SetFeatures, OFFERED)] {
        forwarded(&mut front, request);
    }
    forwarded(&mut front, table(&[[0, 1 << 20, USER, 0]], vec![memory_file(1 << 20)]));
    front
}

/// Lets the front see a message, and the engine agree to it; what was passed on, and what is to follow it.
fn forwarded(front: &mut Front, message: Message) -> (Message, Vec<Message>) {
    match front.judge(message, |_| {}) {
        Verdict::Forward(message) => {
            let more = front.done(&message);
            (message, more)
        }
        other => panic!("{other:?}"),
    }
}

fn verdict(front: &mut Front, message: Message) -> &'static str {
    match front.judge(message, |_| {}) {
        Verdict::Forward(_) => "forward",
        Verdict::After(..) => "after",
        Verdict::Done => "done",
        Verdict::Answer(_) => "answer",
        Verdict::Decline(_) => "decline",
        Verdict::Refuse(_) => "refuse",
    }
}

#[test]
fn a_session_without_reply_ack_is_of_no_use() {
    assert!(Front::default().learn(GetProtocolFeatures, &number(GetProtocolFeatures, 1)).is_err());
    assert!(front().learn(SetProtocolFeatures, &number(SetProtocolFeatures, 1)).is_err());
    assert!(Front::default().learn(GetFeatures, &message(GetFeatures, [1, 2], vec![])).is_err());
}

#[test]
fn what_was_offered_is_answered_here() {
    let mut front = front();
    for (request, value) in [(GetFeatures, OFFERED), (GetProtocolFeatures, PROTOCOL), (GetQueueNum, 2), (GetStatus, 0)]
    {
        let Verdict::Answer(body) = front.judge(message(request, [], vec![]), |_| {}) else { panic!("{request:?}") };
        assert_eq!(body, value.to_ne_bytes(), "{request:?}");
    }
    assert_eq!(verdict(&mut front, number(SetStatus, 15)), "done");
    let Verdict::Answer(body) = front.judge(message(GetStatus, [], vec![]), |_| {}) else { panic!() };
    assert_eq!(body, 15_u64.to_ne_bytes());
}

#[test]
fn owner_is_passed_on_once() {
    let mut front = front();
    forwarded(&mut front, message(SetOwner, [], vec![]));
    assert_eq!(verdict(&mut front, message(SetOwner, [], vec![])), "done");
    assert_eq!(verdict(&mut front, message(ResetOwner, [], vec![])), "done");
}

#[test]
fn enabling_waits_for_features() {
    let mut front = front();
    for (index, value) in [(0, 1), (1, 1), (0, 0), (1, 0), (1, 1)] {
        assert_eq!(verdict(&mut front, ring(SetVringEnable, index, value)), "done");
    }
    let (_, more) = forwarded(&mut front, number(SetFeatures, OFFERED));
    let sent: Vec<_> =
        more.iter().map(|m| (m.request().unwrap(), m.u32_at(0).unwrap(), m.u32_at(4).unwrap())).collect();
    assert_eq!(sent, [(SetVringEnable, 0, 0), (SetVringEnable, 1, 1)], "the last value of each ring");
    assert_eq!(verdict(&mut front, ring(SetVringEnable, 0, 1)), "forward");
    let (_, more) = forwarded(&mut front, number(SetFeatures, OFFERED));
    assert!(more.is_empty(), "what was held is sent once");
}

#[test]
fn without_protocol_features_rings_are_enabled_by_themselves() {
    let mut front = front();
    assert_eq!(verdict(&mut front, ring(SetVringEnable, 0, 1)), "done");
    let (_, more) = forwarded(&mut front, number(SetFeatures, OFFERED & !PROTOCOL_FEATURES));
    assert!(more.is_empty(), "the backend would hang up");
    assert_eq!(verdict(&mut front, ring(SetVringEnable, 0, 1)), "refuse");
}

#[test]
fn features_that_were_not_offered() {
    let mut front = front();
    assert_eq!(verdict(&mut front, number(SetFeatures, OFFERED | 1 << 60)), "refuse");
    assert_eq!(verdict(&mut front, number(SetFeatures, OFFERED | LOG_ALL)), "refuse");
    assert_eq!(verdict(&mut front, number(SetProtocolFeatures, 1 << 40)), "refuse");
    assert_eq!(verdict(&mut front, number(SetProtocolFeatures, 1 | LOG_SHMFD)), "refuse");
    let (passed, _) = forwarded(&mut front, number(SetProtocolFeatures, 1));
    assert_eq!(
        passed.u64_at(0),
        Some(1 | REPLY_ACK | CONFIG),
        "the engine always acknowledges, and takes what is carried"
    );
    assert_eq!(front.protocol, 1, "the VMM has no more than it asked for");
}

#[test]
fn rings_beyond_the_last_and_bad_values_do_not_reach_the_backend() {
    let mut front = running();
    for request in [SetVringNum, SetVringBase, GetVringBase, SetVringEnable] {
        assert_eq!(verdict(&mut front, ring(request, 2, 1)), "refuse", "{request:?}");
        assert_eq!(verdict(&mut front, ring(request, u32::MAX, 1)), "refuse", "{request:?}");
        assert_eq!(verdict(&mut front, ring(request, 1, 1)), "forward", "{request:?}");
    }
    for (size, expected) in [(0, "refuse"), (1, "forward"), (3, "refuse"), (1024, "forward"), (2048, "refuse")] {
        assert_eq!(verdict(&mut front, ring(SetVringNum, 0, size)), expected, "{size}");
    }
    assert_eq!(verdict(&mut front, ring(SetVringEnable, 0, 2)), "refuse");
}

#[test]
fn ring_addresses_lie_in_memory_and_are_aligned() {
    let mut front = running();
    let good = [USER, USER + 0x3004, USER + 0x2002];
    let cases = [
        (0, good, "forward"),
        (1, good, "after"),
        (2, good, "refuse"),
        (0, [USER + 8, good[1], good[2]], "refuse"),
        (0, [good[0], USER + 2, good[2]], "refuse"),
        (0, [good[0], good[1], USER + 1], "refuse"),
        (0, [USER - 16, good[1], good[2]], "refuse"),
        (0, [good[0], USER + (1 << 20), good[2]], "refuse"),
        (0, [good[0], good[1], u64::MAX - 1], "refuse"),
    ];
    for (flags, [descriptors, used, available], expected) in cases {
        let addresses = ring_addresses(1, flags, descriptors, used, available);
        assert_eq!(verdict(&mut front, addresses), expected, "{flags} {descriptors:#x} {used:#x} {available:#x}");
    }
    assert_eq!(verdict(&mut self::front(), ring_addresses(0, 0, USER, USER, USER)), "refuse", "before any memory");
}

#[test]
fn descriptors_and_the_bit_that_announces_their_absence_agree() {
    let mut front = running();
    for request in [SetVringKick, SetVringCall, SetVringErr] {
        let cases = [
            (0, 1, "forward"),
            (0x100, 0, "forward"),
            (0, 0, "refuse"),
            (0x101, 1, "refuse"),
            (0, 2, "refuse"),
            (2, 1, "refuse"),
        ];
        for (value, count, expected) in cases {
            let fds = (0..count).map(|_| some_fd()).collect();
            let judged = verdict(&mut front, Message { fds, ..number(request, value) });
            assert_eq!(judged, expected, "{request:?} {value:#x} with {count}");
        }
    }
}

#[test]
fn lengths_are_those_of_the_specification() {
    let mut front = running();
    for request in [SetFeatures, SetProtocolFeatures, SetVringNum, SetVringKick, GetVringBase, SetVringAddr, SetStatus]
    {
        for length in [0, 4, 12] {
            assert_eq!(
                verdict(&mut front, message(request, vec![0; length], vec![])),
                "refuse",
                "{request:?} {length}"
            );
        }
    }
    assert_eq!(verdict(&mut front, message(SetOwner, [1], vec![])), "refuse");
}

#[test]
fn configuration_space() {
    let ask = |offset: u32, size: u32, flags: u32, payload: usize| {
        let mut body = [offset, size, flags].map(u32::to_ne_bytes).concat();
        body.extend(vec![0; payload]);
        message(GetConfig, body, vec![])
    };
    let mut front = running();
    assert_eq!(verdict(&mut front, ask(0, 12, 0, 12)), "forward");
    assert_eq!(verdict(&mut front, ask(4000, 96, 1, 96)), "forward");
    for bad in [ask(0, 0, 0, 0), ask(4090, 7, 0, 7), ask(u32::MAX, 1, 0, 1), ask(0, 12, 0, 11), ask(0, 12, 4, 12)] {
        let Verdict::Answer(body) = front.judge(bad, |_| {}) else { panic!() };
        assert_eq!((body.len(), &body[4..8]), (12, &[0; 4][..]), "a failure has no payload");
    }
    assert_eq!(verdict(&mut front, message(GetConfig, [1, 2], vec![])), "answer");
    assert_eq!(verdict(&mut front, message(SetConfig, [0; 13], vec![])), "decline");
    forwarded(&mut front, number(SetProtocolFeatures, 0));
    assert_eq!(verdict(&mut front, ask(0, 12, 0, 12)), "answer", "not negotiated");
}

#[test]
fn backend_channel_is_a_socket_and_negotiated() {
    let socket = || vec![UnixStream::pair().unwrap().0.into()];
    assert_eq!(verdict(&mut front(), message(SetBackendReqFd, [], socket())), "decline");
    let mut front = running();
    assert_eq!(verdict(&mut front, message(SetBackendReqFd, [], socket())), "forward");
    assert_eq!(verdict(&mut front, message(SetBackendReqFd, [], vec![some_fd()])), "refuse");
    assert_eq!(verdict(&mut front, message(SetBackendReqFd, [], vec![])), "refuse");
}

#[test]
fn what_the_backend_would_hang_up_for_is_answered_here() {
    let mut front = running();
    assert_eq!(verdict(&mut front, number(SendRarp, 1)), "done");
    assert_eq!(verdict(&mut front, number(NetSetMtu, 1500)), "done");
    assert_eq!(verdict(&mut front, message(SetLogFd, [], vec![some_fd()])), "done");
    assert_eq!(verdict(&mut front, message(SetLogBase, [0; 16], vec![some_fd()])), "done");
    assert_eq!(verdict(&mut front, number(SetLogBase, 0)), "done");
    assert_eq!(verdict(&mut front, message(SetDeviceStateFd, [0; 8], vec![some_fd()])), "answer");
    assert_eq!(verdict(&mut front, message(CheckDeviceState, [], vec![])), "answer");
    for code in [0, 22, 26, 31, 33, 35, 41, 44, 999, u32::MAX] {
        let unknown = Message { code, flags: 1, body: vec![0; 40], fds: vec![some_fd(), some_fd()] };
        assert_eq!(verdict(&mut front, unknown), "decline", "{code}");
    }
    let (passed, _) = forwarded(&mut front, Message { fds: vec![some_fd()], ..ring(SetVringBase, 0, 5) });
    assert!(passed.fds.is_empty(), "a descriptor that does not belong there is dropped");
}

#[test]
fn regions_come_and_go_and_ring_addresses_follow() {
    const MIB: u64 = 1 << 20;
    let mut front = running();
    let more = [4 * MIB, MIB, USER + 8 * MIB, 0];
    let in_it = || ring_addresses(0, 0, more[2], more[2] + 0x3000, more[2] + 0x2000);
    assert_eq!(verdict(&mut front, in_it()), "refuse");
    assert_eq!(verdict(&mut front, single(AddMemReg, more, vec![memory_file(MIB)])), "forward");
    assert_eq!(verdict(&mut front, in_it()), "forward");
    for (bad, why) in [
        (single(AddMemReg, more, vec![memory_file(MIB)]), "it is there already"),
        (single(AddMemReg, [4 * MIB - 4096, MIB, USER, 0], vec![memory_file(MIB)]), "it overlaps"),
        (single(AddMemReg, [8 * MIB, MIB, USER, 0], vec![memory_file(4096)]), "its file is too short"),
        (single(AddMemReg, [8 * MIB, MIB, USER, 512], vec![memory_file(2 * MIB)]), "its offset is no page's"),
        (single(AddMemReg, [8 * MIB, MIB, USER, 0], vec![]), "it has no file"),
        (message(AddMemReg, [0; 32], vec![memory_file(MIB)]), "it is cut short"),
        (message(RemMemReg, [0; 48], vec![]), "too long"),
    ] {
        assert_eq!(verdict(&mut front, bad), "refuse", "{why}");
    }
    for unknown in [[4 * MIB, 4096, more[2], 0], [5 * MIB, MIB, more[2], 0], [4 * MIB, MIB, USER, 0]] {
        assert_eq!(verdict(&mut front, single(RemMemReg, unknown, vec![])), "decline", "{unknown:x?}");
    }
    // QEMU sends neither the offset nor always no file.
    let removal = single(RemMemReg, [more[0], more[1], more[2], 0], vec![some_fd()]);
    let (passed, _) = forwarded(&mut front, removal);
    assert!(passed.fds.is_empty());
    assert_eq!(verdict(&mut front, in_it()), "refuse");
}

#[test]
fn slots_are_counted_and_given_back() {
    let mut front = running();
    let Verdict::Answer(body) = front.judge(message(GetMaxMemSlots, [], vec![]), |_| {}) else { panic!() };
    assert_eq!(body, 32_u64.to_ne_bytes());
    let region = |i: u64| [i << 24, 4096, USER + (i << 24), 0];
    let add = |i| single(AddMemReg, region(i), vec![memory_file(4096)]);
    for i in 1..32 {
        assert_eq!(verdict(&mut front, add(i)), "forward", "{i}");
    }
    assert_eq!(verdict(&mut front, add(32)), "refuse");
    assert_eq!(verdict(&mut front, single(RemMemReg, region(7), vec![])), "forward");
    assert_eq!(verdict(&mut front, add(32)), "forward");
    // A whole new table takes the place of what was added.
    forwarded(&mut front, table(&[[0, 1 << 20, USER, 0]], vec![memory_file(1 << 20)]));
    assert_eq!(verdict(&mut front, add(1)), "forward");
}

#[test]
fn regions_and_reset_have_to_be_negotiated() {
    let mut front = running();
    forwarded(&mut front, number(SetProtocolFeatures, PROTOCOL & !MEM_SLOTS & !RESET_DEVICE));
    let region = [1 << 24, 4096, USER + (1 << 24), 0];
    assert_eq!(verdict(&mut front, single(AddMemReg, region, vec![memory_file(4096)])), "decline");
    assert_eq!(verdict(&mut front, single(RemMemReg, [0, 1 << 20, USER, 0], vec![])), "decline");
    assert_eq!(verdict(&mut front, message(ResetDevice, [], vec![])), "decline");
}

#[test]
fn a_reset_stops_every_ring_first_and_enabling_waits_again() {
    let mut front = running();
    forwarded(&mut front, ring(SetVringEnable, 0, 1));
    let Verdict::After(before, reset) = front.judge(message(ResetDevice, [], vec![]), |_| {}) else { panic!() };
    let stops: Vec<_> = before.iter().map(|m| (m.request().unwrap(), m.u32_at(0).unwrap())).collect();
    assert_eq!(stops, [(GetVringBase, 0), (GetVringBase, 1)]);
    assert!(front.done(&reset).is_empty());
    assert_eq!(verdict(&mut front, ring(SetVringEnable, 0, 1)), "done", "held back");
    let addresses = ring_addresses(0, 0, USER, USER + 0x3000, USER + 0x2000);
    assert_eq!(verdict(&mut front, addresses), "forward", "the memory stays");
    let (_, more) = forwarded(&mut front, number(SetFeatures, OFFERED));
    assert_eq!(more.len(), 1);
    assert_eq!(verdict(&mut front, message(ResetDevice, [1], vec![])), "refuse");
}

#[test]
fn unsealed_memory_warns_once() {
    let mut front = running();
    let mut warnings = 0;
    for _ in 0..3 {
        front.judge(table(&[[0, 4096, USER, 0]], vec![memory_file(4096)]), |_| warnings += 1);
    }
    assert_eq!(warnings, 0, "`running` has had its warning");
    front = self::front();
    for _ in 0..3 {
        front.judge(table(&[[0, 4096, USER, 0]], vec![memory_file(4096)]), |_| warnings += 1);
    }
    assert_eq!(warnings, 1);
}
