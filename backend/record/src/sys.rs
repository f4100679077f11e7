//! The shared memory itself.
#![allow(unsafe_code)]
mod fault;

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use zerocopy::{FromBytes, IntoBytes};

pub(crate) use fault::note_faults;

/// A memfd of `bytes`, which nobody can shrink or grow any more.
pub(crate) fn sealed_memory(bytes: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; the call returns a new descriptor.
    let fd = unsafe { libc::memfd_create(c"vonic-checkpoint".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(bytes as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an integer.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// Whether nobody can shrink the file under a mapping of it.
pub(crate) fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: F_GET_SEALS takes nothing.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// Random words of the kernel's.
pub(crate) fn random<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0; N];
    let length = size_of_val(&words);
    // SAFETY: the buffer is live and of the length given.
    let got = unsafe { libc::getrandom(words.as_mut_ptr().cast(), length, 0) };
    if got == length as isize { Ok(words) } else { Err(io::Error::last_os_error()) }
}

/// CLOCK_MONOTONIC in nanoseconds, which all processes of this host share.
pub(crate) fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and writable; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A mapping of a whole sealed file, shared with every other one.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut AtomicU64,
    words: usize,
}

// SAFETY: all access is by atomic operations.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `words` of a file that is at least so long and sealed against shrinking.
    pub(crate) fn new(fd: BorrowedFd<'_>, words: usize) -> io::Result<Mapping> {
        let length = words * size_of::<u64>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no other memory.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start: start.cast(), words })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is so long, aligned to pages, and lives as long as self; no reference but to atomics is ever made.
        unsafe { std::slice::from_raw_parts(self.start, self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.cast(), self.words * size_of::<u64>()) };
    }
}

/// Counters that outlive the engine, or, made by default, that do not. Clones are the same counters.
pub struct Shared<T> {
    place: NonNull<T>,
    /// Holds the place.
    keeper: Arc<dyn Any + Send + Sync>,
}

// SAFETY: it is no more than a reference to T, which several threads may use, and a counted one to its keeper.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T: FromBytes + IntoBytes + Send + Sync> Shared<T> {
    /// A view of words that stay where they are as long as `keeper` does; `None`: T is not made of as many words.
    ///
    /// Whoever calls this sees to it that the words are used by nothing else meanwhile.
    pub(crate) fn of_words(words: &[AtomicU64], keeper: Arc<dyn Any + Send + Sync>) -> Option<Shared<T>> {
        let fits = size_of::<T>() == size_of_val(words) && align_of::<T>() <= align_of::<AtomicU64>();
        let place = NonNull::from(words).cast::<T>();
        fits.then_some(Shared { place, keeper })
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Whether both are the same counters.
    pub fn is(&self, other: &Shared<T>) -> bool {
        self.place == other.place
    }
}

impl<T: Default + Send + Sync + 'static> Default for Shared<T> {
    fn default() -> Shared<T> {
        let own = Arc::new(T::default());
        Shared { place: NonNull::from(&*own), keeper: own }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared { place: self.place, keeper: Arc::clone(&self.keeper) }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the keeper, which lives as long as self, holds the place: a T of its own, or so many aligned words of a mapping, of
        // which any content is a T (FromBytes) and whatever a T does is words again (IntoBytes). Only shared references are made.
        unsafe { self.place.as_ref() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
