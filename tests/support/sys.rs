//! What a started process gets before it runs: its own group, an end together with the test, a network namespace, the lab root.
//!
//! Everything in the child between fork and exec is system calls on memory prepared before the fork (signal-safety(7)).
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A root file system to run in: `root` read-only, the machine's /proc, /sys and /dev, and `tmp` as /tmp.
///
/// The mounts are private to the process, so nothing of them is left when it ends.
pub(crate) struct Root {
    root: CString,
    proc: CString,
    sys: CString,
    dev: CString,
    lab_tmp: CString,
    tmp: CString,
}

impl Root {
    pub(crate) fn new(root: &Path, tmp: &Path) -> io::Result<Root> {
        let inside = |name: &str| CString::new(root.join(name).as_os_str().as_bytes());
        Ok(Root {
            root: CString::new(root.as_os_str().as_bytes())?,
            proc: inside("proc")?,
            sys: inside("sys")?,
            dev: inside("dev")?,
            lab_tmp: inside("tmp")?,
            tmp: CString::new(tmp.as_os_str().as_bytes())?,
        })
    }

    /// pivot_root(2), not chroot: user namespaces, which some peers need, are refused in a chroot.
    fn enter(&self) -> io::Result<()> {
        const BIND: libc::c_ulong = libc::MS_BIND | libc::MS_REC;
        // SAFETY: no memory is passed.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        mount(&self.root, &self.root, libc::MS_BIND)?;
        mount(&self.root, &self.root, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY)?;
        mount(c"/proc", &self.proc, BIND)?;
        mount(c"/sys", &self.sys, BIND)?;
        mount(c"/dev", &self.dev, BIND)?;
        mount(&self.tmp, &self.lab_tmp, libc::MS_BIND)?;
        // SAFETY: each path is a C string that lives through its call.
        unsafe {
            check(libc::chdir(self.root.as_ptr()))?;
            // The old root is stacked under the new one and taken off: pivot_root(2), "pivot_root(".", ".")".
            check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as libc::c_int)?;
            check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
            check(libc::chdir(c"/".as_ptr()))?;
        }
        Ok(())
    }
}

fn mount(source: &CStr, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: both are C strings that live through the call; type and data may be null for these flags.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), flags, ptr::null()) }).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Prepares `command`: own process group, SIGKILL when the starting thread ends, and where asked for, namespace and root.
pub(crate) fn prepare(command: &mut Command, netns: Option<RawFd>, root: Option<Root>) {
    let parent = std::process::id() as libc::pid_t;
    let before_exec = move || {
        // SAFETY: no memory is passed; prctl takes the signal by value.
        unsafe {
            check(libc::setpgid(0, 0))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            if let Some(fd) = netns {
                check(libc::setns(fd, libc::CLONE_NEWNET))?;
            }
        }
        root.as_ref().map_or(Ok(()), Root::enter)
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(before_exec) };
}

/// Has `command` find these descriptors at 3 and above (sd_listen_fds(3)), in the order given. None of them may lie there now.
pub(crate) fn pass(command: &mut Command, fds: &[RawFd]) {
    let fds = fds.to_vec();
    let before_exec = move || {
        for (number, &fd) in (3..).zip(&fds) {
            // SAFETY: no memory is passed. The copy is not close-on-exec.
            check(unsafe { libc::dup2(fd, number) })?;
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(before_exec) };
}

/// A copy of a descriptor whose number is `least` or above.
pub(crate) fn copy_above(fd: RawFd, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Sends `signal` to a process that this one started and has not reaped.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}

/// Has processes whose parents end become this one's children (PR_SET_CHILD_SUBREAPER).
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as libc::c_ulong) }).map(drop)
}

/// Takes the exit code of a child that has ended, or the signal's number below zero. A process that is no child yet has not ended.
pub(crate) fn reap(pid: u32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: the status is written to a live place.
    match unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        -1 => {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) }
        }
        _ if libc::WIFEXITED(status) => Ok(Some(libc::WEXITSTATUS(status))),
        _ => Ok(Some(-libc::WTERMSIG(status))),
    }
}

/// Moves the calling thread, and what it starts from now on, into a new network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Moves the calling thread into the network namespace `fd`.
pub(crate) fn set_network(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Has a socket reset its peer when it is closed (SO_LINGER with 0 seconds, socket(7)).
pub(crate) fn reset_on_close(socket: RawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the option's value lives through the call, and its size is given.
    check(unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size) })
        .map(drop)
}

/// What is sent at once is cut into datagrams of `size` bytes, by whoever can (UDP_SEGMENT, udp(7)).
pub(crate) fn segment_datagrams(socket: RawFd, size: u16) -> io::Result<()> {
    let (value, length) = (libc::c_int::from(size), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the option's value lives through the call, and its size is given.
    check(unsafe { libc::setsockopt(socket, libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const value).cast(), length) })
        .map(drop)
}

/// Sets how many connections of a listening socket may wait to be accepted (listen(2)).
pub(crate) fn listen(socket: RawFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::listen(socket, backlog) }).map(drop)
}

/// Sends bytes the last of which is urgent (MSG_OOB, tcp(7)).
pub(crate) fn send_urgent(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `bytes`.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_OOB | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The real user id.
pub(crate) fn user() -> u32 {
    // SAFETY: no memory is passed; it cannot fail.
    unsafe { libc::getuid() }
}

/// An anonymous file in memory.
pub(crate) fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: name is a C string that lives through the call.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: fd was just opened and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until `fd` can be read; false if it could not within `limit`.
///
/// # Errors
/// The system's.
pub fn wait_readable(fd: RawFd, limit: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let milliseconds = limit.as_millis().min(i32::MAX as u128) as libc::c_int;
    // SAFETY: one pollfd, live and writable.
    check(unsafe { libc::poll(&raw mut entry, 1, milliseconds) }).map(|ready| ready > 0)
}

/// Connects to a unix socket as another user.
///
/// # Errors
/// The system's; only root can.
pub fn connect_as(user: u32, path: &Path) -> io::Result<UnixStream> {
    let path = path.to_path_buf();
    let connect = move || {
        // SAFETY: takes numbers. The C library would change every thread's user, the kernel changes that of this one alone, which ends.
        if unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) } < 0 {
            return Err(io::Error::last_os_error());
        }
        UnixStream::connect(path)
    };
    std::thread::spawn(connect).join().map_err(|_| io::Error::other("the thread has panicked"))?
}

/// Clears O_NONBLOCK of the open file behind `fd`, for everybody who has it.
///
/// # Errors
/// The system's.
pub fn make_blocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) }).map(drop)
}

/// As [`wait_readable`], of any of several.
pub(crate) fn wait_any_readable(fds: &[RawFd], limit: Duration) -> io::Result<bool> {
    let mut entries: Vec<_> = fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let ms = i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: the entries outlive the call, and their number is given.
    check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, ms) }).map(|ready| ready > 0)
}

/// A descriptor that becomes readable when the process ends (pidfd_open(2)).
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and returns a new descriptor.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// As many descriptors as the hard limit allows, which is raised, too, if they are fewer than `least`.
pub(crate) fn raise_descriptor_limit(least: u64) -> io::Result<()> {
    let mut limit = descriptors()?;
    limit.rlim_max = limit.rlim_max.max(least);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` outlives the call, which only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// How many descriptors this process may have open.
pub(crate) fn descriptor_limit() -> io::Result<u64> {
    Ok(descriptors()?.rlim_cur)
}

fn descriptors() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place for the answer is valid.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

/// Whether this kernel has SO_PEEK_OFF on TCP sockets; vonic peeks over scratch memory where it has not.
pub(crate) fn tcp_peek_offset_works() -> io::Result<bool> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: fd was just opened and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let zero: libc::c_int = 0;
    let length = size_of_val(&zero) as libc::socklen_t;
    // SAFETY: zero is a whole int of the length given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const zero).cast(), length)
    };
    Ok(result == 0)
}

/// A system call that a traced thread is about to make.
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) arguments: [u64; 6],
}

/// How a traced thread stopped.
pub(crate) enum Stop {
    /// Before a system call.
    Entry(Entry),
    /// For another reason; go on with this signal.
    Other(i32),
    /// It has ended.
    Ended,
}

/// Attaches the calling thread as the tracer of thread `tid` and of those that it will start (PTRACE_SEIZE), and stops it.
pub(crate) fn trace(tid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
    // SAFETY: address and data are numbers for these requests.
    unsafe {
        check(libc::ptrace(libc::PTRACE_SEIZE, tid, 0usize, options as usize) as libc::c_int)?;
        check(libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0usize, 0usize) as libc::c_int)?;
    }
    Ok(())
}

/// Waits for the next stop of any thread that the calling thread traces, without touching other threads' children; `None` if there is none
/// at the moment.
pub(crate) fn next_stop() -> io::Result<Option<(i32, Stop)>> {
    const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
    let mut status = 0;
    // SAFETY: status is live and writable.
    let tid = check(unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG) })?;
    if tid == 0 {
        return Ok(None);
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some((tid, Stop::Ended)));
    }
    let signal = libc::WSTOPSIG(status);
    if signal != SYSCALL_STOP {
        // A group or event stop (status >> 16 is set) hands no signal on.
        return Ok(Some((tid, Stop::Other(if status >> 16 == 0 { signal } else { 0 }))));
    }
    // SAFETY: all zero is a valid ptrace_syscall_info.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: info is live and writable, of the size given.
    check(unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size, &raw mut info) as libc::c_int })?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(Some((tid, Stop::Other(0))));
    }
    // SAFETY: op says that the union holds an entry.
    let entry = unsafe { info.u.entry };
    Ok(Some((tid, Stop::Entry(Entry { number: entry.nr, arguments: entry.args }))))
}

/// Lets a stopped thread run to its next system call.
pub(crate) fn go_on(tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: address and data are numbers for this request.
    check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid, 0usize, signal as usize) as libc::c_int }).map(drop)
}

/// Stops a traced thread.
pub(crate) fn interrupt(tid: i32) -> io::Result<()> {
    // SAFETY: address and data are numbers for this request.
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0usize, 0usize) as libc::c_int }).map(drop)
}

/// Lets a stopped thread go.
pub(crate) fn detach(tid: i32) -> io::Result<()> {
    // SAFETY: address and data are numbers for this request.
    check(unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0usize, 0usize) as libc::c_int }).map(drop)
}

/// The system's allocator, which counts what one thread allocates: a test makes it its global allocator.
pub struct CountingAllocator {
    count: AtomicU64,
    thread: &'static CStr,
}

impl CountingAllocator {
    /// Counts the allocations of threads of this name (15 bytes at most, prctl(2)).
    pub const fn of_thread(thread: &'static CStr) -> CountingAllocator {
        CountingAllocator { count: AtomicU64::new(0), thread }
    }

    /// Allocations so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn note(&self) {
        let mut name = [0u8; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        if CStr::from_bytes_until_nul(&name).is_ok_and(|found| found == self.thread) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is passed on to the system's allocator; `note` allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

/// A new TUN interface of the calling thread's network, without packet information (tun(4)).
pub(crate) fn open_tun(name: &CStr) -> io::Result<std::fs::File> {
    use std::os::fd::AsRawFd;
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// Has one thread of another process stand still, while its others go on, until that process ends; the handle is of who waits for that.
///
/// # Errors
/// The system's: the thread is gone, or somebody traces it already.
pub fn hang(thread: u32) -> io::Result<std::thread::JoinHandle<()>> {
    let (to, stands) = std::sync::mpsc::channel();
    // All that is asked of a traced thread is asked by one thread (ptrace(2)).
    let tracer = std::thread::spawn(move || {
        let _ = to.send(stop_thread(thread as libc::pid_t));
        while wait_thread(thread as libc::pid_t).is_ok_and(|status| libc::WIFSTOPPED(status)) {}
    });
    stands.recv().map_err(io::Error::other)??;
    Ok(tracer)
}

fn stop_thread(thread: libc::pid_t) -> io::Result<()> {
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: neither request reads or writes memory of this process.
    unsafe {
        check(libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) as libc::c_int)?;
        check(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) as libc::c_int)?;
    }
    wait_thread(thread).map(drop)
}

fn wait_thread(thread: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: the status is writable for the call.
    check(unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) })?;
    Ok(status)
}
