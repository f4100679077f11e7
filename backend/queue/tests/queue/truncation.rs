//! A VMM that takes memory back: its guest's bytes read as zeros, nobody else notices, and the map says so.
use std::fs::File;
use std::sync::Arc;

use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vonic_queue::{Burst, Direction, MemoryMap, RingSetup, SplitRing, survive_truncation};

const LEN: u64 = 0x1_0000;
const SETUP: RingSetup = RingSetup { size: 4, descriptors: 0x1000, available: 0x2000, used: 0x3000, event_idx: false };

/// Guest memory on a file of no name, with one chain of 8 bytes posted.
fn shared_memory(name: &str) -> (File, GuestMemoryMmap<()>) {
    let path = std::env::temp_dir().join(format!("vonic-truncation-{}-{name}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(LEN).unwrap();
    let range = (GuestAddress(0), LEN as usize, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
    let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    memory.write_obj(0x8000u64, GuestAddress(SETUP.descriptors)).unwrap();
    memory.write_obj(8u32, GuestAddress(SETUP.descriptors + 8)).unwrap();
    memory.write_obj(1u16, GuestAddress(SETUP.available + 2)).unwrap();
    memory.write_slice(b"8 bytes.", GuestAddress(0x8000)).unwrap();
    (file, memory)
}

fn first_bytes(map: &Arc<MemoryMap>) -> [u8; 8] {
    let mut ring = SplitRing::new(map, &SETUP, Direction::GuestToHost).unwrap();
    let mut burst = Burst::with_capacity(4, 16);
    let mut bytes = [0; 8];
    if ring.fetch(&mut burst, 1).unwrap() == 1 {
        burst.read(0, 0, &mut bytes);
    }
    bytes
}

#[test]
fn truncated_memory_reads_as_zeros_and_is_known_as_lost() {
    survive_truncation().unwrap();
    let (file, memory) = shared_memory("lost");
    let (_kept_file, kept) = shared_memory("kept");
    let (map, kept) = (Arc::new(MemoryMap::new(memory)), Arc::new(MemoryMap::new(kept)));
    assert_eq!(&first_bytes(&map), b"8 bytes.");
    assert!(!map.is_lost());
    file.set_len(0).unwrap();
    assert_eq!(first_bytes(&map), [0; 8]);
    assert!(map.is_lost());
    assert!(!kept.is_lost());
    assert_eq!(&first_bytes(&kept), b"8 bytes.");
    drop(map);
    let (_file, again) = shared_memory("again");
    assert!(!Arc::new(MemoryMap::new(again)).is_lost());
}
