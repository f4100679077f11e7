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
