//! The system calls that no crate offers, and the handler of SIGSYS. All of this crate's unsafe code is here.
#![allow(unsafe_code)]

#[cfg(feature = "crash-points")]
mod attempts;
mod refusal;
mod user;

#[cfg(feature = "crash-points")]
pub use attempts::{attempt_to_open, attempts};
pub(crate) use refusal::tell_refusals;
pub(crate) use user::{Attributes, find_user, is_in_bounds, keep_over_change, own_users, pass_on, set_user};

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

/// capget(2) and capset(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// The lower or the upper 32 bits of the sets.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets of 64 bits (linux/capability.h).
const CAPABILITIES_3: u32 = 0x2008_0522;

/// This thread's capabilities: effective, permitted, inheritable.
pub(crate) fn capabilities() -> io::Result<[u64; 3]> {
    let mut header = Header { version: CAPABILITIES_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: of this version the kernel writes two halves.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let whole = |part: fn(&Half) -> u32| u64::from(part(&halves[0])) | u64::from(part(&halves[1])) << 32;
    Ok([whole(|half| half.effective), whole(|half| half.permitted), whole(|half| half.inheritable)])
}

/// Sets this thread's.
pub(crate) fn set_capabilities([effective, permitted, inheritable]: [u64; 3]) -> io::Result<()> {
    let mut header = Header { version: CAPABILITIES_3, pid: 0 };
    let half = |shift: u32| Half {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: of this version the kernel reads two halves.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// No program that this thread runs gets this capability. Where the kernel knows none of this number, or it is given up already, nothing is done; who may
/// not give it up gains none by running a program, since that is forbidden before (no-new-privileges).
pub(crate) fn drop_from_bounds(number: u32) -> io::Result<()> {
    if !is_in_bounds(number) {
        return Ok(());
    }
    let (number, none): (libc::c_ulong, libc::c_ulong) = (number.into(), 0);
    // SAFETY: the option takes an integer.
    if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, none, none, none) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EPERM) { Ok(()) } else { Err(error) }
}
