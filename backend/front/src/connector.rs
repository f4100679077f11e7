//! Client mode: the VMM listens, vonic connects to it, again and again for as long as there is nobody.
use crate::handover::Door;
use crate::sys;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the first attempt after a failed one waits; each further one twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay. A connection that lasts so long proves that there is a VMM: after its end the first attempt is at once.
const LAST_DELAY: Duration = Duration::from_secs(2);

/// Somebody else's listening socket, and when it is tried next. The socket's file is never touched.
#[derive(Debug)]
pub(crate) struct Connector {
    path: PathBuf,
    state: State,
    /// Why the last attempt failed, so that a line is logged only when this changes.
    told: Option<Obstacle>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The next attempt, and the delay after it if it fails.
    Waiting { next: Instant, delay: Duration },
    /// Connected, and the delay after a connection that did not last.
    Connected { since: Instant, delay: Duration },
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// Nobody listens: no file, or nobody behind it, or a VMM that does not accept just now.
    Nobody,
    /// Something that waiting will not mend.
    Fault(io::ErrorKind),
}

/// What became of an attempt.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Non-blocking.
    Connected(UnixStream),
    /// Nobody is there; this is said once.
    Absent { told: bool },
    /// Something is in the way; None if it has been said.
    Failed(Option<io::Error>),
}

impl Connector {
    /// To be tried at once.
    pub(crate) fn new(path: &Path, now: Instant) -> Connector {
        Connector { path: path.into(), state: State::Waiting { next: now, delay: FIRST_DELAY }, told: None }
    }

    pub(crate) fn save(&self) -> Door {
        // What is in the way is told again by the next master.
        let Connector { path, state, told: _ } = self;
        let (connected, delay) = match *state {
            State::Waiting { next: _, delay } => (false, delay),
            State::Connected { since: _, delay } => (true, delay),
        };
        Door::Connector { path: path.clone(), connected, delay_ms: delay.as_millis() as u64 }
    }

    /// What another master has saved.
    pub(crate) fn restore(path: PathBuf, connected: bool, delay_ms: u64, now: Instant) -> Connector {
        let delay = Duration::from_millis(delay_ms).clamp(FIRST_DELAY, LAST_DELAY);
        let state =
            if connected { State::Connected { since: now, delay } } else { State::Waiting { next: now, delay } };
        Connector { path, state, told: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// When the next attempt is due; None while connected.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { next, .. } => Some(next),
            State::Connected { .. } => None,
        }
    }

    /// Tries to connect. Does not wait. To be called when due.
    pub(crate) fn attempt(&mut self, now: Instant) -> Attempt {
        let (State::Waiting { delay, .. } | State::Connected { delay, .. }) = self.state;
        let error = match sys::connect(&self.path) {
            Ok(socket) => {
                self.state = State::Connected { since: now, delay };
                self.told = None;
                return Attempt::Connected(UnixStream::from(socket));
            }
            Err(error) => error,
        };
        self.wait(now, delay);
        let obstacle = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock => Obstacle::Nobody,
            kind => Obstacle::Fault(kind),
        };
        let told = self.told.replace(obstacle) == Some(obstacle);
        match obstacle {
            Obstacle::Nobody => Attempt::Absent { told },
            Obstacle::Fault(_) => Attempt::Failed((!told).then_some(error)),
        }
    }

    /// The connection has ended. One that did not last is followed by a delay: a VMM that hangs up at once is not to keep
    /// vonic busy.
    pub(crate) fn ended(&mut self, now: Instant) {
        let State::Connected { since, delay } = self.state else { return };
        if now.duration_since(since) >= LAST_DELAY {
            self.state = State::Waiting { next: now, delay: FIRST_DELAY };
        } else {
            self.wait(now, delay);
        }
    }

    fn wait(&mut self, now: Instant, delay: Duration) {
        self.state = State::Waiting { next: now + delay, delay: (delay * 2).min(LAST_DELAY) };
    }
}

#[cfg(test)]
mod tests;
