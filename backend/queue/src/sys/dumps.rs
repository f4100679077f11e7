//! What a core dump of this process leaves out: memory in which bytes of guests lie.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// Has core dumps leave out the pages of a mapping (MADV_DONTDUMP, madvise(2)). What the system says to it is not asked: where it refuses,
/// the mapping is of no less use.
pub(super) fn leave_out(start: *mut u8, len: u64) {
    // SAFETY: the advice changes what a dump has and nothing of the memory, whosever it is; the length is a mapping's own.
    unsafe { libc::madvise(start.cast::<c_void>(), len as usize, libc::MADV_DONTDUMP) };
}

/// Memory of this process's own in which a guest's bytes are kept for a while: no core dump has it. Like a boxed slice, but each is a
/// mapping of its own: made once, and kept.
pub struct Undumped {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes, as a boxed slice does.
unsafe impl Send for Undumped {}
// SAFETY: as above.
unsafe impl Sync for Undumped {}

impl Undumped {
    /// So many bytes, at least one, all of them 0. Pages come when they are touched. Without memory the process ends, as with every
    /// allocation.
    pub fn new(len: usize) -> Undumped {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place of the kernel's choice touches no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
        let start = if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) };
        let Some(start) = start else {
            alloc::handle_alloc_error(Layout::array::<u8>(len).unwrap_or(Layout::new::<u8>()))
        };
        leave_out(start.as_ptr(), len as u64);
        Undumped { start, len }
    }
}

impl Deref for Undumped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is so long, readable, filled with zeros at first, and this value's own.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Undumped {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and it is writable; `self` is borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Undumped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl fmt::Debug for Undumped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Undumped({} bytes)", self.len)
    }
}
