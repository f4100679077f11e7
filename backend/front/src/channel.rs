//! The control channel between master and engine: whole messages over a SOCK_SEQPACKET pair, as JSON. Descriptors are
//! passed as plain numbers, because both processes share one descriptor table.
use crate::history::{Blame, History};
use crate::sys;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;

/// The longest message: a path and a name are far below.
const MAX_MESSAGE: usize = 64 * 1024;

/// The name under which the API's listener is asked for; every other name is a VM's.
pub const API: &str = "api";

/// What the engine tells the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMaster {
    /// Listen at a path. Answered by [`ToEngine::Listening`].
    Listen {
        /// A VM's name, or [`API`].
        name: String,
        /// Where the socket is to be.
        path: PathBuf,
        /// The socket file's permissions, as in 0o600.
        mode: u32,
    },
    /// Connect to the VMM that listens at a path, as soon as there is one, and again whenever it has gone.
    Connect {
        /// A VM's name.
        name: String,
        /// Where the VMM's socket is.
        path: PathBuf,
    },
    /// Stop listening and remove the socket, or stop connecting; and end the VMM's connection if there is one.
    Unlisten {
        /// As in `Listen` or `Connect`.
        name: String,
    },
    /// A session stands for a connection: the front's end of it, which is the master's from here on.
    Session {
        /// As in [`ToEngine::Connected`].
        session: u64,
        /// The descriptor's number. The sender gives it up (`into_raw_fd`).
        fd: RawFd,
    },
    /// There will be no session: the master ends the VMM's connection.
    SessionRefused {
        /// As in [`ToEngine::Connected`].
        session: u64,
    },
    /// A descriptor for the next engine, in place of the last one of this name (see [`crate::Start::kept`]). The sender gives it
    /// up (`into_raw_fd`).
    Keep {
        /// What it is.
        name: String,
        /// The descriptor's number.
        fd: RawFd,
    },
    /// Answered by [`ToEngine::Marked`] when everything told before it has been done.
    Mark {
        /// Whatever tells the engine its marks apart.
        number: u64,
    },
    /// The engine serves.
    Ready,
    /// A newer vonicd is to take over everything. Answered by [`ToEngine::Upgraded`], to whatever engine there is by then.
    Upgrade {
        /// Its program.
        path: PathBuf,
    },
    /// The answer to [`ToEngine::Ping`] of whoever takes in what the master says.
    Pong {
        /// As asked.
        number: u64,
    },
    /// Another engine is to go on, as the operator wants it or [`ToEngine::Rest`] says: this one's worker has stopped, between two
    /// rounds, and what it had is as it should be found. The engine does nothing more, and is killed.
    Replace,
    /// A VM is no longer to be blamed for what engines died of ([`crate::Start::blamed`]).
    Forgive {
        /// Its number.
        vm: u64,
    },
}

/// What the master tells the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToEngine {
    /// The answer to [`ToMaster::Listen`].
    Listening {
        /// As asked.
        name: String,
        /// The listener's number, or why there is none. For [`API`] the engine accepts on it, by [`adopt_listener`]; the
        /// number itself stays the master's.
        result: Result<RawFd, String>,
    },
    /// A VMM connected. To be answered by [`ToMaster::Session`] or [`ToMaster::SessionRefused`] within 10 s.
    Connected {
        /// The VM.
        name: String,
        /// Never used again for another connection.
        session: u64,
    },
    /// Told once to each engine: every connection that was there when it began has been told by `Connected`.
    Present,
    /// A connection ended, whoever ended it: exactly one for each `Connected`.
    Disconnected {
        /// As in `Connected`.
        session: u64,
    },
    /// The answer to [`ToMaster::Mark`], behind the answers to everything told before it.
    Marked {
        /// As asked.
        number: u64,
    },
    /// How the last upgrade ended.
    Upgraded {
        /// How many there were, those that failed too.
        number: u64,
        /// Why it failed, if it did.
        error: Option<String>,
    },
    /// A VM is let go from quarantine: its VMM has left, and has waited as long as it had to.
    Pardoned {
        /// Its number.
        vm: u64,
    },
    /// A sign of life is wanted: of whoever takes this in by [`ToMaster::Pong`], of each worker in the checkpoint's header
    /// ([`vonic_record::Header::answer`]).
    Ping {
        /// Counts up.
        number: u64,
    },
    /// What has become of engines so far; again whenever that has changed.
    History(Box<History>),
    /// A newer vonicd is ready to take over: lay everything down for its engine, and answer by [`ToMaster::Replace`] within 3 s.
    Rest,
    /// The operator wants the configuration read again (SIGHUP).
    Reload,
    /// End in order, and soon: SIGKILL follows.
    Stop,
}

/// The first message to an engine: it may begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begin {
    /// As in [`crate::Start`], and so are the others.
    pub(crate) takes_over: bool,
    pub(crate) kept: BTreeMap<String, RawFd>,
    pub(crate) blamed: BTreeMap<u64, Blame>,
    /// Descriptors of the engine before, which this one has time to close.
    pub(crate) left: Vec<RawFd>,
}

/// The engine's own duplicate of the listener that [`ToEngine::Listening`] names. It is non-blocking.
///
/// # Errors
/// The number is not open, or there is no room in the descriptor table.
pub fn adopt_listener(fd: RawFd) -> io::Result<UnixListener> {
    sys::duplicate(fd).map(UnixListener::from)
}

/// The engine's end of the channel. Clones are the same end: one thread may read while others send.
#[derive(Debug)]
pub struct EngineLink(UnixDatagram);

impl EngineLink {
    /// Wraps the engine's end of a SOCK_SEQPACKET pair.
    pub(crate) fn new(socket: OwnedFd) -> EngineLink {
        // The type is a datagram socket's only for its send and recv: a sequenced-packet socket keeps messages apart too.
        EngineLink(UnixDatagram::from(socket))
    }

    /// Sends one message. The master always reads, so this waits for no one else.
    ///
    /// # Errors
    /// `BrokenPipe` if the master is gone; `InvalidData` for a path that is not UTF-8, or a message beyond 64 KiB.
    pub fn send(&self, message: &ToMaster) -> io::Result<()> {
        self.0.send(&encode(message)?).map(drop)
    }

    /// Leaves bytes for the next engine, these one behind the other, in place of what was left by this name ([`crate::Start::read`]).
    ///
    /// # Errors
    /// As `send`; no memory.
    pub fn keep(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let fd = sys::memory_file_of(parts)?;
        self.send(&ToMaster::Keep { name: name.into(), fd: fd.as_raw_fd() })?;
        std::mem::forget(fd); // The master's from here on.
        Ok(())
    }

    /// Waits for the next message. None: the master is gone.
    ///
    /// # Errors
    /// `InvalidData` for something that is not a message; what the system says.
    pub fn recv(&self) -> io::Result<Option<ToEngine>> {
        self.recv_any()
    }

    /// Waits for the word to begin. None: the master is gone.
    pub(crate) fn recv_begin(&self) -> io::Result<Option<Begin>> {
        self.recv_any()
    }

    fn recv_any<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            return match self.0.recv(&mut buffer) {
                Ok(0) => Ok(None),
                Ok(length) => decode(&buffer[..length]).map(Some),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
                Err(e) => Err(e),
            };
        }
    }

    /// The same end once more.
    ///
    /// # Errors
    /// No room in the descriptor table.
    pub fn try_clone(&self) -> io::Result<EngineLink> {
        self.0.try_clone().map(EngineLink)
    }

    /// Ends the channel for all clones, also for one that waits in `recv`.
    pub(crate) fn shutdown(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Gives up the descriptor without closing it: after the clone it is the child's.
    pub(crate) fn leak(self) {
        std::mem::forget(self);
    }
}

impl AsRawFd for EngineLink {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The master's end: never waits. What does not go out at once is kept for later.
#[derive(Debug)]
pub(crate) struct MasterLink {
    socket: UnixDatagram,
    unsent: std::collections::VecDeque<Vec<u8>>,
}

/// How many messages may wait for an engine that does not read, before no VMM is let in any more.
const CROWDED: usize = 256;

impl MasterLink {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<MasterLink> {
        let socket = UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(MasterLink { socket, unsent: std::collections::VecDeque::new() })
    }

    /// One that leads nowhere, until there is an engine.
    pub(crate) fn none() -> io::Result<MasterLink> {
        MasterLink::new(sys::seqpacket_pair()?.0)
    }

    /// Sends, in order, now or when [`MasterLink::flush`] is called.
    pub(crate) fn send(&mut self, message: &ToEngine) {
        self.send_any(message);
    }

    /// Gives the word to begin, before anything else.
    pub(crate) fn begin(&mut self, begin: &Begin) {
        self.send_any(begin);
    }

    fn send_any(&mut self, message: &impl Serialize) {
        match encode(message) {
            Ok(bytes) => self.unsent.push_back(bytes),
            Err(e) => log::error!("a message to the engine is lost: {e}"),
        }
        self.flush();
    }

    /// Sends what the engine takes.
    pub(crate) fn flush(&mut self) {
        while let Some(bytes) = self.unsent.front() {
            match self.socket.send(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // An engine that is gone is found out by its end.
                _ => self.unsent.pop_front(),
            };
        }
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(crate) fn is_crowded(&self) -> bool {
        self.unsent.len() >= CROWDED
    }

    /// The next message; None if there is none now. `UnexpectedEof`: the engine's end is gone.
    pub(crate) fn recv(&self) -> io::Result<Option<ToMaster>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        match self.socket.recv(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => decode(&buffer[..length]).map(Some),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) => Err(e),
        }
    }
}

impl AsRawFd for MasterLink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if bytes.len() > MAX_MESSAGE { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes) }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests;
