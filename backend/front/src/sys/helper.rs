//! Processes that share nothing with this one.
use super::check;
use super::process::Cloned;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// fork(2): the child has copies of everything. The caller has a single thread.
pub(crate) fn fork() -> io::Result<Cloned> {
    // SAFETY: there is only one thread, so no lock of the C library is held by another one.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent(pid)),
    }
}

/// Waits for a child's end, and takes its exit status.
pub(crate) fn wait_for(pid: i32) -> io::Result<()> {
    loop {
        // SAFETY: no place for the status is given.
        match check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended.map(drop),
        }
    }
}

/// Closes every descriptor of a process that was just forked but its standard ones and this one. None of the others is anybody's there.
pub(crate) fn close_all_but(fd: RawFd) {
    let fd = fd.unsigned_abs();
    // SAFETY: close_range(2) takes integers; by the caller's word nobody uses what it closes. An empty range is an error, which is fine.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, fd.saturating_sub(1), 0);
        libc::syscall(libc::SYS_close_range, fd + 1, libc::c_uint::MAX, 0);
    }
}

/// Whether children that end are nobody's concern, or are waited for.
pub(crate) fn forget_children(forget: bool) {
    // SAFETY: neither installs code.
    unsafe { libc::signal(libc::SIGCHLD, if forget { libc::SIG_IGN } else { libc::SIG_DFL }) };
}

/// Sets O_NONBLOCK.
pub(crate) fn do_not_wait(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL takes and gives integers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}
