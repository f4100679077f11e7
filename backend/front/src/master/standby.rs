//! The process that waits to be the next engine.
use super::Master;
use crate::engine::{Maker, Standby};
use crate::watch::{Source, Watch};
use event_manager::EventOps;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// How long after a takeover it is made: the VMMs' connections have their turn first.
const LATER: Duration = Duration::from_millis(200);
/// How long an attempt waits after one that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// It, or when it is to be made.
#[derive(Default)]
pub(super) struct Spare {
    standby: Option<Standby>,
    due: Option<Instant>,
}

impl Spare {
    /// When it is to be made.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn is_there(&self) -> bool {
        self.standby.is_some()
    }

    /// An engine serves: it is to have a successor, soon or now.
    pub(super) fn want(&mut self, now: Instant, later: bool) {
        self.due = Some(if later { now + LATER } else { now });
    }

    /// Makes it, unless it is there.
    pub(super) fn fill(&mut self, maker: &Maker<'_>, watch: &mut Watch, ops: &mut EventOps) {
        self.due = None;
        if self.standby.is_some() {
            return;
        }
        match maker.prepare() {
            Ok(standby) => {
                if let Some(pidfd) = standby.pidfd() {
                    watch.set(ops, pidfd.as_raw_fd(), Source::Standby, EventSet::IN);
                }
                self.standby = Some(standby);
            }
            Err(e) => {
                log::error!("no engine stands by: {e}; trying again in {AGAIN:?}");
                self.due = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Takes it, to become the engine or to be dropped.
    pub(super) fn take(&mut self, watch: &mut Watch, ops: &mut EventOps) -> Option<Standby> {
        self.due = None;
        let standby = self.standby.take()?;
        if let Some(pidfd) = standby.pidfd() {
            watch.forget(ops, pidfd.as_raw_fd());
        }
        Some(standby)
    }

    /// Its descriptors, which are no dead engine's.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.standby.iter().flat_map(Standby::descriptors)
    }
}

impl Master<'_> {
    /// Makes it when it is due.
    pub(super) fn tick_standby(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(process) = self.process.as_mut().filter(|_| !self.stopping) else { return };
        if process.standby.due().is_some_and(|due| due <= now) {
            process.standby.fill(&process.maker, &mut self.watch, ops);
            self.tell_history();
        }
    }

    /// It has ended before it was needed: there is to be another.
    pub(super) fn on_standby_end(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(process) = &mut self.process else { return };
        let Some(ended) = process.standby.standby.as_ref().and_then(Standby::ended) else { return };
        log::warn!("the engine that stood by {ended}: there is another one in {AGAIN:?}");
        drop(process.standby.take(&mut self.watch, ops));
        process.standby.due = Some(now + AGAIN);
        self.tell_history();
    }
}
