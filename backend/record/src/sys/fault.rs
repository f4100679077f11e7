//! The last thing that a process does that dies of its own fault: a thread that panics or aborts (SIGABRT), or that the processor stops,
//! writes down for whom it was at work.
use crate::whom;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// SIGBUS has a handler of its own, which heals most of them (`vonic_queue::survive_truncation`).
const SIGNALS: [libc::c_int; 4] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE];

/// Where it is written; a word that is never unmapped.
static PLACE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// What was to be done before, in the order of [`SIGNALS`].
static BEFORE: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

/// Installs the handler for the whole process, once.
pub(crate) fn note_faults(place: &'static AtomicU64) -> io::Result<()> {
    PLACE.store(ptr::from_ref(place).cast_mut(), Ordering::Release);
    for (signal, before) in SIGNALS.into_iter().zip(&BEFORE) {
        if before.get().is_some() {
            continue;
        }
        // SAFETY: all-zero bytes are a valid sigaction.
        let (mut action, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
        action.sa_sigaction = handler as libc::sighandler_t;
        // On the stack that the standard library has laid by: this thread's own may be what has run out.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler calls async-signal-safe functions only; both places are valid for the call.
        if unsafe { libc::sigaction(signal, &raw const action, &raw mut old) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let _ = before.set(old);
    }
    Ok(())
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo; who sent it is there where nobody's fault is (sigaction(2)).
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    // SAFETY: takes nothing.
    let raised = code == libc::SI_TKILL && sender == unsafe { libc::getpid() };
    // What somebody else has sent (kill(2)) hits any thread.
    if code > 0 || raised {
        // SAFETY: null, or a reference that lives for ever.
        if let Some(place) = unsafe { PLACE.load(Ordering::Acquire).as_ref() } {
            place.store(whom::note(), Ordering::Release);
        }
    }
    let before = SIGNALS.iter().position(|known| *known == signal).and_then(|i| BEFORE[i].get());
    match before {
        // SAFETY: what the system itself gave; sigaction(2) is async-signal-safe.
        Some(old) => unsafe { libc::sigaction(signal, old, ptr::null_mut()) },
        // SAFETY: restores the default action; signal(2) is async-signal-safe.
        None => unsafe { libc::signal(signal, libc::SIG_DFL) as libc::c_int },
    };
    // An instruction that is at fault is repeated, and abort(3) raises again; else it is done here, as if nobody had looked.
    if code <= 0 {
        // SAFETY: takes an integer; it comes when this handler is left.
        unsafe { libc::raise(signal) };
    }
}
