//! A VM's guest leaves for another host with its connections, or comes from one (ADR 0016).
//!
//! Two moments belong to the VMM: it asks for the port's state when every ring is stopped, and it brings a state before there are
//! rings. Whatever takes long (reading and writing sockets' queues, the operator's hooks) runs on a thread of its own.
mod arrival;
mod by_hand;
mod custody;
mod datagrams;
mod departure;
mod hooks;

pub(super) use arrival::{Arrival, Arrived};
pub(super) use by_hand::ByHand;
pub(super) use departure::{Departure, Lingering};

use super::registry::Registry;
use crate::config::Vm;
use hooks::Porter;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use vonic_datapath::Leaving;
use vonic_front::{Runner, Start};
use vonic_migration::Identity;
use vonic_record::Checkpoint;
use vonic_uplink::PeekMode;

/// How long the kernel is kept from answering for connections that have left, if their address stays on this host.
const LINGER: Duration = Duration::from_secs(60);

/// Between save and load, a stream may take so long: a peer that hears nothing for longer may have given up, or be somebody else.
const AGE_MAX: Duration = Duration::from_secs(60);

/// What the threads that move connections tell the control side.
pub(super) enum News {
    /// A departure's thread is done.
    Saved(String, ThreadId),
    /// A state was read and is good, or not.
    Read(String, u64, Box<arrival::Read>),
    /// The same of one that the operator brought.
    Brought(Box<by_hand::Brought>),
    /// What had come has sockets here, as far as it can.
    Arrived(String, u64, Box<Arrived>),
}

/// What migrations need besides the VMs.
pub(super) struct Migration {
    /// Whose clock connections' ages and timestamps are relative to.
    pub checkpoint: Arc<Checkpoint>,
    /// How the worker peeks; `None`: by the best that the kernel has.
    pub peek_mode: Option<PeekMode>,
    /// Who runs the operator's hooks.
    runner: Runner,
    /// Connections that have left.
    pub lingering: Vec<Lingering>,
    /// What had come when an engine died.
    left: custody::Left,
    /// Whose rings waited then.
    awaited: custody::LeftWaiting,
    /// Of states that the operator brings.
    last_number: u64,
}

impl Migration {
    pub fn new(start: &Start, peek_mode: Option<PeekMode>) -> Migration {
        let (checkpoint, left) = (Arc::clone(&start.checkpoint), custody::Left::of(start));
        let awaited = custody::LeftWaiting::of(start);
        let runner = start.runner.clone();
        Migration { checkpoint, peek_mode, runner, lingering: Vec::new(), left, awaited, last_number: 0 }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// When something is to be done next.
    pub fn due_in(&self) -> Option<Duration> {
        self.lingering.iter().map(|left| left.until.saturating_duration_since(Instant::now())).min()
    }
}

impl Registry {
    /// The hooks as they are now.
    fn porter(&self) -> Porter {
        Porter { hooks: self.config.service.migration.clone(), runner: self.migration.runner.clone() }
    }

    pub(super) fn migration_news(&mut self, news: News) {
        match news {
            News::Saved(name, thread) => self.saved(&name, thread),
            News::Read(name, session, read) => self.state_read(&name, session, *read),
            News::Brought(brought) => self.brought(*brought),
            News::Arrived(name, session, arrived) => self.arrived(&name, session, *arrived),
        }
    }
}

/// Whose port it is.
fn identity(vm: &Vm, features: u64) -> Identity {
    Identity { name: vm.name.clone(), mac: vm.mac.0, features, mtu: vm.mtu }
}

/// How often something was the reason that a connection did not move, in words.
fn reasons(counts: &BTreeMap<String, usize>) -> String {
    let each: Vec<String> = counts.iter().map(|(why, count)| format!("{count}: {why}")).collect();
    each.join("; ")
}

/// Closes the sockets of connections that go on elsewhere; answers what is left to be freed.
fn close(leaving: Vec<Leaving>) -> Vec<u32> {
    leaving.into_iter().map(Leaving::close).collect()
}
