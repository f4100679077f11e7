//! What an engine leaves for its successor: the configuration that runs, whatever has become of the files since.
use super::registry::Registry;
use crate::config::{self, Config, Sources};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use vonic_datapath::PortStats;
use vonic_front::Start;
pub(super) use vonic_record::vm_number as number;
use vonic_record::{Checkpoint, Kind, Shared, name};
use vonic_uplink::Inherited;

/// The name by which it is left.
pub(super) const CONFIG: &str = "config";

#[derive(Serialize, Deserialize)]
struct Running {
    /// The `vonic.toml` that the first engine found: the service's own settings hold until vonicd is restarted.
    service: Option<String>,
    /// The files as of the last reload.
    sources: Sources,
}

/// The configuration to start with: that of the engine before, or the directory's. With it the text of `vonic.toml` that the
/// service's settings come from.
pub(super) fn config(dir: &Path, start: &Start) -> Result<(Config, Option<String>), String> {
    let left = start.read(CONFIG).map_err(|e| format!("the configuration left by the engine before: {e}"))?;
    let Some(left) = left else {
        let config = config::load(dir).map_err(|errors| errors.to_string())?;
        let service = config.sources.service.clone();
        return Ok((config, service));
    };
    running(dir, &left)
}

/// The configuration that an engine has left, and the text of `vonic.toml` that its service's settings come from.
pub(super) fn running(dir: &Path, left: &[u8]) -> Result<(Config, Option<String>), String> {
    let unreadable = |e| format!("the configuration left by the engine before is none: {e}");
    let Running { service, sources } = serde_json::from_slice(left).map_err(unreadable)?;
    let load = |sources: &Sources| config::load_sources(dir, sources).map_err(|errors| errors.to_string());
    let mut config = load(&sources)?;
    if service != sources.service {
        let first = load(&Sources { service: service.clone(), ..Sources::default() })?.service;
        config.service = first.changed_to(&config.service);
    }
    Ok((config, service))
}

impl Registry {
    /// Takes over what the engine before had open for its VMs as a whole; the worker takes over connections and flows.
    pub(super) fn inherit(&mut self, checkpoint: &Checkpoint) {
        let mut taken = BTreeSet::new();
        for (_, record) in checkpoint.records() {
            match record.kind {
                // An engine may have died while a socket changed hands: it is one all the same.
                Kind::Listener if !taken.insert(record.descriptor) => {}
                Kind::Listener => match Inherited::resume(record.descriptor, record.cookie) {
                    Ok(Some((socket, place))) => self.forwards.inherit(socket, place),
                    Ok(None) => {}
                    Err(error) => log::warn!("a forward's socket is opened anew: {error}"),
                },
                Kind::Tap | Kind::Packet => {
                    self.cables.inherit(record.session, record.kind, (record.descriptor, record.cookie));
                }
                Kind::GuestOpens | Kind::WorldOpens | Kind::Datagrams | Kind::Claim => {}
            }
        }
    }

    /// A VM's counters: those of the engine before, if it had the VM.
    pub(super) fn stats(&mut self, vm: &str) -> Shared<PortStats> {
        self.ledger.open(number(vm), name("port"))
    }

    /// Closes what no VM has taken.
    pub(super) fn end_inheritance(&mut self) {
        self.forwards.end_inheritance();
        self.cables.end_inheritance();
        self.ledger.end_inheritance();
    }

    /// Leaves what runs now.
    pub(super) fn leave_config(&self) {
        let running = Running { service: self.first_service.clone(), sources: self.config.sources.clone() };
        let left = serde_json::to_vec(&running).map_err(std::io::Error::other);
        if let Err(error) = left.and_then(|bytes| self.link.keep(CONFIG, &[&bytes])) {
            log::error!("the configuration cannot be left for another engine: {error}");
        }
    }
}
