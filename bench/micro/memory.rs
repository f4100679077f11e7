//! A guest's memory with its two rings, every buffer posted from the start: while the worker runs, no driver does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vonic_queue::{MemoryMap, RingSetup};

/// Descriptors of each ring; a trace has at most so many frames.
pub const SIZE: u16 = 8192;
/// Bytes of each buffer: a frame of the usual MTU fits in one.
const BUFFER: u64 = 2048;
/// VIRTQ_DESC_F_WRITE (virtio 1.3 §2.7.5).
const WRITE: u16 = 2;
/// Bytes set aside for a ring's three areas.
const AREA: u64 = 1 << 20;

/// Which ring: virtio's queue index (virtio 1.3 §5.1.2).
pub const RECEIVE: u16 = 0;
/// The transmit queue.
pub const TRANSMIT: u16 = 1;

/// Where a ring lies.
pub fn setup(queue: u16) -> RingSetup {
    let base = u64::from(queue) * AREA;
    let (descriptors, available, used) = (base, base + AREA / 4, base + AREA / 2);
    RingSetup { size: SIZE, descriptors, available, used, event_idx: true }
}

/// One guest's memory.
pub struct Guest(GuestMemoryMmap<()>);

impl Guest {
    /// Zeroed memory.
    pub fn new() -> Result<Guest> {
        let len = 2 * AREA + 2 * u64::from(SIZE) * BUFFER;
        Ok(Guest(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len as usize)])?))
    }

    /// The map that the worker gets.
    pub fn map(&self) -> Arc<MemoryMap> {
        Arc::new(MemoryMap::new(self.0.clone()))
    }

    fn buffer(queue: u16, number: u16) -> GuestAddress {
        GuestAddress(2 * AREA + (u64::from(queue) * u64::from(SIZE) + u64::from(number)) * BUFFER)
    }

    /// Posts the first `count` buffers of a ring, each with `frame` in it, or empty ones for the device to write. The driver wants
    /// one call: when `count` buffers have been used.
    pub fn post(&self, queue: u16, count: u16, frame: Option<&[u8]>) -> Result<()> {
        let RingSetup { descriptors, available, .. } = setup(queue);
        for number in 0..count {
            let buffer = Guest::buffer(queue, number);
            let (len, flags) = match frame {
                Some(frame) => (frame.len() as u64, 0),
                None => (BUFFER, WRITE),
            };
            // An empty one, too, is memory that is there: the kernel's work for its first touch is not to be counted.
            self.0.write_slice(frame.unwrap_or(&[0]), buffer)?;
            let words = [buffer.0, len | u64::from(flags) << 32].map(u64::to_le_bytes);
            self.0.write_slice(&words.concat(), GuestAddress(descriptors + 16 * u64::from(number)))?;
            self.0.write_slice(&number.to_le_bytes(), GuestAddress(available + 4 + 2 * u64::from(number)))?;
        }
        // used_event (virtio 1.3 §2.7.10) stands behind the entries.
        let used_event = GuestAddress(available + 4 + 2 * u64::from(SIZE));
        self.0.store(count.wrapping_sub(1).to_le(), used_event, Ordering::Relaxed)?;
        self.0.store(count.to_le(), GuestAddress(available + 2), Ordering::Release)?;
        Ok(())
    }

    /// How many buffers of a ring have been used.
    pub fn used(&self, queue: u16) -> Result<u16> {
        Ok(u16::from_le(self.0.load(GuestAddress(setup(queue).used + 2), Ordering::Acquire)?))
    }

    /// The first `len` bytes of a buffer.
    pub fn read(&self, queue: u16, number: u16, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_slice(&mut bytes, Guest::buffer(queue, number))?;
        Ok(bytes)
    }
}
