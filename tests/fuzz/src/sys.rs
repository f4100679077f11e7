//! System calls that the standard library has no safe form of.
#![allow(unsafe_code)]

use std::io::{Error, ErrorKind};
use std::os::fd::{FromRawFd, OwnedFd};

/// Whether something can be read within so many milliseconds, or the other end is gone. A signal begins the time anew: libFuzzer has a timer.
pub(crate) fn poll(of: &mut libc::pollfd, milliseconds: libc::c_int) -> bool {
    loop {
        // SAFETY: one pollfd, live for the call.
        match unsafe { libc::poll(of, 1, milliseconds) } {
            -1 if Error::last_os_error().kind() == ErrorKind::Interrupted => {}
            ready => return ready == 1,
        }
    }
}

/// Whoever writes to an end that nobody reads is told so, and goes on.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// A file without a name, of memory.
pub(crate) fn memory_file() -> Option<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: it was just opened, and belongs to nobody else.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
