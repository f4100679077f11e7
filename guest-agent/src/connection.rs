//! The VM's connections as the NIC has them: the list by `GET /v1/connections`, and news of them by `GET /v1/events`.
use serde::{Deserialize, Serialize};

/// The most events in a batch.
pub const BATCH_MAX: u32 = 1024;
/// The longest that a batch may be held back, in milliseconds.
pub const DELAY_MAX: u32 = 2000;
/// The longest that an answer may wait for a first event, in milliseconds: with the delay less than the service leaves a quiet connection.
pub const WAIT_MAX: u32 = 5000;

/// A part of the list. What begins or ends while it is read may be missing in it; everything else is in it once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// What is there.
    pub connections: Vec<Connection>,
    /// Where the list goes on, for `from`; absent: this was its last part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A connection, or a flow of datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// What it is called, in events too; the same over engines.
    pub id: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Who opened it.
    pub direction: Opener,
    /// The guest's end.
    pub guest: String,
    /// The other one.
    pub remote: String,
    /// The TCP state (RFC 9293 §3.3.2), or what a flow of datagrams is like.
    pub state: String,
    /// Bytes that the host took.
    pub bytes_guest_to_host: u64,
    /// Bytes that the guest acknowledged, or was sent in datagrams.
    pub bytes_host_to_guest: u64,
    /// Seconds since it was opened.
    pub age_seconds: u64,
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Opener {
    /// The guest.
    #[default]
    GuestOpens,
    /// A peer, through a forward.
    WorldOpens,
}

impl Opener {
    /// The guest, or else the world.
    pub fn of(guest_opens: bool) -> Opener {
        if guest_opens { Opener::GuestOpens } else { Opener::WorldOpens }
    }

    /// What tables call it.
    pub fn word(self) -> &'static str {
        match self {
            Opener::GuestOpens => "guest",
            Opener::WorldOpens => "world",
        }
    }
}

/// What has happened to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// Both sides have it.
    #[default]
    Established,
    /// It has ended by FIN both ways.
    Closed,
    /// It has ended by a reset, or by giving up.
    Reset,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in this epoch: one more than that of the one before.
    pub number: u64,
    /// What the connection is called.
    pub id: String,
    /// What has happened.
    pub event: Happened,
    /// Who opened the connection.
    pub direction: Opener,
    /// The guest's end.
    pub guest: String,
    /// The other one.
    pub remote: String,
    /// When, in microseconds since 1970 by the host's clock.
    pub at_us: u64,
    /// Microseconds since the connection was opened.
    pub age_us: u64,
    /// Bytes that the host took until then.
    pub bytes_guest_to_host: u64,
    /// Bytes that the guest acknowledged until then.
    pub bytes_host_to_guest: u64,
}

/// Several events at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Within one epoch no event is told twice and none is missed unsaid. Another begins when vonic's engine does, or when nobody has asked
    /// for a while.
    pub epoch: String,
    /// Where to go on, for `after`.
    pub cursor: String,
    /// The cursor that was given is of another epoch, or none was: this one begins here, and what was before is in the list.
    pub restarted: bool,
    /// Events that were lost, since nobody took them in time: the list has what they were about.
    pub missed: u64,
    /// Microseconds that the first of these has waited.
    pub waited_us: u64,
    /// The events, in the order of their numbers.
    pub events: Vec<Event>,
}
