//! Checked pieces of guest memory, and what can be done with them.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use vonic_frame::DropReason;

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
    list: Vec<Segment>,
    limit: usize,
    /// Invariant: while `list` is not empty this is the map in which all of it was found.
    map: Option<Arc<MemoryMap>>,
}

// SAFETY: segments are addresses in mappings of the process, kept alive by `map`, and are not bound to a thread.
unsafe impl Send for Segments {}

impl Segments {
    pub(crate) fn with_capacity(limit: usize) -> Segments {
        Segments { list: Vec::with_capacity(limit), limit, map: None }
    }

    /// Forgets all segments and lets go of their map.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.map = None;
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
    }

    /// Opens the list for buffers of `map`; None while it holds segments of another map.
    pub(crate) fn appender(&mut self, map: &Arc<MemoryMap>, hint: usize) -> Option<Appender<'_>> {
        if !self.map.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, map)) {
            if !self.list.is_empty() {
                return None;
            }
            self.map = Some(Arc::clone(map));
        }
        let map = self.map.as_deref()?;
        Some(Appender { list: &mut self.list, limit: self.limit, map, hint, region: map.region(hint) })
    }

    /// The pieces of [offset, offset + len) of the concatenated segments `range`, cut where they end.
    fn pieces(&self, range: Range<usize>, offset: u64, len: u64) -> Pieces<'_> {
        Pieces { rest: self.list.get(range).unwrap_or(&[]).iter(), skip: offset, left: len }
    }

    /// Where the segments of a range lie: guest-physical address and bytes.
    pub(crate) fn guest_ranges(&self, range: Range<usize>) -> impl Iterator<Item = (u64, u64)> {
        let place = |segment: &Segment| Some((self.map.as_ref()?.guest_address(segment.host)?, segment.len.into()));
        self.list.get(range).unwrap_or(&[]).iter().filter_map(place)
    }

    /// Copies out of guest memory; returns the bytes copied.
    #[inline]
    pub(crate) fn read(&self, range: Range<usize>, offset: u64, out: &mut [u8]) -> usize {
        // Headers mostly lie in the first segment.
        if let Some([first, ..]) = self.list.get(range.clone())
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

/// Appends buffers of one map to a list that keeps that map.
pub(crate) struct Appender<'a> {
    list: &'a mut Vec<Segment>,
    limit: usize,
    map: &'a MemoryMap,
    /// The region that was hit last, and its number: a ring's buffers mostly lie in one.
    region: Region,
    hint: usize,
}

impl<'a> Appender<'a> {
    /// How many segments there are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Takes back what was appended behind the first `len` segments.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
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
        if self.list.len() >= self.limit {
            return Err(Refusal::Full);
        }
        self.list.push(Segment { host, len });
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
