//! From one master to the next: a newer vonicd takes over everything, and until its engine serves nothing is lost if it does not.
use super::entrance::Entrance;
use super::succession::Process;
use super::{Master, PATIENCE};
use crate::channel::ToEngine;
use crate::connection::Connection;
use crate::engine::Maker;
use crate::handover::{MasterState, Numbers};
use crate::history::Blames;
use crate::limit::VmLog;
use crate::run::{MasterConfig, MasterError};
use crate::service::ServiceManager;
use crate::sys::{self, Signals};
use crate::upgrade::{Candidate, Channel, FromSuccessor, REST_LIMIT, SWITCH_LIMIT, Upgrade};
use crate::watch::Source;
use event_manager::EventOps;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// How long what is left of a newer vonicd that failed may take to end, before that is said.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

/// What a master knows of upgrades.
pub(super) struct Upgrades {
    with: Upgrade,
    /// How many there were, those that failed too.
    number: u64,
    /// Why the last one failed; None: there was none, or it did not.
    error: Option<String>,
    candidate: Option<Candidate>,
    /// To the older master, which has everything too until this one's engine serves.
    older: Option<Older>,
}

/// The older master.
struct Older {
    channel: Channel,
    /// It has been told that the engine serves.
    told: bool,
}

impl Upgrades {
    pub(super) fn new(with: Upgrade) -> Upgrades {
        Upgrades { with, number: 0, error: None, candidate: None, older: None }
    }

    /// Whether an older master may still go on in this one's place.
    pub(super) fn is_provisional(&self) -> bool {
        self.older.is_some()
    }

    /// Whether a newer vonicd waits for the engine to lay everything down.
    pub(super) fn awaits_rest(&self) -> bool {
        self.candidate.as_ref().is_some_and(|candidate| candidate.is_ready)
    }

    /// When a newer vonicd, or the engine for its sake, must have answered.
    pub(super) fn due(&self) -> Option<Instant> {
        self.candidate.as_ref().map(|candidate| candidate.due)
    }

    /// Descriptors that are the master's while an upgrade is under way.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let candidate = self.candidate.as_ref().map(|candidate| candidate.channel.as_raw_fd());
        candidate.into_iter().chain(self.older.as_ref().map(|older| older.channel.as_raw_fd()))
    }

    /// What an engine is told of the last one.
    pub(super) fn told(&self) -> Option<ToEngine> {
        (self.number > 0).then(|| ToEngine::Upgraded { number: self.number, error: self.error.clone() })
    }
}

// ---- The older master.

impl Master<'_> {
    /// Starts a newer vonicd. The engine serves all the while.
    pub(super) fn begin_upgrade(&mut self, path: &Path, now: Instant, ops: &mut EventOps) {
        match self.start_candidate(path, now) {
            Ok(candidate) => {
                log::info!("upgrading to {}: process {}", path.display(), candidate.pid());
                self.watch.set(ops, candidate.channel.as_raw_fd(), Source::Candidate, EventSet::IN);
                self.upgrades.candidate = Some(candidate);
            }
            Err(why) => self.end_upgrade(Some(why)),
        }
    }

    fn start_candidate(&self, path: &Path, now: Instant) -> Result<Candidate, String> {
        let Some(process) = &self.process else {
            return Err("a standalone vonicd cannot be upgraded: start it without --standalone".into());
        };
        if self.stopping || self.upgrades.candidate.is_some() || self.upgrades.is_provisional() {
            return Err("another upgrade, or the end, is under way: try again".into());
        }
        let with = &self.upgrades.with;
        let essential = self.kept.get(&with.essential).ok_or("the engine does not serve yet: try again")?;
        let checkpoint = process.maker.checkpoint.as_fd().as_raw_fd();
        Candidate::start(path, with, checkpoint, essential.as_raw_fd(), now)
    }

    /// The newer vonicd has said something, or ended.
    pub(super) fn on_candidate(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(candidate) = &mut self.upgrades.candidate else { return };
        let said = candidate.hear(now);
        self.watch.forget(ops, candidate.channel.as_raw_fd());
        match said {
            Ok(FromSuccessor::Ready(version)) => {
                log::info!("vonicd {version} is ready to take over");
                self.await_rest(now, ops);
            }
            Ok(FromSuccessor::Refused(why)) | Err(why) => self.drop_candidate(why),
            Ok(FromSuccessor::Serves) => self.drop_candidate("it is no vonicd that can take over".into()),
        }
    }

    /// Has the engine lay everything down, so that the next one finds nothing half done. Without one there is nothing to wait for.
    fn await_rest(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(candidate) = &mut self.upgrades.candidate else { return };
        candidate.is_ready = true;
        candidate.due = now + REST_LIMIT;
        let Some(process) = &mut self.process else { return };
        // Its end is not to be waited for while no engine serves.
        drop(process.standby.take(&mut self.watch, ops));
        match process.pidfd() {
            Some(_) => self.link.send(&ToEngine::Rest),
            None => self.switch(now, ops),
        }
    }

    /// It, or the engine, has not answered in time.
    pub(super) fn tick_upgrade(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(candidate) = self.upgrades.candidate.as_ref().filter(|candidate| candidate.due <= now) else { return };
        if candidate.is_ready {
            log::warn!("the engine has not come to rest within {REST_LIMIT:?}: it is ended where it is");
            return self.switch(now, ops);
        }
        self.watch.forget(ops, candidate.channel.as_raw_fd());
        self.drop_candidate("it did not answer in time".into());
    }

    /// Before the switch: it has no engine and nothing of ours.
    fn drop_candidate(&mut self, why: String) {
        self.upgrades.candidate = None;
        self.end_upgrade(Some(why));
    }

    fn end_upgrade(&mut self, error: Option<String>) {
        if let Some(why) = &error {
            log::error!("the upgrade failed, this vonicd goes on: {why}");
        }
        let _ = sys::adopt_orphans(false);
        self.upgrades.number += 1;
        self.upgrades.error = error;
        if let Some(told) = self.upgrades.told() {
            self.link.send(&told);
        }
    }

    /// Ends the engine, gives everything away, and waits for the other engine to serve. Nothing else is done meanwhile: whatever comes
    /// waits in sockets that both masters have.
    pub(super) fn switch(&mut self, now: Instant, ops: &mut EventOps) {
        // If vonicd is to stop, the newer one is to be none either.
        let Some(mut candidate) = self.upgrades.candidate.take().filter(|_| !self.stopping) else { return };
        let held = candidate.channel.as_raw_fd();
        let given = self.retire_engine(held, now, ops).and_then(|()| {
            let state = self.save(held).map_err(|e| format!("descriptors cannot be listed: {e}"))?;
            candidate.hand_over(&state, Instant::now() + SWITCH_LIMIT)
        });
        match given {
            Ok(()) => {
                log::info!("process {} has taken over; this one ends", candidate.pid());
                self.service.succeeded_by(candidate.pid());
                self.share_everything();
                self.outcome = Some(Ok(0));
            }
            Err(why) => {
                drop(candidate);
                fence();
                self.upgrades.number += 1;
                self.upgrades.error = Some(why.clone());
                let _ = sys::adopt_orphans(false);
                log::error!("the upgrade failed, this vonicd goes on: {why}");
                self.start_engine(Instant::now(), ops);
            }
        }
    }

    /// Ends the engine, and puts away what it leaves.
    fn retire_engine(&mut self, held: RawFd, now: Instant, ops: &mut EventOps) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        // Another one may have been made since.
        drop(process.standby.take(&mut self.watch, ops));
        if let Some(pidfd) = process.pidfd() {
            sys::kill(pidfd.as_fd()).map_err(|e| format!("the engine cannot be ended: {e}"))?;
            let limit = Instant::now() + SWITCH_LIMIT;
            while sys::reap(pidfd.as_fd()).map_err(|e| format!("the engine's end cannot be seen: {e}"))?.is_none() {
                if Instant::now() > limit {
                    return Err("the engine does not end".into());
                }
                thread::sleep(Duration::from_micros(100));
            }
            drop(self.put_away_engine(&[held], now, ops));
        }
        Ok(())
    }

    fn save(&self, held: RawFd) -> io::Result<MasterState> {
        let mut descriptors = sys::open_descriptors()?;
        if let Some(process) = &self.process {
            descriptors.retain(|fd| !process.maker.owns(*fd) && !process.left.contains(fd));
        }
        descriptors.retain(|&fd| fd != held && fd != self.link.as_raw_fd());
        Ok(MasterState {
            descriptors,
            kept: self.kept.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
            entrances: self.entrances.iter().map(|(name, entrance)| (name.clone(), entrance.save())).collect(),
            connections: self.connections.iter().map(|(&session, c)| (session, c.save())).collect(),
            last_session: self.last_session,
            upgrades: self.upgrades.number,
            history: self.process.as_ref().map(|process| process.history.clone()).unwrap_or_default(),
            blames: self.process.as_ref().map(|process| process.blames.save(Instant::now())).unwrap_or_default(),
        })
    }

    /// From here on another master has it all: what is dropped here goes on there.
    fn share_everything(&mut self) {
        self.connections.values_mut().for_each(|connection| connection.shared = true);
        self.entrances.values_mut().for_each(|entrance| entrance.set_shared(true));
        if let Some(process) = &mut self.process {
            process.maker.leave_pid_file();
        }
    }
}

/// Waits until nothing of a newer vonicd runs: two engines on one ring would spoil it.
fn fence() {
    let mut limit = Instant::now() + FENCE_LIMIT;
    loop {
        match sys::reap_all() {
            Ok(true) => return,
            Ok(false) => thread::sleep(Duration::from_millis(1)),
            Err(e) => return log::error!("the end of the newer engine cannot be seen: {e}"),
        }
        if Instant::now() > limit {
            log::error!("the newer vonicd's engine does not end; waiting on");
            limit += FENCE_LIMIT;
        }
    }
}

// ---- The newer master.

impl<'a> Master<'a> {
    /// Goes on with what an older master has handed over. It has everything too, until this one's engine serves.
    ///
    /// # Errors
    /// The state does not fit its descriptors.
    pub(crate) fn resume(
        (signals, service): (Signals, ServiceManager),
        maker: Maker<'a>,
        config: &MasterConfig,
        channel: Channel,
        state: MasterState,
        mut numbers: Numbers,
    ) -> Result<Master<'a>, MasterError> {
        let now = Instant::now();
        let unfit = |e: io::Error| MasterError::TakeOver(e.to_string());
        let link = crate::channel::MasterLink::none().map_err(crate::run::system("no control channel"))?;
        let mut master =
            Master { process: Some(Process::new(None, maker, config)), service, ..Master::standalone(signals, link) };
        let MasterState { descriptors: _, kept, entrances, connections, last_session, upgrades, history, blames } =
            state;
        if let Some(process) = &mut master.process {
            process.history = history;
            process.blames = Blames::restore(blames, now);
        }
        master.last_session = last_session;
        let older = Some(Older { channel, told: false });
        let with = config.upgrade.clone();
        master.upgrades = Upgrades { with, number: upgrades + 1, error: None, candidate: None, older };
        for (name, fd) in kept {
            master.kept.insert(name, numbers.take(fd).map_err(unfit)?);
        }
        for (name, entrance) in entrances {
            let entrance = Entrance::restore(&name, entrance, now, &mut numbers).map_err(unfit)?;
            master.entrances.insert(name, entrance);
        }
        for (session, connection) in connections {
            let log =
                master.entrances.get(&connection.name).map_or_else(|| VmLog::new(&connection.name), Entrance::log);
            let connection = Connection::restore(connection, log, PATIENCE, now, &mut numbers).map_err(unfit)?;
            master.connections.insert(session, connection);
        }
        master.part_from_unheard();
        Ok(master)
    }

    /// The first steps, which need the event loop.
    pub(super) fn begin_provisionally(&mut self, ops: &mut EventOps) {
        let Some(older) = &self.upgrades.older else { return };
        self.watch.set(ops, older.channel.as_raw_fd(), Source::Older, EventSet::IN);
        self.start_engine(Instant::now(), ops);
    }

    /// The engine serves: the older master may end.
    pub(super) fn tell_older(&mut self) {
        let Some(older) = self.upgrades.older.as_mut().filter(|older| !older.told) else { return };
        older.told = true;
        // If the older one is gone, its end of the channel says so.
        let _ = older.channel.send(&FromSuccessor::Serves, &[]);
    }

    /// The older master has said that it ends, or has ended without a word: either way nobody else has what is here.
    pub(super) fn on_older(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(older) = self.upgrades.older.take() else { return };
        self.watch.forget(ops, older.channel.as_raw_fd());
        drop(older);
        log::info!("taken over: {} VMMs are connected", self.connections.len());
        self.service.ready();
        for entrance in self.entrances.values_mut() {
            entrance.set_shared(false);
        }
        self.open_entrances(ops);
        for session in self.connections.keys().copied().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get_mut(&session) {
                connection.shared = false;
            }
            self.after(session, Ok(()), ops);
        }
        self.tick_entrances(now, ops);
    }

    /// This master cannot take over: the older one goes on, and is told why.
    pub(super) fn give_up(&mut self, why: &str) {
        let Some(older) = &self.upgrades.older else { return };
        let _ = older.channel.send(&FromSuccessor::Refused(why.into()), &[]);
        if let Some(process) = &mut self.process {
            process.maker.leave_pid_file();
        }
    }
}
