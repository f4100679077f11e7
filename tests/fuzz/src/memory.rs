//! A guest's memory, with rings in it, as a driver writes to it that may do anything at any time.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vonic_queue::{MemoryMap, RingSetup};

use crate::bytes::Bytes;

/// Bytes set aside for a ring's three areas.
const AREA: u64 = 0x4000;
/// Where buffers begin, behind the rings.
pub(crate) const BUFFERS: u64 = 0x20_000;
/// Bytes of the first region, in which everything is; the second one is adjacent, the third is not.
pub(crate) const SIZE: u64 = 0x40_000;
const REGIONS: [(u64, usize); 3] = [(0, SIZE as usize), (SIZE, 0x1000), (0x80_000, 0x2000)];

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Where the ring of this index lies.
pub(crate) fn setup(queue: u16, size: u16, event_idx: bool) -> RingSetup {
    let base = u64::from(queue) * AREA;
    RingSetup { size, descriptors: base, available: base + 0x1000, used: base + 0x2000, event_idx }
}

/// One guest's memory. Clones are the same.
#[derive(Clone)]
pub(crate) struct Memory(GuestMemoryMmap<()>);

impl Memory {
    /// Zeros. `None`: the system has no memory.
    pub(crate) fn new() -> Option<Memory> {
        let regions = REGIONS.map(|(start, len)| (GuestAddress(start), len));
        GuestMemoryMmap::from_ranges(&regions).ok().map(Memory)
    }

    pub(crate) fn map(&self) -> Arc<MemoryMap> {
        Arc::new(MemoryMap::new(self.0.clone()))
    }

    /// Writes as far as there is memory.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        let _ = self.0.write(bytes, GuestAddress(at));
    }

    pub(crate) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.0.read(&mut bytes, GuestAddress(at));
        bytes
    }

    pub(crate) fn put(&self, at: u64, value: u16) {
        let _ = self.0.store(value.to_le(), GuestAddress(at), Ordering::Release);
    }

    pub(crate) fn get(&self, at: u64) -> u16 {
        self.0.load(GuestAddress(at), Ordering::Acquire).map_or(0, u16::from_le)
    }

    pub(crate) fn descriptor(&self, table: u64, index: u16, (address, len): (u64, u32), flags: u16, next: u16) {
        let words = [address, u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48];
        self.write(table + 16 * u64::from(index), &words.map(u64::to_le_bytes).concat());
    }

    /// Shows a head at the place behind the last, and returns the new index.
    pub(crate) fn post(&self, ring: &RingSetup, index: u16, head: u16) -> u16 {
        self.put(ring.available + 4 + 2 * u64::from(index % ring.size), head);
        self.put(ring.available + 2, index.wrapping_add(1));
        index.wrapping_add(1)
    }

    /// Whether an address of the host lies in this memory, with so many bytes behind it.
    pub(crate) fn holds(&self, at: usize, len: usize) -> bool {
        let within = |start: usize, size: usize| at >= start && at + len <= start + size;
        self.0.iter().any(|region| within(region.as_ptr().addr(), region.size()))
    }
}

/// A place by which a driver may lie.
pub(crate) fn lie(bytes: &mut Bytes<'_>, rings: &[RingSetup]) -> u64 {
    let ring = &rings[bytes.below(rings.len())];
    let slot = u64::from(bytes.byte()) % u64::from(ring.size);
    match bytes.byte() % 16 {
        0..4 => ring.descriptors + 16 * slot,
        4..6 => ring.descriptors + 16 * slot + 8,
        6..9 => ring.descriptors + 16 * slot + 12,
        9 | 10 => ring.available + 2,
        11 => ring.available + 4 + 2 * slot,
        12 => ring.available,
        13 => ring.used + 2 * slot,
        14 => ring.available + 4 + 2 * u64::from(ring.size),
        _ => BUFFERS + u64::from(bytes.half()),
    }
}
