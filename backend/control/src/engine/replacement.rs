//! An engine in the place of this one, as the operator wants it, and what became of those before.
use super::registry::{ROUND_LIMIT, Registry};
use crate::api::types::{CheckpointRow, DeathRow, EngineStatus, TakeoverRow};
use crate::api::{ApiError, Reply, Response, wait_for_answers};
use std::time::Duration;
use vonic_front::ToMaster;

/// So long an engine that is to end waits at most until its clients have what they were answered; guests notice nothing of it.
const ANSWERS_LIMIT: Duration = Duration::from_millis(100);

impl Registry {
    /// How the engine is, and what became of those before it.
    pub(super) fn status(&self) -> EngineStatus {
        let history = self.history.clone().unwrap_or_default();
        EngineStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: 1 + history.deaths + history.replaced,
            checkpoint: CheckpointRow::default(),
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

    /// The same, with what is in its checkpoint memory now.
    pub(super) fn whole_status(&self) -> EngineStatus {
        let checkpoint = &self.migration.checkpoint;
        let (records, capacity) = (checkpoint.records().count(), checkpoint.capacity());
        EngineStatus {
            checkpoint: CheckpointRow { version: vonic_record::VERSION, records, capacity },
            ..self.status()
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
        reply.send(Response::Engine(Box::new(self.whole_status())));
        self.rest();
    }

    /// Lays everything down for another engine, of this vonicd or of a newer one. A reload that is under way is done first.
    pub(super) fn rest(&mut self) {
        if self.is_reloading() {
            self.upgrades.waits_for_reload = true;
            return;
        }
        wait_for_answers(ANSWERS_LIMIT);
        self.rests = true;
        if !self.workers.rest(ROUND_LIMIT) {
            log::warn!("the workers have not come to rest within {ROUND_LIMIT:?}: they are ended where they are");
        }
        self.tell(&ToMaster::Replace);
    }
}
