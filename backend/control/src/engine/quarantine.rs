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
    let restart = match blame.wait {
        0 => "restart its VMM".to_string(),
        wait => format!("restart its VMM, which ends it in {wait} s at the earliest"),
    };
    let message = format!(
        "in quarantine: {what}; {restart}, or change its file and reload, or try again by vonic engine restart"
    );
    log::error!("{name}: {message}");
    Some(message)
}

impl Registry {
    /// What is held against a VM.
    pub(super) fn blame(&self, name: &str) -> Blame {
        self.blamed.get(&number(name)).copied().unwrap_or_default()
    }

    /// The operator ends a VM's quarantine, if it is in any: its rings start as its VMM has set them up.
    pub(super) fn release(&mut self, name: &str, why: &str) {
        if self.forgive(name, why) {
            self.tell(&ToMaster::Forgive { vm: number(name) });
        }
    }

    /// The master has let a VM go.
    pub(super) fn pardoned(&mut self, vm: u64) {
        if let Some(name) = self.vms.keys().find(|name| number(name) == vm).cloned() {
            self.forgive(&name, "its VMM has left");
        } else if let Some(blame) = self.blamed.get_mut(&vm) {
            (blame.quarantined, blame.unheard) = (false, false);
        }
    }

    /// Nothing more is held against a VM. False: nothing was.
    fn forgive(&mut self, name: &str, why: &str) -> bool {
        let Some(blame) = self.blamed.get_mut(&number(name)).filter(|blame| blame.quarantined) else { return false };
        (blame.quarantined, blame.unheard) = (false, false);
        let forgiven = *blame;
        log::info!("{name}: no longer in quarantine: {why}");
        self.feed.tell(Happening::VmReleased { vm: name.into(), reason: why.into() });
        let Some(entry) = self.vms.get_mut(name) else { return true };
        (entry.blame, entry.last_error) = (forgiven, None);
        let rings = entry.session.iter_mut().flat_map(|session| session.rings.values_mut());
        let held: Vec<_> = rings.filter_map(|ring| ring.held.take()).collect();
        for ring in held {
            self.order(Command::Ring(ring));
        }
        true
    }
}
