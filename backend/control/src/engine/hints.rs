//! What the operator should change on this host: each cause is told in the log once, and shown until it is gone.
use std::collections::BTreeSet;

/// Why something does not work that the configuration has nothing to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The kernel refuses ping sockets to this process (icmp(7)).
    PingSockets,
}

impl Cause {
    /// What happens, and what to do about it.
    fn text(self) -> &'static str {
        match self {
            Cause::PingSockets => {
                "guests cannot ping the world: net.ipv4.ping_group_range leaves out vonicd's group; as root: \
                 sysctl net.ipv4.ping_group_range=\"0 2147483647\""
            }
        }
    }
}

/// The causes that hold now.
#[derive(Debug, Default)]
pub struct Hints(BTreeSet<Cause>);

impl Hints {
    /// Says that a cause holds, or does not any more. Only a change is logged.
    pub fn set(&mut self, cause: Cause, holds: bool) {
        if holds && self.0.insert(cause) {
            log::warn!("{}", cause.text());
        } else if !holds && self.0.remove(&cause) {
            log::info!("no longer: {}", cause.text());
        }
    }

    /// Every hint, as the API shows it.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|cause| cause.text().to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_holds_until_its_cause_is_gone() {
        let mut hints = Hints::default();
        hints.set(Cause::PingSockets, false);
        assert!(hints.texts().is_empty());
        hints.set(Cause::PingSockets, true);
        hints.set(Cause::PingSockets, true);
        assert!(hints.texts().len() == 1 && hints.texts()[0].contains("ping_group_range=\"0 2147483647\""));
        hints.set(Cause::PingSockets, false);
        assert!(hints.texts().is_empty());
    }
}
