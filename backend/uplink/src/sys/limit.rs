//! How many descriptors this process may have.
#![allow(unsafe_code)]
use super::tcp::check;
use std::io;

/// The soft limit of open files (RLIMIT_NOFILE), which every socket counts towards.
///
/// # Errors
/// The system's.
pub fn descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place for the answer is valid.
    unsafe { check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))? };
    Ok(limit.rlim_cur)
}
