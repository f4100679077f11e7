//! Calls on a connected pair of Unix stream sockets (unix(7)).
#![allow(unsafe_code)]
use super::tcp::{check, memory};
use libc::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Index into the answer of SO_MEMINFO (include/uapi/linux/sock_diag.h): a Unix socket counts what its peer has not read here.
const SK_MEMINFO_WMEM_ALLOC: usize = 2;
const SK_MEMINFO_SNDBUF: usize = 3;
/// Bytes read at once where they are thrown away.
const THROWN: usize = 4096;

/// Two connected stream sockets, both non-blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let mut ends = [-1; 2];
    // SAFETY: there is place for two descriptors.
    unsafe { check(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()))? };
    // SAFETY: fresh descriptors are owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Drops up to `len` bytes from the head of the receive queue. MSG_TRUNC means nothing on Unix streams: they are read.
pub fn discard(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let mut thrown = [0u8; THROWN];
    // SAFETY: the buffer has at least as many bytes as are asked for.
    let result = unsafe {
        let place = thrown.as_mut_ptr().cast::<c_void>();
        libc::recv(fd.as_raw_fd(), place, len.min(THROWN), libc::MSG_DONTWAIT)
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Bytes of send buffer that are free and in use, by the kernel's own accounting.
pub fn send_room(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let info = memory(fd)?;
    let queued = info[SK_MEMINFO_WMEM_ALLOC];
    Ok((info[SK_MEMINFO_SNDBUF].saturating_sub(queued), queued))
}
