//! System calls without a safe form elsewhere.
#![allow(unsafe_code)]
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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
