//! On the host that a guest comes to: its connections wait until its rings start, then they have sockets here.
use super::by_hand::{WaitingRings, hold_back};
use super::hooks::{Moment, Porter};
use super::{AGE_MAX, News, custody, datagrams, reasons};
use crate::api::types::{Happening, Move};
use crate::config::Vm;
use crate::engine::Input;
use crate::engine::registry::{ROUND_LIMIT, Registry};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vonic_datapath::{Arriving, ArrivingDatagrams, Bound, Command, PortId, Way};
use vonic_frame::MacAddr;
use vonic_migration::{DatagramState, FlowState, Identity, PortState, Stream};
use vonic_queue::handover;
use vonic_record::{Bits, Whom, vm_number, work_for};
use vonic_session::{LoadRequest, PortEvent, SessionEvent};
use vonic_uplink::{DatagramSocket, HostSocket, Known, Origin, Parked, PeekMode, SocketState};

/// Connections that the worker takes up between two bursts.
const PART: usize = 64;
/// The directions with their names in the stream.
pub(super) const WAYS: [(Way, &str); 2] = [(Way::GuestToHost, "guest_to_host"), (Way::HostToGuest, "host_to_guest")];

/// A state as it was read, and what is owed for it.
pub(in crate::engine) struct Read {
    outcome: Result<PortState, String>,
    answer: Box<dyn FnOnce(Result<(), String>) + Send>,
}

/// How far the guest that comes to a VMM connection is.
#[derive(Default)]
pub(in crate::engine) enum Arrival {
    /// None comes, or it is here.
    #[default]
    None,
    /// The operator has said that it will come with something: its rings wait for that.
    Awaited(WaitingRings),
    /// What came with it waits for its rings to start.
    Parked(Box<PortState>),
    /// Its connections get their sockets; what the VMM wants meanwhile waits.
    Settling(Vec<PortEvent>),
}

/// What has come, with sockets on this host.
pub(in crate::engine) struct Arrived {
    clock: u64,
    claims: Vec<std::net::Ipv6Addr>,
    flows: Vec<(FlowState, Option<(HostSocket, Known)>)>,
    lost: BTreeMap<String, usize>,
    datagrams: Vec<(DatagramState, Option<DatagramSocket>)>,
    begun: Instant,
    /// How long the operator's hook took.
    hook: Duration,
}

impl Registry {
    /// The VMM has brought a state: reads and checks it.
    pub(in crate::engine) fn load_state(&mut self, name: &str, session: u64, request: LoadRequest) {
        let Some(entry) = self.vms.get(name) else { return };
        let (vm, sender, link) = (entry.vm.clone(), self.sender(), self.link.try_clone());
        let work = move || {
            work_for(Whom::Vm(vm_number(&vm.name)));
            let (bytes, answer) = request.take();
            let outcome = read(&vm, &bytes);
            if let (Ok(_), Ok(link)) = (&outcome, link) {
                custody::leave(&link, &vm.name, session, &bytes);
            }
            let read = Read { outcome, answer: Box::new(answer) };
            // The control side is gone only when the process is.
            let _ = sender.send(Input::Migration(News::Read(vm.name, session, Box::new(read))));
        };
        if let Err(error) = thread::Builder::new().name("load".into()).spawn(work) {
            log::error!("{name}: no thread for what comes from another host: {error}");
        }
    }

    /// A state is good, or not: the VMM is told.
    pub(super) fn state_read(&mut self, name: &str, session: u64, read: Read) {
        let Read { outcome, answer } = read;
        let state = self.vms.get_mut(name).and_then(|entry| entry.session.as_mut()).filter(|s| s.id() == session);
        let Some(state) = state else {
            self.forget_arrival(name);
            return answer(Err("its VMM has left".into()));
        };
        match outcome {
            Ok(port) => {
                log::info!("{name}: a guest comes from {} with {} connections", port.identity.name, port.flows.len());
                state.arrival = Arrival::Parked(Box::new(port));
                self.feed.tell(Happening::MigrationBegun { vm: name.into(), direction: Move::Comes });
                answer(Ok(()));
            }
            Err(error) => {
                self.tell_refusal(name, &error);
                answer(Err(error));
            }
        }
    }

    /// What was to come is not taken.
    pub(super) fn tell_refusal(&self, name: &str, why: &str) {
        let (vm, reason) = (name.to_string(), why.to_string());
        self.feed.tell(Happening::MigrationFailed { vm, direction: Move::Comes, reason });
    }

    /// A ring starts. True: the event waits, since what has come with the guest gets its sockets first.
    pub(in crate::engine) fn arrive(&mut self, name: &str, event: PortEvent) -> Option<PortEvent> {
        let Some(entry) = self.vms.get_mut(name) else { return Some(event) };
        let Some(session) = entry.session.as_mut() else { return Some(event) };
        match std::mem::take(&mut session.arrival) {
            Arrival::None => return Some(event),
            Arrival::Awaited(mut rings) => {
                let event = hold_back(&mut rings, event);
                session.arrival = Arrival::Awaited(rings);
                return event;
            }
            Arrival::Settling(mut waiting) => {
                waiting.push(event);
                session.arrival = Arrival::Settling(waiting);
            }
            Arrival::Parked(port) if matches!(event, PortEvent::Ring { .. }) => {
                let (id, vm) = (session.id(), entry.vm.clone());
                session.arrival = Arrival::Settling(vec![event]);
                resume_counters(entry, &port);
                self.settle(id, vm, *port);
            }
            parked @ Arrival::Parked(_) => {
                session.arrival = parked;
                return Some(event);
            }
        }
        None
    }

    pub(super) fn settle(&mut self, session: u64, vm: Vm, port: PortState) {
        self.forget_departure(&vm.name);
        // The sockets that were in the way are closed; their records are the worker's.
        let (porter, peek_mode, sender) = (self.porter(), self.migration.peek_mode, self.sender());
        let name = vm.name.clone();
        let work = move || {
            let arrived = settle(&porter, &vm, port, peek_mode);
            // The control side is gone only when the process is.
            let _ = sender.send(Input::Migration(News::Arrived(vm.name, session, Box::new(arrived))));
        };
        if let Err(error) = thread::Builder::new().name("arrive".into()).spawn(work) {
            log::error!("{name}: no thread for what has come from another host: it is lost: {error}");
            let nothing = Arrived {
                clock: 0,
                claims: Vec::new(),
                flows: Vec::new(),
                lost: BTreeMap::new(),
                datagrams: Vec::new(),
                begun: Instant::now(),
                hook: Duration::ZERO,
            };
            self.arrived(&name, session, nothing);
        }
    }

    /// What has come has its sockets: the worker goes on with it, then the guest's rings start.
    pub(super) fn arrived(&mut self, name: &str, session: u64, arrived: Arrived) {
        let Arrived { clock, claims, flows, lost, datagrams, begun, hook } = arrived;
        let entry = self.vms.get_mut(name);
        let found = entry.and_then(|e| Some((e.port, e.session.as_mut().filter(|s| s.id() == session)?)));
        let Some((port, state)) = found else {
            // Nobody is there whose connections they are.
            self.tell_refusal(name, "its VMM has left");
            flows.into_iter().filter_map(|(_, socket)| socket).for_each(|(socket, _)| socket.abort());
            return;
        };
        let waiting = match std::mem::take(&mut state.arrival) {
            Arrival::Settling(waiting) => waiting,
            _ => Vec::new(),
        };
        let now = self.migration.checkpoint.header().elapsed().as_micros() as u64;
        let all = flows.len();
        let mut connections: Vec<Arriving> =
            flows.into_iter().map(|(flow, socket)| arriving(&flow, socket, (clock, now), session)).collect();
        while !connections.is_empty() {
            let rest = connections.split_off(connections.len().min(PART));
            self.take_up(port, std::mem::replace(&mut connections, rest), Vec::new(), claims.clone());
        }
        let spoken = datagrams.len();
        let datagrams = datagrams.into_iter().map(|flow| datagrams::arriving(flow, (clock, now))).collect();
        self.take_up(port, Vec::new(), datagrams, claims);
        let lost_count: usize = lost.values().sum();
        if lost_count > 0 {
            log::warn!("{name}: {lost_count} connections have not come along: {}", reasons(&lost));
        }
        let come = all - lost_count;
        let took = begun.elapsed().saturating_sub(hook);
        log::info!(
            "{name}: its guest is here with {come} connections and {spoken} flows of datagrams: its first ring waited {took:.1?} for them, and {hook:.1?} for the hook"
        );
        self.feed.tell(Happening::MigrationDone { vm: name.into(), direction: Move::Comes, connections: come });
        self.forget_arrival(name);
        self.resume_events(port, session, waiting);
    }

    /// What has waited comes now.
    pub(super) fn resume_events(&mut self, port: PortId, session: u64, events: impl IntoIterator<Item = PortEvent>) {
        for event in events {
            self.session_event(SessionEvent { port, session, event });
        }
    }

    fn take_up(
        &mut self,
        port: PortId,
        connections: Vec<Arriving>,
        datagrams: Vec<ArrivingDatagrams>,
        claims: Vec<std::net::Ipv6Addr>,
    ) {
        let (done, taken) = handover();
        self.order(Command::Arrive { port, connections, datagrams, claims, done });
        if !taken.wait(ROUND_LIMIT) {
            log::warn!("the worker has not taken up what came from another host within {ROUND_LIMIT:?}");
        }
    }
}

/// Reads a state; a VM's that is not to be trusted more than its guest.
pub(super) fn read(vm: &Vm, bytes: &[u8]) -> Result<PortState, String> {
    let state = Stream::read(bytes).and_then(PortState::try_from).map_err(|error| error.to_string())?;
    check(vm, &state).map(|()| state)
}

/// Whether a state can be this VM's: nothing of it is used otherwise.
fn check(vm: &Vm, state: &PortState) -> Result<(), String> {
    let Identity { name, mac, features: _, mtu } = &state.identity;
    if *mac != vm.mac.0 {
        let mac = MacAddr(*mac);
        return Err(format!("{name} has MAC address {mac} there, this VM's file says {}: write the same", vm.mac));
    }
    if *mtu != vm.mtu {
        return Err(format!("{name} has MTU {mtu} there, this VM's file says {}: write the same", vm.mtu));
    }
    let own = [vm.address4.map(Into::into), vm.address6.map(Into::into)];
    let strange = |guest: &std::net::IpAddr| {
        let known = if guest.is_ipv4() { own[0] } else { own[1] };
        known.is_some_and(|address: std::net::IpAddr| address != *guest)
            && !matches!(guest, std::net::IpAddr::V6(v6) if state.claims.contains(v6) || v6.is_unicast_link_local())
    };
    let guests = state.flows.iter().map(|flow| flow.guest).chain(state.datagrams.iter().map(|flow| flow.guest));
    match guests.map(|guest| guest.ip()).find(strange) {
        Some(guest) => Err(format!("{name} has address {guest} there, this VM's file has another one: write the same")),
        None => Ok(()),
    }
}

/// The thread of an arrival.
fn settle(porter: &Porter, vm: &Vm, port: PortState, peek_mode: Option<PeekMode>) -> Arrived {
    let begun = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let age = Duration::from_millis(now.saturating_sub(port.saved));
    let mut flows = port.flows;
    // Before the address is here: to a peer's segment for a connection without a socket the kernel answers by a reset (ADR 0013).
    let restore = |flow: &mut FlowState| flow.socket.as_mut().filter(|_| age <= AGE_MAX).map(SocketState::restore);
    let parked: Vec<_> = flows.iter_mut().map(restore).collect();
    let spoken = if age <= AGE_MAX { port.datagrams } else { Vec::new() };
    let spoken = datagrams::begin(spoken, vm);
    let before = begun.elapsed();
    porter.run(Moment::Arrival, vm, &AtomicBool::new(false));
    let hook = begun.elapsed() - before;
    let mut lost = BTreeMap::<String, usize>::new();
    let release = |(mut flow, parked): (FlowState, Option<io::Result<Parked>>)| {
        let moved = flow.socket.as_ref().map_or((0, 0), |socket| (socket.dropped, socket.taken));
        let socket = match (flow.socket.take(), parked) {
            (None, _) => Err("they could not leave their host".to_string()),
            (Some(_), None) => {
                Err(format!("their state is {} s old: what was on its way is the past's", age.as_secs()))
            }
            (Some(mut socket), Some(parked)) => {
                let mode = peek_mode.unwrap_or_else(|| PeekMode::probe(socket.remote));
                // The way to the peer may have come with the address.
                let parked = parked.or_else(|_| socket.restore());
                parked.and_then(|parked| parked.release(mode)).map_err(reason)
            }
        };
        let socket = socket.map_err(|why| *lost.entry(why).or_default() += 1).ok();
        if socket.is_none() {
            // The reset is to be where the guest is.
            (flow.iss, flow.irs) = (flow.iss.wrapping_add(moved.0), flow.irs.wrapping_add(moved.1));
        }
        (flow, socket)
    };
    let flows = flows.into_iter().zip(parked).map(release).collect();
    let datagrams = datagrams::finish(spoken, vm);
    Arrived { clock: port.clock, claims: port.claims, flows, lost, datagrams, begun, hook }
}

/// Why a connection gets no socket here.
fn reason(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Bound::System(error).to_string(),
        _ => error.to_string(),
    }
}

/// A connection as the worker goes on with it.
fn arriving(flow: &FlowState, socket: Option<(HostSocket, Known)>, clocks: (u64, u64), session: u64) -> Arriving {
    let (socket, known) = match socket {
        Some((socket, known)) => (Some(socket), known),
        None => (None, Known { origin: Origin::fresh(false), shut: false, aborted: false }),
    };
    let place = socket.as_ref().map_or((-1, 0), |s| (s.as_raw_fd(), s.cookie().unwrap_or_default()));
    let mut record = flow.record(known, clocks, (place.0, place.1, session));
    // Whether it is to end with an engine, this host's configuration says.
    record.bits.0 &= !Bits::MORTAL.0;
    Arriving { record, socket }
}

/// The guest's counters go on.
pub(super) fn resume_counters(entry: &crate::engine::registry::Entry, port: &PortState) {
    let value = |name: String| port.counters.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value);
    for (way, prefix) in WAYS {
        entry.stats.count(way, (value(format!("{prefix}_frames")), value(format!("{prefix}_bytes"))));
    }
}
