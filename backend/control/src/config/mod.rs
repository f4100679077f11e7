//! The operator's files, read into checked types.
//!
//! `vonic.toml` and `vms.d/*.toml` become a [`Config`], or a list of everything that is wrong with them, each with
//! file, line and what to write instead.
mod account;
mod change;
mod checks;
mod effective;
mod error;
mod family;
mod features;
mod gateway;
mod keys;
mod labels;
mod listen;
mod load;
mod model;
pub(crate) mod name;
pub(crate) mod names;
mod reader;
mod reload;
#[cfg(test)]
pub(crate) mod schema;
mod service;
mod source;
mod uplink;
mod vm;

pub use change::{Change, NetworkChange, diff, diff_networks};
pub use effective::{Document, Setting, ShownTable, Value, documents};
pub use error::{ConfigError, ConfigErrors};
pub use family::Family;
pub use features::{FEATURES, Feature, Features, feature_names};
pub use gateway::gateway_mac;
pub use load::{Lenient, is_hook, load, load_for_host, load_lenient, load_sources};
pub use model::{
    Acknowledge, Action, Config, EgressRule, Forward, Hooks, Limits, Listen, ListenHost, Network, Poll, Protocol,
    Seccomp, Service, SocketMode, Uplink, Vm,
};
pub use reload::{Reloaded, reload, with_vm};
pub use source::Sources;
pub use vonic_frame::Subnet;
