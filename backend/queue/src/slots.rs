//! What is posted in a ring, as far as it is simple: chains of one buffer each. Whatever is not so is left to
//! [`ChainReader`](crate::chain::ChainReader), which looks at it anew.
use std::ops::RangeInclusive;

use crate::chain::{INDIRECT, NEXT, WRITE};
use crate::sys::{Areas, Buffer, ROW, RingMemory, Window};

/// How many chains are looked at before the first of them is worked on: as many are on their way from memory at a time.
pub(crate) const BLOCK: usize = 16;

/// A simple chain.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'a> {
    pub(crate) buffer: Buffer<'a>,
    pub(crate) head: u16,
}

impl Slot<'_> {
    pub(crate) const NONE: Slot<'static> = Slot { buffer: Buffer::NONE, head: 0 };
}

/// The posted chains of a ring, by their positions.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    areas: Areas<'a>,
    window: Window<'a>,
    /// What the WRITE flag has to be.
    direction: u16,
    /// The fewest and the most bytes of a buffer.
    lens: (u32, u32),
    /// Length and flags of the descriptor looked at last, which were right, as [`shape`] has them: most have the same.
    known: u64,
}

/// Length and flags of a descriptor, by its second word; never all ones.
#[inline(always)]
fn shape(word: u64) -> u64 {
    word << 16
}

impl<'a> Slots<'a> {
    /// At first with buffers of the region `hint`.
    #[inline]
    pub(crate) fn new(memory: &'a RingMemory, hint: usize, device_writes: bool) -> Slots<'a> {
        let direction = if device_writes { WRITE } else { 0 };
        let window = memory.map().window(hint);
        Slots { areas: memory.areas(), window, direction, lens: (1, u32::MAX), known: u64::MAX }
    }

    /// Only those with buffers of so many bytes.
    #[inline(always)]
    pub(crate) fn of(mut self, lens: &RangeInclusive<u32>) -> Slots<'a> {
        self.lens = (*lens.start(), *lens.end());
        self
    }

    /// The chain at a position at which there is one; `None` if it is not simple.
    #[inline(always)]
    pub(crate) fn at(&mut self, position: u32) -> Option<Slot<'a>> {
        let head = self.areas.available_head(position);
        let words = self.areas.descriptor(head)?;
        Some(Slot { buffer: self.buffer(words)?, head })
    }

    /// The buffer of a descriptor, if that is all of its chain.
    #[inline(always)]
    fn buffer(&mut self, [address, word]: [u64; 2]) -> Option<Buffer<'a>> {
        if shape(word) != self.known {
            let (len, flags) = (word as u32, (word >> 32) as u16);
            if flags & (NEXT | WRITE | INDIRECT) != self.direction || len < self.lens.0 || len > self.lens.1 {
                return None;
            }
            self.known = shape(word);
            self.window.resize(len);
        }
        if let Some(buffer) = self.window.buffer(address) {
            return Some(buffer);
        }
        self.window = self.window.around(address)?;
        self.window.buffer(address)
    }

    /// The same, if it is as the last one was and lies in the same region.
    #[inline(always)]
    fn like_the_last(&self, [address, word]: [u64; 2]) -> Option<Buffer<'a>> {
        if shape(word) == self.known { self.window.buffer(address) } else { None }
    }

    /// Looks at the chains from a position on, and asks for their buffers, which the device is to write or to read; returns how many of them are
    /// simple. What is read has got its used entry: it will stand there in any case, and the driver does not see it before the index says so. A
    /// function of its own, so that what it needs has room in registers.
    #[inline(never)]
    pub(crate) fn look<const WRITES: bool>(&mut self, mut position: u32, places: &mut [Slot<'a>]) -> usize {
        let (mut slots, first) = (*self, position);
        if slots.known == u64::MAX && !places.is_empty() {
            // Now it knows what one of them is like.
            let _ = slots.at(position);
        }
        position += slots.rows::<WRITES>(position, places) as u32;
        for place in places.iter_mut().skip((position - first) as usize) {
            let Some(slot) = slots.at(position) else { break };
            *place = slot;
            if WRITES {
                slot.buffer.prefetch_to_write();
            } else {
                slots.areas.set_read(position, slot.head);
                slot.buffer.prefetch();
            }
            position += 1;
        }
        *self = slots;
        (position - first) as usize
    }

    /// The same for chains whose heads are in a row, as long as they are like the last one. Registers suffice if it knows nothing else.
    #[inline(never)]
    fn rows<const WRITES: bool>(&self, position: u32, places: &mut [Slot<'a>]) -> usize {
        let mut seen = 0;
        for places in places.as_chunks_mut::<ROW>().0 {
            let Some(row) = self.areas.row(position + seen as u32) else { break };
            for (i, place) in places.iter_mut().enumerate() {
                let Some(buffer) = self.like_the_last(row.descriptor(i)) else { return seen };
                place.buffer = buffer;
                if WRITES {
                    place.head = row.head(i);
                    buffer.prefetch_to_write();
                } else {
                    row.set_read(i);
                    buffer.prefetch();
                }
            }
            seen += ROW;
        }
        seen
    }

    /// The device has written so many bytes to the chain at this position.
    #[inline(always)]
    pub(crate) fn wrote(&self, position: u32, head: u16, len: u32) {
        self.areas.set_used(position, head, len);
    }
}
