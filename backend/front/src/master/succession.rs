//! From one engine to the next: VMM connections stay, what the dead engine had open is closed, a new one takes over.
use super::Master;
use crate::channel::ToEngine;
use crate::engine::{Deaths, Engine, Maker};
use crate::run::MasterError;
use crate::sys::{self, Ended, Swept};
use crate::watch::Source;
use event_manager::EventOps;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// How long an attempt to make an engine waits after one that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// The engine, where it is another process.
pub(super) struct Process<'a> {
    maker: Maker<'a>,
    /// None: it is dead, and the next one is due at `next`.
    pidfd: Option<OwnedFd>,
    next: Option<Instant>,
    /// When the last one was made.
    made: Instant,
    deaths: Deaths,
    /// One has served: an end from now on is no failed start.
    pub(super) served: bool,
    /// The operator asked for a reload while there was no engine.
    reload: bool,
    /// Descriptors of the dead engine, which the next one has time to close.
    left: Vec<RawFd>,
}

impl<'a> Process<'a> {
    /// The first engine.
    pub(super) fn new(pidfd: OwnedFd, maker: Maker<'a>) -> Process<'a> {
        let deaths = Deaths::default();
        let made = Instant::now();
        Process { maker, pidfd: Some(pidfd), next: None, made, deaths, served: false, reload: false, left: Vec::new() }
    }

    pub(super) fn pidfd(&self) -> Option<&OwnedFd> {
        self.pidfd.as_ref()
    }

    /// When the next engine is to be made.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Notes that a reload is wanted. False: there is an engine to be told.
    pub(super) fn defer_reload(&mut self) -> bool {
        self.reload |= self.pidfd.is_none();
        self.pidfd.is_none()
    }

    /// What the end of the engine means: the end of the master, or None.
    fn outcome(&self, ended: Ended, stopping: bool) -> Option<Result<i32, MasterError>> {
        match ended {
            _ if self.served && !stopping => None,
            Ended::Exited(code) => Some(Ok(code)),
            Ended::Signalled(signal) => Some(Err(MasterError::EngineDied { signal })),
        }
    }
}

impl Master<'_> {
    pub(super) fn on_engine_end(&mut self, now: Instant, ops: &mut EventOps) {
        let Some((process, pidfd)) = self.process.as_ref().and_then(|p| Some((p, p.pidfd()?))) else { return };
        let ended = match sys::reap(pidfd.as_fd()) {
            Ok(None) => return,
            Ok(Some(ended)) => ended,
            Err(e) => {
                self.outcome = Some(Err(MasterError::System("the engine's exit status cannot be read", e)));
                return;
            }
        };
        self.outcome = process.outcome(ended, self.stopping);
        if self.outcome.is_none() {
            self.lose_engine(ended, now, ops);
        }
    }

    /// Puts away what the dead engine left. It is reaped: none of its threads can touch the table any more.
    fn lose_engine(&mut self, ended: Ended, now: Instant, ops: &mut EventOps) {
        // What it said before its end holds.
        while let Ok(Some(message)) = self.link.recv() {
            self.on_message(message, now, ops);
        }
        self.watch.forget(ops, self.link.as_raw_fd());
        for session in self.connections.keys().copied().collect::<Vec<_>>() {
            self.part_from_engine(session, now, ops);
        }
        let Some(process) = &mut self.process else { return };
        if let Some(pidfd) = process.pidfd.take() {
            self.watch.forget(ops, pidfd.as_raw_fd());
        }
        let delay = process.deaths.note(now, now - process.made);
        process.next = Some(now + delay);
        let lately = process.deaths.lately();
        log::error!(
            "the engine {ended}, end {lately} within {:?}: the next one takes over in {delay:?}",
            Deaths::WINDOW
        );
        self.sweep();
        if delay.is_zero() {
            self.start_engine(now, ops);
        }
    }

    /// One connection's part of it.
    fn part_from_engine(&mut self, session: u64, now: Instant, ops: &mut EventOps) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        if let Some(fd) = connection.session_fd() {
            self.watch.forget(ops, fd);
        }
        if let Err(end) = connection.lose_engine(now) {
            return self.end(session, &end, ops);
        }
        // Until there is a session again, the VMM's end is all that is of interest.
        self.watch.set(ops, connection.vmm().as_raw_fd(), Source::Vmm(session), EventSet::empty());
    }

    fn sweep(&mut self) {
        let Some(process) = &mut self.process else { return };
        let doors = self.entrances.values().filter_map(|entrance| entrance.descriptor());
        let connections = self.connections.values().flat_map(|connection| connection.descriptors());
        let kept = self.kept.values().map(AsRawFd::as_raw_fd);
        match process.maker.sweep(doors.chain(connections).chain(kept).chain([self.link.as_raw_fd()])) {
            Ok(Swept { closed, left }) => {
                let later = left.len();
                log::info!("{closed} descriptors of the dead engine are closed, {later} are left to the next one to close");
                process.left = left;
            }
            Err(e) => log::error!("the dead engine's descriptors stay open: {e}"),
        }
    }

    /// Makes the next engine and tells it who is there.
    pub(super) fn start_engine(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(process) = &mut self.process else { return };
        let kept = self.kept.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect();
        let Engine { pidfd, link } = match process.maker.start(Some(kept), process.left.clone()) {
            Ok(engine) => engine,
            Err(e) => {
                log::error!("{e}; trying again in {AGAIN:?}");
                process.next = Some(now + AGAIN);
                return;
            }
        };
        self.watch.set(ops, pidfd.as_raw_fd(), Source::Engine, EventSet::IN);
        process.pidfd = Some(pidfd);
        process.left.clear();
        process.next = None;
        process.made = now;
        let reload = std::mem::take(&mut process.reload);
        self.link = link;
        for (&session, connection) in &self.connections {
            self.link.send(&ToEngine::Connected { name: connection.log().name().into(), session });
        }
        self.link.send(&ToEngine::Present);
        if reload {
            self.link.send(&ToEngine::Reload);
        }
        self.watch_link(ops);
    }

    /// A descriptor that the engine leaves for its successor.
    pub(super) fn keep(&mut self, name: String, fd: RawFd) {
        if self.watch.source(fd).is_some() {
            return log::error!("{name}: the engine names descriptor {fd}, which is the master's own");
        }
        match sys::adopt(fd) {
            Ok(fd) => drop(self.kept.insert(name, fd)),
            Err(e) => log::error!("{name}: the engine names descriptor {fd}: {e}"),
        }
    }
}
