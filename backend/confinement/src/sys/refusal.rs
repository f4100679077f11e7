//! What happens when a thread of the engine asks for what is not on its list: the handler of SIGSYS tells it, once for each call, and has the
//! call fail. Without it the kernel's own log would be the only one to know, if somebody keeps it.
use crate::dangerous::DANGEROUS;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Of a signal that seccomp(2) has sent (sigaction(2)).
const SYS_SECCOMP: libc::c_int = 1;
/// C libraries take an older call where one as new as this is not known, and only then.
const NEW: i64 = 449;
const WORDS: usize = 16;

/// Which calls have been told, a bit each.
static TOLD: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
static KILLS: AtomicBool = AtomicBool::new(false);

/// Names of calls that are not on the list and that somebody may come across; others are told by their numbers.
const NAMES: &[(i64, &str)] = &[
    (libc::SYS_execve, "execve"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_socket, "socket"),
    (libc::SYS_socketpair, "socketpair"),
    (libc::SYS_ioctl, "ioctl"),
    (libc::SYS_prctl, "prctl"),
    (libc::SYS_mmap, "mmap"),
    (libc::SYS_mprotect, "mprotect"),
    (libc::SYS_kill, "kill"),
    (libc::SYS_tgkill, "tgkill"),
    (libc::SYS_pidfd_open, "pidfd_open"),
    (libc::SYS_pidfd_getfd, "pidfd_getfd"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
    (libc::SYS_dup3, "dup3"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_chroot, "chroot"),
    (libc::SYS_unshare, "unshare"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_bpf, "bpf"),
    (libc::SYS_seccomp, "seccomp"),
    (libc::SYS_io_uring_setup, "io_uring_setup"),
    (libc::SYS_setuid, "setuid"),
    (libc::SYS_setgid, "setgid"),
    (libc::SYS_setresuid, "setresuid"),
    (libc::SYS_setresgid, "setresgid"),
    (libc::SYS_setgroups, "setgroups"),
    (libc::SYS_capset, "capset"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_mlock, "mlock"),
    (libc::SYS_mlockall, "mlockall"),
    (libc::SYS_mbind, "mbind"),
    (libc::SYS_set_mempolicy, "set_mempolicy"),
];

/// Installs the handler for the whole process; with `kills` a call that is not on the list ends it.
pub(crate) fn tell_refusals(kills: bool) -> io::Result<()> {
    KILLS.store(kills, Ordering::Relaxed);
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_refusal;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler calls async-signal-safe functions only.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_refusal(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    if unsafe { (*info).si_code } != SYS_SECCOMP {
        // Somebody has sent it: as if nobody had looked.
        // SAFETY: restores the default action and asks for it again; both are async-signal-safe.
        unsafe {
            libc::signal(libc::SIGSYS, libc::SIG_DFL);
            libc::raise(libc::SIGSYS);
        }
        return;
    }
    // SAFETY: of a SIGSYS of seccomp's the siginfo has, behind three integers and an address, the call's number (sigaction(2)); it is 128
    // bytes long.
    let call = i64::from(unsafe { info.cast::<libc::c_int>().add(6).read() });
    let kills = KILLS.load(Ordering::Relaxed);
    let (word, bit) = (call as usize / 64 % WORDS, 1 << (call as u64 % 64));
    if TOLD[word].fetch_or(bit, Ordering::Relaxed) & bit == 0 || kills {
        tell(call, kills);
    }
    if kills {
        // SAFETY: async-signal-safe; whoever looks at SIGABRT has its turn.
        unsafe { libc::abort() };
    }
    let error = if call >= NEW { libc::ENOSYS } else { libc::EPERM };
    // SAFETY: with SA_SIGINFO the third argument is the context that the thread goes on with.
    unsafe { answer(context.cast(), error) };
}

/// Has the call return an error.
///
/// # Safety
///
/// `context` is that of a signal handler that has not returned.
#[cfg(target_arch = "x86_64")]
unsafe fn answer(context: *mut libc::ucontext_t, error: libc::c_int) {
    // SAFETY: by the caller's word.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = -i64::from(error) };
}

/// As above.
///
/// # Safety
///
/// As above.
#[cfg(target_arch = "aarch64")]
unsafe fn answer(context: *mut libc::ucontext_t, error: libc::c_int) {
    // SAFETY: by the caller's word.
    unsafe { (*context).uc_mcontext.regs[0] = (-i64::from(error)) as u64 };
}

/// There is no list for other processors.
///
/// # Safety
///
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn answer(_context: *mut libc::ucontext_t, _error: libc::c_int) {}

/// Writes a line of the log. Nothing here allocates or waits for a lock: the thread may hold any.
fn tell(call: i64, kills: bool) {
    let mut line = Line { bytes: [0; 256], len: 0 };
    line.add("[WARN] the engine asked for system call ");
    line.number(call.unsigned_abs());
    let named = NAMES.iter().chain(DANGEROUS).find(|(number, _)| *number == call);
    if let Some((_, name)) = named {
        line.add(" (");
        line.add(name);
        line.add(")");
    }
    line.add(" in a way that is not on its list: ");
    line.add(if kills { "it ends" } else { "refused, and not told again" });
    line.add("; see confinement.md of the manual\n");
    // SAFETY: the bytes are there; who reads standard error is nobody's concern here.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
}

struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    /// As much of it as there is room for.
    fn add(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, number: u64) {
        if number > 9 {
            self.number(number / 10);
        }
        let digit = b"0123456789"[(number % 10) as usize];
        self.add(std::str::from_utf8(&[digit]).unwrap_or("?"));
    }
}
