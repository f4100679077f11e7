use super::*;
use crate::message::Request::*;
use crate::request::PROTOCOL_FEATURES;
use crate::testing::{memory_file, message, number, ring_addresses, single, some_fd, table};

const OFFERED: u64 = 1 << 32 | PROTOCOL_FEATURES | LOG_ALL;
const PROTOCOL: u64 =
    super::super::REPLY_ACK | super::super::CONFIG | super::super::MEM_SLOTS | LOG_SHMFD | DEVICE_STATE;
const USER: u64 = 0x7f00_0000_0000;
/// So much memory takes one page of log.
const MEMORY: u64 = 128 << 20;

/// A front whose VMM has acknowledged everything but logging, with two rings and memory at guest address 0.
fn front() -> Front {
    let mut front = Front::default();
    front.learn(GetFeatures, &number(GetFeatures, OFFERED)).unwrap();
    front.learn(GetProtocolFeatures, &number(GetProtocolFeatures, PROTOCOL)).unwrap();
    front.learn(GetQueueNum, &number(GetQueueNum, 2)).unwrap();
    agreed(&mut front, number(SetProtocolFeatures, PROTOCOL));
    agreed(&mut front, number(SetFeatures, OFFERED & !LOG_ALL));
    agreed(&mut front, table(&[[0, MEMORY, USER, 0]], vec![memory_file(MEMORY)]));
    front
}

/// Lets the front see a message that it is to pass on, and the engine agree to it.
fn agreed(front: &mut Front, message: Message) {
    match front.judge(message, |_| {}) {
        Verdict::Forward(message) | Verdict::After(_, message) => drop(front.done(&message)),
        other => panic!("{other:?}"),
    }
}

/// SET_LOG_BASE with a file of `file` bytes.
fn log(size: u64, offset: u64, file: u64) -> Message {
    message(SetLogBase, [size, offset].map(u64::to_ne_bytes).concat(), vec![memory_file(file)])
}

fn answer(front: &mut Front, message: Message) -> u64 {
    match front.judge(message, |_| {}) {
        Verdict::Answer(body) => u64::from_ne_bytes(body.try_into().expect("not a number")),
        other => panic!("{other:?}"),
    }
}

fn refused(front: &mut Front, message: Message) -> String {
    match front.judge(message, |_| {}) {
        Verdict::Refuse(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_is_of_no_use_is_refused_and_so_is_logging() {
    let bad = [
        log(4095, 0, 4096),
        log(0, 0, 4096),
        log(4096, 0, 4095),
        log(4096, 4096, 8191),
        log(4096, 1, 8192),
        log(u64::MAX, 4096, 8192),
        message(SetLogBase, [0; 16], vec![]),
        message(SetLogBase, [0; 8], vec![memory_file(4096)]),
        message(SetLogBase, [4096u64, 0].map(u64::to_ne_bytes).concat(), vec![some_fd()]),
    ];
    for message in bad {
        let what = message.to_string();
        let mut front = front();
        match front.judge(message, |_| {}) {
            Verdict::Answer(body) => assert_eq!(body, [0; 16], "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        refused(&mut front, number(SetFeatures, OFFERED));
        agreed(&mut front, number(SetFeatures, OFFERED & !LOG_ALL));
        agreed(&mut front, log(4096, 0, 4096));
        agreed(&mut front, number(SetFeatures, OFFERED));
        assert!(!refused(&mut front, log(4095, 0, 4096)).is_empty(), "a VMM that logs already would not look");
    }
}

#[test]
fn logging_may_be_on_before_there_is_a_log() {
    let mut front = front();
    agreed(&mut front, number(SetFeatures, OFFERED));
    agreed(&mut front, log(4096, 4096, 8192));
}

#[test]
fn memory_beyond_the_log_waits_for_another_log() {
    let region = || single(AddMemReg, [MEMORY, 4096, USER + MEMORY, 0], vec![memory_file(4096)]);
    let mut front = front();
    agreed(&mut front, log(4096, 0, 4096));
    agreed(&mut front, number(SetFeatures, OFFERED));
    assert!(refused(&mut front, region()).contains("SET_LOG_BASE comes first"));
    agreed(&mut front, log(4097, 0, 4097));
    agreed(&mut front, region());
    let smaller = table(&[[0, MEMORY, USER, 0]], vec![memory_file(MEMORY)]);
    agreed(&mut front, smaller);
    agreed(&mut front, log(4096, 0, 4096));
    agreed(&mut front, number(SetFeatures, OFFERED & !LOG_ALL));
    agreed(&mut front, region());
    assert!(!refused(&mut front, number(SetFeatures, OFFERED)).is_empty());
}

#[test]
fn the_session_is_told_where_a_used_ring_is_logged_and_when_it_is_no_more() {
    let mut front = front();
    let addresses = |flags| ring_addresses(1, flags, USER, USER + 0x2000, USER + 0x1000);
    for (flags, carried) in [(0, false), (1, true), (1, true), (0, true), (0, false)] {
        match front.judge(addresses(flags), |_| {}) {
            Verdict::After(before, _) if carried => assert_eq!(before[0].request(), Some(SetConfig)),
            Verdict::Forward(_) if !carried => {}
            other => panic!("{flags}: {other:?}"),
        }
    }
}

#[test]
fn a_state_is_transferred_one_way_or_the_other_and_in_no_other_phase() {
    let mut front = front();
    let transfer = |direction: u32, phase: u32, fds| {
        message(SetDeviceStateFd, [direction, phase].map(u32::to_ne_bytes).concat(), fds)
    };
    for direction in [0, 1] {
        agreed(&mut front, transfer(direction, 0, vec![some_fd()]));
        agreed(&mut front, message(CheckDeviceState, [], vec![]));
    }
    for bad in [transfer(2, 0, vec![some_fd()]), transfer(0, 1, vec![some_fd()]), transfer(0, 0, vec![])] {
        assert_eq!(answer(&mut front, bad), 0x101);
    }
    assert_eq!(answer(&mut front, transfer(0, 0, vec![some_fd(), some_fd()])), 0x101);
    assert_eq!(answer(&mut front, message(SetDeviceStateFd, [0; 12], vec![some_fd()])), 0x101);
    assert_eq!(answer(&mut front, message(CheckDeviceState, [0; 8], vec![])), 1);
}

#[test]
fn a_transfer_over_which_the_engine_died_has_failed() {
    let mut front = front();
    let begin = || message(SetDeviceStateFd, [0; 8], vec![some_fd()]);
    let check = || message(CheckDeviceState, [], vec![]);
    front.lose_transfer();
    agreed(&mut front, begin());
    agreed(&mut front, check());
    front.lose_transfer();
    agreed(&mut front, begin());
    front.lose_transfer();
    assert_eq!(answer(&mut front, check()), 1);
    agreed(&mut front, begin());
    agreed(&mut front, check());
}
