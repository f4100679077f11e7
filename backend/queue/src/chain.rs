//! From a head to a checked chain (virtio 1.3 §2.7.5).
use vonic_frame::DropReason;

use crate::sys::{Appender, Descriptor, Refusal, Table};

/// The chain goes on at `next` (virtio 1.3 §2.7.5).
pub(crate) const NEXT: u16 = 1;
/// The device writes to the buffer; otherwise it reads.
pub(crate) const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;
/// The longest chain, whatever the queue's size: what one socket call takes in iovecs.
const MAX_CHAIN: u16 = 1024;

/// Reads the chains of one ring in one direction.
pub(crate) struct ChainReader<'a> {
    table: Table<'a>,
    /// The most descriptors of a chain, those of its indirect table included.
    cap: u16,
    /// What the WRITE flag has to be.
    direction: u16,
}

impl<'a> ChainReader<'a> {
    pub(crate) fn new(table: Table<'a>, size: u16, device_writes: bool) -> ChainReader<'a> {
        ChainReader { table, cap: size.min(MAX_CHAIN), direction: if device_writes { WRITE } else { 0 } }
    }

    /// Appends the buffers of the chain at `head` and returns their bytes. After an error the caller takes back what was
    /// appended.
    #[inline(always)]
    pub(crate) fn read(&self, head: u16, segments: &mut Appender<'_>) -> Result<u32, Refusal> {
        let first = self.table.get(head).ok_or(BAD_DESCRIPTOR)?;
        if first.flags & (NEXT | WRITE | INDIRECT) != self.direction {
            return self.walk(first, segments, |at| at.flags & WRITE == self.direction);
        }
        segments.push(first.address, first.len)?;
        Ok(first.len)
    }

    /// As [`read`](ChainReader::read), for a chain whose readable buffers come before its writable ones (virtio 1.3
    /// §2.7.4.2); returns the bytes of both.
    pub(crate) fn read_both(&self, head: u16, segments: &mut Appender<'_>) -> Result<(u32, u32), Refusal> {
        let first = self.table.get(head).ok_or(BAD_DESCRIPTOR)?;
        let (mut readable, mut writes) = (0u32, false);
        let total = self.walk(first, segments, |at| {
            let back = writes && at.flags & WRITE == 0;
            writes |= at.flags & WRITE != 0;
            readable = readable.saturating_add(if writes { 0 } else { at.len });
            !back
        })?;
        Ok((readable, total - readable))
    }

    /// Appends the buffers of the chain that begins with `first`, each of which `fits`; returns their bytes.
    fn walk(
        &self,
        first: Descriptor,
        segments: &mut Appender<'_>,
        mut fits: impl FnMut(&Descriptor) -> bool,
    ) -> Result<u32, Refusal> {
        let (mut table, mut at, mut indirect) = (self.table, first, false);
        let (mut left, mut total) = (self.cap, 0u32);
        loop {
            if at.flags & INDIRECT != 0 {
                // Only one table, and not within a table (virtio 1.3 §2.7.5.3.1).
                if indirect {
                    return Err(BAD_INDIRECT);
                }
                table = self.indirect(at, segments)?;
                at = table.get(0).ok_or(BAD_INDIRECT)?;
                indirect = true;
                continue;
            }
            left = left.checked_sub(1).ok_or(CHAIN_TOO_LONG)?;
            if !fits(&at) {
                return Err(Refusal::Fault(DropReason::WrongDirection));
            }
            segments.push(at.address, at.len)?;
            total = total.checked_add(at.len).ok_or(CHAIN_TOO_LONG)?;
            if at.flags & NEXT == 0 {
                return Ok(total);
            }
            at = table.get(at.next).ok_or(BAD_DESCRIPTOR)?;
        }
    }

    /// The table to which `at` points. Its WRITE flag says nothing (virtio 1.3 §2.7.5.3.2).
    fn indirect<'t>(&self, at: Descriptor, segments: &Appender<'t>) -> Result<Table<'t>, Refusal> {
        if at.flags & NEXT != 0 || at.len == 0 || !at.len.is_multiple_of(16) {
            return Err(BAD_INDIRECT);
        }
        let count = u16::try_from(at.len / 16).ok().filter(|count| *count <= self.cap);
        count.and_then(|count| segments.table(at.address, count)).ok_or(BAD_INDIRECT)
    }
}

const BAD_DESCRIPTOR: Refusal = Refusal::Fault(DropReason::BadDescriptor);
const BAD_INDIRECT: Refusal = Refusal::Fault(DropReason::BadIndirect);
const CHAIN_TOO_LONG: Refusal = Refusal::Fault(DropReason::ChainTooLong);
