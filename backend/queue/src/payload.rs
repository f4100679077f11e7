//! The one place where vonic copies payload: from guest to guest, what lies in the wrong one of a guest's buffers, a datagram's
//! fragments that wait for others, and frames of a port that somebody captures.
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::Front;
use crate::{Burst, SplitRing};

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

/// Copies chains of one guest, from `first` on, into the buffers of another's receive ring, each from one buffer into one, and
/// completes them there. `takes` is given a chain's first bytes, copied once, and its length; the receiver gets `header` in place of the
/// first words. It ends with a chain that is not taken, or is not that simple: of that one nothing has happened. Returns how many chains,
/// and how many bytes.
///
/// None are taken while chains of the ring are in flight, since they come first, or a log is kept of what is written.
#[inline(always)]
pub fn pass_payload(
    src: &Burst,
    first: usize,
    ring: &mut SplitRing,
    header: [u64; 2],
    mut takes: impl FnMut(&Front, u32) -> bool,
) -> (usize, u64) {
    let Some((slots, start, end)) = ring.slots() else { return (0, 0) };
    let (mut next, mut bytes) = (start, 0u64);
    let mut front = Front::default();
    for from in src.buffers(first) {
        let Some(from) = from.filter(|_| next != end) else { break };
        if !from.front(&mut front) {
            break;
        }
        // The copy is one: it is not taken apart into reads of single fields.
        black_box(&front);
        if !takes(&front, from.len()) {
            break;
        }
        let Some((head, to)) = slots.at(next) else { break };
        if !to.fill(header, &front, from) {
            break;
        }
        slots.complete(next, head, from.len());
        next = next.wrapping_add(1);
        bytes += u64::from(from.len());
    }
    ring.completed(next);
    (next.wrapping_sub(start).into(), bytes)
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
