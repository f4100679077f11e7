//! Signals as a descriptor (signalfd(2)).
use super::check;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The signals that the master acts upon.
const HANDLED: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The handled signals, blocked in the creating thread and those that it starts, and readable here.
pub(crate) struct Signals(OwnedFd);

/// The signal mask from before [`Signals::new`].
pub(crate) struct SavedMask(libc::sigset_t);

fn handled() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset and sigaddset write to a live one.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in HANDLED {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

impl Signals {
    pub(crate) fn new() -> io::Result<(Signals, SavedMask)> {
        let set = handled();
        // SAFETY: as in `handled`; both sets outlive the calls.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            let mut old: libc::sigset_t = std::mem::zeroed();
            let result = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut old);
            if result != 0 {
                return Err(io::Error::from_raw_os_error(result));
            }
            let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok((Signals(OwnedFd::from_raw_fd(fd)), SavedMask(old)))
        }
    }

    /// The next pending signal's number.
    pub(crate) fn next(&self) -> Option<libc::c_int> {
        // SAFETY: signalfd_siginfo is plain data, and read(2) writes at most its size.
        let (read, info) = unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            (libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) as usize == size, info)
        };
        read.then_some(info.ssi_signo as libc::c_int)
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl SavedMask {
    /// Puts this thread's mask back.
    pub(crate) fn restore(self) {
        // SAFETY: the set is what pthread_sigmask(3) gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// In the engine: Ctrl-C reaches the whole process group, but only the master acts upon it.
pub(crate) fn leave_to_master() {
    let set = handled();
    // SAFETY: SIG_IGN installs no code; the set outlives the call.
    unsafe {
        for signal in HANDLED {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}
