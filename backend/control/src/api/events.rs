//! What happens to VMs, engines and the configuration, as `GET /v1/events` tells it.
use serde::{Deserialize, Serialize};

use super::types::FileError;

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// What it is called: `after` goes on behind it.
    pub id: String,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it is.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// The first line of each answer: from here on nothing is left out without being told.
    Begun {
        /// The engine's process number.
        pid: u32,
        /// Its version.
        version: String,
        /// Whether the next line is the one behind `after`. It is not where another engine has taken over since: then what this one
        /// has seen follows.
        resumed: bool,
    },
    /// The client read too slowly, or came too late, for some.
    Lost {
        /// How many.
        count: u64,
    },
    /// A VMM has connected.
    VmConnected {
        /// The VM's name.
        vm: String,
    },
    /// It has left.
    VmDisconnected {
        /// The VM's name.
        vm: String,
    },
    /// Engines have died of what the guest sends, or its VMM says: it is left alone.
    VmQuarantined {
        /// The VM's name.
        vm: String,
    },
    /// It is served again.
    VmReleased {
        /// The VM's name.
        vm: String,
        /// Why.
        reason: String,
    },
    /// A VM is new.
    VmAdded {
        /// The VM's name.
        vm: String,
    },
    /// A VM's settings are others.
    VmChanged {
        /// The VM's name.
        vm: String,
    },
    /// A VM is gone.
    VmRemoved {
        /// The VM's name.
        vm: String,
    },
    /// The engine before died.
    EngineDied {
        /// Of what.
        reason: String,
    },
    /// The engine before made room, as the operator wanted it.
    EngineReplaced {},
    /// This engine serves every VM that the one before did.
    EngineTookOver {
        /// Its process number.
        pid: u32,
        /// How long that took.
        microseconds: u64,
    },
    /// A newer vonicd serves.
    Upgraded {
        /// Its version.
        version: String,
        /// Its process number.
        process: u32,
    },
    /// A newer vonicd could not take over; everything is as it was.
    UpgradeFailed {
        /// Why.
        error: String,
    },
    /// A guest is about to move.
    MigrationBegun {
        /// The VM's name.
        vm: String,
        /// Where it goes, as seen from here.
        direction: Move,
    },
    /// It has moved.
    MigrationDone {
        /// The VM's name.
        vm: String,
        /// Where it went.
        direction: Move,
        /// How many connections it has taken along.
        connections: usize,
    },
    /// It has not, or not with everything.
    MigrationFailed {
        /// The VM's name.
        vm: String,
        /// Where it was to go.
        direction: Move,
        /// Why.
        reason: String,
    },
    /// The configuration was read again, and what is good of it holds.
    ConfigurationReloaded {
        /// VMs that are new.
        added: usize,
        /// VMs whose settings changed.
        changed: usize,
        /// VMs that are gone.
        removed: usize,
        /// VMs that stayed as they were.
        unchanged: usize,
    },
    /// Something in the configuration is wrong: what it describes stays as it runs.
    ConfigurationRefused {
        /// What is wrong.
        errors: Vec<FileError>,
    },
}

/// Where a guest that moves goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Move {
    /// To another host.
    Leaves,
    /// To this one.
    Comes,
}

impl Happening {
    /// The VM that it is about, if it is about one.
    pub fn vm(&self) -> Option<&str> {
        match self {
            Happening::VmConnected { vm }
            | Happening::VmDisconnected { vm }
            | Happening::VmQuarantined { vm }
            | Happening::VmReleased { vm, .. }
            | Happening::VmAdded { vm }
            | Happening::VmChanged { vm }
            | Happening::VmRemoved { vm }
            | Happening::MigrationBegun { vm, .. }
            | Happening::MigrationDone { vm, .. }
            | Happening::MigrationFailed { vm, .. } => Some(vm),
            _ => None,
        }
    }
}
