//! A guest's memory with one ring in it, and the driver's way of writing to it.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vonic_queue::{Direction, IoVecs, MemoryMap, RingSetup, SplitRing};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Rings, then indirect tables, then buffers in the first region; the second is adjacent to it, the third is not.
pub const REGIONS: [(u64, u64); 3] = [(0, 0x80000), (0x80000, 0x20000), (0x200000, 0x20000)];
pub const TABLES: u64 = 0x40000;
pub const BUFFERS: u64 = 0x60000;

/// (guest-physical address, bytes)
pub type Span = (u64, u32);

pub struct Guest {
    pub memory: GuestMemoryMmap<()>,
    pub setup: RingSetup,
    /// The available index.
    pub index: u16,
}

/// The WRITE flag of a direction's buffers.
pub fn flag(direction: Direction) -> u16 {
    if direction == Direction::HostToGuest { WRITE } else { 0 }
}

/// Guest memory of the three regions, zeroed.
pub fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&REGIONS.map(|(start, len)| (GuestAddress(start), len as usize))).unwrap()
}

impl Guest {
    /// A ring of `size` descriptors whose indices both stand at `start`.
    pub fn new(size: u16, start: u16, event_idx: bool) -> Guest {
        let setup = RingSetup { size, descriptors: 0x1000, available: 0x20000, used: 0x30000, event_idx };
        let guest = Guest { memory: memory(), setup, index: start };
        guest.set_index(start);
        guest.put(setup.used + 2, start);
        guest
    }

    pub fn map(&self) -> Arc<MemoryMap> {
        Arc::new(MemoryMap::new(self.memory.clone()))
    }

    pub fn ring(&self, direction: Direction) -> SplitRing {
        SplitRing::new(&self.map(), &self.setup, direction).unwrap()
    }

    pub fn put(&self, address: u64, value: u16) {
        self.memory.store(value.to_le(), GuestAddress(address), Ordering::Release).unwrap();
    }

    pub fn get(&self, address: u64) -> u16 {
        u16::from_le(self.memory.load(GuestAddress(address), Ordering::Acquire).unwrap())
    }

    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub fn fill(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Writes a descriptor anywhere: into the table, or into an indirect one.
    pub fn descriptor_at(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.fill(at, &bytes);
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.descriptor_at(self.setup.descriptors + 16 * u64::from(index), address, len, flags, next);
    }

    /// Writes a chain of the buffers into descriptors `from`, `from + 1`, ...
    pub fn chain(&self, from: u16, buffers: &[Span], flag: u16) {
        for (i, (address, len)) in (from..).zip(buffers) {
            let more = if usize::from(i - from) + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(i, *address, *len, flag | more, i + 1);
        }
    }

    pub fn set_index(&self, index: u16) {
        self.put(self.setup.available + 2, index);
    }

    /// Puts a head into the available ring and shows it.
    pub fn post(&mut self, head: u16) {
        let slot = u64::from(self.index & (self.setup.size - 1));
        self.put(self.setup.available + 4 + 2 * slot, head);
        self.index = self.index.wrapping_add(1);
        self.set_index(self.index);
    }

    pub fn set_used_event(&self, position: u16) {
        self.put(self.setup.available + 4 + 2 * u64::from(self.setup.size), position);
    }

    pub fn set_no_interrupt(&self, on: bool) {
        self.put(self.setup.available, on.into());
    }

    pub fn used_flags(&self) -> u16 {
        self.get(self.setup.used)
    }

    pub fn used_index(&self) -> u16 {
        self.get(self.setup.used + 2)
    }

    pub fn available_event(&self) -> u16 {
        self.get(self.setup.used + 4 + 8 * u64::from(self.setup.size))
    }

    /// (head, bytes written) of the used entry at a position.
    pub fn used_entry(&self, position: u16) -> (u32, u32) {
        let at = self.setup.used + 4 + 8 * u64::from(position & (self.setup.size - 1));
        let word = |at| u32::from_le(self.memory.load(GuestAddress(at), Ordering::Acquire).unwrap());
        (word(at), word(at + 4))
    }

    /// The used area as it is.
    pub fn used_area(&self) -> Vec<u8> {
        self.bytes(self.setup.used, 6 + 8 * usize::from(self.setup.size))
    }

    /// Where iovecs lie in guest memory.
    pub fn spans(&self, iovecs: &IoVecs<'_>) -> Vec<Span> {
        let span = |iovec: &libc::iovec| {
            let at = iovec.iov_base.addr();
            let region = self.memory.iter().find(|r| (r.as_ptr().addr()..r.as_ptr().addr() + r.size()).contains(&at));
            let region = region.expect("an iovec outside guest memory");
            assert!(at + iovec.iov_len <= region.as_ptr().addr() + region.size());
            (region.start_addr().0 + (at - region.as_ptr().addr()) as u64, iovec.iov_len as u32)
        };
        iovecs.as_slice().iter().map(span).collect()
    }
}
