//! From one engine to the next: VMM connections stay, what the dead engine had open is closed, a new one takes over.
use super::Master;
use super::standby::Spare;
use super::vigil::Vigil;
use crate::channel::{Begin, ToEngine, ToMaster};
use crate::connection::Connection;
use crate::engine::{Deaths, Engine, Maker};
use crate::history::{self, Blames, Death, History, Storm, Takeover};
use crate::run::{MasterConfig, MasterError};
use crate::sys::{self, Ended, Swept};
use crate::watch::Source;
use event_manager::EventOps;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;
use vonic_record::{Whom, vm_number};

/// How long an attempt to make an engine waits after one that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// The engine, where it is another process.
pub(super) struct Process<'a> {
    pub(super) maker: Maker<'a>,
    /// With its process number. None: it is dead, and the next one is due at `next`.
    engine: Option<(i32, OwnedFd)>,
    next: Option<Instant>,
    /// When the last one was made.
    made: Instant,
    deaths: Deaths,
    /// One has served: an end from now on is no failed start.
    pub(super) served: bool,
    /// The operator asked for a reload while there was no engine.
    reload: bool,
    /// Descriptors of the dead engine, which the next one has time to close.
    pub(super) left: Vec<RawFd>,
    /// Why the master itself ends the engine.
    pub(super) verdict: Option<Verdict>,
    pub(super) history: History,
    pub(super) blames: Blames,
    quarantine: bool,
    /// The takeover that is under way.
    takeover: Option<Underway>,
    pub(super) standby: Spare,
    pub(super) vigil: Vigil,
}

/// Why the master ends an engine that lives.
pub(super) enum Verdict {
    /// It hangs: how. Whether somebody has stopped it, and which worker is furthest behind.
    Hung { how: String, stopped: bool, worker: usize },
    /// The operator wants another one.
    Replaced,
}

/// A takeover that is under way.
struct Underway {
    since: Instant,
    planned: bool,
    /// Connections that the new engine does not know yet.
    behind: BTreeSet<u64>,
    /// The new engine serves.
    serves: bool,
}

impl<'a> Process<'a> {
    /// With the first engine, if there is one yet.
    pub(super) fn new(engine: Option<(i32, OwnedFd)>, maker: Maker<'a>, config: &MasterConfig) -> Process<'a> {
        let made = Instant::now();
        Process {
            maker,
            engine,
            next: None,
            made,
            deaths: Deaths::default(),
            served: false,
            reload: false,
            left: Vec::new(),
            verdict: None,
            history: History::default(),
            blames: Blames::default(),
            quarantine: config.quarantine,
            takeover: None,
            standby: Spare::default(),
            vigil: Vigil::new(config.heartbeat),
        }
    }

    pub(super) fn pidfd(&self) -> Option<&OwnedFd> {
        self.engine.as_ref().map(|(_, pidfd)| pidfd)
    }

    /// The engine's process number.
    pub(super) fn pid(&self) -> Option<i32> {
        self.engine.as_ref().map(|(pid, _)| *pid)
    }

    /// When the next engine is to be made.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The earliest thing that is due without an event; of an engine that is to end, nothing is.
    pub(super) fn due(&self, stopping: bool) -> Option<Instant> {
        if stopping {
            return None;
        }
        let beat = self.engine.as_ref().filter(|_| self.verdict.is_none()).and_then(|_| self.vigil.due());
        self.next.into_iter().chain(self.standby.due()).chain(beat).chain(self.blames.due()).min()
    }

    /// Notes that a reload is wanted. False: there is an engine to be told.
    pub(super) fn defer_reload(&mut self) -> bool {
        self.reload |= self.engine.is_none();
        self.engine.is_none()
    }

    /// What the end of the engine means: the end of the master, or None.
    fn outcome(&self, ended: Ended, stopping: bool) -> Option<Result<i32, MasterError>> {
        match ended {
            _ if self.served && !stopping => None,
            Ended::Exited(code) => Some(Ok(code)),
            Ended::Signalled(signal) => Some(Err(MasterError::EngineDied { signal })),
        }
    }

    /// The operator has had the engine replaced: how long the next one waits.
    fn note_replacement(&mut self) -> Duration {
        log::info!("the engine has been stopped for another one");
        self.history.replaced += 1;
        self.history.storm = Storm::default();
        self.blames.forgive_all();
        Duration::ZERO
    }

    /// The engine has died: how long the next one waits.
    fn note_death(&mut self, ended: Ended, verdict: Option<Verdict>, now: Instant) -> Duration {
        let (reason, own_fault, hung) = match verdict {
            Some(Verdict::Hung { how, stopped, worker }) => (how, !stopped, Some(worker)),
            // Nobody kills himself by SIGKILL: it was somebody else, or memory had run out.
            _ => (ended.to_string(), ended != Ended::Signalled(libc::SIGKILL), None),
        };
        let delay = self.deaths.note(now, now - self.made);
        let lately = self.deaths.lately();
        let window = Deaths::WINDOW;
        log::error!("the engine {reason}, end {lately} within {window:?}: the next one takes over in {delay:?}");
        let header = self.maker.checkpoint.header();
        // Where no thread has written down what it died at, a worker is supposed to be the one: the one that hangs, or the first.
        let (culprit, said) = match header.take_culprit() {
            Whom::Worker(noted) => (header.working_on(hung.unwrap_or(noted)), false),
            Whom::Vm(vm) => (Some(vm), true),
            Whom::Nobody => (None, false),
        };
        if let Some(vm) = culprit.filter(|_| own_fault && self.quarantine) {
            self.blames.note(vm, said, now);
        }
        self.history.deaths += 1;
        self.history.last_death = Some(Death { reason, at: history::now() });
        self.history.storm = Storm { deaths: lately as u64, delay: delay.as_millis() as u64 };
        delay
    }

    /// A connection stands again, or is gone; or the new engine serves. True: that was the last of the takeover.
    fn ends_takeover(&mut self, replayed: Option<u64>) -> bool {
        let Some(takeover) = &mut self.takeover else { return false };
        match replayed {
            Some(session) => drop(takeover.behind.remove(&session)),
            None => takeover.serves = true,
        }
        if !takeover.serves || !takeover.behind.is_empty() {
            return false;
        }
        let (took, planned) = (takeover.since.elapsed(), takeover.planned);
        self.takeover = None;
        log::info!("the engine has taken over, {took:?} after the end of the one before");
        let microseconds = took.as_micros() as u64;
        self.history.last_takeover = Some(Takeover { at: history::now(), microseconds, planned });
        true
    }
}

impl Master<'_> {
    pub(super) fn on_engine_end(&mut self, now: Instant, ops: &mut EventOps) {
        let Some((process, pidfd)) = self.process.as_ref().and_then(|p| Some((p, p.pidfd()?))) else { return };
        let ended = match sys::ended(pidfd.as_fd()) {
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

    /// An engine has ended that was to go on.
    fn lose_engine(&mut self, ended: Ended, now: Instant, ops: &mut EventOps) {
        let dead = self.put_away_engine(&[], now, ops);
        self.succeed(ended, now, ops);
        // The next one has begun meanwhile.
        drop(dead.map(|pidfd| sys::reap(pidfd.as_fd())));
    }

    /// What follows an engine's end.
    fn succeed(&mut self, ended: Ended, now: Instant, ops: &mut EventOps) {
        let behind = self.connections.keys().copied().collect();
        let Some(process) = &mut self.process else { return };
        let verdict = process.verdict.take();
        let planned = matches!(verdict, Some(Verdict::Replaced));
        process.takeover = Some(Underway { since: now, planned, behind, serves: false });
        let delay = if planned { process.note_replacement() } else { process.note_death(ended, verdict, now) };
        process.next = Some(now + delay);
        process.blames.leave_all_but(&self.connections.values().map(|c| vm_number(c.log().name())).collect());
        self.part_from_unheard();
        if self.upgrades.awaits_rest() {
            return self.switch(now, ops);
        }
        self.service.status("Between two engines");
        if delay.is_zero() {
            self.start_engine(now, ops);
        }
    }

    /// Puts away what the dead engine left, but for `held`; returns its pidfd. It has ended: none of its threads can touch the table any
    /// more.
    pub(super) fn put_away_engine(&mut self, held: &[RawFd], now: Instant, ops: &mut EventOps) -> Option<OwnedFd> {
        // What it said before its end holds; for an upgrade, that it rests is of no more interest.
        let is_for_upgrade = !held.is_empty() || self.upgrades.awaits_rest();
        while let Ok(Some(message)) = self.link.recv() {
            if !(is_for_upgrade && message == ToMaster::Replace) {
                self.on_message(message, now, ops);
            }
        }
        self.watch.forget(ops, self.link.as_raw_fd());
        for session in self.connections.keys().copied().collect::<Vec<_>>() {
            self.part_from_engine(session, now, ops);
        }
        let (_, pidfd) = self.process.as_mut()?.engine.take()?;
        self.watch.forget(ops, pidfd.as_raw_fd());
        self.sweep(held.iter().copied().chain([pidfd.as_raw_fd()]));
        Some(pidfd)
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

    fn sweep(&mut self, held: impl Iterator<Item = RawFd>) {
        let Some(process) = &mut self.process else { return };
        let doors = self.entrances.values().filter_map(|entrance| entrance.descriptor());
        let connections = self.connections.values().flat_map(|connection| connection.descriptors());
        let kept = self.kept.values().map(AsRawFd::as_raw_fd);
        let masters = held.chain(self.upgrades.descriptors()).chain(self.service.descriptors());
        let held = doors.chain(connections).chain(kept).chain(process.standby.descriptors());
        match process.maker.sweep(held.chain(masters).chain([self.link.as_raw_fd()])) {
            Ok(Swept { closed, left }) => {
                let later = left.len();
                log::info!(
                    "{closed} descriptors of the dead engine are closed, {later} are left to the next one to close"
                );
                process.left = left;
            }
            Err(e) => log::error!("the dead engine's descriptors stay open: {e}"),
        }
    }

    /// Makes the next engine and tells it who is there.
    pub(super) fn start_engine(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(process) = &mut self.process else { return };
        let kept = self.kept.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect();
        let begin = Begin { takes_over: true, kept, blamed: process.blames.all(now), left: process.left.clone() };
        let standby = process.standby.take(&mut self.watch, ops);
        let Engine { pid, pidfd, link } = match process.maker.start(standby, &begin) {
            Ok(engine) => engine,
            Err(e) => {
                log::error!("{e}; trying again in {AGAIN:?}");
                process.next = Some(now + AGAIN);
                return;
            }
        };
        self.watch.set(ops, pidfd.as_raw_fd(), Source::Engine, EventSet::IN);
        process.engine = Some((pid, pidfd));
        process.left.clear();
        process.next = None;
        process.made = now;
        process.vigil.begin(now);
        let reload = std::mem::take(&mut process.reload);
        self.link = link;
        let unheard = |connection: &Connection| process.blames.is_unheard(vm_number(connection.log().name()));
        for (&session, connection) in self.connections.iter().filter(|(_, connection)| !unheard(connection)) {
            self.link.send(&ToEngine::Connected { name: connection.log().name().into(), session });
        }
        if let Some(told) = self.upgrades.told() {
            self.link.send(&told);
        }
        self.link.send(&ToEngine::Present);
        if reload {
            self.link.send(&ToEngine::Reload);
        }
        self.watch_link(ops);
    }

    /// The engine serves.
    pub(super) fn on_ready(&mut self, now: Instant, ops: &mut EventOps) {
        log::info!("the engine serves");
        let Some(process) = &mut self.process else { return };
        process.served = true;
        process.vigil.serves(now);
        let first = process.takeover.is_none();
        process.ends_takeover(None);
        process.standby.want(now, !first);
        self.tick_standby(now, ops);
        self.tell_history();
    }

    /// A connection has heard from its engine, or is gone.
    pub(super) fn note_replayed(&mut self, session: u64) {
        let Some(process) = self.process.as_mut().filter(|process| process.takeover.is_some()) else { return };
        let behind = self.connections.get(&session).is_some_and(|connection| connection.is_behind());
        if !behind && process.ends_takeover(Some(session)) {
            self.tell_history();
        }
    }

    /// Tells the engine what has become of those before it.
    pub(super) fn tell_history(&mut self) {
        let Some(process) = &mut self.process else { return };
        process.history.standby = process.standby.is_there();
        let history = Box::new(process.history.clone());
        if process.served && process.engine.is_some() {
            self.link.send(&ToEngine::History(history));
        }
    }

    /// The engine has laid everything down for another one.
    pub(super) fn replace_engine(&mut self, ops: &mut EventOps) {
        let Some(process) = self.process.as_mut().filter(|_| !self.stopping) else { return };
        process.verdict = Some(Verdict::Replaced);
        // Made now if there is none: meanwhile nothing is missed yet.
        process.standby.fill(&process.maker, &mut self.watch, ops);
        self.kill_engine();
    }

    /// VMMs that engines die of: they wait, and no engine is told of them until they are forgiven.
    pub(super) fn part_from_unheard(&mut self) {
        let Some(process) = &mut self.process else { return };
        for (session, connection) in &mut self.connections {
            if process.blames.is_unheard(vm_number(connection.log().name())) {
                connection.wait_unheard();
                process.takeover.iter_mut().for_each(|takeover| _ = takeover.behind.remove(session));
            }
        }
    }

    /// The operator holds nothing more against a VM. What its VMM has said meanwhile is heard now.
    pub(super) fn forgive(&mut self, vm: u64, now: Instant) {
        let Some(process) = &mut self.process else { return };
        let was_unheard = process.blames.is_unheard(vm);
        process.blames.forgive(vm);
        if was_unheard {
            self.hear(vm, now);
        }
    }

    /// A VM's VMM has left. Its next one is another machine, or another life of it, and so a VM in quarantine is let go: the later, the more often
    /// that has ended engines.
    pub(super) fn note_leaving(&mut self, name: &str, now: Instant) {
        let wait = self.process.as_mut().and_then(|process| process.blames.leave(vm_number(name), now));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            let seconds = wait.as_secs_f32().ceil();
            log::warn!(
                "{name}: its VMM has left, but engines have died of it again and again: in quarantine for {seconds} s more"
            );
        }
        self.pardon(now);
    }

    /// Lets go whom time has come for.
    pub(super) fn pardon(&mut self, now: Instant) {
        let Some(process) = &mut self.process else { return };
        for vm in process.blames.pardon(now) {
            self.link.send(&ToEngine::Pardoned { vm });
            self.hear(vm, now);
        }
    }

    /// No engine was told of this VM's VMM: this one is.
    fn hear(&mut self, vm: u64, now: Instant) {
        let of_vm = |connection: &Connection| vm_number(connection.log().name()) == vm;
        for (&session, connection) in self.connections.iter_mut().filter(|(_, c)| c.is_unheard() && of_vm(c)) {
            connection.wait_for_session(now);
            self.link.send(&ToEngine::Connected { name: connection.log().name().into(), session });
        }
    }

    /// Whether engines have died of what this VM's VMM says.
    pub(super) fn is_unheard(&self, name: &str) -> bool {
        self.process.as_ref().is_some_and(|process| process.blames.is_unheard(vm_number(name)))
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
