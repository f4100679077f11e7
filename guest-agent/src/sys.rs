//! The system calls that the standard library lacks.
#![allow(unsafe_code)]
pub mod terminal;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::ptr;
use std::time::Duration;

extern "C" fn end(_signal: libc::c_int) {
    // SAFETY: _exit(2) may be called in a signal handler (signal-safety(7)); nothing is buffered that could be lost.
    unsafe { libc::_exit(0) }
}

fn on_end(handler: extern "C" fn(libc::c_int)) {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler is a function of the right type that does nothing but what signal-safety(7) allows.
        unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    }
}

/// Makes SIGTERM and SIGINT an end in good order: the kernel closes the connection, and the exit status is 0.
pub fn end_when_asked() {
    on_end(end);
}

/// The processor time of this thread.
pub fn processor_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// How long the kernel runs, with the time that it was suspended: what /proc/uptime says.
pub fn uptime() -> Duration {
    clock(libc::CLOCK_BOOTTIME)
}

fn clock(which: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is where the kernel writes one timespec.
    unsafe { libc::clock_gettime(which, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The unit of processor time in /proc/stat.
pub fn ticks_per_second() -> u64 {
    // SAFETY: a question without pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100)
}

/// A socket that asks the kernel about sockets (sock_diag(7)); written and read as a file is, one datagram each.
///
/// # Errors
/// The system's.
pub fn sock_diag() -> io::Result<File> {
    // SAFETY: no pointers; the answer is checked.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this caller.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// What an answer may take up. The kernel writes as much as its driver has, whatever was asked for; behind this it finds no memory, and
/// fails instead of writing over something else.
const ANSWER: usize = 256 * 1024;
const GUARD: usize = 64 * 1024;

/// Asks drivers (SIOCETHTOOL), with memory of its own for their answers.
pub struct Ethtool {
    socket: UnixDatagram,
    /// `ANSWER` bytes that can be read and written, then `GUARD` bytes that cannot.
    memory: *mut u8,
}

impl Ethtool {
    /// Gets ready to ask.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Ethtool> {
        // The question is the kernel's own, whatever kind of socket it is asked by; this kind has no address anywhere.
        let socket = UnixDatagram::unbound()?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping where the kernel likes it.
        let memory = unsafe { libc::mmap(ptr::null_mut(), ANSWER + GUARD, libc::PROT_NONE, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ethtool = Ethtool { socket, memory: memory.cast() };
        // SAFETY: the first part of that mapping, which nobody else knows.
        if unsafe { libc::mprotect(memory, ANSWER, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ethtool)
    }

    /// Asks the driver of an interface; its answer begins with the question. `None` if there is none.
    pub fn ask(&mut self, interface: &str, question: &[u8]) -> Option<&[u8]> {
        if interface.len() >= libc::IFNAMSIZ || question.len() > ANSWER {
            return None;
        }
        // SAFETY: a struct of numbers and pointers, for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = self.memory.cast();
        // SAFETY: `ANSWER` bytes are mapped there for reading and writing, this borrow is the only one, and the question is no longer.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.memory, ANSWER) };
        memory.get_mut(..question.len())?.copy_from_slice(question);
        // SAFETY: the request is whole, and its data lies in memory behind which the kernel can write nothing: see `ANSWER`. The
        // slice above is used no more.
        let answered = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) };
        // SAFETY: as above; whatever the kernel wrote are bytes.
        (answered == 0).then(|| unsafe { std::slice::from_raw_parts(self.memory, ANSWER) })
    }
}

impl Drop for Ethtool {
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made, to which no reference is left.
        unsafe { libc::munmap(self.memory.cast(), ANSWER + GUARD) };
    }
}
