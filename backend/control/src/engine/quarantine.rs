//! VMs that engines die of: from the second death on their rings are left alone, until something about them is new.
//!
//! A guest cannot end that by itself, as by starting anew: it could else end engine after engine, at its neighbours' cost.
use super::registry::Registry;
use super::succession::number;
use crate::api::types::Happening;
use vonic_datapath::Command;
use vonic_front::{Blame, ToMaster};

/// What is wrong with a VM that is in quarantine, for the log and for `vonic vm show`; `None` with any other.
pub(super) fn report(name: &str, blame: Blame) -> Option<String> {
    if !blame.quarantined {
        return None;
    }
    let what = match blame.unheard {
        false => "engines have died of what its guest sends, so its rings are left alone",
        true => "engines have died of what its VMM says, so it gets no answers",
    };
    let message = format!(
        "in quarantine: {what}; restart its VMM, or change its file and reload, or try again by vonic engine restart"
    );
    log::error!("{name}: {message}");
    Some(message)
}

impl Registry {
    /// What is held against a VM.
    pub(super) fn blame(&self, name: &str) -> Blame {
        self.blamed.get(&number(name)).copied().unwrap_or_default()
    }

    /// Ends a VM's quarantine, if it is in any: its rings start as its VMM has set them up.
    pub(super) fn release(&mut self, name: &str, why: &str) {
        if !self.forgive(name) {
            return;
        }
        log::info!("{name}: no longer in quarantine: {why}");
        self.feed.tell(Happening::VmReleased { vm: name.into(), reason: why.into() });
        self.tell(&ToMaster::Forgive { vm: number(name) });
        let Some(entry) = self.vms.get_mut(name) else { return };
        let rings = entry.session.iter_mut().flat_map(|session| session.rings.values_mut());
        let held: Vec<_> = rings.filter_map(|ring| ring.held.take()).collect();
        for ring in held {
            self.order(Command::Ring(ring));
        }
    }

    /// Nothing more is held against a VM. False: nothing was.
    pub(super) fn forgive(&mut self, name: &str) -> bool {
        let Some(blame) = self.blamed.get_mut(&number(name)).filter(|blame| blame.quarantined) else { return false };
        (blame.quarantined, blame.unheard) = (false, false);
        let forgiven = *blame;
        if let Some(entry) = self.vms.get_mut(name) {
            entry.blame = forgiven;
            entry.last_error = None;
        }
        true
    }
}
