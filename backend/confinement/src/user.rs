//! Becoming another user of the host, for good (`user` of vonic.toml).
use crate::Capabilities;
use crate::sys;
use std::ffi::CString;
use std::io;

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub(crate) name: CString,
    pub(crate) id: u32,
    pub(crate) group: u32,
}

impl User {
    /// Who is called so, by whatever way this host has to tell (nsswitch.conf(5)); `None`: nobody.
    ///
    /// # Errors
    /// Whoever knows cannot be asked.
    pub fn find(name: &str) -> io::Result<Option<User>> {
        // What cannot be asked for is nobody's name.
        let Ok(name) = CString::new(name) else { return Ok(None) };
        Ok(sys::find_user(&name)?.map(|(id, group)| User { name, id, group }))
    }

    /// Whether it is user 0, whatever it is called.
    pub fn is_root(&self) -> bool {
        self.id == 0
    }

    /// Whether this process is this user and can be no other by its real or saved one.
    ///
    /// # Errors
    /// The kernel's, which has no reason to refuse.
    pub fn is_current(&self) -> io::Result<bool> {
        Ok(sys::own_users()? == [self.id; 3])
    }
}

/// Whether this process may become any user, as root may.
///
/// # Errors
/// The kernel's, which has no reason to refuse.
pub fn may_change_user() -> io::Result<bool> {
    let [effective, ..] = sys::capabilities()?;
    Ok(Capabilities::SET_USER.is_within(effective))
}

/// Makes this process, whose only thread this is, that user, with its groups, and leaves it and all that it starts these capabilities at most. There is no
/// way back. `kept` go to programs that it runs, too (as ambient ones): a newer vonicd needs what this one has.
///
/// # Errors
/// The kernel's. The process may be neither the one nor the other then, and is to end.
pub fn become_user(user: &User, kept: Capabilities) -> io::Result<()> {
    let attributes = sys::Attributes::read()?;
    let [_, permitted, _] = sys::capabilities()?;
    // It takes a capability to give up what programs could get.
    kept.others().try_for_each(sys::drop_from_bounds)?;
    sys::keep_over_change(true)?;
    sys::set_user(&user.name, user.id, user.group)?;
    let left = kept.of(permitted);
    let passed: Vec<u32> = left.numbers().filter(|&number| sys::is_in_bounds(number)).collect();
    let inheritable = passed.iter().fold(0, |set, number| set | 1 << number);
    sys::set_capabilities([left.bits(), left.bits(), inheritable])?;
    passed.into_iter().try_for_each(sys::pass_on)?;
    sys::keep_over_change(false)?;
    attributes.restore()?;
    // A kernel that does not do as it says would have everything run as root.
    if user.is_current()? && !may_change_user()? { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}
