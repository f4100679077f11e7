//! Upgrades: the master makes them; what comes of them is told here.
use super::registry::Registry;
use crate::api::types::UpgradeReport;
use crate::api::{ApiError, Reply, Response};
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use vonic_front::ToMaster;

/// The last upgrade as the master tells it, and who waits for the end of the one that is under way.
#[derive(Default)]
pub(super) struct Upgrades {
    pub number: u64,
    pub error: Option<String>,
    /// Answered only if the newer vonicd refuses: a switch ends this engine.
    waiting: Vec<Reply>,
    /// The newer vonicd waits until a reload is done.
    pub waits_for_reload: bool,
}

impl Registry {
    /// A newer vonicd is to take over.
    pub(super) fn upgrade(&mut self, path: PathBuf, reply: Reply) {
        self.upgrades.waiting.push(reply);
        self.tell(&ToMaster::Upgrade { path });
    }

    /// The master's word on the last one.
    pub(super) fn upgraded(&mut self, number: u64, error: Option<String>) {
        self.upgrades.number = number;
        self.upgrades.error = error;
        self.tell_upgrade();
        for reply in std::mem::take(&mut self.upgrades.waiting) {
            reply.send(match &self.upgrades.error {
                Some(why) => Response::Error(refusal(why)),
                None => Response::Upgrade(self.upgrade_report()),
            });
        }
    }

    pub(super) fn upgrade_report(&self) -> UpgradeReport {
        UpgradeReport {
            number: self.upgrades.number,
            error: self.upgrades.error.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            process: parent_id(),
        }
    }
}

fn refusal(why: &str) -> ApiError {
    ApiError::new(409, format!("the upgrade failed: {why}"))
        .field("binary")
        .mend("vonicd goes on as it was; see its log")
}
