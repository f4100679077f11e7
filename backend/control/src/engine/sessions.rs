//! VMM connections: from port events to commands.
use super::Sink;
use super::migration::Arrival;
use super::registry::{Entry, Registry};
use super::succession::number;
use crate::api::types::Happening;
use std::collections::BTreeMap;
use std::os::fd::IntoRawFd;
use std::time::Instant;
use vonic_datapath::{Command, GuestLog, QUEUE_PAIRS_MAX, RingCommand, crash_point};
use vonic_front::ToMaster;
use vonic_queue::handover;
use vonic_record::{Whom, work_for};
use vonic_session::{PortEvent, Session, SessionEvent, SessionSpec};

/// One VMM connection.
pub(super) struct SessionState {
    id: u64,
    session: Session,
    /// Acknowledged virtio bits, once the driver has spoken.
    pub features: Option<u64>,
    /// When the last of its rings was stopped.
    pub stopped: Option<Instant>,
    /// What has come with its guest from another host.
    pub arrival: Arrival,
    /// Rings that were started.
    pub rings: BTreeMap<u16, RingState>,
}

/// A started ring.
pub(super) struct RingState {
    pub size: u16,
    pub enabled: bool,
    /// Why it stands still, if it does.
    pub broken: Option<String>,
    /// The order to start it, while its VM is in quarantine.
    pub held: Option<Box<RingCommand>>,
}

impl SessionState {
    /// The master's number of it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether any ring runs.
    pub fn runs(&self) -> bool {
        self.rings.values().any(|ring| ring.enabled)
    }

    /// Whether both rings of a pair run.
    pub fn driver_ready(&self) -> bool {
        let runs = |index: u16| self.rings.get(&index).is_some_and(|ring| ring.enabled && ring.broken.is_none());
        (0..QUEUE_PAIRS_MAX).any(|pair| runs(2 * pair) && runs(2 * pair + 1))
    }

    /// Ends the session. Its thread may be waiting for an answer from this one, so it is joined elsewhere.
    pub fn close(self) {
        let session = self.session;
        // If no thread can be had the session is dropped here, which ends at the latest when its wait times out.
        let _ = std::thread::Builder::new().name("session-end".into()).spawn(move || drop(session));
    }
}

impl Registry {
    /// A VMM has connected to a VM's socket.
    pub(super) fn connected(&mut self, name: &str, id: u64) {
        let Some(entry) = self.vms.get_mut(name) else {
            return self.tell(&ToMaster::SessionRefused { session: id });
        };
        if let Some(old) = entry.session.take() {
            old.close();
        }
        let entry_port = entry.port;
        let spec = SessionSpec {
            port: entry_port,
            session: id,
            name: name.into(),
            features: entry.vm.virtio_bits(),
            queue_pairs: entry.vm.queue_pairs,
            mac: entry.vm.mac.0,
            mtu: entry.vm.mtu,
        };
        let sink = Sink(self.sender());
        let scratch = self.config.service.runtime_dir.clone();
        let arrival = match self.inherited_arrival(name, id) {
            Arrival::None => self.arrival_by_hand(name),
            inherited => inherited,
        };
        match vonic_session::start(spec, &scratch, sink) {
            Ok((session, front_end)) => {
                let state =
                    SessionState { id, session, features: None, stopped: None, arrival, rings: BTreeMap::new() };
                if let Some(entry) = self.vms.get_mut(name) {
                    (entry.session, entry.session_since) = (Some(state), Instant::now());
                }
                log::info!("{name}: VMM connected");
                self.feed.tell(Happening::VmConnected { vm: name.into() });
                self.order(Command::Session { port: entry_port, session: id });
                // The descriptor table is shared: from here on the number is the master's.
                self.tell(&ToMaster::Session { session: id, fd: front_end.into_raw_fd() });
            }
            Err(error) => {
                log::error!("{name}: no session for its VMM: {error}");
                if let Some(entry) = self.vms.get_mut(name) {
                    entry.last_error = Some(error.to_string());
                }
                self.tell(&ToMaster::SessionRefused { session: id });
            }
        }
    }

    /// A VMM has left.
    pub(super) fn disconnected(&mut self, id: u64) {
        let of = |e: &Entry| e.session.as_ref().is_some_and(|s| s.id == id);
        let Some((name, entry)) = self.vms.iter_mut().find(|(_, e)| of(e)) else { return };
        log::info!("{name}: VMM disconnected");
        self.feed.tell(Happening::VmDisconnected { vm: name.clone() });
        let (port, name) = (entry.port, name.clone());
        self.left(&name);
        let Some(entry) = self.vms.get_mut(&name) else { return };
        entry.session_since = Instant::now();
        if let Some(session) = entry.session.take() {
            let came = matches!(session.arrival, Arrival::Parked(_) | Arrival::Settling(_));
            session.close();
            if came {
                self.forget_arrival(&name);
            }
        }
        self.cables.set_offloads(&name, None);
        let (done, _) = handover();
        self.order(Command::Disconnect { port, done });
    }

    /// A vhost-user message has changed a port. What waits for an answer and is not passed on is answered by dropping it.
    pub(super) fn session_event(&mut self, event: SessionEvent) {
        let Some(entry) = self.vms.values().find(|e| e.port == event.port) else { return };
        let name = entry.vm.name.clone();
        work_for(Whom::Vm(number(&name)));
        crash_point!("message-taken");
        self.take_event(name, event);
        work_for(Whom::Nobody);
    }

    fn take_event(&mut self, name: String, event: SessionEvent) {
        let SessionEvent { port, session, event } = event;
        let Some(entry) = self.vms.get_mut(&name) else { return };
        if entry.session.as_ref().is_none_or(|s| s.id != session) {
            return;
        }
        let Some(event) = self.arrive(&name, event) else { return };
        if matches!(event, PortEvent::Ring { enabled: true, .. }) {
            self.stay(&name);
        }
        let Some(entry) = self.vms.get_mut(&name) else { return };
        let Some(state) = entry.session.as_mut() else { return };
        match event {
            PortEvent::Features(bits) => {
                state.features = Some(bits);
                self.cables.set_offloads(&name, Some(bits));
                self.order(Command::Features { port, bits });
            }
            PortEvent::Memory(map, done) => self.order(Command::Memory { port, map, done }),
            PortEvent::Log { log, used, done } => {
                self.order(Command::Log { port, log: log.map(|log| GuestLog { log, used }), done });
            }
            PortEvent::Announce => self.order(Command::Announce { port }),
            PortEvent::Save(request) => {
                let answer = move |state| {
                    request.answer(state);
                    // Whether it has come through, the VMM knows.
                    true
                };
                self.save_state(&name, Box::new(answer), false);
            }
            PortEvent::Load(request) => self.load_state(&name, session, request),
            PortEvent::Ring { index, setup, kick, call, enabled, done } => {
                let size = setup.size;
                let ring = RingCommand { port, index, setup, kick, call, enabled, done };
                // Who waits for the start of a ring that is left alone goes on: its answer is dropped.
                let (now, held) = match entry.blame.quarantined {
                    false => (Some(Box::new(ring)), None),
                    true => (None, Some(Box::new(RingCommand { done: None, ..ring }))),
                };
                state.rings.insert(index, RingState { size, enabled, broken: None, held });
                if let Some(ring) = now {
                    self.order(Command::Ring(ring));
                }
                self.rings_stopped(&name);
            }
            PortEvent::RingStopped { index, done } => {
                state.rings.remove(&index);
                state.stopped = Some(Instant::now());
                self.order(Command::StopRing { port, index, done });
                self.rings_stopped(&name);
            }
            PortEvent::Reset => {
                state.features = None;
                self.cables.set_offloads(&name, None);
                for index in std::mem::take(&mut state.rings).into_keys() {
                    let (done, _) = handover();
                    self.order(Command::StopRing { port, index, done });
                }
            }
            PortEvent::Closed => {
                self.cables.set_offloads(&name, None);
                let (done, _) = handover();
                self.order(Command::Disconnect { port, done });
            }
        }
    }
}
