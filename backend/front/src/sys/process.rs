//! The engine's process: made with a shared descriptor table, watched by a pidfd.
use super::check;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Which side of [`clone_sharing_files`] one is on.
pub(crate) enum Cloned {
    /// In the new process.
    Child,
    /// In the old one; the child's process number.
    Parent(i32),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "ended by itself with code {code}"),
            Ended::Signalled(signal) => write!(f, "died by signal {signal}"),
        }
    }
}

/// fork(2), but with one descriptor table for both: what the child opens is open here from that instant, and stays so when
/// the child is killed. The caller has a single thread, as for any fork without exec.
pub(crate) fn clone_sharing_files() -> io::Result<Cloned> {
    let mut tid_address: *mut libc::c_int = std::ptr::null_mut();
    // SAFETY: PR_GET_TID_ADDRESS stores one pointer at the given place; see prctl(2).
    let known = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid_address) } == 0;
    let mut flags = libc::CLONE_FILES | libc::SIGCHLD;
    if known {
        // The C library keeps the thread's number there; the kernel rewrites it in the child's copy.
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    let stack: *mut libc::c_void = std::ptr::null_mut();
    let parent_tid: *mut libc::c_int = std::ptr::null_mut();
    let tls: libc::c_ulong = 0;
    // SAFETY: without CLONE_VM this is a fork: the child runs on its own copy of this stack and memory. There is only one
    // thread, so no lock of the C library is held by another one. `tid_address` is this thread's own, in the child too.
    #[cfg(target_arch = "x86_64")]
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), stack, parent_tid, tid_address, tls) };
    // SAFETY: as above; these architectures take the last two arguments the other way round (clone(2)).
    #[cfg(not(target_arch = "x86_64"))]
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), stack, parent_tid, tls, tid_address) };
    match pid {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent(check(pid as libc::c_int)?)),
    }
}

/// Ends this process at once. No destructor runs: in the engine each would close a descriptor of the master's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Asks for SIGKILL when `parent` ends, and checks that it has not ended before that.
pub(crate) fn die_with_parent(parent: i32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes an integer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) })?;
    // SAFETY: getppid(2) takes nothing and cannot fail.
    if unsafe { libc::getppid() } == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Neither this process nor any that it makes gets a privilege by running a program (PR_SET_NO_NEW_PRIVS): no set-user-ID, no file
/// capabilities. It cannot be taken back.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    let (yes, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: the option takes integers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, none, none, none) }).map(drop)
}

/// No core dump: it would delay the reaping, and with it the healing, by seconds.
pub(crate) fn no_core_dump() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` outlives the call, which only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) }).map(drop)
}

/// As many descriptors as the hard limit allows: each connection of each VM takes one, and the soft limit is mostly 1024.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place for the answer is valid.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` outlives the call, which only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// sched_setattr(2).
#[repr(C)]
#[derive(Default)]
struct SchedulingAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Nanoseconds of one turn (Linux 6.12); 0: the system's.
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Has this thread, and those that it begins, take turns of so long on a processor; `None`: as long as everybody's. Whoever takes shorter
/// ones has its turn sooner: it need not wait for milliseconds behind a thread that works. Older kernels have one length for
/// everybody, and a service manager may have given the thread another policy: then nothing changes.
pub fn take_turns_of(turn: Option<Duration>) {
    // SAFETY: sched_getscheduler(2) takes an integer.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        return;
    }
    // SAFETY: getpriority(2) takes integers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = SchedulingAttributes {
        size: size_of::<SchedulingAttributes>() as u32,
        nice,
        runtime: turn.map_or(0, |turn| turn.as_nanos() as u64),
        ..SchedulingAttributes::default()
    };
    // SAFETY: the attributes outlive the call, which only reads them, and no more than their size.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Has the allocator map whatever is as large as this by itself, for as long as the process and its engines live. The C library's own
/// threshold rises to the largest block that was ever freed (mallopt(3)): tables of connections that grow would be copied then, and
/// leave holes as large as themselves, instead of being moved by mremap(2).
#[cfg(target_env = "gnu")]
pub(crate) fn map_large_blocks() {
    const LARGE: libc::c_int = 1 << 20;
    // SAFETY: takes two integers, and no thread but this one runs yet.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Another C library's allocator is left alone.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn map_large_blocks() {}

/// How many descriptors this process may have open.
pub(crate) fn descriptor_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place for the answer is valid.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// A descriptor that becomes readable when the process ends (Linux 5.3).
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and returns a new descriptor (close-on-exec by itself).
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a program inherit no descriptor but its standard ones: not everything that other crates open, or that VMMs send, is closed on
/// exec by itself.
pub(crate) fn close_on_exec(command: &mut Command) {
    // SAFETY: close_range(2) takes integers and touches no memory, so it may run between fork and exec.
    unsafe {
        command.pre_exec(|| {
            check(libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) as libc::c_int)
                .map(drop)
        })
    };
}

/// SIGKILL to the process behind a pidfd.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let info: *mut libc::siginfo_t = std::ptr::null_mut();
    // SAFETY: no siginfo is given; the other arguments are integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, info, 0) };
    check(result as libc::c_int).map(drop)
}

/// SIGKILL to this process.
pub(crate) fn kill_self() {
    // SAFETY: takes an integer.
    unsafe { libc::raise(libc::SIGKILL) };
}

/// Whether somebody has stopped the process, by a signal or as a debugger does (proc_pid_stat(5)): then it is not its own fault that it
/// does nothing.
pub(crate) fn is_stopped(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit(')').next().is_some_and(|rest| matches!(rest.trim_start().chars().next(), Some('T' | 't')))
}

/// How the child behind a pidfd has ended, if it has. It stays to be reaped, which takes the kernel a millisecond if much was known of
/// it in /proc.
pub(crate) fn ended(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    wait(pidfd, libc::WNOWAIT)
}

/// Takes the exit status of the child behind a pidfd, if it has ended.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    wait(pidfd, 0)
}

fn wait(pidfd: BorrowedFd<'_>, how: libc::c_int) -> io::Result<Option<Ended>> {
    // SAFETY: siginfo_t is plain data, for which zeros are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = pidfd.as_raw_fd() as libc::id_t;
    // SAFETY: `info` outlives the call and is what waitid(2) writes.
    check(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | libc::WNOHANG | how) })?;
    // SAFETY: waitid filled in the fields of a child's siginfo, or left zeros.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(if info.si_code == libc::CLD_EXITED { Ended::Exited(status) } else { Ended::Signalled(status) }))
}

/// Whether processes whose parents end become this one's children, so that their ends are known (PR_SET_CHILD_SUBREAPER).
pub(crate) fn adopt_orphans(adopt: bool) -> io::Result<()> {
    // SAFETY: the option takes an integer.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, libc::c_ulong::from(adopt)) }).map(drop)
}

/// Kills every child, if the kernel lists them, and takes the exit status of those that have ended. True: there is none left.
pub(crate) fn reap_all() -> io::Result<bool> {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    for pid in children.split_ascii_whitespace().filter_map(|pid| pid.parse::<libc::pid_t>().ok()) {
        // SAFETY: kill(2) takes integers; a child's number is its own until it is reaped.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    loop {
        // SAFETY: no place for the status is given.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
            0 => return Ok(false),
            -1 => {
                let e = io::Error::last_os_error();
                return if e.raw_os_error() == Some(libc::ECHILD) { Ok(true) } else { Err(e) };
            }
            _ => {}
        }
    }
}

/// CLOCK_MONOTONIC.
pub(crate) fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and writable; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
