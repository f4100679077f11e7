//! For the fuzz targets (`tests/fuzz`), and nothing else: one VMM's connection without a master around it, and the decoders of what
//! masters and engines tell each other.
use crate::channel::{ToEngine, ToMaster};
use crate::connection::Connection;
use crate::handover::{self, MasterState, Numbers, Offer};
use crate::limit::VmLog;
use crate::message::Message;
use crate::upgrade::{FromSuccessor, ToSuccessor};
use serde::{Serialize, de::DeserializeOwned};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A VMM's connection. Whatever ends it is given as text.
#[derive(Debug)]
pub struct Vmm(Connection);

impl Vmm {
    /// A VMM that has just connected by a non-blocking socket.
    pub fn new(socket: UnixStream) -> Vmm {
        Vmm(Connection::new(socket, VmLog::new("fuzz"), Duration::from_secs(10), Instant::now()))
    }

    /// The engine made a session; its other end.
    ///
    /// # Errors
    /// Why the connection ends.
    pub fn attach(&mut self, session: OwnedFd) -> Result<(), String> {
        self.0.attach(session, Instant::now()).map_err(|end| end.to_string())
    }

    /// The VMM has sent something.
    ///
    /// # Errors
    /// Why the connection ends.
    pub fn vmm_ready(&mut self) -> Result<(), String> {
        self.0.vmm_ready(Instant::now()).map_err(|end| end.to_string())
    }

    /// The engine has.
    ///
    /// # Errors
    /// Why the connection ends.
    pub fn session_ready(&mut self) -> Result<(), String> {
        self.0.session_ready(Instant::now()).map_err(|end| end.to_string())
    }

    /// The session's descriptor, while its answer is awaited.
    pub fn awaits(&self) -> Option<RawFd> {
        self.0.session_fd().filter(|_| !self.0.reads_vmm())
    }

    /// The engine is dead; another session may be attached.
    ///
    /// # Errors
    /// Why the connection ends.
    pub fn lose_engine(&mut self) -> Result<(), String> {
        self.0.lose_engine(Instant::now()).map_err(|end| end.to_string())
    }

    /// How many descriptors it holds, but for the session's.
    pub fn descriptors(&self) -> usize {
        self.0.descriptors().count()
    }

    /// Whether what another master would be told of it says the same after it was written and read.
    ///
    /// # Errors
    /// It cannot be written, or not be read.
    pub fn is_saved(&self) -> Result<bool, String> {
        let state = self.0.save();
        let text = handover::seal(&state).map_err(|error| error.to_string())?;
        Ok(handover::open(&text) == Ok(state))
    }

    /// Another master goes on with it, which has no engine yet.
    ///
    /// # Errors
    /// The system's.
    pub fn hand_over(&self) -> std::io::Result<Vmm> {
        let mut numbers = Numbers::new(self.0.descriptors());
        let log = VmLog::new("fuzz");
        let mut other = Connection::restore(self.0.save(), log, Duration::from_secs(10), Instant::now(), &mut numbers)?;
        // Here both are of one process, and descriptors are its own.
        other.shared = true;
        Ok(Vmm(other))
    }
}

/// Sends a message as it is; the flags too.
///
/// # Errors
/// As [`Message::send`].
pub fn send(socket: &UnixStream, code: u32, flags: u32, body: Vec<u8>, fds: Vec<OwnedFd>) -> std::io::Result<()> {
    Message { code, flags, body, fds }.send(socket)
}

/// Reads bytes as each of the texts that masters and engines give each other. What can be read is written and read again as the same.
pub fn decode(bytes: &[u8]) {
    sealed::<MasterState>(bytes);
    sealed::<Offer>(bytes);
    plain::<ToEngine>(bytes);
    plain::<ToMaster>(bytes);
    plain::<FromSuccessor>(bytes);
    plain::<ToSuccessor>(bytes);
}

fn sealed<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(content) = handover::open::<T>(bytes) {
        let again = handover::seal(&content).and_then(|text| handover::open::<T>(&text));
        assert_eq!(again, Ok(content));
    }
}

fn plain<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(content) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&content).and_then(|text| serde_json::from_slice::<T>(&text));
        assert!(again.as_ref().is_ok_and(|again| *again == content), "{content:?}: {again:?}");
    }
}
