//! Chains fetched in one go.
use std::ops::Range;
use std::sync::Arc;

use vonic_frame::DropReason;

use crate::iovec::IoVecs;
use crate::slots::{Slot, Slots};
use crate::sys::{Appender, Buffer, Buffers, Front, IoVecBuffer, MAX_IOVECS, MemoryMap, Refusal, Segments};

/// One descriptor chain of a [`Burst`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The descriptor index by which the chain is returned: [`SplitRing::push_used`](crate::SplitRing::push_used).
    pub head: u16,
    /// Bytes of its buffers, all in the ring's direction; 0 with a fault.
    pub len: u32,
    /// Why the chain must go back with length 0.
    pub fault: Option<DropReason>,
    first: u32,
    count: u32,
}

/// Chains fetched in one go and their checked segments of guest memory.
///
/// It keeps the [`MemoryMap`] of its chains alive until [`clear`](Burst::clear), so clear it after each round. Reused:
/// nothing is allocated after creation. A range of chains is addressed as the concatenation of their buffers; ranges and
/// offsets beyond the end are cut.
pub struct Burst {
    /// Room for all of them, of which the first `len` are there.
    chains: Box<[Chain]>,
    len: usize,
    segments: Segments,
    iovecs: IoVecBuffer,
}

impl Burst {
    /// Room for so many chains and, over all of them, so many segments. A chain of more segments than that is returned to
    /// the guest as too long: give at least 1024, the longest chain allowed, for a guest that may send such.
    pub fn with_capacity(chains: usize, segments: usize) -> Burst {
        Burst {
            chains: vec![Chain { head: 0, len: 0, fault: None, first: 0, count: 0 }; chains].into_boxed_slice(),
            len: 0,
            segments: Segments::with_capacity(segments),
            iovecs: IoVecBuffer::new(),
        }
    }

    /// Forgets the chains and lets go of their memory map. Capacity stays.
    pub fn clear(&mut self) {
        self.len = 0;
        self.segments.clear();
    }

    /// How many chains there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chain at `i`, which must be below [`len`](Burst::len).
    #[inline]
    pub fn chain(&self, i: usize) -> &Chain {
        &self.chains()[i]
    }

    /// All chains, in fetch order.
    #[inline]
    pub fn chains(&self) -> &[Chain] {
        self.chains.get(..self.len).unwrap_or(&[])
    }

    /// Forgets all but the first `len` chains; belongs with [`SplitRing::unfetch`](crate::SplitRing::unfetch).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.segments.truncate(self.span(0..self.len).end);
    }

    /// Copies up to `out.len()` bytes of chain `chain` from `offset` on; returns how many there were. Meant for headers:
    /// read once, then decide by the copy only, for the guest may change the original.
    #[inline]
    pub fn read(&self, chain: usize, offset: u32, out: &mut [u8]) -> usize {
        self.segments.read(self.span(chain..chain.saturating_add(1)), offset.into(), out)
    }

    /// As [`read`](Burst::read), over a range of chains.
    pub fn read_over(&self, chains: Range<usize>, offset: u32, out: &mut [u8]) -> usize {
        self.segments.read(self.span(chains), offset.into(), out)
    }

    /// The chains from `first` on, each as its buffer if it is one.
    #[inline(always)]
    pub(crate) fn buffers(&self, first: usize) -> impl Iterator<Item = Option<Buffer<'_>>> {
        let one = |chain: &Chain| if chain.count == 1 { self.segments.buffer(chain.first as usize) } else { None };
        self.chains().get(first..).unwrap_or(&[]).iter().map(one)
    }

    /// Copies the first bytes of chain `i`; false where it is not one piece of at least so many. As for [`read`](Burst::read):
    /// decide by the copy only.
    #[inline(always)]
    pub fn front(&self, i: usize, out: &mut Front) -> bool {
        self.buffers(i).next().flatten().is_some_and(|buffer| buffer.front(out))
    }

    /// Copies `data` into the chains at `offset`; returns how many bytes found room. Meant for headers.
    #[inline]
    pub fn write(&self, chains: Range<usize>, offset: u32, data: &[u8]) -> usize {
        self.segments.write(self.span(chains), offset.into(), data)
    }

    /// iovecs over [offset, offset + len) of the chains, for one socket call; cut at the 1024 iovecs that a call takes.
    pub fn iovecs(&mut self, chains: Range<usize>, offset: u32, len: u32) -> IoVecs<'_> {
        let span = self.span(chains);
        self.iovecs.clear();
        let bytes = self.segments.iovecs(span, offset.into(), len.into(), &mut self.iovecs);
        IoVecs::new(self.iovecs.as_mut_slice(), bytes)
    }

    /// As [`iovecs`](Burst::iovecs), behind as many iovecs over the host's memory `scratch` as take `skip` bytes: a header in
    /// front of a datagram; or a discard area, for a peek at a distance into a receive queue where SO_PEEK_OFF is missing.
    /// `len_bytes` counts the skipped bytes too.
    ///
    /// Empty if `skip` alone would fill the 1024 iovecs of a call: make the area larger.
    pub fn iovecs_behind<'a>(
        &'a mut self,
        scratch: &'a mut [u8],
        skip: usize,
        chains: Range<usize>,
        offset: u32,
        len: u32,
    ) -> IoVecs<'a> {
        let span = self.span(chains);
        self.iovecs.clear();
        let area = scratch.len();
        if skip > 0 && (area == 0 || skip.div_ceil(area) >= MAX_IOVECS) {
            return IoVecs::new(&mut [], 0);
        }
        let start = scratch.as_mut_ptr();
        let mut left = skip;
        while left > 0 {
            let part = left.min(area);
            self.iovecs.push(start, part);
            left -= part;
        }
        let bytes = self.segments.iovecs(span, offset.into(), len.into(), &mut self.iovecs);
        IoVecs::new(self.iovecs.as_mut_slice(), skip + bytes)
    }

    /// As [`iovecs`](Burst::iovecs), between an area of the caller's in front and one behind, for a call that moves one whole
    /// frame: `front` holds the headers, and what comes to stand in `behind` had no room in the chains. Never empty areas.
    pub fn iovecs_between<'a>(
        &'a mut self,
        front: &'a mut [u8],
        chains: Range<usize>,
        offset: u32,
        len: u32,
        behind: &'a mut [u8],
    ) -> IoVecs<'a> {
        let span = self.span(chains);
        self.iovecs.clear();
        self.iovecs.push(front.as_mut_ptr(), front.len());
        let bytes = self.segments.iovecs(span, offset.into(), len.into(), &mut self.iovecs);
        let cut = self.iovecs.push_last(behind.as_mut_ptr(), behind.len());
        IoVecs::new(self.iovecs.as_mut_slice(), front.len() + bytes - cut + behind.len())
    }

    /// Appends iovecs over [offset, offset + len) of the chains to `out`, as many as fit; returns their bytes.
    pub(crate) fn append_iovecs(&self, chains: Range<usize>, offset: u32, len: u32, out: &mut IoVecBuffer) -> usize {
        self.segments.iovecs(self.span(chains), offset.into(), len.into(), out)
    }

    /// One's-complement sum (RFC 1071) of [offset, offset + len) of the chains: not inverted, folded to 16 bits, of
    /// big-endian words counted from the range's start. The bytes `12 34` sum up to 0x1234, a single `12` to 0x1200.
    pub fn sum(&self, chains: Range<usize>, offset: u32, len: u32) -> u16 {
        self.segments.sum(self.span(chains), offset.into(), len.into())
    }

    /// Where the buffers of chain `i` lie: guest-physical address and bytes.
    pub(crate) fn guest_ranges(&self, i: usize) -> impl Iterator<Item = (u64, u64)> {
        self.segments.guest_ranges(self.span(i..i.saturating_add(1)))
    }

    pub(crate) fn copy_to(
        &self,
        chain: usize,
        offset: u32,
        to: &Burst,
        to_chains: Range<usize>,
        to_offset: u32,
        len: u32,
    ) -> u32 {
        let from = self.span(chain..chain.saturating_add(1));
        self.segments.copy_to(from, offset.into(), &to.segments, to.span(to_chains), to_offset.into(), len)
    }

    pub(crate) fn move_behind(&self, chains: Range<usize>, from: u32, to: u32, len: u32) -> u32 {
        self.segments.move_behind(self.span(chains), from.into(), to.into(), len)
    }

    /// Opens the burst for chains of `map`; None while it holds buffers of another map.
    pub(crate) fn filler(&mut self, map: &Arc<MemoryMap>, hint: usize) -> Option<Filler<'_>> {
        let segments = self.segments.appender(map, hint)?;
        Some(Filler { chains: &mut self.chains, len: &mut self.len, segments })
    }

    /// The segments of a range of chains: adjacent chains have adjacent segments.
    #[inline]
    fn span(&self, chains: Range<usize>) -> Range<usize> {
        match self.chains().get(chains.start..chains.end.min(self.len)) {
            Some([first, .., last]) => first.first as usize..(last.first + last.count) as usize,
            Some([only]) => only.first as usize..(only.first + only.count) as usize,
            _ => 0..0,
        }
    }
}

/// Simple chains on their way into a burst.
struct Posted<'a> {
    slots: Slots<'a>,
    next: u16,
    end: u16,
    /// The place of the next one's segment.
    segment: u32,
    device_writes: bool,
}

impl<'a> Buffers<'a, Chain> for Posted<'a> {
    #[inline(always)]
    fn next(&mut self, place: &mut Chain) -> Option<Buffer<'a>> {
        let Slot { head, buffer } = if self.next == self.end { None } else { self.slots.at(self.next.into()) }?;
        if !self.device_writes {
            buffer.prefetch();
        }
        *place = Chain { head, len: buffer.len(), fault: None, first: self.segment, count: 1 };
        (self.next, self.segment) = (self.next.wrapping_add(1), self.segment + 1);
        Some(buffer)
    }
}

/// Appends chains to a burst within its capacities.
pub(crate) struct Filler<'a> {
    chains: &'a mut [Chain],
    len: &'a mut usize,
    segments: Appender<'a>,
}

impl<'a> Filler<'a> {
    /// How many more chains there is room for.
    pub(crate) fn room(&self) -> usize {
        self.chains.len() - *self.len
    }

    /// The region of guest memory hit last.
    pub(crate) fn hint(&self) -> usize {
        self.segments.hint()
    }

    /// Appends the chain that `read` reads, faulty ones included. False when its segments have to wait for an emptier burst.
    #[inline(always)]
    pub(crate) fn add(&mut self, head: u16, read: impl FnOnce(&mut Appender<'_>) -> Result<u32, Refusal>) -> bool {
        let first = self.segments.len();
        let (len, fault) = match read(&mut self.segments) {
            Ok(len) => (len, None),
            Err(refusal) => match self.refuse(first, refusal) {
                Some(reason) => (0, Some(reason)),
                None => return false,
            },
        };
        let count = (self.segments.len() - first) as u32;
        let Some(place) = self.chains.get_mut(*self.len) else { return false };
        *place = Chain { head, len, fault, first: first as u32, count };
        *self.len += 1;
        true
    }

    /// Appends the chains from position `first` to `end` as far as they are simple; returns how many.
    #[inline(always)]
    pub(crate) fn add_simple(&mut self, slots: Slots<'a>, device_writes: bool, first: u16, end: u16) -> u16 {
        let places = self.chains.get_mut(*self.len..).unwrap_or(&mut []);
        let segment = self.segments.len() as u32;
        let taken = self.segments.append_each(places, &mut Posted { slots, next: first, end, segment, device_writes });
        *self.len += taken;
        taken as u16
    }

    /// Takes back the refused chain's segments. None: there is room once the burst is empty.
    #[cold]
    fn refuse(&mut self, first: usize, refusal: Refusal) -> Option<DropReason> {
        self.segments.truncate(first);
        match refusal {
            Refusal::Fault(reason) => Some(reason),
            Refusal::Full if first == 0 => Some(DropReason::ChainTooLong),
            Refusal::Full => None,
        }
    }
}
