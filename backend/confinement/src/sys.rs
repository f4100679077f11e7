//! The system calls that no crate offers, and the handler of SIGSYS. All of this crate's unsafe code is here.
#![allow(unsafe_code)]

#[cfg(feature = "crash-points")]
mod attempts;
mod refusal;

#[cfg(feature = "crash-points")]
pub use attempts::{attempt_to_open, attempts};
pub(crate) use refusal::tell_refusals;

use std::io;
use std::ptr;

/// Whether process_vm_readv(2) fails with EPERM before it has looked at anything: the kernel itself says EINVAL to such flags.
pub(crate) fn is_refused_already() -> bool {
    let (nothing, nobody) = (ptr::null::<libc::iovec>(), std::process::id() as libc::pid_t);
    // SAFETY: no address is given.
    let result = unsafe { libc::process_vm_readv(nobody, nothing, 0, nothing, 0, libc::c_ulong::MAX) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// The version of Landlock's interface that the kernel has; 0: none (landlock_create_ruleset(2)).
pub(crate) fn landlock_version() -> i64 {
    const CREATE_RULESET: libc::c_long = 444;
    const VERSION: libc::c_long = 1;
    // SAFETY: no attributes are given, as the flag asks for.
    unsafe { libc::syscall(CREATE_RULESET, ptr::null::<u8>(), 0, VERSION) }.max(0)
}
