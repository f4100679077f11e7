//! The host's users, and becoming one of them. The C library's calls change all threads of a process, the kernel's own would change one.
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// What a user's entry may take at most; those of directories on the network may be long.
const ENTRY_MAX: usize = 1 << 20;

/// The user and its group, of this name (getpwnam_r(3)); `None`: there is no such user.
pub(crate) fn find_user(name: &CStr) -> io::Result<Option<(u32, u32)>> {
    let mut text = vec![0; 1 << 12];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        let (place, room) = (text.as_mut_ptr(), text.len());
        // SAFETY: all places outlive the call, and the text's is as long as it says.
        let error = unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), place, room, &raw mut found) };
        match error {
            0 if !found.is_null() => {
                // SAFETY: the call has filled it in.
                let entry = unsafe { entry.assume_init() };
                return Ok(Some((entry.pw_uid, entry.pw_gid)));
            }
            // What systems say of a name that is nobody's.
            0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::ERANGE if room < ENTRY_MAX => text.resize(room * 2, 0),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Who this process is: real, effective and saved user.
pub(crate) fn own_users() -> io::Result<[u32; 3]> {
    let [mut real, mut effective, mut saved] = [0; 3];
    // SAFETY: the places are live.
    check(unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) })?;
    Ok([real, effective, saved])
}

/// Makes this process that user, with its group and all groups that it is a member of.
pub(crate) fn set_user(name: &CStr, user: u32, group: u32) -> io::Result<()> {
    // SAFETY: the name outlives the call, which only reads it.
    check(unsafe { libc::initgroups(name.as_ptr(), group) })?;
    // SAFETY: takes integers.
    check(unsafe { libc::setresgid(group, group, group) })?;
    // SAFETY: takes integers.
    check(unsafe { libc::setresuid(user, user, user) })
}

/// Whether this thread's capabilities stay when it becomes another user (PR_SET_KEEPCAPS).
pub(crate) fn keep_over_change(keep: bool) -> io::Result<()> {
    // SAFETY: the option takes an integer.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep)) })
}

/// Whether a program that is run may have this capability at all.
pub(crate) fn is_in_bounds(number: u32) -> bool {
    let (number, none): (libc::c_ulong, libc::c_ulong) = (number.into(), 0);
    // SAFETY: the option takes an integer.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, none, none, none) == 1 }
}

/// Has the programs that this thread runs have this capability, though none is in their files.
pub(crate) fn pass_on(number: u32) -> io::Result<()> {
    let (raise, none) = (libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, 0 as libc::c_ulong);
    // SAFETY: the option takes integers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(number), none, none) })
}

/// What a change of user takes from a process beside its capabilities: that its files in /proc are its own (PR_SET_DUMPABLE), and the signal that it
/// wants when its parent ends (PR_SET_PDEATHSIG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    dumpable: bool,
    parent_signal: libc::c_int,
}

impl Attributes {
    pub(crate) fn read() -> io::Result<Attributes> {
        let mut parent_signal = 0;
        // SAFETY: the place is live.
        check(unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut parent_signal) })?;
        // SAFETY: the option takes nothing.
        Ok(Attributes { dumpable: unsafe { libc::prctl(libc::PR_GET_DUMPABLE) } == 1, parent_signal })
    }

    pub(crate) fn restore(self) -> io::Result<()> {
        // SAFETY: the option takes an integer.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, self.parent_signal as libc::c_ulong) })?;
        // SAFETY: the option takes an integer.
        check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(self.dumpable)) })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
