//! Connections that leave for another host together with their guest, that have come from one, or that turn out to stay (ADR 0016).
//!
//! One that leaves is taken out of the table with its socket frozen; its record stays, so that the next engine finds it so. If the guest's
//! rings start again on this host, it goes on from its record and the kernel's counters, as behind an engine's death; and so does
//! one that has come here.
use crate::command::Notice;
use crate::datagram::travel::Traveller;
use crate::flow::open::leg_config;
use crate::flow::records::{describe, opened};
use crate::flow::resume::{known, restored};
use crate::flow::table::{Flow, FlowId, FlowKey};
use crate::port::Port;
use crate::spec::{ForwardSocket, PortId};
use crate::worker::Worker;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use vonic_record::{Bits, Kind, Record, RecordId};
use vonic_tcp::{Config, Leg};
use vonic_uplink::{Frozen, HostSocket, Known, Listener, Peer, Progress};

/// Connections that are frozen between two bursts: each takes some microseconds.
const PART: usize = 64;

/// A connection that stands still, to be read. Dropped, it is gone from this host without a word to its peer.
#[derive(Debug)]
pub struct Leaving {
    id: RecordId,
    /// What stands of it.
    pub record: Record,
    /// The same, as its socket wants to know it.
    pub known: Known,
    /// Its socket.
    pub frozen: Frozen,
}

impl Leaving {
    /// A connection that was frozen, with its record.
    pub(crate) fn new(id: RecordId, record: &Record, frozen: Frozen) -> Leaving {
        Leaving { id, record: *record, known: known(record), frozen }
    }

    /// This host's address that it has; `None`: the system does not say.
    pub fn local(&self) -> Option<IpAddr> {
        self.frozen.local().ok().map(|local| local.ip().to_canonical())
    }

    /// Closes the socket; what is left is the record, for [`Command::Gone`](crate::Command::Gone).
    pub fn close(self) -> RecordId {
        self.id
    }

    /// Ends the connection by a reset to the peer, where it cannot go on anywhere. One that is over for its guest is left to the kernel.
    pub fn reset(self) -> RecordId {
        let is_over = self.record.bits.has(Bits::FINISHED);
        if let Ok(socket) = self.frozen.thaw()
            && !is_over
        {
            socket.abort();
        }
        self.id
    }
}

/// Why a connection stays behind when its guest leaves.
#[derive(Debug)]
pub enum Bound {
    /// It leads to this host itself: to vonic's own service, a resolver, or another program here.
    Here,
    /// Its end is near: the guest is about to get a reset.
    Ending,
    /// The system lets its socket not be read.
    System(io::Error),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Here => f.write_str("it leads to this host itself"),
            Bound::Ending => f.write_str("it was being reset"),
            Bound::System(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                f.write_str("vonicd lacks CAP_NET_ADMIN, which TCP_REPAIR needs")
            }
            Bound::System(error) => write!(f, "its socket cannot be read: {error}"),
        }
    }
}

/// A part of what a port has.
#[derive(Debug, Default)]
pub struct Departure {
    /// What can leave.
    pub leaving: Vec<Leaving>,
    /// What cannot. It stays as it is: the guest may yet stay, too. ISS and IRS of these records are such that nothing was moved since.
    pub bound: Vec<(Record, Bound)>,
    /// Flows of datagrams, all of them with the last part; they stay here, too.
    pub datagrams: Vec<Traveller>,
    /// Addresses that the guest has claimed, the one used last first.
    pub claims: Vec<Ipv6Addr>,
    /// The worker's clock, in microseconds.
    pub clock: u64,
    /// Where it goes on; `None`: this was the last part.
    pub next: Option<FlowId>,
}

/// A connection that has come to this host.
#[derive(Debug)]
pub struct Arriving {
    /// Its record on this host.
    pub record: Record,
    /// Its socket; `None`: it could not come, and the guest is told by a reset.
    pub socket: Option<HostSocket>,
}

impl Worker {
    /// Takes a part of a port's connections out, from the place `from` of the table on. Its rings are stopped.
    pub(crate) fn depart(&mut self, port_id: PortId, from: FlowId) -> Departure {
        // If the guest stays, whoever connects meanwhile has only waited.
        self.await_port(port_id);
        self.finish_resuming(Some(port_id));
        if from == 0 {
            self.close_doors(port_id);
        }
        let (leaving, over) = self.depart_draining(port_id, PART);
        if over == PART {
            return Departure { leaving, clock: self.now.0, next: Some(from), ..Departure::default() };
        }
        let wanted = |id: FlowId, flow: &Flow| id >= from && flow.key.port == port_id && flow.socket.is_some();
        let flows = self.flows.iter().filter(|(id, flow)| wanted(*id, flow)).take(PART);
        let flows: Vec<FlowId> = flows.map(|(id, _)| id).collect();
        let next = flows.get(PART - 1).map(|last| last + 1);
        let mut departure = Departure { leaving, clock: self.now.0, next, ..Departure::default() };
        if let Some(port) = Worker::port_mut(&mut self.ports, port_id) {
            // Of a save before this one, behind which the engine died.
            departure.leaving.append(&mut port.leaving);
        }
        for id in flows {
            match self.freeze(id) {
                Some(Ok(leaving)) => departure.leaving.push(leaving),
                Some(Err(bound)) => departure.bound.push(bound),
                None => {}
            }
        }
        if next.is_none() {
            departure.datagrams = self.travellers(port_id);
        }
        departure.claims = self.claims_of(port_id);
        departure
    }

    /// Whom the world's kernel has let in by now goes along, though the guest has not heard of it; whoever comes from now on asks again,
    /// and by then where the guest is.
    fn close_doors(&mut self, port_id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        port.paused = true;
        for listener in listeners(port) {
            // Without it they are let in as before, and are reset where the guest is.
            let _ = listener.pause();
        }
        if self.is_adopting() {
            return;
        }
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        let is_tcp = |index: &usize| matches!(port.spec.forwards[*index].socket, ForwardSocket::Tcp(_));
        let doors: Vec<usize> = (0..port.spec.forwards.len()).filter(is_tcp).collect();
        doors.into_iter().for_each(|index| self.accept_waiting(port_id, index, false));
        self.records.accepting(None);
    }

    /// The guest stays, or another one is to come: its forwards let everybody in again.
    pub(crate) fn open_doors(&mut self, port_id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        if std::mem::take(&mut port.paused) {
            listeners(port).for_each(Listener::resume);
        }
    }

    fn claims_of(&self, port_id: PortId) -> Vec<Ipv6Addr> {
        let port = self.ports.get(port_id as usize).and_then(Option::as_ref);
        let network = port.and_then(|port| self.networks.get(port.spec.network as usize)).and_then(Option::as_ref);
        network.map_or_else(Vec::new, |network| network.claims_of(port_id).all().collect())
    }

    /// Takes a connection out of the table and stops it where it is.
    fn freeze(&mut self, id: FlowId) -> Option<Result<Leaving, (Record, Bound)>> {
        let flow = self.flows.get_mut(id)?;
        let recorded = self.records.read(flow);
        let is_here = flow.tries.is_some() || self.host.is_own(flow.host);
        let (number, record) = match recorded {
            Some(recorded) if !is_here && !flow.failed => recorded,
            _ => {
                let why = if flow.failed { Bound::Ending } else { Bound::Here };
                return Some(Err((standing(flow), why)));
            }
        };
        let socket = flow.socket.take()?;
        let fd = socket.as_raw_fd();
        match socket.freeze() {
            Ok(frozen) => {
                self.poller.forget(fd);
                flow.record = None;
                // Wherever it goes on, it has not ended.
                flow.established = false;
                self.finish(id);
                Some(Ok(Leaving::new(number, &record, frozen)))
            }
            Err((socket, error)) => {
                let why = (standing(flow), Bound::System(error));
                flow.socket = Some(socket);
                Some(Err(why))
            }
        }
    }

    /// What has been taken out, and is still, after an engine's death. It goes on if the guest's rings start, or have since.
    pub(super) fn resume_leaving(
        &mut self,
        port_id: PortId,
        id: RecordId,
        record: &Record,
        socket: HostSocket,
    ) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return false };
        let Ok(frozen) = socket.freeze() else { return false };
        if !std::mem::replace(&mut port.told_left, true) {
            (self.notify)(Notice::Left { port: port.spec.port });
        }
        if port.queues.is_live() {
            return frozen.thaw().is_ok_and(|socket| self.go_on(port_id, Some(id), record, socket));
        }
        port.leaving.push(Leaving::new(id, record, frozen));
        true
    }

    /// The guest has not left: what was taken out goes on as soon as its rings start.
    pub(crate) fn stay(&mut self, port: PortId, leaving: Vec<Leaving>) {
        match Worker::port_mut(&mut self.ports, port) {
            Some(port) => port.leaving.extend(leaving),
            None => self.gone(leaving.into_iter().map(Leaving::close).collect()),
        }
    }

    /// The sockets of these are closed.
    pub(crate) fn gone(&mut self, records: Vec<RecordId>) {
        records.into_iter().for_each(|id| self.records.free(id));
    }

    /// The port's rings start, on this host: what was taken out goes on.
    pub(crate) fn thaw(&mut self, port_id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        for Leaving { id, record, frozen, .. } in std::mem::take(&mut port.leaving) {
            let goes_on = frozen.thaw().is_ok_and(|socket| self.go_on(port_id, Some(id), &record, socket));
            if !goes_on {
                self.records.free(id);
            }
        }
    }

    /// The port's VMM is gone, and so is what was taken out.
    pub(crate) fn let_go(&mut self, port_id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        let leaving = std::mem::take(&mut port.leaving);
        self.gone(leaving.into_iter().map(Leaving::close).collect());
    }

    /// Connections have come with the port's guest, whose rings are about to start, and addresses that it has claimed.
    pub(crate) fn arrive(&mut self, port_id: PortId, connections: Vec<Arriving>, claims: &[Ipv6Addr]) {
        self.await_port(port_id);
        // Of an engine that has died over this.
        self.finish_resuming(Some(port_id));
        for Arriving { record, socket } in connections {
            let key = FlowKey { port: port_id, guest: record.guest, remote: record.remote };
            let is_over = record.bits.has(Bits::FINISHED);
            match socket {
                _ if !is_over && self.flows.find(&key).is_some() => {}
                Some(socket) => {
                    let id = self.records.keep(&record, None);
                    if !self.go_on(port_id, id, &record, socket) {
                        id.into_iter().for_each(|id| self.records.free(id));
                    }
                }
                None if is_over => {}
                None => self.tell_lost(key, &record),
            }
        }
        self.settle_claims(port_id, claims);
        // This host's rules may be others.
        self.check_connections(Some(port_id));
    }

    /// Gives a guest the addresses that it has elsewhere, unless somebody has them here.
    fn settle_claims(&mut self, port_id: PortId, claims: &[Ipv6Addr]) {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        let network = self.networks.get_mut(port.spec.network as usize).and_then(Option::as_deref_mut);
        let Some(network) = network else { return };
        for claim in claims.iter().rev() {
            if network.owner((*claim).into()).is_none() {
                network.claim(port_id, *claim);
            }
        }
        self.record_claims();
    }

    /// A connection could not come: its guest gets a reset as soon as it has buffers.
    fn tell_lost(&mut self, key: FlowKey, record: &Record) {
        let Some(port) = Worker::port_mut(&mut self.ports, key.port) else { return };
        if !record.bits.has(Bits::SYNCHRONIZED) {
            // It has not heard of it.
            return;
        }
        let config = Config { timestamps: Some(record.timestamps), ..leg_config(&key, &port.spec, 0) };
        let nothing = Progress { peer: Peer::Open, taken: 0, unacknowledged: 0, dropped: 0, queued: 0 };
        let leg = Leg::restore(&config, &restored(record, &nothing), self.now);
        let mut flow = Flow::without_socket(key, leg, record.host, opened(record));
        flow.guest_opens = record.kind == Kind::GuestOpens;
        self.end_mortal(flow);
    }
}

/// Where the world connects to a guest.
fn listeners(port: &Port) -> impl Iterator<Item = &Listener> {
    port.spec.forwards.iter().filter_map(|forward| match &forward.socket {
        ForwardSocket::Tcp(listener) => Some(&**listener),
        ForwardSocket::Udp(_) => None,
    })
}

/// The record of a connection as if it had begun where it stands: so a host that has nothing but the record can reset it.
fn standing(flow: &Flow) -> Record {
    let record = describe(flow, (0, 0), (-1, 0));
    let bits = Bits(record.bits.0 | Bits::ESTABLISHED.0);
    Record { iss: (flow.leg.snd_max() - 1).0, irs: (flow.leg.rcv_nxt() - 1).0, bits, ..record }
}
