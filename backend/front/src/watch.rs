//! Which descriptor belongs to what, and what is waited for on it.
use event_manager::{EventOps, Events};
use std::collections::HashMap;
use std::os::fd::RawFd;
use vmm_sys_util::epoll::EventSet;

/// What a descriptor of the master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Signals.
    Signals,
    /// The control channel.
    Link,
    /// The engine's pidfd.
    Engine,
    /// The pidfd of the process that waits to be the next one.
    Standby,
    /// A listener, by its name.
    Listener(String),
    /// A VMM's connection, by its session.
    Vmm(u64),
    /// The engine's side of a connection, by its session.
    Session(u64),
    /// A newer vonicd that is to take over.
    Candidate,
    /// The older vonicd, until it ends.
    Older,
}

/// The watched descriptors. Each is forgotten before it is closed: event-manager panics on an event of one that it does
/// not know.
#[derive(Debug, Default)]
pub(crate) struct Watch(HashMap<RawFd, (Source, EventSet)>);

impl Watch {
    /// What an event's descriptor is.
    pub(crate) fn source(&self, fd: RawFd) -> Option<&Source> {
        self.0.get(&fd).map(|(source, _)| source)
    }

    /// Waits for `events` on `fd`, in place of what was waited for before. An empty set still tells of a hang-up.
    pub(crate) fn set(&mut self, ops: &mut EventOps, fd: RawFd, source: Source, events: EventSet) {
        let result = match self.0.get(&fd) {
            Some((_, current)) if *current == events => return,
            Some(_) => ops.modify(Events::new_raw(fd, events)),
            None => ops.add(Events::new_raw(fd, events)),
        };
        match result {
            Ok(()) => drop(self.0.insert(fd, (source, events))),
            Err(e) => log::error!("descriptor {fd} ({source:?}) cannot be watched: {e}"),
        }
    }

    /// Waits for nothing more on `fd`.
    pub(crate) fn forget(&mut self, ops: &mut EventOps, fd: RawFd) {
        if self.0.remove(&fd).is_some()
            && let Err(e) = ops.remove(Events::empty_raw(fd))
        {
            log::error!("descriptor {fd} cannot be left: {e}");
        }
    }
}
