//! An engine in the place of this one, as the operator wants it, and what became of those before.
use super::registry::{ROUND_LIMIT, Registry};
use crate::api::types::{DeathRow, EngineStatus, TakeoverRow};
use crate::api::{ApiError, Reply, Response};
use vonic_datapath::Command;
use vonic_front::ToMaster;
use vonic_queue::handover;

impl Registry {
    /// How the engine is, and what became of those before it.
    pub(super) fn status(&self) -> EngineStatus {
        let history = self.history.clone().unwrap_or_default();
        EngineStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: self.started.elapsed().as_secs(),
            standby: history.standby,
            deaths: history.deaths,
            replaced: history.replaced,
            last_death: history.last_death.map(|death| DeathRow { reason: death.reason, at: death.at }),
            last_takeover: history.last_takeover.map(|takeover| TakeoverRow {
                at: takeover.at,
                microseconds: takeover.microseconds,
                planned: takeover.planned,
            }),
            deaths_in_short_succession: history.storm.deaths,
            next_was_delayed_ms: history.storm.delay,
            quarantined: self.vms.values().filter(|e| e.blame.quarantined).map(|e| e.vm.name.clone()).collect(),
        }
    }

    /// Has another engine go on. The answer comes first: the client's connection ends with this engine, and the next one answers
    /// what became of it.
    pub(super) fn give_way(&mut self, reply: Reply) {
        if self.history.is_none() {
            let error = ApiError::new(409, "there is no other process that could be the engine");
            return reply
                .send(Response::Error(error.mend("start vonicd without --standalone, or wait until it serves")));
        }
        if self.is_reloading() {
            let error = ApiError::new(409, "the configuration is being read");
            return reply.send(Response::Error(error.mend("try again in a moment")));
        }
        log::info!("the operator wants another engine");
        reply.send(Response::Engine(Box::new(self.status())));
        self.rest();
    }

    /// Lays everything down for another engine, of this vonicd or of a newer one. A reload that is under way is done first.
    pub(super) fn rest(&mut self) {
        if self.is_reloading() {
            self.upgrades.waits_for_reload = true;
            return;
        }
        self.rests = true;
        let (done, rests) = handover();
        self.order(Command::Rest { done });
        if !rests.wait(ROUND_LIMIT) {
            log::warn!("the worker has not come to rest within {ROUND_LIMIT:?}: it is ended where it is");
        }
        self.tell(&ToMaster::Replace);
    }
}
