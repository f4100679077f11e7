//! What a VMM needs of its backend to move a guest: a log of the memory that it writes, rings that stand where the guest's used index
//! stands, and the port's state.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostTransferStatePhase};
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::line::Line;
use vonic_tests::mock::{
    self, Chain, Copy, DirtyLog, GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature,
};
use vonic_tests::wire::{HOST, HandGuest};
use vonic_tests::*;

const FORWARD: &str = "[[forward]]\nproto = \"udp\"\nlisten = \"127.0.0.1:7007\"\nport = 9\n";

fn bed() -> Bed {
    Bed::start(&TestConfig::default().vm("a", 2, FORWARD).vm("b", 3, "")).unwrap()
}

/// Everything that a device writes for its guest: answers of services, switched frames in one buffer and in many, payload that
/// recvmsg puts there, fragments, answers to commands, indices and event fields.
fn all_kinds_of_traffic(guest: &mut HandGuest, line: &mut Line, other: &mut MockFrontend, round: u8) {
    guest.mock.gateway_answers(2).unwrap();
    line.exchange(guest).unwrap();
    let frame = frames::ethernet(mac(2), mac(3), 0x88b5, &vec![round; 1400 + usize::from(round)]);
    other.send_frame(&VnetHeader::default(), &frame).unwrap();
    guest.mock.expect_frame("the neighbour's frame", seconds(5), |got| *got == frame).unwrap();
    let world = UdpSocket::bind("127.0.0.1:0").unwrap();
    world.send_to(&[round; 4000], "127.0.0.1:7007").unwrap();
    guest.mock.expect_frame("the datagram", seconds(5), |got| got[12..14] == [8, 0] && got[23] == 17).unwrap();
    let ping = frames::ping((mac(2), guest.gateway), ip4(2), HOST, round.into(), &[round; 700]);
    guest.mock.send_shaped(&VnetHeader::default(), &ping, &[12, 14, 20], round.is_multiple_of(2)).unwrap();
    guest.mock.expect_frame("the ping's answer", seconds(5), |got| got[23] == 1).unwrap();
    assert_eq!(guest.mock.command(0, 0, &[round % 2]).unwrap(), 0);
}

/// Ends the copying also if a check fails meanwhile.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Copies as a VMM does, all the time, while `work` is done, and once more when every ring is stopped. What only the device writes
/// must be the same in the copy, byte for byte: what it wrote and did not log, or logged before it wrote, is not.
fn whole_copy(guest: &mut HandGuest, work: impl FnOnce(&mut HandGuest)) -> (Copy, Vec<u16>) {
    let mut copy = guest.mock.start_copy().unwrap();
    let over = AtomicBool::new(false);
    let stopped = thread::scope(|scope| {
        let copier = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                copy.catch_up().unwrap();
                thread::sleep(Duration::from_micros(200));
            }
        });
        let end = Over(&over);
        work(guest);
        let stopped = guest.mock.stop_rings().unwrap();
        drop(end);
        copier.join().unwrap();
        stopped
    });
    copy.catch_up().unwrap();
    for range in guest.mock.device_memory() {
        let different = copy.differences(range.clone()).unwrap();
        assert!(different.is_empty(), "of {range:x?} the copy differs at {different:x?}");
    }
    (copy, stopped)
}

fn kill_engine(bed: &Bed) {
    let old = bed.vonicd.engine().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
}

fn hand_guest(bed: &Bed, buffer: Vec<u32>, features: u64) -> HandGuest {
    let config =
        MockConfig { features: features | feature::CTRL_VQ | feature::CTRL_RX, buffer, ..MockConfig::default() };
    HandGuest::start_configured(bed, "a", 2, config).unwrap()
}

/// Guests with buffers of 64 KiB, with small ones that are merged, and with chains of several; with events by index and by flag.
#[test]
fn the_copy_by_the_log_is_the_guests_memory() {
    let bed = bed();
    let mut other = bed.mock("b", MockConfig::default()).unwrap();
    for (buffer, features) in [
        (vec![65_562], feature::ALL),
        (vec![1526], feature::ALL & !feature::RING_EVENT_IDX),
        (vec![12, 100, 1400, 700], feature::ALL),
    ] {
        let mut guest = hand_guest(&bed, buffer.clone(), features);
        let mut line = Line::guest_opens(&mut guest, 4000).unwrap();
        let (copy, _) = whole_copy(&mut guest, |guest| {
            (0..20).for_each(|round| all_kinds_of_traffic(guest, &mut line, &mut other, round));
        });
        // Nothing else is logged: neither what the driver writes nor buffers that were never used.
        let device = guest.mock.device_memory();
        let inside = |page: &u64| device.iter().any(|range| range.contains(page)) || guest.mock.is_command(*page);
        let outside: Vec<_> = copy.dirty.iter().filter(|page| !inside(page)).collect();
        assert!(outside.is_empty(), "{buffer:?}: {outside:x?}");
        let rings = guest.mock.device_memory().len() - 1;
        assert!(copy.dirty.len() > rings + 20, "{buffer:?}: only {} pages", copy.dirty.len());
    }
}

/// The engine dies twice in the middle of a migration, and the VMM notices nothing: what it had shown the guest was logged.
#[test]
fn an_engines_death_leaves_the_copy_whole() {
    let bed = bed();
    let mut other = bed.mock("b", MockConfig::default()).unwrap();
    let mut guest = hand_guest(&bed, vec![1526], feature::ALL);
    whole_copy(&mut guest, |guest| {
        for round in 0..3 {
            let mut line = Line::guest_opens(guest, 4000 + round).unwrap();
            (0..5).for_each(|round| all_kinds_of_traffic(guest, &mut line, &mut other, round));
            drop(line);
            // Not every frame of a moment without an engine arrives, but those that wait in the ring do.
            let busy = guest.mock.queue_frame_on(0, &VnetHeader::default(), &frames::arp_request(2, ip4(1))).unwrap();
            if round < 2 {
                kill_engine(&bed);
            }
            guest.mock.notify_on(0).unwrap();
            guest.mock.wait_sent(busy).unwrap();
        }
    });
}

/// Frames to the guest, so many that every kind of write happens; how many pages are dirty by then.
fn pages_of(guest: &mut HandGuest, copy: &DirtyLog) -> usize {
    copy.take().unwrap();
    for _ in 0..10 {
        guest.mock.gateway_answers(2).unwrap();
    }
    copy.take().unwrap().len()
}

#[test]
fn logging_is_turned_on_and_off_and_moved_while_rings_run() {
    let bed = bed();
    let mut guest = hand_guest(&bed, vec![1526], feature::ALL);
    let logs = [guest.mock.new_log().unwrap(), guest.mock.new_log().unwrap()];
    guest.mock.set_log(&logs[0]).unwrap();
    assert_eq!(pages_of(&mut guest, &logs[0]), 0, "a log is not an order to keep it");
    guest.mock.log_all(true).unwrap();
    assert!(pages_of(&mut guest, &logs[0]) >= 10);
    guest.mock.set_log(&logs[1]).unwrap();
    assert_eq!(pages_of(&mut guest, &logs[0]), 0, "the old log is used no more once the new one is acknowledged");
    assert!(pages_of(&mut guest, &logs[1]) >= 10);
    guest.mock.share_memory().unwrap();
    assert!(pages_of(&mut guest, &logs[1]) >= 10, "another memory map is logged as well");
    guest.mock.log_all(false).unwrap();
    assert_eq!(pages_of(&mut guest, &logs[1]), 0);
    guest.mock.log_all(true).unwrap();
    assert!(pages_of(&mut guest, &logs[1]) >= 10);
    guest.mock.stop_rings().unwrap();
    guest.mock.start_rings().unwrap();
    assert!(pages_of(&mut guest, &logs[1]) >= 10, "a ring that starts anew is logged");
}

/// QEMU plugs memory in during a migration: first another log, then the memory.
#[test]
fn memory_comes_while_its_guest_is_on_the_move() {
    let bed = bed();
    let mut guest = hand_guest(&bed, vec![1526], feature::ALL);
    let log = guest.mock.new_log().unwrap();
    guest.mock.set_log(&log).unwrap();
    guest.mock.log_all(true).unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(bed.directory.path().join("dimm")).unwrap();
    file.set_len(1 << 20).unwrap();
    let plugged = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0x2_0000_0000,
        memory_size: 1 << 20,
        userspace_addr: 0x7000_0000_0000,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    let refused = guest.mock.frontend().add_mem_region(&plugged);
    assert!(refused.is_err(), "there are no bits for it");
    assert!(bed.vonicd.log().contains("SET_LOG_BASE comes first"));
    let larger = DirtyLog::below(plugged.guest_phys_addr + plugged.memory_size).unwrap();
    guest.mock.set_log(&larger).unwrap();
    guest.mock.frontend().add_mem_region(&plugged).unwrap();
    assert!(pages_of(&mut guest, &larger) >= 10);
    guest.mock.frontend().remove_mem_region(&plugged).unwrap();
    assert!(pages_of(&mut guest, &larger) >= 10);
}

#[test]
fn a_log_that_is_too_short_fails_the_migration_and_nothing_else() {
    let bed = bed();
    let mut guest = hand_guest(&bed, vec![1526], feature::ALL);
    let short = DirtyLog::below(mock::BUFFERS).unwrap();
    assert!(guest.mock.set_log(&short).is_err());
    assert!(guest.mock.log_all(true).is_err(), "QEMU does not look at the answer to SET_LOG_BASE");
    guest.mock.gateway_answers(2).unwrap();
    let log = guest.mock.new_log().unwrap();
    guest.mock.set_log(&log).unwrap();
    guest.mock.log_all(true).unwrap();
    assert!(pages_of(&mut guest, &log) >= 10);
}

/// A log that a VMM truncates under the worker costs that VMM its port, and nobody else anything.
#[test]
fn a_log_that_is_truncated_ends_its_own_port_alone() {
    let bed = bed();
    let mut other = bed.mock("b", MockConfig::default()).unwrap();
    let mut guest = hand_guest(&bed, vec![1526], feature::ALL);
    let log = guest.mock.new_log().unwrap();
    guest.mock.set_log(&log).unwrap();
    guest.mock.log_all(true).unwrap();
    let engine = bed.vonicd.engine().unwrap();
    log.file.set_len(0).unwrap();
    // What was under way in that round is still seen, and nothing after it.
    let _ = guest.mock.gateway_answers(2);
    wait_until("the end of the port", seconds(5), || bed.vonicd.log().contains("out of service")).unwrap();
    assert!(guest.mock.send_frame(&VnetHeader::default(), &frames::arp_request(2, ip4(1))).is_err());
    other.gateway_answers(3).unwrap();
    assert_eq!(bed.vonicd.engine().unwrap(), engine, "the engine has survived it");
    drop(guest);
    hand_guest(&bed, vec![1526], feature::ALL);
}

/// GET_VRING_BASE: what the guest has made available, and the device has not returned, is the next host's.
#[test]
fn a_stopped_ring_stands_at_its_used_index() {
    let bed = bed();
    let mut guest = hand_guest(&bed, vec![1526], feature::ALL);
    for _ in 0..3 {
        guest.mock.gateway_answers(2).unwrap();
    }
    assert_eq!(guest.mock.command(0, 0, &[1]).unwrap(), 0);
    // Chains that the device is not told of, and does not look for before it lets go of the ring.
    let asleep = || thread::sleep(Duration::from_millis(50));
    let question = frames::arp_request(2, ip4(1));
    let (control, memory) = (guest.mock.control(), guest.mock.memory().clone());
    asleep();
    let mut queue = || guest.mock.queue_frame_on(0, &VnetHeader::default(), &question).unwrap();
    let waiting = [queue(), queue()];
    let mut stood = vec![(GUEST_TO_HOST, guest.mock.stop_ring(GUEST_TO_HOST).unwrap())];
    asleep();
    let command = Chain { lengths: vec![2], writable: false, indirect: false };
    guest.mock.ring(control).add(&memory, &command, &[0, 0]).unwrap();
    for index in [control, HOST_TO_GUEST] {
        stood.push((index, guest.mock.stop_ring(index).unwrap()));
    }
    for (index, stood) in stood {
        let ring = guest.mock.ring(index);
        assert_eq!(stood, ring.last_used, "ring {index}");
        assert_ne!(stood, ring.next_available, "ring {index}");
    }
    guest.mock.start_rings().unwrap();
    guest.mock.notify_on(0).unwrap();
    for head in waiting {
        guest.mock.wait_sent(head).unwrap();
        guest.mock.expect_frame("an answer", seconds(5), |frame| frames::arp_answer(frame, ip4(1)).is_some()).unwrap();
    }
    guest.mock.ring(control).notify(&memory).unwrap();
    let returned = guest.mock.wait_used(control, seconds(5)).unwrap().unwrap();
    assert_eq!(returned.length, 0, "there was no room for an answer");
    assert_eq!(guest.mock.command(0, 0, &[0]).unwrap(), 0);
}

/// SET_DEVICE_STATE_FD with one end of a pipe; the other.
fn transfer(mock: &mut MockFrontend, direction: VhostTransferStateDirection) -> Result<File> {
    let (read, write) = std::io::pipe().unwrap();
    let (theirs, ours): (OwnedFd, OwnedFd) = match direction {
        VhostTransferStateDirection::SAVE => (write.into(), read.into()),
        VhostTransferStateDirection::LOAD => (read.into(), write.into()),
    };
    let back = mock.frontend().set_device_state_fd(direction, VhostTransferStatePhase::STOPPED, theirs)?;
    assert!(back.is_none());
    Ok(ours.into())
}

#[test]
fn an_engine_that_dies_over_a_state_fails_the_migration_and_nothing_else() {
    let bed = bed();
    let mut guest = hand_guest(&bed, vec![1526], feature::ALL);
    guest.mock.stop_rings().unwrap();
    let pipe = transfer(&mut guest.mock, VhostTransferStateDirection::LOAD).unwrap();
    kill_engine(&bed);
    assert!(guest.mock.frontend().check_device_state().is_err());
    drop(pipe);
    guest.mock.start_rings().unwrap();
    guest.mock.gateway_answers(2).unwrap();
}
