//! The master: vhost-user front, journal, custody of descriptors, engine start.
//!
//! [`run`] creates the engine as a child that shares this process's descriptor table, and then serves until the engine
//! ends. It listens for VMMs or connects to them, passes their messages on to the engine's sessions, answers those that the crates' backend
//! would take amiss, and remembers in a journal what a session consists of.
//!
//! What holds everywhere in this crate: nothing waits for a VMM or for the engine; no guest memory is mapped; no message
//! of a VMM ends anything but that VMM's own connection.

mod carrier;
mod channel;
mod connection;
mod connector;
mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod heartbeat;
mod history;
mod journal;
mod limit;
mod listener;
mod master;
mod memory;
mod message;
mod pace;
mod request;
mod run;
mod runner;
mod service;
mod sys;
mod takeover;
mod upgrade;
mod watch;

pub use channel::{API, EngineLink, ToEngine, ToMaster, adopt_listener};
pub use engine::Start;
pub use history::{Blame, Death, History, Storm, Takeover};
pub use journal::Journal;
pub use limit::Limited;
pub use message::{Message, Request};
pub use run::{MasterConfig, MasterError, run, run_standalone};
pub use runner::{Ending, Errand, Judge, Permitted, Runner};
pub use sys::take_turns_of;
pub use takeover::take_over;
pub use upgrade::Upgrade;
pub use vonic_confinement::{Capabilities, User, become_user, hand_over, may_change_user};

#[cfg(test)]
mod testing;
