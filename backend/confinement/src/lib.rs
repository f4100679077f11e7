//! What master and engine may still ask of the kernel once they have begun (ADR 0025).
//!
//! * The **engine**, which reads what guests and the network send, has a list of the system calls that it needs ([`confine_engine`]): whatever
//!   else is refused, and told. By Landlock it sees its configuration, its own sockets' folder and what the host says of itself, and no other
//!   file; it can run no program.
//! * The **master** starts programs, a newer vonicd and hooks, and a list goes to them through exec for ever. So it has the opposite: a short list
//!   of what no program of a network card's needs ([`refuse_dangerous`]).
//! * Both give up the **capabilities** that a network card has no use for ([`keep_capabilities`]), and are **another user** than the one that started
//!   vonicd where the operator says so ([`become_user`]), to whom the folder of their sockets is given ([`hand_over`]).
//!
//! Nothing here waits, and nothing can be taken back. Where the kernel lacks something, the rest holds, and [`Confined`] says what is missing.

mod calls;
mod capabilities;
mod dangerous;
mod files;
mod filter;
mod folder;
mod sys;
mod user;

pub use capabilities::{Capabilities, keep_capabilities};
pub use dangerous::refuse_dangerous;
pub use files::Files;
pub use folder::{FolderError, hand_over};
#[cfg(feature = "crash-points")]
pub use sys::{attempt_to_open, attempts};
pub use user::{User, become_user, may_change_user};

use std::fmt;

/// What becomes of a system call that is not on the engine's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// It fails with EPERM, and the first of each kind is told. What the engine wanted by it fails, the engine goes on.
    #[default]
    Refuse,
    /// It is told, and the engine ends by SIGABRT: another one takes over.
    Kill,
    /// There is no list.
    Allow,
}

/// What an engine may do beyond what every engine needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Of calls that are not listed.
    pub unlisted: Unlisted,
    /// There are `packet:` uplinks: sockets of AF_PACKET are on the list.
    pub packet: bool,
    /// What it sees of the file system; `None`: everything that its user may.
    pub files: Option<Files>,
    /// Which capabilities it keeps, of those that it has; `None`: all.
    pub capabilities: Option<Capabilities>,
}

/// What is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// The list of system calls.
    pub calls: bool,
    /// The list of files.
    pub files: bool,
}

/// Why there is no list where there should be one.
#[derive(Debug)]
pub struct ConfinementError(pub(crate) String);

impl fmt::Display for ConfinementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfinementError {}

/// Confines this process and every thread that it makes from here on; the list of system calls holds for those that it has, too. Asks for no
/// more than can be had: what the kernel does not know is missing in the answer, and told in the log.
///
/// # Errors
/// The kernel knows the list of system calls, and refuses this one.
pub fn confine_engine(bounds: &Bounds) -> Result<Confined, ConfinementError> {
    let mut confined = Confined::default();
    if let Some(kept) = bounds.capabilities {
        keep_capabilities(kept).map_err(|e| ConfinementError(format!("capabilities: {e}")))?;
    }
    if let Some(files) = &bounds.files {
        confined.files = files.restrict();
    }
    if bounds.unlisted != Unlisted::Allow {
        sys::tell_refusals(bounds.unlisted == Unlisted::Kill)
            .map_err(|e| ConfinementError(format!("SIGSYS handler: {e}")))?;
        confined.calls = filter::install(&calls::engine(bounds.packet))?;
    }
    Ok(confined)
}

/// Whether the kernel knows Landlock (Linux 5.13, if it was built with it and not told to leave it out).
pub fn has_landlock() -> bool {
    sys::landlock_version() > 0
}
