//! Looking whether the engine lives that has not died.
use super::Master;
use super::succession::Verdict;
use crate::channel::ToEngine;
use crate::heartbeat::{Beat, CONTROL, Heartbeat};
use crate::sys;
use std::time::{Duration, Instant};
use vonic_record::Whom;

/// The heartbeat of the engine that there is, unless the operator wants none.
pub(super) struct Vigil {
    limit: Option<Duration>,
    /// None: the first engine may take its time to begin.
    beat: Option<Heartbeat>,
}

impl Vigil {
    pub(super) fn new(limit: Option<Duration>) -> Vigil {
        Vigil { limit, beat: None }
    }

    /// There is another engine.
    pub(super) fn begin(&mut self, now: Instant) {
        let last = self.beat.as_ref().map_or(0, Heartbeat::last);
        self.beat = self.limit.map(|limit| Heartbeat::new(limit, last, now));
    }

    /// It serves.
    pub(super) fn serves(&mut self, now: Instant) {
        if self.beat.is_none() {
            self.begin(now);
        }
        if let Some(beat) = &mut self.beat {
            beat.serves(now);
        }
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.beat.as_ref().map(Heartbeat::due)
    }
}

impl Master<'_> {
    /// The engine's control side has given a sign of life.
    pub(super) fn on_pong(&mut self, number: u64) {
        if let Some(beat) = self.process.as_mut().and_then(|process| process.vigil.beat.as_mut()) {
            beat.control_answered(number);
        }
    }

    /// Asks for signs of life, and ends an engine that gives none. An engine that is to stop has a limit of its own for that.
    pub(super) fn tick_heartbeat(&mut self, now: Instant) {
        let Some(process) = self.process.as_mut().filter(|process| !self.stopping && process.verdict.is_none()) else {
            return;
        };
        let (Some(pid), Some(beat)) = (process.pid(), process.vigil.beat.as_mut()) else { return };
        let header = process.maker.checkpoint.header();
        // The one that is furthest behind speaks for all of them.
        let (worker, answered) = header.latest();
        match beat.tick(now, answered) {
            Beat::Wait => {}
            Beat::Ask(number) => {
                header.ask(number);
                self.link.send(&ToEngine::Ping { number });
            }
            Beat::Hung(what, time) => {
                if what == CONTROL {
                    // Its own note is its own; the worker's, which is in the header, says nothing of it.
                    header.lay_at(Whom::Nobody);
                }
                let stopped = sys::is_stopped(pid);
                let by_whom = if stopped { " (somebody has stopped the process)" } else { "" };
                let which =
                    if header.workers() > 1 { format!(" (worker-{worker} is the last)") } else { String::new() };
                let how = format!("hung, since {what} for {time:?}{which}{by_whom}, and was killed");
                process.verdict = Some(Verdict::Hung { how, stopped, worker });
                self.kill_engine();
            }
        }
    }
}
