use super::*;
use crate::message::Request::*;
use crate::testing::{
    CLOUD_HYPERVISOR, QEMU, QEMU_SLOTS, UML, memory_file, message, number, recorded_requests, ring, ring_addresses,
    single, some_fd, table,
};
use std::collections::BTreeSet;

/// A message by its request, its ring or number, and its descriptors' count.
fn brief(message: &Message) -> (Request, u32, usize) {
    (message.request().unwrap(), ring_of(message), message.fds.len())
}

fn journal_of(trace: &str) -> Journal {
    let mut journal = Journal::default();
    recorded_requests(trace).into_iter().for_each(|message| journal.note(message));
    journal
}

/// The state of a backend that carries messages out, told without the journal's help.
#[derive(Debug, Default, PartialEq)]
struct State {
    session: BTreeMap<Request, Vec<u8>>,
    /// Guest address, size, the VMM's address and file offset.
    regions: BTreeSet<[u64; 4]>,
    rings: BTreeMap<(u32, Request), Vec<u8>>,
}

impl State {
    fn carry_out(&mut self, message: &Message) {
        let ring = ring_of(message);
        let words = |at: usize| [0, 8, 16, 24].map(|word| message.u64_at(at + word).unwrap());
        match message.request().unwrap() {
            GetVringBase => {
                for forgotten in [SetVringBase, SetVringAddr, SetVringKick, SetVringCall] {
                    self.rings.remove(&(ring, forgotten));
                }
            }
            ResetDevice => {
                self.session.remove(&SetFeatures);
                self.rings.retain(|(_, request), _| *request == SetVringErr);
            }
            SetMemTable => self.regions = (8..message.body.len()).step_by(32).map(words).collect(),
            AddMemReg => drop(self.regions.insert(words(8))),
            RemMemReg => drop(self.regions.remove(&words(8))),
            request @ (SetOwner | SetFeatures | SetProtocolFeatures | SetBackendReqFd) => {
                self.session.insert(request, message.body.clone());
            }
            request if RING_ORDER.contains(&request) => {
                self.rings.insert((ring, request), message.body.clone());
            }
            _ => {}
        }
    }
}

#[test]
fn replaying_a_recording_brings_about_the_same_state() {
    let all = [("QEMU", QEMU), ("slots", QEMU_SLOTS), ("UML", UML), ("cloud-hypervisor", CLOUD_HYPERVISOR)];
    for (name, trace) in all {
        let requests = recorded_requests(trace);
        for end in 0..=requests.len() {
            let (mut recorded, mut replayed) = (State::default(), State::default());
            requests[..end].iter().for_each(|message| recorded.carry_out(message));
            let mut journal = Journal::default();
            recorded_requests(trace).into_iter().take(end).for_each(|message| journal.note(message));
            journal.replay().into_iter().for_each(|message| replayed.carry_out(message));
            assert_eq!(recorded, replayed, "{name}, after {end} messages");
        }
    }
}

#[test]
fn a_stopped_ring_is_replayed_as_stopped() {
    // The recording of QEMU ends after its guest was switched off: GET_VRING_BASE of both rings, then SET_VRING_ENABLE.
    let replay: Vec<_> = journal_of(QEMU).replay().into_iter().map(brief).collect();
    let session = [(SetOwner, 0, 0), (SetProtocolFeatures, 9, 0), (SetFeatures, 0x5000_9983, 0), (SetMemTable, 1, 1)];
    assert_eq!(replay[..4], session);
    let ring = |i| [(SetVringNum, i, 0), (SetVringErr, i, 1), (SetVringEnable, i, 0)];
    assert_eq!(replay[4..], [ring(0), ring(1)].concat());
}

#[test]
fn a_running_ring_gets_its_kick_after_all_that_a_start_needs() {
    let running = QEMU.lines().take_while(|line| !line.starts_with("> code=11 ")).collect::<Vec<_>>().join("\n");
    let replay: Vec<_> = journal_of(&running).replay().into_iter().map(brief).collect();
    let ring = |i| {
        [
            (SetVringNum, 0),
            (SetVringBase, 0),
            (SetVringAddr, 0),
            (SetVringErr, 1),
            (SetVringCall, 1),
            (SetVringKick, 1),
            (SetVringEnable, 0),
        ]
        .map(|(request, fds)| (request, i, fds))
    };
    assert_eq!(replay[4..], [ring(0), ring(1)].concat());
}

#[test]
fn the_last_value_counts_and_older_descriptors_are_closed() {
    let (old, witness) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut journal = Journal::default();
    journal.note(Message { fds: vec![old.into()], ..number(SetVringCall, 1) });
    assert!(!crate::sys::hung_up(std::os::fd::AsFd::as_fd(&witness)));
    journal.note(Message { fds: vec![some_fd()], ..number(SetVringCall, 1) });
    assert!(crate::sys::hung_up(std::os::fd::AsFd::as_fd(&witness)));
    journal.note(ring(SetVringEnable, 1, 1));
    journal.note(ring(SetVringEnable, 1, 0));
    let replay = journal.replay();
    assert_eq!(replay.iter().map(|m| brief(m)).collect::<Vec<_>>(), [(SetVringCall, 1, 1), (SetVringEnable, 1, 0)]);
    assert_eq!(replay[1].u32_at(4), Some(0));
}

#[test]
fn questions_are_not_kept() {
    let mut journal = Journal::default();
    for request in [GetFeatures, GetProtocolFeatures, GetQueueNum, GetConfig, GetStatus] {
        journal.note(number(request, 0));
    }
    assert!(journal.replay().is_empty());
}

const MIB: u64 = 1 << 20;
const USER: u64 = 0x7000_0000;

/// Two regions, the second one added, and a ring in each.
fn two_regions() -> Journal {
    let mut journal = Journal::default();
    journal.note(number(SetFeatures, 1 << 30));
    journal.note(table(&[[0, MIB, USER, 0]], vec![memory_file(MIB)]));
    journal.note(single(AddMemReg, [4 * MIB, MIB, USER + 4 * MIB, 0], vec![memory_file(MIB)]));
    for index in [0, 1] {
        let at = USER + u64::from(index) * 4 * MIB;
        journal.note(ring(SetVringNum, index, 256));
        journal.note(ring_addresses(index, 0, at, at + 0x3000, at + 0x2000));
        journal.note(Message { fds: vec![some_fd()], ..number(SetVringKick, u64::from(index)) });
        journal.note(ring(SetVringEnable, index, 1));
    }
    journal
}

#[test]
fn a_ring_without_its_memory_is_replayed_as_not_started() {
    let ring = |i: u32| vec![(SetVringNum, i, 0), (SetVringAddr, i, 0), (SetVringKick, i, 1), (SetVringEnable, i, 0)];
    let rest = |i: u32| vec![(SetVringNum, i, 0), (SetVringEnable, i, 0)];
    let replay = |journal: &Journal| journal.replay().into_iter().map(brief).collect::<Vec<_>>();
    let mut journal = two_regions();
    assert_eq!(replay(&journal)[1..], [vec![(SetMemTable, 2, 2)], ring(0), ring(1)].concat());
    journal.note(single(RemMemReg, [4 * MIB, MIB, USER + 4 * MIB, 0], vec![]));
    assert_eq!(replay(&journal)[1..], [vec![(SetMemTable, 1, 1)], ring(0), rest(1)].concat());
    journal.note(single(RemMemReg, [0, MIB, USER, 0], vec![]));
    assert_eq!(replay(&journal)[1..], [rest(0), rest(1)].concat());
    journal.note(single(AddMemReg, [0, MIB, USER, 0], vec![memory_file(MIB)]));
    assert_eq!(replay(&journal)[1..], [vec![(SetMemTable, 1, 1)], ring(0), rest(1)].concat());
}

#[test]
fn after_a_reset_only_the_session_and_its_memory_are_left() {
    let mut journal = two_regions();
    journal.note(message(SetOwner, [], vec![]));
    journal.note(Message { fds: vec![some_fd()], ..number(SetVringErr, 1) });
    journal.note(message(ResetDevice, [], vec![]));
    let left = [(SetOwner, 0, 0), (SetMemTable, 2, 2), (SetVringErr, 1, 1)];
    assert_eq!(journal.replay().into_iter().map(brief).collect::<Vec<_>>(), left);
}
