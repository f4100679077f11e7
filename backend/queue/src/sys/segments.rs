//! Checked pieces of guest memory, and what can be done with them.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use vonic_frame::DropReason;

use super::buffer::Buffer;
use super::bulk;
use super::map::{MemoryMap, Region, Table};

/// The most iovecs that one call takes (UIO_MAXIOV of Linux).
pub(crate) const MAX_IOVECS: usize = 1024;

/// A range inside one region of the map that [`Segments`] keeps. Never empty.
#[derive(Clone, Copy)]
struct Segment {
    host: *mut u8,
    len: u32,
}

/// Why a buffer was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The chain is faulty.
    Fault(DropReason),
    /// There is no room for another segment.
    Full,
}

/// Segments of one memory map, which they keep alive. Bounded: it never grows after creation.
pub(crate) struct Segments {
    /// Room for all of them, of which the first `len` are there.
    list: Box<[Segment]>,
    len: usize,
    /// Invariant: while there are segments this is the map in which all of them were found.
    map: Option<Arc<MemoryMap>>,
}

// SAFETY: segments are addresses in mappings of the process, kept alive by `map`, and are not bound to a thread.
unsafe impl Send for Segments {}
// SAFETY: through a shared list bytes are copied, one by one as far as anybody can tell, from and to memory that the guest may change at any
// time anyway; the list itself changes only by an exclusive reference.
unsafe impl Sync for Segments {}

impl Segments {
    pub(crate) fn with_capacity(limit: usize) -> Segments {
        let none = Segment { host: std::ptr::null_mut(), len: 0 };
        Segments { list: vec![none; limit].into_boxed_slice(), len: 0, map: None }
    }

    /// Forgets all segments and lets go of their map.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.map = None;
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline(always)]
    fn list(&self) -> &[Segment] {
        self.list.get(..self.len).unwrap_or(&[])
    }

    /// Opens the list for buffers of `map`; None while it holds segments of another map.
    pub(crate) fn appender(&mut self, map: &Arc<MemoryMap>, hint: usize) -> Option<Appender<'_>> {
        if !self.map.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, map)) {
            if self.len > 0 {
                return None;
            }
            self.map = Some(Arc::clone(map));
        }
        let map = self.map.as_deref()?;
        Some(Appender { list: &mut self.list, len: &mut self.len, map, hint, region: map.region(hint) })
    }

    /// The segment at `index`.
    #[inline(always)]
    pub(crate) fn buffer(&self, index: usize) -> Option<Buffer<'_>> {
        self.list().get(index).map(|segment| Buffer::new(segment.host, segment.len))
    }

    /// The pieces of [offset, offset + len) of the concatenated segments `range`, cut where they end.
    fn pieces(&self, range: Range<usize>, offset: u64, len: u64) -> Pieces<'_> {
        Pieces { rest: self.list().get(range).unwrap_or(&[]).iter(), skip: offset, left: len }
    }

    /// Where the segments of a range lie: guest-physical address and bytes.
    pub(crate) fn guest_ranges(&self, range: Range<usize>) -> impl Iterator<Item = (u64, u64)> {
        let place = |segment: &Segment| Some((self.map.as_ref()?.guest_address(segment.host)?, segment.len.into()));
        self.list().get(range).unwrap_or(&[]).iter().filter_map(place)
    }

    /// Copies out of guest memory; returns the bytes copied.
    #[inline]
    pub(crate) fn read(&self, range: Range<usize>, offset: u64, out: &mut [u8]) -> usize {
        // Headers mostly lie in the first segment.
        if let Some([first, ..]) = self.list().get(range.clone())
            && offset + out.len() as u64 <= u64::from(first.len)
        {
            // SAFETY: the range was found to end within the segment, which lies in a mapping that `map` keeps.
            unsafe { bulk::copy(first.host.wrapping_add(offset as usize), out.as_mut_ptr(), out.len()) };
            return out.len();
        }
        let mut done = 0;
        for piece in self.pieces(range, offset, out.len() as u64) {
            // SAFETY: the piece lies in a mapping that `map` keeps; all pieces together are at most out.len() long.
            unsafe { bulk::copy(piece.host, out.as_mut_ptr().add(done), piece.len) };
            done += piece.len;
        }
        done
    }

    /// Copies into guest memory; returns the bytes copied.
    pub(crate) fn write(&self, range: Range<usize>, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        for piece in self.pieces(range, offset, data.len() as u64) {
            // SAFETY: the piece lies in a mapping that `map` keeps; all pieces together are at most data.len() long.
            unsafe { bulk::copy(data.as_ptr().add(done), piece.host, piece.len) };
            done += piece.len;
        }
        done
    }

    /// One's-complement sum of the range, as a number of big-endian words.
    pub(crate) fn sum(&self, range: Range<usize>, offset: u64, len: u64) -> u16 {
        let mut total = 0u64;
        let mut odd = false;
        for piece in self.pieces(range, offset, len) {
            // SAFETY: the piece lies in a mapping that `map` keeps.
            let sum = unsafe { bulk::sum(piece.host, piece.len) };
            // Behind an odd number of bytes every byte changes its place in the word (RFC 1071 §2 (B)).
            total += u64::from(if odd { sum.swap_bytes() } else { sum });
            odd ^= piece.len % 2 == 1;
        }
        u16::from_be(bulk::fold(total))
    }

    /// Copies from guest to guest; returns the bytes copied.
    pub(crate) fn copy_to(
        &self,
        range: Range<usize>,
        offset: u64,
        to: &Segments,
        to_range: Range<usize>,
        to_offset: u64,
        len: u32,
    ) -> u32 {
        let mut sources = self.pieces(range, offset, u64::from(len));
        let mut targets = to.pieces(to_range, to_offset, u64::from(len));
        let (mut source, mut target) = (Piece::NONE, Piece::NONE);
        let mut done = 0u32;
        loop {
            if source.len == 0 {
                let Some(next) = sources.next() else { return done };
                source = next;
            }
            if target.len == 0 {
                let Some(next) = targets.next() else { return done };
                target = next;
            }
            let n = source.len.min(target.len);
            // SAFETY: both pieces lie in mappings that `self.map` and `to.map` keep, and n is within both.
            unsafe { bulk::copy(source.host, target.host, n) };
            source = source.behind(n);
            target = target.behind(n);
            done += n as u32;
        }
    }

    /// Copies within the range to a place behind, which may overlap the source; returns the bytes copied, none if the range does not
    /// hold both places.
    pub(crate) fn move_behind(&self, range: Range<usize>, from: u64, to: u64, len: u32) -> u32 {
        let list = self.list.get(range).unwrap_or(&[]);
        let end = |start: u64| Cursor::at(list, start + u64::from(len));
        let (Some(mut source), Some(mut target)) = (end(from), end(to)) else { return 0 };
        let mut left = len as usize;
        // From the end on: what is overwritten has been read.
        while left > 0 {
            let n = source.before().min(target.before()).min(left);
            if n == 0 {
                break;
            }
            let (from, to) = (source.back(n), target.back(n));
            // SAFETY: both pieces lie in mappings that `map` keeps, and n is within both.
            unsafe { bulk::copy(from, to, n) };
            left -= n;
        }
        len - left as u32
    }

    /// Appends iovecs of the range to `out`, as many as fit; returns their bytes.
    pub(crate) fn iovecs(&self, range: Range<usize>, offset: u64, len: u64, out: &mut IoVecBuffer) -> usize {
        let mut bytes = 0;
        for piece in self.pieces(range, offset, len) {
            if !out.push(piece.host, piece.len) {
                break;
            }
            bytes += piece.len;
        }
        bytes
    }
}

/// A place in a list of segments, that goes backwards.
struct Cursor<'a> {
    list: &'a [Segment],
    /// Bytes in front of it in the last segment of `list`.
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// The place so many bytes behind the start; `None` beyond the end.
    fn at(list: &'a [Segment], mut bytes: u64) -> Option<Cursor<'a>> {
        for (i, segment) in list.iter().enumerate() {
            if bytes <= u64::from(segment.len) {
                return Some(Cursor { list: &list[..=i], offset: bytes as usize });
            }
            bytes -= u64::from(segment.len);
        }
        None
    }

    /// Bytes right in front of it that lie in one piece; 0: it is at the start.
    fn before(&mut self) -> usize {
        if self.offset == 0
            && let [.., previous, _] = self.list
        {
            self.offset = previous.len as usize;
            self.list = &self.list[..self.list.len() - 1];
        }
        self.offset
    }

    /// Goes back by so many bytes, at most as many as are before it; the address where it is then.
    fn back(&mut self, bytes: usize) -> *mut u8 {
        self.offset -= bytes;
        self.list.last().map_or(std::ptr::null_mut(), |segment| segment.host.wrapping_add(self.offset))
    }
}

/// A part of a segment.
#[derive(Clone, Copy)]
struct Piece {
    host: *mut u8,
    len: usize,
}

impl Piece {
    const NONE: Piece = Piece { host: std::ptr::null_mut(), len: 0 };

    fn behind(self, bytes: usize) -> Piece {
        Piece { host: self.host.wrapping_add(bytes), len: self.len - bytes }
    }
}

/// Walks over the pieces of a range; each lies in the mapping of its segment and is not empty.
struct Pieces<'a> {
    rest: std::slice::Iter<'a, Segment>,
    skip: u64,
    left: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        while self.left > 0 {
            let segment = self.rest.next()?;
            let len = u64::from(segment.len);
            if self.skip >= len {
                self.skip -= len;
                continue;
            }
            let n = (len - self.skip).min(self.left);
            let host = segment.host.wrapping_add(self.skip as usize);
            self.skip = 0;
            self.left -= n;
            return Some(Piece { host, len: n as usize });
        }
        None
    }
}

/// Where buffers of a map come from that is kept for `'a`.
pub(crate) trait Buffers<'a, T> {
    /// The next one, and what there is to say of it in its place.
    fn next(&mut self, place: &mut T) -> Option<Buffer<'a>>;
}

/// Appends buffers of one map to a list that keeps that map.
pub(crate) struct Appender<'a> {
    list: &'a mut [Segment],
    len: &'a mut usize,
    map: &'a MemoryMap,
    /// The region that was hit last, and its number: a ring's buffers mostly lie in one.
    region: Region,
    hint: usize,
}

impl<'a> Appender<'a> {
    /// How many segments there are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        *self.len
    }

    /// Takes back what was appended behind the first `len` segments.
    pub(crate) fn truncate(&mut self, len: usize) {
        *self.len = len.min(*self.len);
    }

    /// Appends buffers, one for each of `places`, until there is none, or no more room; returns how many.
    #[inline(always)]
    pub(crate) fn append_each<T>(&mut self, places: &mut [T], slots: &mut impl Buffers<'a, T>) -> usize {
        let free = self.list.get_mut(*self.len..).unwrap_or(&mut []);
        let mut taken = 0;
        for (segment, place) in free.iter_mut().zip(places) {
            let Some(buffer) = slots.next(place) else { break };
            *segment = Segment { host: buffer.host(), len: buffer.len() };
            taken += 1;
        }
        *self.len += taken;
        taken
    }

    /// The region hit last, for the next appender.
    pub(crate) fn hint(&self) -> usize {
        self.hint
    }

    /// Appends the guest-physical range; an empty one appends nothing.
    #[inline(always)]
    pub(crate) fn push(&mut self, address: u64, len: u32) -> Result<(), Refusal> {
        if len == 0 {
            return Ok(());
        }
        match self.region.at(address) {
            Some((host, rest)) if rest >= u64::from(len) => self.append(host, len),
            _ => self.push_elsewhere(address, len),
        }
    }

    #[inline(always)]
    fn append(&mut self, host: *mut u8, len: u32) -> Result<(), Refusal> {
        let place = self.list.get_mut(*self.len).ok_or(Refusal::Full)?;
        *place = Segment { host, len };
        *self.len += 1;
        Ok(())
    }

    /// A buffer in another region, or one that crosses into the next: adjacent for the guest, not for us.
    #[cold]
    fn push_elsewhere(&mut self, mut address: u64, mut len: u32) -> Result<(), Refusal> {
        while len > 0 {
            self.hint = self.map.search(address).ok_or(Refusal::Fault(DropReason::BadAddress))?;
            self.region = self.map.region(self.hint);
            let (host, rest) = self.region.at(address).ok_or(Refusal::Fault(DropReason::BadAddress))?;
            let part = u32::try_from(rest).unwrap_or(u32::MAX).min(len);
            self.append(host, part)?;
            address = address.wrapping_add(u64::from(part));
            len -= part;
        }
        Ok(())
    }

    /// The indirect table of `count` descriptors at `address`, if it lies in one region.
    pub(crate) fn table(&self, address: u64, count: u16) -> Option<Table<'a>> {
        self.map.table(address, count)
    }
}

/// Room for the iovecs of one call.
pub(crate) struct IoVecBuffer {
    list: Vec<libc::iovec>,
}

// SAFETY: between calls the list is either empty or leftover addresses that nobody reads: each use clears it first.
unsafe impl Send for IoVecBuffer {}
// SAFETY: by a shared reference nothing of it can be reached.
unsafe impl Sync for IoVecBuffer {}

impl IoVecBuffer {
    pub(crate) fn new() -> IoVecBuffer {
        IoVecBuffer { list: Vec::with_capacity(MAX_IOVECS) }
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// False when it is full.
    pub(crate) fn push(&mut self, host: *mut u8, len: usize) -> bool {
        let room = self.list.len() < MAX_IOVECS;
        if room {
            self.list.push(libc::iovec { iov_base: host.cast(), iov_len: len });
        }
        room
    }

    /// Pushes an iovec also if it is full, in the place of the last one; returns the bytes of that, or 0.
    pub(crate) fn push_last(&mut self, host: *mut u8, len: usize) -> usize {
        let cut = if self.list.len() < MAX_IOVECS { None } else { self.list.pop() };
        self.push(host, len);
        cut.map_or(0, |vec| vec.iov_len)
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [libc::iovec] {
        &mut self.list
    }
}
