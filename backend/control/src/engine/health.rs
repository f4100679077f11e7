//! Whether everything works as it is configured.
use super::registry::{Entry, Registry};
use crate::api::types::Health;

impl Registry {
    /// How the service is.
    pub(super) fn health(&self) -> Health {
        let problems: Vec<String> = self.vms.values().flat_map(|entry| self.problems(entry)).collect();
        Health {
            status: if problems.is_empty() { "ok" } else { "degraded" }.into(),
            problems,
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: self.started.elapsed().as_secs(),
            vms: self.vms.len(),
            vms_connected: self.vms.values().filter(|e| e.session.is_some()).count(),
            hints: self.advice(),
        }
    }

    /// What of one VM does not work.
    fn problems(&self, entry: &Entry) -> Vec<String> {
        let name = &entry.vm.name;
        let quarantine = entry.blame.quarantined.then(|| "in quarantine: vonic vm show says why".to_string());
        let uplink = self.cables.by_vm.get(name).and_then(|cable| cable.error.clone());
        let rings = entry.session.iter().flat_map(|session| &session.rings);
        let broken = rings.filter_map(|(index, ring)| Some(format!("queue {index}: {}", ring.broken.as_ref()?)));
        let whole = quarantine.into_iter().chain(entry.socket_error.clone());
        let all = whole.chain(entry.forward_errors.iter().cloned()).chain(uplink).chain(broken);
        all.map(|problem| format!("{name}: {problem}")).collect()
    }
}
