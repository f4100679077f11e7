//! What a ring tells a VMM's log: each page that it writes, once it is written, and no other.
use crate::guest::{BUFFERS, Guest, NEXT, REGIONS, WRITE};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vonic_queue::{Burst, Direction, DirtyLog, SplitRing};

const PAGE: u64 = 4096;
/// Bits for all of the guest's memory.
const LOG: u64 = (REGIONS[2].0 + REGIONS[2].1) / PAGE / 8;

/// A log, and its file as the VMM has it.
struct Log {
    file: File,
    log: Arc<DirtyLog>,
}

pub fn file(size: u64) -> File {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("vonic-log-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(size).unwrap();
    file
}

impl Log {
    fn new(size: u64) -> Log {
        let file = file(size);
        let log = Arc::new(DirtyLog::map(file.try_clone().unwrap(), 0, size).unwrap());
        Log { file, log }
    }

    /// The addresses of the dirty pages, which are clean from here on.
    fn take(&self) -> Vec<u64> {
        let size = self.file.metadata().unwrap().len();
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        self.file.write_all_at(&vec![0; size as usize], 0).unwrap();
        let bits = (0..8 * size).filter(|page| bytes[(page / 8) as usize] >> (page % 8) & 1 == 1);
        bits.map(|page| page * PAGE).collect()
    }
}

/// A ring whose used ring takes three pages: index and the first entries, more entries, the last entry's end and the event field.
fn long_ring(direction: Direction, event_idx: bool) -> (Guest, SplitRing, Log, Burst) {
    let guest = Guest::new(1024, 0, event_idx);
    let (ring, log) = (guest.ring(direction), Log::new(LOG));
    (guest, ring, log, Burst::with_capacity(64, 1024))
}

fn used(page: u64) -> u64 {
    0x30000 + page * PAGE
}

#[test]
fn every_field_of_the_used_ring_is_logged_where_it_lies() {
    let (mut guest, mut ring, log, mut burst) = long_ring(Direction::GuestToHost, true);
    assert!(log.take().is_empty());
    ring.set_log(Some(Arc::clone(&log.log)), None);
    assert_eq!(log.take(), [used(0), used(1), used(2)], "what stood there before is known to nobody");
    ring.arm();
    assert_eq!(log.take(), [used(2)], "the event field");
    for position in 0..1025u16 {
        guest.chain(0, &[(BUFFERS, 64)], 0);
        guest.post(0);
        burst.clear();
        assert_eq!(ring.fetch(&mut burst, 1), Ok(1));
        ring.push_used(0, 0);
        assert!(log.take().is_empty(), "nothing is to be copied before it is to be seen");
        ring.publish();
        let at = 4 + 8 * u64::from(position % 1024);
        let mut expected = vec![used(0), used(at / PAGE), used((at + 7) / PAGE)];
        expected.dedup();
        assert_eq!(log.take(), expected, "position {position}");
    }
    ring.set_log(None, None);
    ring.arm();
    guest.post(0);
    burst.clear();
    ring.fetch(&mut burst, 1).unwrap();
    ring.push_used(0, 0);
    ring.publish();
    assert!(log.take().is_empty());
}

#[test]
fn the_flags_are_logged_without_event_indices() {
    let (_guest, mut ring, log, _) = long_ring(Direction::HostToGuest, false);
    ring.set_log(Some(Arc::clone(&log.log)), None);
    log.take();
    ring.disarm();
    assert_eq!(log.take(), [used(0)]);
    ring.arm();
    assert_eq!(log.take(), [used(0)]);
}

#[test]
fn of_a_buffer_so_much_is_logged_as_was_written() {
    let (mut guest, mut ring, log, mut burst) = long_ring(Direction::HostToGuest, true);
    ring.set_log(Some(Arc::clone(&log.log)), None);
    // Three chains: one in two regions that are adjacent for the guest only, one that is given back, one behind it.
    let end = REGIONS[0].1;
    guest.chain(0, &[(BUFFERS + 4000, 200), (end - 2 * PAGE, 3 * PAGE as u32)], WRITE);
    guest.chain(2, &[(REGIONS[2].0, 3 * PAGE as u32)], WRITE);
    guest.post(0);
    guest.post(2);
    guest.post(2);
    assert_eq!(ring.fetch(&mut burst, 3), Ok(3));
    log.take();
    ring.unfetch(1);
    ring.push_used(0, 200 + 2 * PAGE as u32 + 1);
    ring.push_used(2, PAGE as u32);
    ring.publish();
    let written = [used(0), BUFFERS, BUFFERS + PAGE, end - 2 * PAGE, end - PAGE, end, REGIONS[2].0];
    assert_eq!(log.take(), written);
    // The chain that was given back is fetched again, and found empty.
    burst.clear();
    assert_eq!(ring.fetch(&mut burst, 3), Ok(1));
    ring.push_used(2, 0);
    ring.publish();
    assert_eq!(log.take(), [used(0)]);
}

#[test]
fn of_a_command_the_answer_is_logged() {
    let (mut guest, mut ring, log, mut burst) = long_ring(Direction::Control, true);
    ring.set_log(Some(Arc::clone(&log.log)), None);
    guest.descriptor(0, BUFFERS, 2 * PAGE as u32, NEXT, 1);
    guest.descriptor(1, BUFFERS + 4 * PAGE, 1, WRITE, 0);
    guest.post(0);
    assert!(ring.fetch_control(&mut burst).unwrap().is_some());
    log.take();
    ring.push_used(0, 1);
    ring.publish();
    assert_eq!(log.take(), [used(0), BUFFERS + 4 * PAGE]);
}

#[test]
fn chains_that_were_fetched_before_there_was_a_log_are_all_of_memory() {
    let (mut guest, mut ring, log, mut burst) = long_ring(Direction::HostToGuest, true);
    guest.chain(0, &[(BUFFERS, 64)], WRITE);
    guest.chain(1, &[(BUFFERS + PAGE, 64)], WRITE);
    guest.post(0);
    assert_eq!(ring.fetch(&mut burst, 1), Ok(1));
    ring.set_log(Some(Arc::clone(&log.log)), None);
    log.take();
    ring.push_used(0, 64);
    ring.publish();
    assert_eq!(log.take().len() as u64, REGIONS.iter().map(|(_, len)| len / PAGE).sum::<u64>());
    guest.post(1);
    assert_eq!(ring.fetch(&mut burst, 1), Ok(1));
    ring.push_used(1, 64);
    ring.publish();
    assert_eq!(log.take(), [used(0), BUFFERS + PAGE], "of the next one it is known where it is");
}

#[test]
fn the_used_ring_is_logged_where_the_vmm_wants_it_too() {
    let (_guest, mut ring, log, _) = long_ring(Direction::HostToGuest, true);
    let alias = REGIONS[2].0;
    ring.set_log(Some(Arc::clone(&log.log)), Some(alias));
    assert_eq!(log.take(), [used(0), used(1), used(2), alias, alias + PAGE, alias + 2 * PAGE]);
    ring.arm();
    assert_eq!(log.take(), [used(2), alias + 2 * PAGE]);
    ring.set_log(Some(Arc::clone(&log.log)), Some(u64::MAX));
    ring.arm();
}

#[test]
fn nothing_is_written_beyond_a_log_that_is_too_short() {
    let (mut guest, mut ring, _, mut burst) = long_ring(Direction::HostToGuest, true);
    let log = Log::new(LOG);
    let short = Arc::new(DirtyLog::map(log.file.try_clone().unwrap(), 0, 1).unwrap());
    ring.set_log(Some(short), None);
    guest.chain(0, &[(0, PAGE as u32), (BUFFERS, 64)], WRITE);
    guest.post(0);
    assert_eq!(ring.fetch(&mut burst, 1), Ok(1));
    ring.push_used(0, PAGE as u32 + 64);
    ring.publish();
    assert_eq!(log.take(), [0], "the file goes on behind what was mapped of it");
}

#[test]
fn a_log_that_cannot_be_is_refused() {
    for (size, offset, len) in
        [(4096, 0, 4097), (4096, 4096, 1), (8192, 1, 4096), (4096, 0, 0), (4096, 1 << 63, 1 << 63)]
    {
        assert!(DirtyLog::map(file(size), offset, len).is_err(), "{size} {offset} {len}");
    }
    let log = DirtyLog::map(file(8192), 4096, 4096).unwrap();
    assert!(!log.is_lost());
}

#[test]
fn with_a_log_nothing_is_kept_back() {
    let (mut guest, mut ring, log, mut burst) = long_ring(Direction::GuestToHost, false);
    ring.set_log(Some(Arc::clone(&log.log)), None);
    guest.chain(0, &[(BUFFERS, 64)], 0);
    guest.post(0);
    assert_eq!(ring.fetch(&mut burst, 1), Ok(1));
    ring.push_read(&burst);
    assert_eq!((ring.publish_but(16), guest.used_index()), (0, 1));
}
