//! Where VMMs come in: a socket of the master's own, or one of the VMM's to which it connects.
use super::{Master, PATIENCE, TURN};
use crate::channel::{API, ToEngine};
use crate::connection::{Connection, End};
use crate::connector::{Attempt, Connector};
use crate::handover::{self, EntranceState, Numbers};
use crate::limit::VmLog;
use crate::listener::Listener;
use crate::pace::Pace;
use crate::sys;
use crate::watch::Source;
use event_manager::EventOps;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// How long a listener rests when the system has no room for another connection.
const REST: Duration = Duration::from_secs(1);
/// Connections that wait at one VM's socket: it has one VMM. What they have sent waits with them, descriptors, too, of which a user can have so many under way.
const WAITING: i32 = 16;
/// And at the API's.
const API_WAITING: i32 = 1024;
/// And how long when all whom it has let in of late have gone while they waited.
const BREATH: Duration = Duration::from_millis(10);

/// One VM's way in, and the connection that came through it.
pub(super) struct Entrance {
    pub(super) door: Door,
    log: VmLog,
    /// How many more VMMs may come to a listener.
    pace: Pace,
    /// The one live connection.
    pub(super) session: Option<u64>,
}

/// Who listens.
pub(super) enum Door {
    /// The master; not accepting before `resting`.
    Listener { listener: Listener, resting: Option<Instant> },
    /// The VMM.
    Connector(Connector),
}

impl Entrance {
    /// When it is to be looked at without an event.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.door {
            Door::Listener { resting, .. } => *resting,
            Door::Connector(connector) => connector.due(),
        }
    }

    /// Its listening socket.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match &self.door {
            Door::Listener { listener, .. } => Some(listener.as_raw_fd()),
            Door::Connector(_) => None,
        }
    }

    pub(super) fn save(&self) -> EntranceState {
        let Entrance { door, log: _, pace: _, session } = self;
        let door = match door {
            Door::Listener { listener, resting: _ } => listener.save(),
            Door::Connector(connector) => connector.save(),
        };
        EntranceState { door, session: *session }
    }

    /// What another master has saved; it has it as well until it ends.
    pub(super) fn restore(
        name: &str,
        state: EntranceState,
        now: Instant,
        numbers: &mut Numbers,
    ) -> io::Result<Entrance> {
        let EntranceState { door, session } = state;
        let door = match door {
            handover::Door::Listener { path, socket, file, lent } => {
                let listener = Listener::restore(numbers.take(socket)?, path, file, lent);
                Door::Listener { listener, resting: None }
            }
            handover::Door::Connector { path, connected, delay_ms } => {
                Door::Connector(Connector::restore(path, connected, delay_ms, now))
            }
        };
        Ok(Entrance { door, log: VmLog::new(name), pace: Pace::of_connections(now), session })
    }

    pub(super) fn log(&self) -> VmLog {
        self.log.clone()
    }

    /// Whether another master has it too.
    pub(super) fn set_shared(&mut self, shared: bool) {
        if let Door::Listener { listener, .. } = &mut self.door {
            listener.shared = shared;
        }
    }

    fn path(&self) -> &Path {
        match &self.door {
            Door::Listener { listener, .. } => listener.path(),
            Door::Connector(connector) => connector.path(),
        }
    }
}

impl Door {
    /// The connection that came through it has ended.
    pub(super) fn ended(&mut self, now: Instant) {
        if let Door::Connector(connector) = self {
            connector.ended(now);
        }
    }
}

impl Master<'_> {
    /// Waits for VMMs at every listener.
    pub(super) fn open_entrances(&mut self, ops: &mut EventOps) {
        for (name, entrance) in &self.entrances {
            if let Door::Listener { listener, resting: None } = &entrance.door
                && name != API
            {
                self.watch.set(ops, listener.as_raw_fd(), Source::Listener(name.clone()), EventSet::IN);
            }
        }
    }

    /// Does what is due at the entrances.
    pub(super) fn tick_entrances(&mut self, now: Instant, ops: &mut EventOps) {
        let is_due = |entrance: &Entrance| entrance.due().is_some_and(|due| due <= now);
        let due: Vec<String> =
            self.entrances.iter().filter(|(_, entrance)| is_due(entrance)).map(|(name, _)| name.clone()).collect();
        for name in due {
            match self.entrances.get_mut(&name).map(|entrance| &mut entrance.door) {
                Some(Door::Listener { listener, resting }) => {
                    *resting = None;
                    self.watch.set(ops, listener.as_raw_fd(), Source::Listener(name), EventSet::IN);
                }
                Some(Door::Connector(_)) => self.attempt(&name, now, ops),
                None => {}
            }
        }
    }

    pub(super) fn listen(&mut self, name: &str, path: &Path, mode: u32, ops: &mut EventOps) -> Result<RawFd, String> {
        match self.entrances.get(name) {
            Some(Entrance { door: Door::Listener { listener, .. }, .. }) if listener.path() == path => {
                return Ok(listener.as_raw_fd());
            }
            Some(other) => return Err(format!("{name} is already served at {}", other.path().display())),
            None => {}
        }
        let listener = match self.service.take(path) {
            Some(passed) => Listener::passed(passed, path).map_err(|e| e.to_string())?,
            None => {
                let waiting = if name == API { API_WAITING } else { WAITING };
                Listener::bind(path, mode, waiting).map_err(|e| e.to_string())?
            }
        };
        let fd = listener.as_raw_fd();
        if !listener.is_lent() {
            self.service.keep(name, fd);
        }
        if name != API && !self.upgrades.is_provisional() {
            self.watch.set(ops, fd, Source::Listener(name.into()), EventSet::IN);
        }
        log::info!("{name}: listening at {}", path.display());
        let door = Door::Listener { listener, resting: None };
        let pace = Pace::of_connections(Instant::now());
        self.entrances.insert(name.into(), Entrance { door, log: VmLog::new(name), pace, session: None });
        Ok(fd)
    }

    pub(super) fn connect(&mut self, name: &str, path: &Path, now: Instant, ops: &mut EventOps) {
        match self.entrances.get(name) {
            // An engine that has taken over asks for what there is.
            Some(Entrance { door: Door::Connector(connector), .. }) if connector.path() == path => return,
            Some(other) => return log::error!("{name} is already served at {}", other.path().display()),
            None => {}
        }
        log::info!("{name}: connecting to {}", path.display());
        let door = Door::Connector(Connector::new(path, now));
        self.entrances.insert(
            name.into(),
            Entrance { door, log: VmLog::new(name), pace: Pace::of_connections(now), session: None },
        );
        if !self.upgrades.is_provisional() {
            self.attempt(name, now, ops);
        }
    }

    pub(super) fn unlisten(&mut self, name: &str, ops: &mut EventOps) {
        let Some(entrance) = self.entrances.remove(name) else { return };
        if let Door::Listener { listener, .. } = &entrance.door {
            self.watch.forget(ops, listener.as_raw_fd());
            self.service.release(name);
        }
        log::info!("{name}: no longer served at {}", entrance.path().display());
        let session = entrance.session;
        drop(entrance); // The file goes before anybody learns of the end.
        if let Some(session) = session {
            self.end(session, &End::Fault("the VM is no longer served".into()), ops);
        }
    }

    /// vonicd ends, and with it the sockets' files: nobody is to keep the sockets.
    pub(super) fn release_entrances(&self) {
        for (name, entrance) in &self.entrances {
            if let Door::Listener { .. } = entrance.door {
                self.service.release(name);
            }
        }
    }

    /// One attempt to reach a VMM that listens.
    fn attempt(&mut self, name: &str, now: Instant, ops: &mut EventOps) {
        let Some(entrance) = self.entrances.get_mut(name) else { return };
        let Door::Connector(connector) = &mut entrance.door else { return };
        let attempt = connector.attempt(now);
        let path = connector.path().display();
        match attempt {
            Attempt::Connected(vmm) => {
                if !self.let_in(name, vmm, now, ops)
                    && let Some(entrance) = self.entrances.get_mut(name)
                {
                    entrance.door.ended(now);
                }
            }
            Attempt::Absent { told: true } | Attempt::Failed(None) => {}
            Attempt::Absent { told: false } => log::info!("{name}: nobody listens at {path}; waiting for a VMM"),
            Attempt::Failed(Some(e)) => entrance.log.warn(&format!("cannot connect to {path}, trying on: {e}")),
        }
    }

    pub(super) fn on_listener(&mut self, name: &str, now: Instant, ops: &mut EventOps) {
        let mut gone = 0;
        for _ in 0..TURN {
            let Some(entrance) = self.entrances.get_mut(name) else { return };
            let Door::Listener { listener, resting } = &mut entrance.door else { return };
            if let Err(until) = entrance.pace.take(now) {
                entrance.log.warn("its VMM comes too often: its next connections wait for their turn");
                *resting = Some(until);
                let source = Source::Listener(name.into());
                return self.watch.set(ops, listener.as_raw_fd(), source, EventSet::empty());
            }
            match listener.accept() {
                // Whoever has gone while he waited costs nobody a turn, but some time.
                Ok(Some(vmm)) if entrance.pace.is_short(now) && sys::hung_up(vmm.as_fd()) => {
                    entrance.pace.give_back();
                    gone += 1;
                    if gone == TURN {
                        *resting = Some(now + BREATH);
                        let source = Source::Listener(name.into());
                        return self.watch.set(ops, listener.as_raw_fd(), source, EventSet::empty());
                    }
                }
                Ok(Some(vmm)) => self.admit(name, vmm, now, ops),
                Ok(None) => return entrance.pace.give_back(),
                Err(e) => {
                    entrance.log.warn(&format!("cannot accept a connection, trying again in {REST:?}: {e}"));
                    *resting = Some(now + REST);
                    let source = Source::Listener(name.into());
                    return self.watch.set(ops, listener.as_raw_fd(), source, EventSet::empty());
                }
            }
        }
    }

    /// A VMM has come to a listener.
    fn admit(&mut self, name: &str, vmm: UnixStream, now: Instant, ops: &mut EventOps) {
        let Some(session) = self.entrances.get(name).map(|entrance| entrance.session) else { return };
        if let Some(old) = session {
            // A VMM that was restarted may be here before its old connection's end has been seen.
            if self.connections.get(&old).is_some_and(|c| !sys::hung_up(c.vmm())) {
                if let Some(entrance) = self.entrances.get(name) {
                    entrance.log.warn("a second connection is turned away: the first one lives");
                }
                return;
            }
            self.end(old, &End::Vmm, ops);
        }
        self.let_in(name, vmm, now, ops);
    }

    /// A connection begins. False: the engine does not keep up, and the connection is closed.
    fn let_in(&mut self, name: &str, vmm: UnixStream, now: Instant, ops: &mut EventOps) -> bool {
        let Some(entrance) = self.entrances.get_mut(name) else { return false };
        if self.link.is_crowded() {
            entrance.log.warn("turned away: the engine does not keep up");
            return false;
        }
        self.last_session += 1;
        let session = self.last_session;
        entrance.session = Some(session);
        entrance.log.info(&format!("a VMM connected (session {session})"));
        let mut connection = Connection::new(vmm, entrance.log.clone(), PATIENCE, now);
        self.watch.set(ops, connection.vmm().as_raw_fd(), Source::Vmm(session), EventSet::empty());
        match self.is_unheard(name) {
            true => connection.wait_unheard(),
            false => self.link.send(&ToEngine::Connected { name: name.into(), session }),
        }
        self.connections.insert(session, connection);
        true
    }
}
