//! Everything that a master hands over, as plain data. Each live type writes and reads its own part, by exhaustive destructuring.
//!
//! Fields may be added with a default; whatever else changes here is a change of [`super::FORMAT`]. Descriptors are numbers, which the
//! next master has its own descriptors at: records name them so.
use crate::history::{BlamedState, History};
use crate::sys;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

/// What a master says of itself before it hands anything over. With it come two descriptors: the checkpoint, and the configuration that
/// runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// The version of vonic that speaks.
    pub(crate) vonic: String,
}

/// A master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MasterState {
    /// Every descriptor that follows.
    pub(crate) descriptors: BTreeSet<RawFd>,
    /// What the engine left for the next, by name.
    pub(crate) kept: BTreeMap<String, RawFd>,
    pub(crate) entrances: BTreeMap<String, EntranceState>,
    /// By session.
    pub(crate) connections: BTreeMap<u64, ConnectionState>,
    pub(crate) last_session: u64,
    /// Upgrades so far, those that failed too.
    pub(crate) upgrades: u64,
    /// Of the engines so far.
    #[serde(default)]
    pub(crate) history: History,
    /// What is held against VMs for the deaths of engines, by their numbers.
    pub(crate) blames: BTreeMap<u64, BlamedState>,
}

/// One VM's way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntranceState {
    pub(crate) door: Door,
    pub(crate) session: Option<u64>,
}

/// Who listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Door {
    /// The master.
    Listener {
        path: PathBuf,
        socket: RawFd,
        /// Device and inode.
        file: (u64, u64),
        /// Who started vonic made it, and removes it.
        lent: bool,
    },
    /// The VMM.
    Connector { path: PathBuf, connected: bool, delay_ms: u64 },
}

/// One VMM's connection, without an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionState {
    /// The VM.
    pub(crate) name: String,
    pub(crate) vmm: RawFd,
    /// Of a message that is not all there yet.
    pub(crate) partial: MessageState,
    pub(crate) front: FrontState,
    /// What brings a journal to the same state.
    pub(crate) journal: Vec<MessageState>,
    /// To be sent to the engine behind that, and whether the VMM waits for the answer.
    pub(crate) queued: Vec<(MessageState, bool)>,
    pub(crate) declined: BTreeSet<u32>,
}

/// What the front knows of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrontState {
    pub(crate) offered: u64,
    pub(crate) offered_protocol: u64,
    pub(crate) rings: u32,
    pub(crate) features: Option<u64>,
    pub(crate) protocol_asked: u64,
    pub(crate) protocol: u64,
    pub(crate) log: LogState,
    pub(crate) logged_rings: BTreeSet<u32>,
    /// A transfer of the device's state was under way, or lost: it ended with the engine.
    pub(crate) transfer: bool,
    pub(crate) owned: bool,
    pub(crate) held: BTreeMap<u32, u32>,
    pub(crate) table: Vec<RegionState>,
    pub(crate) status: u64,
    pub(crate) warned_of_seals: bool,
}

/// The log of guest memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LogState {
    #[default]
    Absent,
    Refused(String),
    Bytes(u64),
}

/// One region of guest memory: guest address, size, the VMM's address, offset.
pub(crate) type RegionState = [u64; 4];

/// A message of vhost-user's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MessageState {
    pub(crate) code: u32,
    pub(crate) flags: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<RawFd>,
}

/// The descriptors that came, by the numbers that they are known by; each is taken once.
#[derive(Debug, Default)]
pub(crate) struct Numbers(BTreeSet<RawFd>);

impl Numbers {
    pub(crate) fn new(numbers: impl IntoIterator<Item = RawFd>) -> Numbers {
        Numbers(numbers.into_iter().collect())
    }

    /// The descriptor of this number.
    pub(crate) fn take(&mut self, number: RawFd) -> io::Result<OwnedFd> {
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("descriptor {number} was not handed over"));
        if self.0.remove(&number) { sys::adopt(number) } else { Err(unknown()) }
    }
}
