//! The parts of root's power that a process keeps (capabilities(7)).
use crate::sys;
use std::fmt;
use std::io;
use std::ops::BitOr;

/// A set of capabilities: a bit each, at its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// To read and write what belongs to others.
    pub const DAC_OVERRIDE: Capabilities = Capabilities(1 << 1);
    /// To become any user, with any groups.
    pub(crate) const SET_USER: Capabilities = Capabilities(1 << 6 | 1 << 7);
    /// Ports below `net.ipv4.ip_unprivileged_port_start`.
    pub const NET_BIND_SERVICE: Capabilities = Capabilities(1 << 10);
    /// Taps and bridges; TCP_REPAIR; more room in sockets than others may have.
    pub const NET_ADMIN: Capabilities = Capabilities(1 << 12);
    /// Packet sockets.
    pub const NET_RAW: Capabilities = Capabilities(1 << 13);

    /// What is in this one and not in the other.
    #[must_use]
    pub fn without(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of these that are in a set of the kernel's.
    pub(crate) fn of(self, set: u64) -> Capabilities {
        Capabilities(self.0 & set)
    }

    /// Whether all of these are in a set of the kernel's.
    pub(crate) fn is_within(self, set: u64) -> bool {
        self.of(set) == self
    }

    /// As the kernel has a set.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Their numbers.
    pub(crate) fn numbers(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |number| self.0 >> number & 1 == 1)
    }

    /// The numbers of all that are not among them.
    pub(crate) fn others(self) -> impl Iterator<Item = u32> {
        Capabilities(!self.0).numbers()
    }
}

impl BitOr for Capabilities {
    type Output = Capabilities;

    fn bitor(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }
}

/// As /proc/PID/status has it.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Has this process, whose only thread this is, give up every capability but these, in every set, and what it starts, too. It cannot be taken back, not by
/// running a program as root either. Returns what it could use before and cannot now.
///
/// # Errors
/// The kernel's, which has no reason to refuse.
pub fn keep_capabilities(kept: Capabilities) -> io::Result<Capabilities> {
    let [effective, permitted, inheritable] = sys::capabilities()?;
    // First what a program could get that is run as root: it takes a capability to give that up, and who has none gets none.
    kept.others().try_for_each(sys::drop_from_bounds)?;
    // The ambient set follows these (capabilities(7)).
    sys::set_capabilities([effective, permitted, inheritable].map(|set| set & kept.0))?;
    Ok(Capabilities(permitted).without(kept))
}
