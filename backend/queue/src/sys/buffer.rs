//! A buffer in one piece, and its first bytes, by which is decided what becomes of it.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::bulk;
use super::map::MemoryMap;

/// The first bytes of a chain, as words in memory order. Aligned, so that each word lies in what was stored at once: the processor
/// forwards that.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub struct Front(pub [u64; FRONT / 8]);
/// How many those are.
pub const FRONT: usize = 64;

/// How many of these are given anew.
const HEADER: usize = 16;

impl Front {
    /// What was copied to it stays: the compiler does not take the copy apart into reads of single fields.
    #[inline(always)]
    pub(crate) fn settle(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: nothing is executed. What is said of it is that it may have changed these words, which any value does.
        unsafe {
            std::arch::asm!("/* {0} */", in(reg) self.0.as_mut_ptr(), options(nostack, preserves_flags));
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::hint::black_box(&mut *self);
    }

    /// The word from byte 8·`i` on, in memory order.
    #[inline(always)]
    pub fn word(&self, i: usize) -> u64 {
        assert!(i < FRONT / 8);
        // SAFETY: found to be one of the words. Volatile, so that it is one move, and not taken out of what was read for a comparison.
        unsafe { self.0.as_ptr().add(i).read_volatile() }
    }

    /// The 16 bits from byte 2·`i` on, in network byte order.
    #[inline(always)]
    pub fn half(&self, i: usize) -> u16 {
        assert!(i < FRONT / 2);
        // SAFETY: found to be within the words. Volatile as for `word`.
        u16::from_be(unsafe { self.0.as_ptr().cast::<u16>().add(i).read_volatile() })
    }
}

/// How many words a [`Pattern`] is about.
const WORDS: usize = 6;

/// Some bits of the first words of a [`Front`], and what they are to be.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct Pattern {
    mask: [u64; WORDS],
    same: [u64; WORDS],
}

impl Pattern {
    /// The bits in `mask`, as they are in `like`.
    pub fn new(mask: [u64; WORDS], like: &Front) -> Pattern {
        let mask = mask.map(u64::to_le);
        Pattern { mask, same: std::array::from_fn(|i| like.0[i] & mask[i]) }
    }

    /// The first words, in memory order: these bits, and zeros for all others.
    pub fn words(&self) -> &[u64; WORDS] {
        &self.same
    }

    /// Whether they are so.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn is_in(&self, front: &Front) -> bool {
        use std::arch::x86_64::{__m128i, _mm_and_si128, _mm_cmpeq_epi32, _mm_load_si128, _mm_movemask_epi8};
        let [front, mask, same] =
            [front.0.as_ptr(), self.mask.as_ptr(), self.same.as_ptr()].map(<*const u64>::cast::<__m128i>);
        // SAFETY: every x86-64 has SSE2. Each of the three arrays has at least six words and begins at a multiple of 16 bytes, by its type's layout.
        unsafe {
            let equal = |i| {
                let wanted = _mm_and_si128(_mm_load_si128(front.add(i)), _mm_load_si128(mask.add(i)));
                _mm_cmpeq_epi32(wanted, _mm_load_si128(same.add(i)))
            };
            _mm_movemask_epi8(_mm_and_si128(_mm_and_si128(equal(0), equal(1)), equal(2))) == 0xffff
        }
    }

    /// Whether they are so.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub fn is_in(&self, front: &Front) -> bool {
        (0..WORDS).fold(0, |other, i| other | (front.0[i] ^ self.same[i]) & self.mask[i]) == 0
    }
}

/// A buffer in one piece, of a map that is kept for `'a`. Never empty.
#[derive(Clone, Copy)]
pub(crate) struct Buffer<'a> {
    host: *mut u8,
    len: u32,
    map: PhantomData<&'a MemoryMap>,
}

impl Buffer<'_> {
    /// No buffer: of no bytes.
    pub(crate) const NONE: Buffer<'static> = Buffer { host: std::ptr::null_mut(), len: 0, map: PhantomData };

    /// The `len` bytes at `host`, which its maker has found in a mapping that is kept for as long as the buffer says.
    #[inline(always)]
    pub(super) fn new(host: *mut u8, len: u32) -> Self {
        Buffer { host, len, map: PhantomData }
    }

    #[inline(always)]
    pub(super) fn host(self) -> *mut u8 {
        self.host
    }

    /// Its bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        self.len
    }

    /// It is about to be read.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        bulk::prefetch(self.host);
    }

    /// It is about to be written.
    #[inline(always)]
    pub(crate) fn prefetch_to_write(self) {
        bulk::prefetch_to_write(self.host);
    }

    /// Copies its first bytes, each of them once; false if there are not so many.
    #[inline(always)]
    pub(crate) fn front(self, out: &mut Front) -> bool {
        let whole = self.len as usize >= FRONT;
        if whole {
            // SAFETY: the buffer has so many bytes and lies in a mapping that is kept.
            unsafe { bulk::copy_block::<FRONT>(self.host, out.0.as_mut_ptr().cast()) };
        }
        whole
    }

    /// Writes `header` and the rest of `front` to its start, and behind it what stands in `from` behind as many bytes. False, and nothing is written, if
    /// it has not the room that `from` has, or `from` is shorter than `front`.
    #[inline(always)]
    pub(crate) fn fill(self, header: [u64; 2], front: &Front, from: Buffer<'_>) -> bool {
        if self.len < from.len || (from.len as usize) < FRONT {
            return false;
        }
        // SAFETY: both have at least `from.len` bytes, which is at least FRONT, and lie in mappings that are kept.
        unsafe {
            // The rest may begin in front of its beginning: what it writes there is overwritten by what was checked.
            bulk::copy_behind::<FRONT>(from.host, self.host, from.len as usize);
            bulk::copy_block::<HEADER>(header.as_ptr().cast(), self.host);
            bulk::copy_block::<{ FRONT - HEADER }>(front.0.as_ptr().cast::<u8>().add(HEADER), self.host.add(HEADER));
        }
        true
    }
}
