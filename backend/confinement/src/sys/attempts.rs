//! For tests alone: asks for what an engine never needs, from inside, as an intruder would.
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A call with up to six arguments, all of them numbers.
type Call = (&'static str, libc::c_long, [libc::c_long; 6]);

/// These two contradict each other (clone(2)).
const NO_FORK: libc::c_long = (libc::CLONE_NEWNS | libc::CLONE_FS | libc::SIGCHLD) as libc::c_long;
const EXEC: libc::c_long = (libc::PROT_READ | libc::PROT_EXEC) as libc::c_long;
const PRIVATE: libc::c_long = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as libc::c_long;

/// What each is, and how it is asked for. Where a call would do harm if it were let through, its arguments are such that it would fail otherwise:
/// by anything but EPERM.
fn calls() -> Vec<Call> {
    // SAFETY: takes nothing.
    let parent = libc::c_long::from(unsafe { libc::getppid() });
    let socket = |domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int| {
        [libc::c_long::from(domain), libc::c_long::from(kind), libc::c_long::from(protocol), 0, 0, 0]
    };
    vec![
        ("execve", libc::SYS_execve, [0; 6]),
        ("execveat", libc::SYS_execveat, [-1, 0, 0, 0, 0, 0]),
        ("fork", libc::SYS_clone, [NO_FORK, 0, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [0x7fff, parent, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0, 1]),
        ("kill the master", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
        ("kill everybody", libc::SYS_kill, [-1, 99, 0, 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]),
        ("packet socket", libc::SYS_socket, socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
        ("raw socket", libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
        ("raw IPv6 socket", libc::SYS_socket, socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)),
        ("audit socket", libc::SYS_socket, socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT)),
        ("netfilter socket", libc::SYS_socket, socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)),
        ("crypto socket", libc::SYS_socket, socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
        ("vsock socket", libc::SYS_socket, socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
        ("bpf", libc::SYS_bpf, [-1, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 6]),
        ("umount2", libc::SYS_umount2, [0; 6]),
        ("unshare", libc::SYS_unshare, [1 << 33, 0, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [0; 6]),
        ("setuid", libc::SYS_setuid, [0; 6]),
        ("setresuid", libc::SYS_setresuid, [0; 6]),
        ("setgroups", libc::SYS_setgroups, [-1, 0, 0, 0, 0, 0]),
        ("capset", libc::SYS_capset, [0; 6]),
        ("executable memory", libc::SYS_mmap, [0, 4096, EXEC, PRIVATE, -1, 0]),
        ("memory made executable", libc::SYS_mprotect, [0, 0, EXEC, 0, 0, 0]),
        ("outlive the master", libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as libc::c_long, 999, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 6]),
        ("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("keyctl", libc::SYS_keyctl, [-1, 0, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0; 6]),
        ("kexec_load", libc::SYS_kexec_load, [0, 99, 0, -1, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [-1, 0, 0, 0, 0, 0]),
        ("put a descriptor in another's place", libc::SYS_dup3, [-1, 0, 0, 0, 0, 0]),
        ("type in a terminal", libc::SYS_ioctl, [-1, libc::TIOCSTI as libc::c_long, 0, 0, 0, 0]),
        ("have signals sent", libc::SYS_fcntl, [0, libc::F_SETOWN as libc::c_long, parent, 0, 0, 0]),
        ("another's limits", libc::SYS_prlimit64, [parent, 99, 0, 0, 0, 0]),
        // It is on the list: for the test to know that something is.
        ("getpid", libc::SYS_getpid, [0; 6]),
    ]
}

/// Every attempt by its name, with the error number that came of it, 0 for none.
pub fn attempts() -> Vec<(&'static str, i32)> {
    let attempt = |(name, number, [a, b, c, d, e, f]): Call| {
        // SAFETY: of these calls those that take addresses are given none, or -1 for a descriptor in front of them, and fail by that.
        let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        (name, if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 })
    };
    calls().into_iter().map(attempt).collect()
}

/// Opens a file with these flags (open(2)), and closes it again; the error number, or 0.
pub fn attempt_to_open(path: &Path, flags: i32) -> i32 {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return libc::EINVAL };
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::open(name.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    if fd < 0 {
        return io::Error::last_os_error().raw_os_error().unwrap_or(-1);
    }
    // SAFETY: it was just opened, and nobody else knows of it.
    unsafe { libc::close(fd) };
    0
}
