//! Bulk access to guest memory through raw pointers.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

/// Copies `len` bytes.
///
/// The guest may write to its memory meanwhile. The copy then holds some mix of old and new bytes, which is all that is
/// asked of it; the compiler fences keep the compiler from reading the source again in place of the copy.
///
/// # Safety
///
/// `from` has to be readable and `to` writable for `len` bytes. They may overlap: a guest can post one buffer twice.
#[inline]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the caller's promise; `copy` allows for overlap. That another process may race with it is inherent in shared
    // memory: no Rust reference covers guest bytes, and nothing is assumed about the values.
    unsafe { ptr::copy(from, to, len) };
    compiler_fence(Ordering::SeqCst);
}

/// Copies N bytes in so few moves that no call is worth it.
///
/// # Safety
///
/// As for [`copy`], with `len` N.
#[inline(always)]
pub(super) unsafe fn copy_block<const N: usize>(from: *const u8, to: *mut u8) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the caller's promise; as for `copy`.
    unsafe { ptr::copy(from.cast::<[u8; N]>(), to.cast::<[u8; N]>(), 1) };
    compiler_fence(Ordering::SeqCst);
}

/// Copies what lies behind the first N bytes of `len`, and up to N of the bytes in front of that, in a few moves where it is little. Who has
/// read the first N bytes already writes them afterwards.
///
/// # Safety
///
/// As for [`copy`]; `len` is at least N, and N at least 64.
#[inline(always)]
pub(super) unsafe fn copy_behind<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
    const { assert!(N >= 64) };
    // SAFETY: the caller's promise; what is copied ends with `len`, and is no longer.
    unsafe {
        match len - N {
            0..=16 => copy_block::<16>(from.add(len - 16), to.add(len - 16)),
            17..=32 => copy_block::<32>(from.add(len - 32), to.add(len - 32)),
            33..=64 => copy_block::<64>(from.add(len - 64), to.add(len - 64)),
            rest => copy(from.add(N), to.add(N), rest),
        }
    }
}

/// Has the processor bring two lines of memory near, for a read soon. Any address may be asked for.
#[inline(always)]
pub(super) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which neither reads nor faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// As [`prefetch`], for a write soon: the lines are taken from whichever processor wrote to them last.
#[inline(always)]
pub(super) fn prefetch_to_write(at: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which neither reads nor faults, whatever the address; processors that do not know it pass over it.
    unsafe {
        std::arch::asm!("prefetchw [{at}]", "prefetchw [{at} + 64]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// One's-complement sum (RFC 1071) of `len` bytes as native 16-bit words, folded to 16 bits; an odd last byte is padded
/// with a zero behind it.
///
/// # Safety
///
/// `from` has to be readable for `len` bytes.
pub(super) unsafe fn sum(from: *const u8, len: usize) -> u16 {
    let mut sum = 0u64;
    for word in 0..len / 4 {
        // SAFETY: the word ends at or before `len`; the read asks for no alignment. A racing guest falsifies its own sum.
        sum += u64::from(unsafe { from.add(4 * word).cast::<u32>().read_unaligned() });
    }
    let mut tail = [0u8; 4];
    // SAFETY: the last `len % 4` bytes are inside the range, and fewer than `tail` has.
    unsafe { copy(from.add(len & !3), tail.as_mut_ptr(), len % 4) };
    fold(sum + u64::from(u32::from_ne_bytes(tail)))
}

/// Folds carries back in until the sum has 16 bits (RFC 1071 §2).
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
