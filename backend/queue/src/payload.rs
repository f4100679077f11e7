//! The one place where vonic copies payload: from guest to guest, and a datagram's fragments that wait for others.
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Burst;

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
    copied.fetch_add(u64::from(done), Ordering::Relaxed);
    done
}

/// Copies bytes of one chain from `src_offset` on to memory of the host, as many as `to` takes; returns the bytes copied and adds
/// them to `copied`.
pub fn keep_payload(src: &Burst, src_chain: usize, src_offset: u32, to: &mut [u8], copied: &AtomicU64) -> u32 {
    let done = src.read(src_chain, src_offset, to) as u32;
    copied.fetch_add(u64::from(done), Ordering::Relaxed);
    done
}
