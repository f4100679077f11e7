//! The master's loop: every event of its life, none of them waited for by another.
use crate::channel::{MasterLink, ToEngine, ToMaster};
use crate::connection::{Connection, End};
use crate::engine::{Engine, Maker};
use crate::run::{MasterConfig, MasterError};
use crate::service::ServiceManager;
use crate::sys::{self, Signals};
use crate::upgrade::Upgrade;
use crate::watch::{Source, Watch};
use event_manager::{EventOps, Events, MutEventSubscriber};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

mod entrance;
mod standby;
mod succession;
mod upgrade;
mod vigil;

use entrance::Entrance;
use succession::Process;
use upgrade::Upgrades;

/// How many connections or messages of one source are taken before others get their turn.
const TURN: usize = 32;

/// How long the engine may take to answer for a session, before that VMM's connection is closed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the engine may take to end after `Stop`, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Everything that outlives an engine.
pub(crate) struct Master<'a> {
    signals: Signals,
    pub(crate) service: ServiceManager,
    link: MasterLink,
    /// None if the engine is a part of this process.
    process: Option<Process<'a>>,
    /// What an engine leaves for the next, by name.
    kept: BTreeMap<String, OwnedFd>,
    upgrades: Upgrades,
    watch: Watch,
    entrances: BTreeMap<String, Entrance>,
    connections: BTreeMap<u64, Connection>,
    last_session: u64,
    /// The engine was told to stop.
    stopping: bool,
    /// When it is to be killed for not having done so.
    kill: Option<Instant>,
    outcome: Option<Result<i32, MasterError>>,
}

impl<'a> Master<'a> {
    /// Of an engine that is another process, and its successors.
    pub(crate) fn new(
        signals: Signals,
        engine: Engine,
        maker: Maker<'a>,
        config: &MasterConfig,
        service: ServiceManager,
    ) -> Master<'a> {
        let Engine { pid, pidfd, link } = engine;
        let upgrades = Upgrades::new(config.upgrade.clone());
        let process = Some(Process::new(Some((pid, pidfd)), maker, config));
        Master { process, upgrades, service, ..Master::standalone(signals, link) }
    }

    /// Of an engine in this same process.
    pub(crate) fn standalone(signals: Signals, link: MasterLink) -> Master<'a> {
        Master {
            signals,
            service: ServiceManager::default(),
            link,
            process: None,
            kept: BTreeMap::new(),
            upgrades: Upgrades::new(Upgrade::default()),
            watch: Watch::default(),
            entrances: BTreeMap::new(),
            connections: BTreeMap::new(),
            last_session: 0,
            stopping: false,
            kill: None,
            outcome: None,
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// How it ended, once it has.
    pub(crate) fn outcome(&mut self) -> Option<Result<i32, MasterError>> {
        let outcome = self.outcome.take()?;
        self.give_up(&match &outcome {
            Ok(code) => format!("its engine ended with code {code}"),
            Err(e) => e.to_string(),
        });
        Some(outcome)
    }

    /// The earliest thing that is due without an event.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let connections = self.connections.values().filter_map(Connection::due);
        let is_open = !self.upgrades.is_provisional();
        let entrances = self.entrances.values().filter(|_| is_open).filter_map(Entrance::due);
        let engine = self.process.as_ref().and_then(|process| process.due(self.stopping));
        connections
            .chain(entrances)
            .chain(self.kill)
            .chain(engine)
            .chain(self.upgrades.due())
            .chain(self.service.due())
            .min()
    }

    /// Does what is due by now.
    pub(crate) fn tick(&mut self, now: Instant, ops: &mut EventOps) {
        let is_due = |c: &Connection| c.due().is_some_and(|due| due <= now);
        let due: Vec<u64> = self.connections.iter().filter(|(_, c)| is_due(c)).map(|(&session, _)| session).collect();
        for session in due {
            let Some(connection) = self.connections.get_mut(&session) else { continue };
            let result = if connection.is_overdue(now) { Err(connection.overdue()) } else { Ok(()) };
            connection.end_rest(now);
            self.after(session, result, ops);
        }
        if !self.upgrades.is_provisional() {
            self.tick_entrances(now, ops);
        }
        self.tick_upgrade(now, ops);
        if self.process.as_ref().and_then(Process::next).is_some_and(|due| due <= now) {
            self.start_engine(now, ops);
        }
        self.tick_standby(now, ops);
        self.pardon(now);
        self.tick_heartbeat(now);
        let is_well = self.process.as_ref().is_none_or(|process| process.served && process.pidfd().is_some());
        self.service.tick(now, is_well || self.stopping);
        if self.kill.is_some_and(|limit| limit <= now) {
            self.kill = None;
            log::error!("the engine did not stop within {:?}: it is killed", STOP_LIMIT);
            self.kill_engine();
        }
    }

    fn kill_engine(&mut self) {
        let Some(process) = &self.process else {
            self.entrances.clear(); // Their files go now: nothing of this process runs any further.
            return sys::kill_self();
        };
        if let Some(Err(e)) = process.pidfd().map(|engine| sys::kill(engine.as_fd())) {
            log::error!("the engine cannot be killed: {e}");
        }
    }

    fn on_signal(&mut self, now: Instant) {
        while let Some(signal) = self.signals.next() {
            match signal {
                libc::SIGHUP if self.stopping => {}
                libc::SIGHUP => {
                    self.service.reloading();
                    if !self.process.as_mut().is_some_and(Process::defer_reload) {
                        self.link.send(&ToEngine::Reload);
                    }
                }
                _ if self.process.as_ref().is_some_and(|process| process.pidfd().is_none()) => {
                    self.outcome = Some(Ok(0));
                }
                _ if !self.stopping => {
                    log::info!("stopping");
                    self.service.stopping();
                    self.release_entrances();
                    self.link.send(&ToEngine::Stop);
                    self.stopping = true;
                    self.kill = Some(now + STOP_LIMIT);
                }
                _ => {}
            }
        }
    }

    fn on_link(&mut self, now: Instant, ops: &mut EventOps) {
        for _ in 0..TURN {
            match self.link.recv() {
                Ok(Some(message)) => self.on_message(message, now, ops),
                Ok(None) => return,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    // A separate engine's end is told by its pidfd; its descriptors are open in this process as well.
                    if self.process.is_none() {
                        self.outcome = Some(Ok(0));
                    }
                    return;
                }
                Err(e) => log::error!("from the engine: {e}"),
            }
        }
    }

    fn on_message(&mut self, message: ToMaster, now: Instant, ops: &mut EventOps) {
        match message {
            ToMaster::Listen { name, path, mode } => {
                let result = self.listen(&name, &path, mode, ops);
                if let Err(e) = &result {
                    log::error!("{name}: {e}");
                }
                self.link.send(&ToEngine::Listening { name, result });
            }
            ToMaster::Connect { name, path } => self.connect(&name, &path, now, ops),
            ToMaster::Unlisten { name } => self.unlisten(&name, ops),
            ToMaster::Session { session, fd } => self.attach(session, fd, now, ops),
            ToMaster::SessionRefused { session } => {
                self.end(session, &End::Fault("the engine has no session for this VM now".into()), ops);
            }
            ToMaster::Keep { name, fd } => self.keep(name, fd),
            ToMaster::Mark { number } => {
                self.link.send(&ToEngine::Marked { number });
                self.service.reloaded();
            }
            ToMaster::Ready => {
                self.on_ready(now, ops);
                match self.upgrades.is_provisional() {
                    true => self.tell_older(),
                    false => self.service.ready(),
                }
            }
            ToMaster::Upgrade { path } => self.begin_upgrade(&path, now, ops),
            ToMaster::Pong { number } => self.on_pong(number),
            ToMaster::Replace if self.upgrades.awaits_rest() => self.switch(now, ops),
            ToMaster::Replace => self.replace_engine(ops),
            ToMaster::Forgive { vm } => self.forgive(vm, now),
        }
    }

    fn attach(&mut self, session: u64, fd: RawFd, now: Instant, ops: &mut EventOps) {
        if self.watch.source(fd).is_some() {
            log::error!("session {session}: the engine names descriptor {fd}, which is the master's own");
            return;
        }
        let end = match sys::adopt(fd) {
            Ok(end) => end,
            Err(e) => {
                log::error!("session {session}: the engine names descriptor {fd}: {e}");
                return;
            }
        };
        // Without a connection, because the VMM has left meanwhile, closing the end is all.
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let result = connection.attach(end, now);
        self.after(session, result, ops);
    }

    fn on_vmm(&mut self, session: u64, events: EventSet, now: Instant, ops: &mut EventOps) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let result = if connection.reads_vmm() && !self.upgrades.is_provisional() {
            connection.vmm_ready(now)
        } else if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            Err(End::Vmm)
        } else {
            Ok(())
        };
        self.after(session, result, ops);
    }

    fn on_session(&mut self, session: u64, now: Instant, ops: &mut EventOps) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let result = connection.session_ready(now);
        self.after(session, result, ops);
        self.note_replayed(session);
    }

    /// A connection has done something: waits for what it waits for now.
    fn after(&mut self, session: u64, result: Result<(), End>, ops: &mut EventOps) {
        if let Err(end) = result {
            return self.end(session, &end, ops);
        }
        let Some(connection) = self.connections.get(&session) else { return };
        let interest =
            if connection.reads_vmm() && !self.upgrades.is_provisional() { EventSet::IN } else { EventSet::empty() };
        self.watch.set(ops, connection.vmm().as_raw_fd(), Source::Vmm(session), interest);
        if let Some(fd) = connection.session_fd() {
            self.watch.set(ops, fd, Source::Session(session), EventSet::IN);
        }
    }

    fn end(&mut self, session: u64, end: &End, ops: &mut EventOps) {
        let Some(connection) = self.connections.remove(&session) else { return };
        let name = connection.log().name().to_owned();
        match end {
            End::Vmm => connection.log().info(&format!("{end} (session {session})")),
            End::Session | End::Fault(_) => connection.log().warn(&end.to_string()),
        }
        self.watch.forget(ops, connection.vmm().as_raw_fd());
        if let Some(fd) = connection.session_fd() {
            self.watch.forget(ops, fd);
        }
        drop(connection);
        self.note_leaving(&name, Instant::now());
        self.note_replayed(session);
        if let Some(entrance) = self.entrances.get_mut(&name)
            && entrance.session == Some(session)
        {
            entrance.session = None;
            entrance.door.ended(Instant::now());
        }
        self.link.send(&ToEngine::Disconnected { session });
    }

    /// Waits until the engine reads again, if something for it is left. Without an engine the channel leads nowhere.
    fn watch_link(&mut self, ops: &mut EventOps) {
        if self.process.as_ref().is_some_and(|process| process.pidfd().is_none()) {
            return;
        }
        let unsent = if self.link.has_unsent() { EventSet::OUT } else { EventSet::empty() };
        self.watch.set(ops, self.link.as_raw_fd(), Source::Link, EventSet::IN | unsent);
    }
}

impl MutEventSubscriber for Master<'_> {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let now = Instant::now();
        match self.watch.source(events.fd()).cloned() {
            Some(Source::Signals) => self.on_signal(now),
            Some(Source::Engine) => self.on_engine_end(now, ops),
            Some(Source::Standby) => self.on_standby_end(now, ops),
            Some(Source::Link) => {
                self.link.flush();
                self.on_link(now, ops);
            }
            Some(Source::Listener(name)) => self.on_listener(&name, now, ops),
            Some(Source::Vmm(session)) => self.on_vmm(session, events.event_set(), now, ops),
            Some(Source::Session(session)) => self.on_session(session, now, ops),
            Some(Source::Candidate) => self.on_candidate(now, ops),
            Some(Source::Older) => self.on_older(now, ops),
            None => {}
        }
        self.watch_link(ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.watch.set(ops, self.signals.as_raw_fd(), Source::Signals, EventSet::IN);
        if let Some(engine) = self.process.as_ref().and_then(Process::pidfd) {
            self.watch.set(ops, engine.as_raw_fd(), Source::Engine, EventSet::IN);
        }
        self.watch_link(ops);
        self.begin_provisionally(ops);
    }
}
