//! What a VMM needs of its backend to move a guest: a log of the memory that it writes, rings that stand where the guest's used index
//! stands, and the port's state.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::line::Line;
use vonic_tests::mock::{Copy, GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature};
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
    let ping = frames::ping((mac(2), guest.gateway), ip4(2), HOST, round.into(), &[round; 700]);
    guest.mock.send_shaped(&VnetHeader::default(), &ping, &[12, 14, 20], round.is_multiple_of(2)).unwrap();
    guest.mock.expect_frame("the ping's answer", seconds(5), |got| got[23] == 1).unwrap();
    let world = UdpSocket::bind("127.0.0.1:0").unwrap();
    world.send_to(&[round; 4000], "127.0.0.1:7007").unwrap();
    guest.mock.expect_frame("the datagram", seconds(5), |got| got[12..14] == [8, 0] && got[23] == 17).unwrap();
    assert_eq!(guest.mock.command(0, 0, &[round % 2]).unwrap(), 0);
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
        work(guest);
        let stopped = guest.mock.stop_rings().unwrap();
        over.store(true, Ordering::Relaxed);
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
