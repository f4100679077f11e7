//! For VMMs that do not ask for a port's state, the operator does (`vonic migrate save`, `vonic migrate load`): what is asked for, and when
//! that happens, is the same (ADR 0016).
//!
//! On the host that the guest leaves, a save waits until its rings have stopped. On the other one its rings wait for the load: a guest that
//! ran earlier would speak of connections that nobody knows yet.
use super::arrival::{Arrival, read, resume_counters};
use super::{AGE_MAX, News, custody};
use crate::api::types::{Happening, LoadReport, Move};
use crate::api::{ApiError, Reply, Response};
use crate::engine::registry::{Entry, Registry};
use crate::engine::sessions::SessionState;
use hyper::body::Bytes;
use std::thread;
use std::time::{Duration, Instant};
use vonic_migration::PortState;
use vonic_record::{Whom, vm_number, work_for};
use vonic_session::PortEvent;

/// What the operator has asked for with one VM.
#[derive(Default)]
pub(in crate::engine) struct ByHand {
    save: Option<Wanted>,
    load: Option<Awaited>,
}

/// A save that waits for the rings to stop.
struct Wanted {
    until: Instant,
    reply: Reply,
}

/// A load for which the rings wait.
struct Awaited {
    number: u64,
    until: Instant,
    /// The engine before was asked for it, and whoever asked has heard of its end: it may be asked for again.
    inherited: bool,
    /// It is here, and the VMM is not.
    state: Option<Box<PortState>>,
}

/// A state as it was read.
pub(in crate::engine) struct Brought {
    vm: String,
    number: u64,
    outcome: Result<PortState, String>,
    reply: Reply,
}

impl ByHand {
    fn untils(&self) -> impl Iterator<Item = Instant> {
        let save = self.save.as_ref().map(|wanted| wanted.until);
        save.into_iter().chain(self.load.as_ref().map(|awaited| awaited.until))
    }

    fn awaits(&self, number: u64) -> bool {
        self.load.as_ref().is_some_and(|awaited| awaited.number == number && awaited.state.is_none())
    }
}

fn conflict(message: String, mend: &str) -> Response {
    Response::Error(ApiError::new(409, message).field("vm").mend(mend))
}

fn gave_up(name: &str) -> Response {
    conflict(format!("{name}'s rings wait no longer"), "begin both commands anew, with a longer --timeout")
}

fn runs(entry: &Entry) -> bool {
    entry.session.as_ref().is_some_and(SessionState::runs)
}

impl Registry {
    /// When one of them has waited for long enough.
    pub(in crate::engine) fn by_hand_due_in(&self) -> Option<Duration> {
        let untils = self.vms.values().flat_map(|entry| entry.by_hand.untils());
        untils.min().map(|until| until.saturating_duration_since(Instant::now()))
    }

    // ---- The host that the guest leaves.

    /// Saves a VM's state once its rings have stopped.
    pub(in crate::engine) fn save_by_hand(&mut self, name: &str, limit: Duration, reply: Reply) {
        let Some(entry) = self.vms.get_mut(name) else {
            return reply.send(Response::Error(ApiError::no_such_vm(name)));
        };
        if entry.session.is_none() {
            let mend = "save it on the host where it runs";
            return reply.send(conflict(format!("{name} has no VMM here"), mend));
        }
        if entry.by_hand.save.as_ref().is_some_and(|wanted| !wanted.reply.is_gone()) {
            let mend = "end that one first";
            return reply.send(conflict(format!("another 'vonic migrate save' waits for {name}"), mend));
        }
        log::info!("{name}: its state is to be saved by hand, within {limit:?}");
        entry.by_hand.save = Some(Wanted { until: Instant::now() + limit, reply });
        self.rings_stopped(name);
    }

    /// A ring may have been the last one to stop.
    pub(in crate::engine) fn rings_stopped(&mut self, name: &str) {
        let Some(entry) = self.vms.get_mut(name).filter(|entry| !runs(entry)) else { return };
        let Some(Wanted { reply, .. }) = entry.by_hand.save.take().filter(|wanted| !wanted.reply.is_gone()) else {
            return;
        };
        let answer = move |state: Result<Vec<u8>, String>| {
            reply.deliver(match state {
                Ok(state) => Response::State(state.into()),
                Err(why) => Response::Error(ApiError::internal(why).mend("see vonicd's log")),
            })
        };
        self.save_state(name, Box::new(answer), true);
    }

    // ---- The host that it comes to.

    /// A VM's rings are to wait for its state.
    pub(in crate::engine) fn await_state(&mut self, name: &str, limit: Duration, reply: Reply) {
        let number = self.migration.next_number();
        let Some(entry) = self.vms.get_mut(name) else {
            return reply.send(Response::Error(ApiError::no_such_vm(name)));
        };
        let until = Instant::now() + limit;
        if let Some(awaited) = entry.by_hand.load.as_mut().filter(|awaited| awaited.inherited) {
            *awaited = Awaited { number, until, inherited: false, state: None };
            log::info!("{name}: its rings, which wait since the engine before, wait for a state for {limit:?}");
            self.leave_awaited(name, limit);
            return reply.send(Response::Awaited(number));
        }
        if runs(entry) {
            let mend = "begin the load before its guest runs here";
            return reply.send(conflict(format!("{name}'s rings run here already"), mend));
        }
        let is_idle = entry.session.as_ref().is_none_or(|session| matches!(session.arrival, Arrival::None));
        if entry.by_hand.load.is_some() || !is_idle {
            let mend = "end that one first, or restart its VMM";
            return reply.send(conflict(format!("another state is awaited for {name}, or has come"), mend));
        }
        if let Some(session) = &mut entry.session {
            session.arrival = Arrival::Awaited(WaitingRings::new());
        }
        log::info!("{name}: its rings wait for a state that is loaded by hand, for {limit:?}");
        entry.by_hand.load = Some(Awaited { number, until, inherited: false, state: None });
        self.leave_awaited(name, limit);
        reply.send(Response::Awaited(number));
    }

    /// A VM's rings go on waiting if the engine before has died while they did: they are not to start without what was to come.
    fn inherit_awaited(&mut self, name: &str) {
        let Some(left) = self.migration.awaited.take(name, self.migration.checkpoint.header().elapsed()) else {
            return;
        };
        let number = self.migration.next_number();
        if let Some(entry) = self.vms.get_mut(name).filter(|entry| entry.by_hand.load.is_none()) {
            log::warn!("{name}: its rings still wait for a state: give 'vonic migrate load' again within {left:.0?}");
            entry.by_hand.load = Some(Awaited { number, until: Instant::now() + left, inherited: true, state: None });
        }
    }

    /// A VMM has connected: how far its guest is.
    pub(in crate::engine) fn arrival_by_hand(&mut self, name: &str) -> Arrival {
        self.inherit_awaited(name);
        let load = self.vms.get_mut(name).map(|entry| &mut entry.by_hand.load);
        match load.map(|load| (load.as_mut().map(|awaited| awaited.state.take()), load)) {
            None | Some((None, _)) => Arrival::None,
            Some((Some(None), _)) => Arrival::Awaited(WaitingRings::new()),
            Some((Some(Some(state)), load)) => {
                *load = None;
                self.forget_awaited(name);
                Arrival::Parked(state)
            }
        }
    }

    /// The state has come: reads and checks it.
    pub(in crate::engine) fn load_by_hand(&mut self, name: &str, number: u64, bytes: Bytes, reply: Reply) {
        let Some(entry) = self.vms.get(name).filter(|entry| entry.by_hand.awaits(number)) else {
            return reply.send(gave_up(name));
        };
        let session = entry.session.as_ref().map(SessionState::id);
        let (vm, sender, link) = (entry.vm.clone(), self.sender(), self.link.try_clone());
        let work = move || {
            work_for(Whom::Vm(vm_number(&vm.name)));
            let outcome = read(&vm, &bytes);
            if let (Ok(_), Some(session), Ok(link)) = (&outcome, session, link) {
                custody::leave(&link, &vm.name, session, &bytes);
            }
            let brought = Brought { vm: vm.name, number, outcome, reply };
            // The control side is gone only when the process is.
            let _ = sender.send(crate::engine::Input::Migration(News::Brought(Box::new(brought))));
        };
        if let Err(error) = thread::Builder::new().name("load".into()).spawn(work) {
            log::error!("{name}: no thread for what comes from another host: {error}");
        }
    }

    /// It is good, or not: the rings start, or will, with it or without.
    pub(super) fn brought(&mut self, brought: Brought) {
        let Brought { vm: name, number, outcome, reply } = brought;
        let Some(entry) = self.vms.get_mut(&name).filter(|entry| entry.by_hand.awaits(number)) else {
            return reply.send(gave_up(&name));
        };
        let port = match outcome {
            Ok(port) => port,
            Err(why) => {
                log::warn!("{name}: the state that was loaded by hand is refused: {why}");
                self.tell_refusal(&name, &why);
                self.give_up_load(&name);
                let error = ApiError::bad_request(why).field("body");
                return reply
                    .send(Response::Error(error.mend("send what 'vonic migrate save' has given on the other host")));
            }
        };
        let (from, connections) = (port.identity.name.clone(), port.flows.len());
        log::info!("{name}: a guest comes from {from} with {connections} connections, by hand");
        self.feed.tell(Happening::MigrationBegun { vm: name.clone(), direction: Move::Comes });
        let (mut runs, mut awaited) = (false, true);
        match &mut entry.session {
            // For so long it is good for anything.
            None => {
                let (state, until) = (Some(Box::new(port)), Instant::now() + AGE_MAX);
                entry.by_hand.load = Some(Awaited { number, until, inherited: false, state });
                self.leave_awaited(&name, AGE_MAX);
            }
            Some(session) => {
                entry.by_hand.load = None;
                awaited = false;
                session.arrival = match std::mem::take(&mut session.arrival) {
                    Arrival::Awaited(rings) if !rings.is_empty() => {
                        let (id, vm) = (session.id(), entry.vm.clone());
                        session.arrival = Arrival::Settling(rings.into_values().collect());
                        resume_counters(entry, &port);
                        self.settle(id, vm, port);
                        runs = true;
                        self.forget_awaited(&name);
                        return reply.send(Response::Loaded(LoadReport { from, connections, runs }));
                    }
                    _ => Arrival::Parked(Box::new(port)),
                };
            }
        }
        if !awaited {
            self.forget_awaited(&name);
        }
        reply.send(Response::Loaded(LoadReport { from, connections, runs }));
    }

    /// Nobody brings it any more.
    pub(in crate::engine) fn forget_state(&mut self, name: &str, number: u64) {
        if self.vms.get(name).is_some_and(|entry| entry.by_hand.awaits(number)) {
            log::warn!("{name}: no state has come by hand: its rings wait no longer");
            self.give_up_load(name);
        }
    }

    /// The rings start without.
    fn give_up_load(&mut self, name: &str) {
        self.forget_awaited(name);
        let Some(entry) = self.vms.get_mut(name) else { return };
        entry.by_hand.load = None;
        let Some(session) = &mut entry.session else { return };
        let (port, id) = (entry.port, session.id());
        match std::mem::take(&mut session.arrival) {
            Arrival::Awaited(rings) => self.resume_events(port, id, rings.into_values()),
            other => session.arrival = other,
        }
    }

    /// Ends what has waited for long enough.
    pub(in crate::engine) fn end_by_hand_in_time(&mut self) {
        let now = Instant::now();
        let is_due = |entry: &&mut Entry| entry.by_hand.untils().any(|until| until <= now);
        let mut without = Vec::new();
        for entry in self.vms.values_mut().filter(is_due) {
            let name = &entry.vm.name;
            if let Some(wanted) = entry.by_hand.save.take_if(|wanted| wanted.until <= now) {
                let mend = "stop its guest (a migration of its VMM does) within --timeout, or give a longer one";
                wanted.reply.send(conflict(format!("{name}'s rings have not stopped in time"), mend));
            }
            if entry.by_hand.load.as_ref().is_some_and(|awaited| awaited.until <= now) {
                log::warn!("{name}: what was to come by hand, or its VMM, has not come in time");
                without.push(name.clone());
            }
        }
        without.iter().for_each(|name| self.give_up_load(name));
    }
}

/// The rings of a VM that wait, each as it was last told.
pub(in crate::engine) type WaitingRings = std::collections::BTreeMap<u16, PortEvent>;

/// Has a ring wait. What else the VMM says does not: a memory map may be in its use before a ring is. What is given back goes on.
pub(super) fn hold_back(rings: &mut WaitingRings, event: PortEvent) -> Option<PortEvent> {
    match event {
        // Who waits for the answer of a ring that does not run yet goes on: it is dropped.
        PortEvent::Ring { index, setup, kick, call, enabled, done: _ } => {
            rings.insert(index, PortEvent::Ring { index, setup, kick, call, enabled, done: None });
            return None;
        }
        PortEvent::RingStopped { index, .. } => drop(rings.remove(&index)),
        PortEvent::Reset | PortEvent::Closed => rings.clear(),
        _ => {}
    }
    Some(event)
}
