//! What is posted in a ring, as far as it is simple: chains of one buffer each, in the region of memory that was hit last. Whatever is
//! not so is left to [`ChainReader`](crate::chain::ChainReader), which looks at it anew.
use crate::chain::{INDIRECT, NEXT, WRITE};
use crate::sys::{Areas, Buffer, RingMemory, Window};

/// The posted chains of a ring, by their positions.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    areas: Areas<'a>,
    window: Window<'a>,
    /// What the WRITE flag has to be.
    direction: u16,
}

impl<'a> Slots<'a> {
    /// With buffers of the region `hint`.
    #[inline]
    pub(crate) fn new(memory: &'a RingMemory, hint: usize, device_writes: bool) -> Slots<'a> {
        let direction = if device_writes { WRITE } else { 0 };
        Slots { areas: memory.areas(), window: memory.map().window(hint), direction }
    }

    /// The head and the buffer at a position at which there is a chain; `None` if it is not simple.
    #[inline(always)]
    pub(crate) fn at(&self, position: u16) -> Option<(u16, Buffer<'a>)> {
        let head = self.areas.available_head(position);
        let at = self.areas.descriptor(head)?;
        if at.flags & (NEXT | WRITE | INDIRECT) != self.direction {
            return None;
        }
        Some((head, self.window.buffer(at.address, at.len)?))
    }

    /// If the device is to read a buffer, it soon will.
    #[inline(always)]
    pub(crate) fn prefetch(&self, buffer: Buffer<'_>) {
        if self.direction == 0 {
            buffer.prefetch();
        }
    }

    /// Writes the used entry of the chain at this position.
    #[inline(always)]
    pub(crate) fn complete(&self, position: u16, head: u16, len: u32) {
        self.areas.set_used(position, head, len);
    }
}
