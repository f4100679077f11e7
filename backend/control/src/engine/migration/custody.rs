//! What has come with a guest whose rings have not started is left with the master, as it came: an engine that follows goes on with it.
use super::Arrival;
use crate::engine::registry::Registry;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::time::Duration;
use std::{fs, io};
use vonic_front::{EngineLink, Start};
use vonic_migration::{PortState, Stream};

/// What it is left as: this, and the VM's name.
const PREFIX: &str = "arrival of ";
/// What is left while a VM's rings wait for a state that the operator is to bring: this, and the VM's name; until when, by the clock of
/// all engines, in microseconds.
const AWAITED: &str = "state awaited for ";
/// In front of the stream: the number of the VMM connection whose it is.
const HEAD: usize = 8;

/// What an engine before has left, by VMs. The descriptors stay the master's.
#[derive(Default)]
pub(in crate::engine) struct Left(BTreeMap<String, RawFd>);

impl Left {
    /// Of all that it has left.
    pub fn of(start: &Start) -> Left {
        let arrivals = start.kept.iter().filter_map(|(name, fd)| Some((name.strip_prefix(PREFIX)?.to_string(), *fd)));
        Left(arrivals.collect())
    }

    /// What came by this connection for a VM, once; `None`: nothing did, or it is here.
    fn take(&mut self, vm: &str, session: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(fd) = self.0.remove(vm) else { return Ok(None) };
        let mut bytes = fs::read(format!("/proc/self/fd/{fd}"))?;
        if bytes.get(..HEAD) != Some(&session.to_le_bytes()[..]) {
            return Ok(None);
        }
        Ok(Some(bytes.split_off(HEAD)))
    }
}

/// VMs whose rings waited when an engine died.
#[derive(Default)]
pub(in crate::engine) struct LeftWaiting(BTreeMap<String, Duration>);

impl LeftWaiting {
    /// Of all that it has left.
    pub fn of(start: &Start) -> LeftWaiting {
        let waits = start.kept.iter().filter_map(|(name, fd)| {
            let name = name.strip_prefix(AWAITED)?;
            let bytes = fs::read(format!("/proc/self/fd/{fd}")).ok()?;
            let until = Duration::from_micros(u64::from_le_bytes(bytes.try_into().ok()?));
            Some((name.to_string(), until))
        });
        LeftWaiting(waits.collect())
    }

    /// For how long a VM's still are to wait, once; `None`: they are not.
    pub fn take(&mut self, vm: &str, now: Duration) -> Option<Duration> {
        self.0.remove(vm)?.checked_sub(now).filter(|left| !left.is_zero())
    }
}

/// Leaves a stream that has come by a connection.
pub(super) fn leave(link: &EngineLink, vm: &str, session: u64, stream: &[u8]) {
    let head = session.to_le_bytes();
    if let Err(error) = link.keep(&format!("{PREFIX}{vm}"), &[&head, stream]) {
        log::error!("{vm}: what has come with its guest cannot be left for another engine: {error}");
    }
}

impl Registry {
    /// A VM's rings wait for so long.
    pub(in crate::engine) fn leave_awaited(&self, name: &str, limit: Duration) {
        let until = (self.migration.checkpoint.header().elapsed() + limit).as_micros() as u64;
        if let Err(error) = self.link.keep(&format!("{AWAITED}{name}"), &[&until.to_le_bytes()]) {
            log::error!("{name}: another engine would not know that its rings wait: {error}");
        }
    }

    /// They wait no longer, or for what is here.
    pub(in crate::engine) fn forget_awaited(&self, name: &str) {
        if let Err(error) = self.link.keep(&format!("{AWAITED}{name}"), &[]) {
            log::error!("{name}: another engine would have its rings wait: {error}");
        }
    }

    /// It is here, or nobody's any more.
    pub(in crate::engine) fn forget_arrival(&self, name: &str) {
        if let Err(error) = self.link.keep(&format!("{PREFIX}{name}"), &[]) {
            log::error!("{name}: what had come with its guest stays in memory: {error}");
        }
    }

    /// A VMM connection that the engine before had: what came by it and was not here yet.
    pub(in crate::engine) fn inherited_arrival(&mut self, name: &str, session: u64) -> Arrival {
        let left = self.migration.left.take(name, session).map_err(|error| error.to_string());
        let parse = |bytes: Vec<u8>| Stream::read(&bytes[..]).and_then(PortState::try_from).map_err(|e| e.to_string());
        match left.and_then(|bytes| bytes.map(parse).transpose()) {
            Ok(Some(port)) => {
                log::info!("{name}: its guest is still to come, with {} connections", port.flows.len());
                Arrival::Parked(Box::new(port))
            }
            Ok(None) => Arrival::None,
            Err(error) => {
                log::error!("{name}: what has come with its guest is lost: {error}");
                Arrival::None
            }
        }
    }
}
