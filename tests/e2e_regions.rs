//! The vhost crate's own frontend, well-behaved and not: memory regions one by one, resets, and what a bad region may break.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmm_sys_util::tempfile::TempFile;
use vonic_tests::frames::{arp_answer, arp_request, ip4, mac};
use vonic_tests::mock::{Chain, Descriptor, GUEST_TO_HOST, MockConfig, MockFrontend, VnetHeader, code};
use vonic_tests::*;

/// Guest address of a region that a test plugs in.
const PLUGGED: u64 = 0x2_0000_0000;
const MIB: u64 = 1 << 20;

/// VM `a` is the test's, VM `b` a neighbour that nothing may touch.
struct Two {
    b: MockFrontend,
    bed: Bed,
}

impl Two {
    fn start() -> Two {
        let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
        let b = bed.mock("b", MockConfig::default()).unwrap();
        Two { b, bed }
    }

    /// A frontend for `a` that tells its memory region by region.
    fn by_regions(&self) -> MockFrontend {
        let mut a = MockFrontend::connect(&self.bed.socket("a"), MockConfig::default()).unwrap();
        a.negotiate().unwrap();
        for region in a.regions().clone() {
            a.frontend().add_mem_region(&region.info()).unwrap();
        }
        a.start_rings().unwrap();
        a.post_buffers().unwrap();
        a
    }

    fn ring_state(&self, index: usize) -> String {
        self.bed.vonicd.vm("a").unwrap()["rings"][index]["state"].as_str().unwrap_or("none").to_string()
    }
}

/// A file of this many bytes.
fn file(size: u64) -> File {
    let file = TempFile::new().unwrap().into_file();
    file.set_len(size).unwrap();
    file
}

fn region(guest: u64, size: u64, file: &File) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: size,
        userspace_addr: 0x7000_0000_0000 + guest,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }
}

/// Sends what lies at [`PLUGGED`]: a frame of `length` bytes with its header.
fn send_plugged(a: &mut MockFrontend, length: usize) -> u32 {
    let memory = a.memory().clone();
    let ring = a.ring(GUEST_TO_HOST);
    let head = ring.reserve(1).unwrap()[0];
    let descriptor = Descriptor { address: PLUGGED, length: length as u32, flags: 0, next: 0 };
    ring.write_descriptor(&memory, head, descriptor).unwrap();
    ring.make_available(&memory, head).unwrap();
    ring.kick.write(1).unwrap();
    a.wait_sent(head).unwrap()
}

#[test]
fn regions_come_and_go_while_frames_pass() {
    let two = Two::start();
    let mut a = two.by_regions();
    // Receive, transmit, control.
    assert_eq!(a.frontend().get_queue_num().unwrap(), 3);
    assert_eq!(a.frontend().get_max_mem_slots().unwrap(), 32);
    assert_eq!(a.device_config(6).unwrap(), mac(2));
    a.gateway_answers(2).unwrap();

    let memory = file(MIB);
    let question = [&VnetHeader::default().encode()[..], &arp_request(2, ip4(1))].concat();
    memory.write_all_at(&question, 0).unwrap();
    for round in 0..20 {
        a.frontend().add_mem_region(&region(PLUGGED, MIB, &memory)).unwrap();
        assert_eq!(send_plugged(&mut a, question.len()), 0);
        let answer = |frame: &[u8]| arp_answer(frame, ip4(1)).is_some();
        a.expect_frame("answer to a frame in the new region", seconds(5), answer).unwrap();
        a.frontend().remove_mem_region(&region(PLUGGED, MIB, &memory)).unwrap();
        // Now it is nobody's memory: the frame is dropped, the ring goes on.
        let before = drops(&two);
        assert_eq!(send_plugged(&mut a, question.len()), 0);
        wait_until("a drop", seconds(5), || drops(&two) > before).with_context(|| format!("round {round}")).unwrap();
        a.gateway_answers(2).unwrap();
    }
    // A whole table in place of the regions, and a region on top of it.
    a.share_memory().unwrap();
    a.frontend().add_mem_region(&region(PLUGGED, MIB, &memory)).unwrap();
    assert_eq!(send_plugged(&mut a, question.len()), 0);
    a.expect_frame("answer", seconds(5), |frame| arp_answer(frame, ip4(1)).is_some()).unwrap();
    two.bed.vonicd.stop().unwrap();
}

fn drops(two: &Two) -> u64 {
    two.bed.vonicd.vm("a").unwrap()["drops"].as_u64().unwrap()
}

#[test]
fn a_reset_device_is_as_it_was_before_its_driver() {
    let mut two = Two::start();
    let mut a = two.by_regions();
    for _ in 0..10 {
        a.gateway_answers(2).unwrap();
        a.frontend().reset_device().unwrap();
        let vm = two.bed.vonicd.vm("a").unwrap();
        assert_eq!((&vm["connected"], &vm["driver_ready"]), (&true.into(), &false.into()));
        assert_eq!(vm["features_negotiated"].as_array().unwrap().len(), 0, "{vm}");
        // Nobody looks at the rings any more; a frame for it is dropped at its door.
        let memory = a.memory().clone();
        let frame = [&VnetHeader::default().encode()[..], &arp_request(2, ip4(1))].concat();
        let chain = Chain { lengths: vec![frame.len() as u32], writable: false, indirect: false };
        let ring = a.ring(GUEST_TO_HOST);
        let head = ring.add(&memory, &chain, &frame).unwrap();
        ring.kick.write(1).unwrap();
        two.b.gateway_answers(3).unwrap();
        assert!(a.wait_used(GUEST_TO_HOST, seconds(0)).unwrap().is_none());
        // The next driver: the memory is still known, features come again, enabling before them is held back.
        for index in [0, 1] {
            a.raw().ask(code::SET_VRING_ENABLE, &[index, 1].map(u32::to_le_bytes).concat(), &[]).unwrap();
        }
        let features = a.features();
        a.frontend().set_features(features).unwrap();
        a.start_rings().unwrap();
        assert_eq!(a.wait_sent(head).unwrap(), 0);
    }
    two.b.gateway_answers(3).unwrap();
    two.bed.vonicd.stop().unwrap();
}

/// User-mode Linux unloads its driver with SET_VRING_ENABLE and no more; the next one may find the same pages for its rings.
#[test]
fn a_driver_that_begins_anew_in_the_same_place_is_followed() {
    let mut two = Two::start();
    let mut a = two.by_regions();
    for round in 0..5 {
        for _ in 0..=round {
            a.gateway_answers(2).unwrap();
        }
        for index in [1, 0] {
            a.enable_ring(index, false).unwrap();
        }
        a.clear_rings().unwrap();
        let features = a.features();
        a.frontend().set_features(features).unwrap();
        a.share_memory().unwrap();
        a.start_rings().unwrap();
        a.post_buffers().unwrap();
        a.gateway_answers(2).with_context(|| format!("round {round}")).unwrap();
    }
    two.b.gateway_answers(3).unwrap();
    assert_eq!(two.bed.vonicd.vm("a").unwrap()["last_error"], serde_json::Value::Null);
    two.bed.vonicd.stop().unwrap();
}

#[test]
fn bad_regions_are_refused_one_by_one() {
    let mut two = Two::start();
    let mut a = two.by_regions();
    let (memory, small) = (file(MIB), file(4096));
    let known = a.regions()[0].clone();
    let body =
        |guest: u64, size: u64, user: u64, offset: u64| [0, guest, size, user, offset].map(u64::to_le_bytes).concat();
    let user = 0x7000_0000_0000;
    let fd = memory.as_raw_fd();
    let cases = [
        ("it is there already", code::ADD_MEM_REG, body(known.guest, known.size, known.user, 0), vec![known.file]),
        ("it overlaps the first", code::ADD_MEM_REG, body(known.guest + known.size - 4096, MIB, user, 0), vec![fd]),
        ("larger than its file", code::ADD_MEM_REG, body(PLUGGED, MIB, user, 0), vec![small.as_raw_fd()]),
        ("an offset within a page", code::ADD_MEM_REG, body(PLUGGED, 4096, user, 512), vec![fd]),
        ("an end that wraps", code::ADD_MEM_REG, body(u64::MAX - 4095, MIB, user, 0), vec![fd]),
        ("no bytes", code::ADD_MEM_REG, body(PLUGGED, 0, user, 0), vec![fd]),
        ("no file", code::ADD_MEM_REG, body(PLUGGED, MIB, user, 0), vec![]),
        ("two files", code::ADD_MEM_REG, body(PLUGGED, MIB, user, 0), vec![fd, fd]),
        ("a short body", code::ADD_MEM_REG, vec![0; 32], vec![fd]),
        ("removal of what is not there", code::REM_MEM_REG, body(PLUGGED, MIB, user, 0), vec![]),
        ("removal of half of it", code::REM_MEM_REG, body(known.guest, known.size / 2, known.user, 0), vec![]),
        ("removal by another address", code::REM_MEM_REG, body(known.guest, known.size, user, 0), vec![]),
        ("a short removal", code::REM_MEM_REG, vec![0; 8], vec![]),
    ];
    for (what, request, body, files) in cases {
        let reply = a.raw().ask(request, &body, &files).unwrap();
        assert_eq!(reply.acknowledged(), Some(false), "{what}");
        a.gateway_answers(2).context(what).unwrap();
    }
    // Two slots are taken; thirty more fit.
    let slot = |i: u64| region(PLUGGED + i * MIB, 4096, &small);
    for i in 0..30 {
        a.frontend().add_mem_region(&slot(i)).unwrap();
    }
    assert!(a.frontend().add_mem_region(&slot(30)).is_err(), "the 33rd");
    a.frontend().remove_mem_region(&slot(7)).unwrap();
    a.frontend().add_mem_region(&slot(30)).unwrap();
    a.gateway_answers(2).unwrap();
    two.b.gateway_answers(3).unwrap();
    two.bed.vonicd.stop().unwrap();
}

#[test]
fn memory_taken_from_under_the_rings_stops_them_alone() {
    let mut two = Two::start();
    let mut a = two.by_regions();
    a.gateway_answers(2).unwrap();
    let under = a.regions()[0].clone();
    for _ in 0..3 {
        a.frontend().remove_mem_region(&under.info()).unwrap();
        for index in [0, 1] {
            wait_until("a broken ring", seconds(5), || two.ring_state(index).contains("broken")).unwrap();
        }
        a.ring(GUEST_TO_HOST).kick.write(1).unwrap();
        two.b.gateway_answers(3).unwrap();
        assert!(two.bed.vonicd.log().contains("stands still until its driver resets it"), "{}", two.bed.vonicd.log());
        // The same memory again, and the rings anew.
        a.frontend().add_mem_region(&under.info()).unwrap();
        for index in [0, 1] {
            a.stop_ring(index).unwrap();
            a.start_ring(index).unwrap();
        }
        a.gateway_answers(2).unwrap();
    }
    // Without any memory at all, down to the last region, and away.
    for region in a.regions().clone() {
        a.frontend().remove_mem_region(&region.info()).unwrap();
    }
    assert_eq!(a.frontend().get_max_mem_slots().unwrap(), 32);
    drop(a);
    two.b.gateway_answers(3).unwrap();
    two.by_regions().gateway_answers(2).unwrap();
    two.bed.vonicd.stop().unwrap();
}
