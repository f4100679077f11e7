//! The engine's list: what it asks of the kernel, by what it is for. Made by watching every test's engines, and by reading what the standard
//! library, the C library and the crates do where something fails. Where in doubt, a call that is of no use to an intruder is on it.
use crate::filter::{Condition, List, Rule};

/// Never to be run: `mmap` and `mprotect` make no memory executable.
const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
/// A process is not made, a thread is (pthread_create(3)).
const THREAD: u64 = libc::CLONE_THREAD as u64;
/// `socket(2)`'s type without SOCK_NONBLOCK and SOCK_CLOEXEC.
const KIND: u64 = 0xf;
/// PR_SET_VMA: the C library names its mappings.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// ioctl(2) and fcntl(2): terminals, and who gets signals.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;

/// Calls that are allowed whatever their arguments are. The kernel keeps a bitmap of these: they cost next to nothing.
const FREE: &[i64] = &[
    // Descriptors, and what goes through them.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // What interrupts a call that a VMM has made to block.
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_signalfd4,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_memfd_create,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_copy_file_range,
    // Sockets that are there. Which there may be is said below.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Files: which ones is Landlock's affair, and the file system's own.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_umask,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads, and waiting.
    libc::SYS_futex,
    SYS_FUTEX_WAITV,
    SYS_FUTEX_WAKE,
    SYS_FUTEX_WAIT,
    SYS_FUTEX_REQUEUE,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getattr,
    libc::SYS_getpriority,
    libc::SYS_getcpu,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Signals that come.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
    // What the process asks about itself and the machine.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
];

/// Not in every version of the libc crate; the same on every architecture.
const SYS_FUTEX_WAITV: i64 = 449;
const SYS_FUTEX_WAKE: i64 = 454;
const SYS_FUTEX_WAIT: i64 = 455;
const SYS_FUTEX_REQUEUE: i64 = 456;

/// Older forms of these, which newer architectures have not.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_chmod,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_pipe,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_inotify_init,
    libc::SYS_getpgrp,
    libc::SYS_time,
    libc::SYS_pause,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// The whole list; `packet`: with sockets of AF_PACKET.
pub(crate) fn engine(packet: bool) -> List {
    let mut list = List::default();
    FREE.iter().chain(OLDER).for_each(|&call| list.allow(call));
    // This process alone: abort(3), raise(3), and a test's engine that ends itself.
    let own = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        list.allow_if(call, [Condition::is(0, own)]);
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        list.allow_if(call, [Condition::has_bits(2, PROT_EXEC, 0)]);
    }
    // The C library asks for a process while signals wait, and a SIGSYS that cannot be handled ends the engine: these fail without one.
    list.refuse_if(libc::SYS_clone, Some(Condition::has_bits(0, THREAD, 0)));
    #[cfg(target_arch = "x86_64")]
    [libc::SYS_fork, libc::SYS_vfork].into_iter().for_each(|call| list.refuse_if(call, None));
    // Its flags lie in memory, where no list can look: whoever asks takes clone(2) instead.
    list.unknown(libc::SYS_clone3);
    for option in [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_GET_DUMPABLE as u64, PR_SET_VMA] {
        list.allow_if(libc::SYS_prctl, [Condition::is(0, option)]);
    }
    // Of this process or thread alone.
    for call in [libc::SYS_prlimit64, libc::SYS_sched_setattr, libc::SYS_sched_setaffinity] {
        list.allow_if(call, [Condition::is(0, 0)]);
    }
    // A descriptor that is ready could send any signal to anybody; and nobody types for whoever started this in a terminal.
    let signals = [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX].map(|command| Condition::is_not(1, command as u64));
    list.allow_if(libc::SYS_fcntl, signals);
    let others = [TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP];
    list.allow_if(libc::SYS_ioctl, others.map(|request| Condition::is_not(1, request)));
    sockets(packet).into_iter().for_each(|rule| list.allow_if(libc::SYS_socket, rule));
    list.allow_if(libc::SYS_socketpair, [Condition::is(0, libc::AF_UNIX as u64)]);
    list
}

/// Which sockets there may be: streams and datagrams, no raw ones; of netlink(7) rtnetlink(7).
fn sockets(packet: bool) -> Vec<Rule> {
    let kind = |kind: libc::c_int| Condition::has_bits(1, KIND, kind as u64);
    let domain = |domain: libc::c_int| Condition::is(0, domain as u64);
    let mut rules =
        vec![vec![domain(libc::AF_UNIX)], vec![domain(libc::AF_NETLINK), Condition::is(2, libc::NETLINK_ROUTE as u64)]];
    for family in [libc::AF_INET, libc::AF_INET6] {
        rules.extend([libc::SOCK_STREAM, libc::SOCK_DGRAM].map(|of| vec![domain(family), kind(of)]));
    }
    if packet {
        rules.push(vec![domain(libc::AF_PACKET)]);
    }
    rules
}
