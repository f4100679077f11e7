//! The system calls that the standard library lacks.
#![allow(unsafe_code)]

pub mod terminal;

extern "C" fn end(_signal: libc::c_int) {
    // SAFETY: _exit(2) may be called in a signal handler (signal-safety(7)); nothing is buffered that could be lost.
    unsafe { libc::_exit(0) }
}

/// Makes SIGTERM and SIGINT an end in good order: the kernel closes the connection, and the exit status is 0.
pub fn end_when_asked() {
    let handler = end as extern "C" fn(libc::c_int);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler is a function of the right type that never returns.
        unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    }
}
