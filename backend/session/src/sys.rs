//! System calls without a safe form elsewhere.
#![allow(unsafe_code)]
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Sets O_NONBLOCK on the open file.
pub fn set_non_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is borrowed for the call.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    let result = flags >= 0 && unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } >= 0;
    if result { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The process that listens at the other end (SO_PEERCRED, unix(7)).
pub fn peer_pid(fd: BorrowedFd<'_>) -> io::Result<libc::pid_t> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: value and length are valid for the call.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut credentials).cast(), &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(credentials.pid) }
}

/// A duplicate of a descriptor that the front holds, by its number.
///
/// # Errors
/// The number is not open; no room in the descriptor table.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a number that is not open is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    // SAFETY: a descriptor that was just made belongs to nobody else.
    if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(copy) }) }
}

/// Waits until a descriptor is ready, or has hung up, or `limit` has passed. The caller tries and sees.
pub fn wait_ready(fd: BorrowedFd<'_>, events: libc::c_short, limit: Duration) {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    let ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd, valid for the call.
    unsafe { libc::poll(&raw mut poll, 1, ms) };
}
