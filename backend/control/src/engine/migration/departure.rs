//! On the host that a guest leaves: its connections stand still from the save on, until it is known whether it leaves or stays.
use super::hooks::{Moment, Porter};
use super::{LINGER, News, close, datagrams, identity, reasons};
use crate::api::types::{Happening, Move};
use crate::config::Vm;
use crate::engine::Input;
use crate::engine::registry::{Entry, ROUND_LIMIT, Registry};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vonic_datapath::{Bound, Command, Leaving, PortId};
use vonic_migration::{FlowState, PortState, write};
use vonic_uplink::host_addresses;

/// What the thread of a departure comes back with.
pub(in crate::engine) struct Saved {
    leaving: Vec<Leaving>,
    /// The places of those that could not be read.
    lost: Vec<usize>,
    /// Whoever wanted it has been given everything.
    complete: bool,
}

impl Saved {
    /// Of a departure that has nothing here.
    fn nothing(complete: bool) -> Saved {
        Saved { leaving: Vec::new(), lost: Vec::new(), complete }
    }
}

/// Where a state goes; whether anybody has taken it.
pub(in crate::engine) type Answer = Box<dyn FnOnce(Result<Vec<u8>, String>) -> bool + Send>;

/// Where a departure is.
pub(in crate::engine) enum Departure {
    /// Sockets are read, or the operator's hook runs.
    Saving(JoinHandle<Saved>, Arc<AtomicBool>),
    /// The same, for the operator: the VMM does not wait for it, and may leave meanwhile.
    SavingByHand(JoinHandle<Saved>, Arc<AtomicBool>),
    /// Who wanted it has the answer.
    Saved(Saved),
}

/// Connections that go on elsewhere, as far as anybody knows.
pub(in crate::engine) struct Lingering {
    /// Whose.
    name: String,
    leaving: Vec<Leaving>,
    /// Until when, if their addresses stay on this host.
    pub until: Instant,
}

impl Departure {
    /// What was taken out.
    fn end(self) -> Saved {
        match self {
            Departure::Saved(saved) => saved,
            Departure::Saving(thread, cancelled) | Departure::SavingByHand(thread, cancelled) => {
                cancelled.store(true, Ordering::Relaxed);
                // A panic would have ended the process (panic = abort).
                thread.join().unwrap_or_else(|_| Saved::nothing(false))
            }
        }
    }
}

/// Everything of a save that is not read from sockets.
struct Save {
    vm: Vm,
    porter: Porter,
    state: PortState,
    bound: BTreeMap<String, usize>,
    leaving: Vec<Leaving>,
    stopped: Option<Instant>,
}

impl Registry {
    /// The port's state is wanted, by the VMM or `by_hand`: takes its connections out of the worker and reads them.
    pub(in crate::engine) fn save_state(&mut self, name: &str, answer: Answer, by_hand: bool) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        let stopped = entry.session.as_ref().and_then(|session| session.stopped);
        let features = entry.session.as_ref().and_then(|session| session.features).unwrap_or_default();
        let (vm, port) = (entry.vm.clone(), entry.port);
        self.feed.tell(Happening::MigrationBegun { vm: name.into(), direction: Move::Leaves });
        let counters = counters(entry);
        // One that was not heard of again: its connections go along.
        let mut leaving = entry.departure.take().map_or_else(Vec::new, |departure| departure.end().leaving);
        let saved = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        let identity = identity(&vm, features);
        let mut state =
            PortState { identity, saved, clock: 0, flows: vec![], datagrams: vec![], claims: vec![], counters };
        let mut bound: BTreeMap<String, usize> = BTreeMap::new();
        let mut from = Some(0);
        while let Some(place) = from {
            let (reply, part) = channel();
            self.order(Command::Depart { port, from: place, reply });
            let Ok(part) = part.recv_timeout(ROUND_LIMIT) else {
                self.order(Command::Stay { port, leaving });
                answer(Err("the worker does not answer".into()));
                return;
            };
            leaving.extend(part.leaving);
            state.flows.extend(part.bound.into_iter().map(|(record, why)| lost(&record, &why, &mut bound)));
            state.datagrams.extend(part.datagrams.iter().map(datagrams::departing));
            (state.clock, state.claims, from) = (part.clock, part.claims, part.next);
        }
        let porter = self.porter();
        let save = Save { vm, porter, state, bound, leaving, stopped };
        self.read_sockets(name, save, answer, by_hand);
    }

    fn read_sockets(&mut self, name: &str, save: Save, answer: Answer, by_hand: bool) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (sender, flag, own) = (self.sender(), Arc::clone(&cancelled), name.to_string());
        let thread = thread::Builder::new().name("depart".into()).spawn(move || run(save, answer, &flag, &sender));
        match (thread, self.vms.get_mut(&own)) {
            (Ok(thread), Some(entry)) if by_hand => entry.departure = Some(Departure::SavingByHand(thread, cancelled)),
            (Ok(thread), Some(entry)) => entry.departure = Some(Departure::Saving(thread, cancelled)),
            (Ok(_), None) => {}
            // The request is dropped, and with it the VMM's hope; what was taken out is gone with the closure.
            (Err(error), _) => log::error!("{name}: no thread for its departure: {error}"),
        }
    }

    /// The thread of a departure is done, but for its return.
    pub(super) fn saved(&mut self, name: &str, own: ThreadId) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        entry.departure = match entry.departure.take() {
            Some(Departure::Saving(thread, _) | Departure::SavingByHand(thread, _)) if thread.thread().id() == own => {
                thread.join().ok().map(Departure::Saved)
            }
            // It was waited for already, and this is another one.
            other => other,
        };
        if entry.session.is_none() {
            self.left(name);
        }
    }

    /// The guest's rings start again: it has not left.
    pub(in crate::engine) fn stay(&mut self, name: &str) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        let Some(departure) = entry.departure.take() else { return };
        let saved = departure.end();
        let (port, vm) = (entry.port, entry.vm.clone());
        log::info!("{name}: its guest has not left: {} connections go on", saved.leaving.len());
        let reason = "its guest runs here again, and its connections go on".to_string();
        self.feed.tell(Happening::MigrationFailed { vm: name.into(), direction: Move::Leaves, reason });
        self.order(Command::Stay { port, leaving: saved.leaving });
        let porter = self.porter();
        // Without a thread the operator's hook has no moment: nothing is to wait for it here.
        let hook = move || porter.run(Moment::Return, &vm, &AtomicBool::new(false));
        if let Err(error) = thread::Builder::new().name("return".into()).spawn(hook) {
            log::error!("{name}: no thread for its hook: {error}");
        }
    }

    /// An engine has died after a save: the worker has what was taken out. If the guest's rings have started meanwhile, it has not left.
    pub(in crate::engine) fn resume_departure(&mut self, port: PortId) {
        let entry = self.vms.values_mut().find(|entry| entry.port == port);
        let Some(entry) = entry.filter(|entry| entry.departure.is_none()) else { return };
        entry.departure = Some(Departure::Saved(Saved::nothing(true)));
        if entry.session.as_ref().is_some_and(|session| session.runs()) {
            let name = entry.vm.name.clone();
            self.stay(&name);
        }
    }

    /// The VMM is gone. Where it had everything, the connections go on elsewhere: the kernel is kept from answering for them until
    /// their addresses are elsewhere, too.
    pub(in crate::engine) fn left(&mut self, name: &str) {
        let departure = self.vms.get_mut(name).map(|entry| &mut entry.departure);
        let is_done = |departure: &mut Departure| !matches!(departure, Departure::SavingByHand(..));
        let Some(departure) = departure.and_then(|departure| departure.take_if(is_done)) else { return };
        let Saved { leaving, lost, complete } = departure.end();
        let places = leaving.into_iter().enumerate();
        let (lost, leaving): (Vec<_>, Vec<_>) = places.partition(|(place, _)| !complete || lost.contains(place));
        let records = lost.into_iter().map(|(_, leaving)| leaving.reset()).collect();
        self.order(Command::Gone { records });
        let leaving: Vec<Leaving> = leaving.into_iter().map(|(_, leaving)| leaving).collect();
        let (vm, direction) = (name.to_string(), Move::Leaves);
        self.feed.tell(match complete {
            true => Happening::MigrationDone { vm, direction, connections: leaving.len() },
            false => {
                let reason = "its VMM has left without having had its state".into();
                Happening::MigrationFailed { vm, direction, reason }
            }
        });
        if !leaving.is_empty() {
            log::info!("{name}: its guest has left with {} connections", leaving.len());
            let until = Instant::now() + LINGER;
            self.migration.lingering.push(Lingering { name: name.to_string(), leaving, until });
            self.end_lingering(&host_addresses().unwrap_or_default());
        }
    }

    /// Closes what is left of connections whose addresses are not this host's any more, or that have lingered for long enough.
    pub(in crate::engine) fn end_lingering(&mut self, addresses: &[IpAddr]) {
        let now = Instant::now();
        let is_here = |leaving: &Leaving| leaving.local().is_some_and(|local| addresses.contains(&local));
        let all = std::mem::take(&mut self.migration.lingering);
        let stays = |left: &Lingering| left.until > now && left.leaving.iter().any(is_here);
        let (stay, go): (Vec<_>, Vec<_>) = all.into_iter().partition(stays);
        self.migration.lingering = stay;
        let records: Vec<_> = go.into_iter().flat_map(|left| close(left.leaving)).collect();
        if !records.is_empty() {
            self.order(Command::Gone { records });
        }
    }

    /// The same, some time later.
    pub(in crate::engine) fn end_lingering_in_time(&mut self) {
        if self.migration.due_in().is_some_and(|time| time.is_zero()) {
            self.end_lingering(&host_addresses().unwrap_or_default());
        }
    }

    /// The guest of a VM that had left is back: nothing of its connections may be in their way.
    pub(super) fn forget_departure(&mut self, name: &str) {
        let all = std::mem::take(&mut self.migration.lingering);
        let (own, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|left| left.name == name);
        self.migration.lingering = others;
        let records: Vec<_> = own.into_iter().flat_map(|left| close(left.leaving)).collect();
        if !records.is_empty() {
            self.order(Command::Gone { records });
        }
    }
}

/// The thread of a departure.
fn run(save: Save, answer: Answer, cancelled: &Arc<AtomicBool>, sender: &Sender<Input>) -> Saved {
    let begun = Instant::now();
    let Save { vm, porter, mut state, mut bound, leaving, stopped } = save;
    let (mut unread, mut bytes) = (Vec::new(), 0);
    for (place, one) in leaving.iter().enumerate() {
        match one.frozen.save(&one.known, one.record.host) {
            Ok(socket) => {
                bytes += socket.send.len() + socket.received.len();
                state.flows.push(FlowState::new(&one.record, Some(socket)));
            }
            Err(error) => {
                unread.push(place);
                *bound.entry(error.to_string()).or_default() += 1;
                state.flows.push(FlowState::new(&one.record, None));
            }
        }
    }
    let read = begun.elapsed();
    let mut stream = Vec::with_capacity(bytes + 1024 * state.flows.len() + (1 << 16));
    let outcome = write(&state, &mut stream).map(|()| stream).map_err(|error| error.to_string());
    let name = &vm.name;
    if !bound.is_empty() {
        let count: usize = bound.values().sum();
        log::warn!("{name}: {count} connections cannot go along and are reset if it leaves: {}", reasons(&bound));
    }
    // What lies between the last ring's stop and the VMM's wish is the VMM's.
    let waited = stopped.map_or(Duration::ZERO, |stopped| stopped.elapsed()).saturating_sub(begun.elapsed());
    let (flows, took) = (leaving.len() - unread.len(), begun.elapsed());
    log::info!(
        "{name}: {flows} connections with {bytes} bytes queued are saved in {took:.1?} ({read:.1?} of it reading sockets), {waited:.1?} after its rings stopped"
    );
    // The target goes on as soon as it has the stream's end: the addresses have to be free by then.
    porter.run(Moment::Departure, &vm, cancelled);
    // Whoever gives it up before this has not had it.
    let wanted = outcome.is_ok() && !cancelled.load(Ordering::Relaxed);
    let complete = answer(outcome) && wanted;
    // The control side is gone only when the process is.
    let _ = sender.send(Input::Migration(News::Saved(vm.name, thread::current().id())));
    Saved { leaving, lost: unread, complete }
}

/// What the target's guest is told to be lost.
fn lost(record: &vonic_record::Record, why: &Bound, counts: &mut BTreeMap<String, usize>) -> FlowState {
    *counts.entry(why.to_string()).or_default() += 1;
    FlowState::new(record, None)
}

/// Names of counters that travel, with their values.
fn counters(entry: &Entry) -> Vec<(String, u64)> {
    let mut counters = Vec::new();
    for (way, prefix) in super::arrival::WAYS {
        let (frames, bytes) = entry.stats.traffic(way);
        counters.push((format!("{prefix}_frames"), frames));
        counters.push((format!("{prefix}_bytes"), bytes));
    }
    counters
}
