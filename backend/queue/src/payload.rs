//! The one place where vonic copies payload: from guest to guest, what lies in the wrong one of a guest's buffers, a datagram's
//! fragments that wait for others, and frames of a port that somebody captures.
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::slots::{BLOCK, Slot, Slots};
use crate::sys::{Buffer, Front};
use crate::{Burst, Direction, SplitRing};

/// Copies `len` bytes of one chain into the concatenated chains of another burst, which may belong to another guest. Stops
/// where either ends; returns the bytes copied and adds them to `copied`. The two may even be the same memory.
#[allow(clippy::too_many_arguments, reason = "two places, a length and a counter: a struct would hide which is which")]
pub fn copy_payload(
    src: &Burst,
    src_chain: usize,
    src_offset: u32,
    dst: &Burst,
    dst_chains: Range<usize>,
    dst_offset: u32,
    len: u32,
    copied: &AtomicU64,
) -> u32 {
    let done = src.copy_to(src_chain, src_offset, dst, dst_chains, dst_offset, len);
    count(copied, done.into());
    done
}

/// Moves `len` bytes of a range of chains from the offset `from` to the offset `to` behind it; both places may overlap. Returns the bytes
/// moved, none if the chains do not hold both, and adds them to `copied`.
pub fn move_payload(burst: &Burst, chains: Range<usize>, from: u32, to: u32, len: u32, copied: &AtomicU64) -> u32 {
    let done = burst.move_behind(chains, from, to, len);
    count(copied, done.into());
    done
}

/// What is the same for all chains that are passed on in one go.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Bytes that a chain may have.
    pub lens: RangeInclusive<u32>,
    /// What the receiver gets in place of a chain's first words.
    pub header: [u64; 2],
}

/// What was passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// How many chains.
    pub chains: usize,
    /// Their bytes.
    pub bytes: u64,
    /// It ended where the chains did, or with as many as were asked for: none was refused.
    pub all: bool,
}

/// Copies chains of one guest, from `first` on, into the buffers of another's receive ring, each from one buffer into one, and
/// completes them there. `takes` is given a chain's first bytes, copied once, and its length. It ends with a chain that is not taken, or
/// is not that simple: of that one nothing has happened.
///
/// None are taken while chains of the ring are in flight, since they come first, or a log is kept of what is written.
#[inline(always)]
pub fn pass_payload(
    src: &Burst,
    first: usize,
    ring: &mut SplitRing,
    terms: &Terms,
    takes: impl FnMut(&Front, u32) -> bool,
) -> Passed {
    pass(&mut Fetched { burst: src, first, lens: &terms.lens }, ring, terms, takes)
}

/// As [`pass_payload`], of what is posted in the transmit ring `src`, at most `max` chains, without fetching them into a burst first. They
/// are completed there, too, by used entries that the driver does not see before [`SplitRing::publish`]: publish what became of them
/// first. The same holds for chains in flight, or a log, of that ring.
#[inline(always)]
pub fn pass_posted(
    src: &mut SplitRing,
    max: u16,
    ring: &mut SplitRing,
    terms: &Terms,
    takes: impl FnMut(&Front, u32) -> bool,
) -> Passed {
    if src.direction() != Direction::GuestToHost {
        return Passed::default();
    }
    let Some((slots, start, end)) = src.slots() else { return Passed::default() };
    let count = usize::from(end.wrapping_sub(start).min(max));
    let passed = pass(&mut Posted::<false> { slots: slots.of(&terms.lens), start, count }, ring, terms, takes);
    src.completed(start.wrapping_add(passed.chains as u16));
    passed
}

/// Where chains come from.
trait Source<'a> {
    /// How many there are.
    fn count(&self) -> usize;
    /// Looks at the chains behind the first `done`; how many there are in `places`.
    fn look(&mut self, done: usize, places: &mut [Slot<'a>]) -> usize;
}

/// Chains that were fetched.
struct Fetched<'a> {
    burst: &'a Burst,
    first: usize,
    lens: &'a RangeInclusive<u32>,
}

impl<'a> Source<'a> for Fetched<'a> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.burst.len().saturating_sub(self.first)
    }

    #[inline(never)]
    fn look(&mut self, done: usize, places: &mut [Slot<'a>]) -> usize {
        let simple = |buffer: Option<Buffer<'a>>| buffer.filter(|buffer| self.lens.contains(&buffer.len()));
        let buffers = self.burst.buffers(self.first + done).map_while(simple);
        places.iter_mut().zip(buffers).map(|(place, buffer)| place.buffer = buffer).count()
    }
}

/// Chains that are posted, for the device to write or to read.
struct Posted<'a, const WRITES: bool> {
    slots: Slots<'a>,
    start: u16,
    count: usize,
}

impl<'a, const WRITES: bool> Source<'a> for Posted<'a, WRITES> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.count
    }

    #[inline(always)]
    fn look(&mut self, done: usize, places: &mut [Slot<'a>]) -> usize {
        let count = places.len().min(self.count - done);
        self.slots.look::<WRITES>(u32::from(self.start) + done as u32, &mut places[..count])
    }
}

#[inline(always)]
fn pass<'a>(
    source: &mut impl Source<'a>,
    ring: &mut SplitRing,
    terms: &Terms,
    mut takes: impl FnMut(&Front, u32) -> bool,
) -> Passed {
    if ring.direction() != Direction::HostToGuest {
        return Passed::default();
    }
    let Some((slots, start, end)) = ring.slots() else { return Passed::default() };
    let mut room = Posted::<true> { slots, start, count: end.wrapping_sub(start).into() };
    let (mut from, mut into) = ([Slot::NONE; BLOCK], [Slot::NONE; BLOCK]);
    let (mut front, mut done, mut bytes) = (Front::default(), 0, 0);
    'all: loop {
        let sent = source.look(done, &mut from).min(BLOCK);
        let sent = room.look(done, &mut into[..sent]).min(sent);
        if sent == 0 {
            break;
        }
        for (from, into) in from[..sent].iter().zip(&into) {
            let len = from.buffer.len();
            if !from.buffer.front(&mut front) {
                break 'all;
            }
            front.settle();
            if !takes(&front, len) || !into.buffer.fill(terms.header, &front, from.buffer) {
                break 'all;
            }
            room.slots.wrote(u32::from(start) + done as u32, into.head, len);
            done += 1;
            bytes += u64::from(len);
        }
    }
    ring.completed(start.wrapping_add(done as u16));
    Passed { chains: done, bytes, all: done == source.count() }
}

/// Adds to a counter. One thread does: a load and a store cost less than a locked addition.
#[inline]
fn count(copied: &AtomicU64, bytes: u64) {
    copied.store(copied.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
}

/// Copies bytes of a range of chains from `offset` on to memory of the host, as many as `to` takes; returns the bytes copied and adds
/// them to `copied`.
pub fn keep_payload(src: &Burst, chains: Range<usize>, offset: u32, to: &mut [u8], copied: &AtomicU64) -> u32 {
    let done = src.read_over(chains, offset, to) as u32;
    count(copied, done.into());
    done
}
