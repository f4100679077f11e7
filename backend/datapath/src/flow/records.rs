//! What stands of each connection in the checkpoint, for the engine after this one.
use crate::crash::crash_point;
use crate::flow::table::Flow;
use crate::spec::PortId;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use vonic_record::{Bits, Checkpoint, FreeNumbers, Kind, Local, Options, Record, RecordId, WORKERS_MAX};
use vonic_tcp::{Agreed, Instant, Leg};
use vonic_uplink::{HostSocket, Origin, Stage};

/// Connections that end in one round, mostly.
const RETIRED: usize = 64;

/// The checkpoint, as one worker has it: each writes records of its own.
pub struct Records {
    checkpoint: Arc<Checkpoint>,
    /// The worker's number.
    own: usize,
    free: FreeNumbers,
    /// VMM connections that this worker has, or has had, of those that were there when it began.
    sessions: Vec<u64>,
    /// What an engine before this one has left, until the VMM connection's number is known.
    pub inherited: Vec<(RecordId, Record)>,
    /// The same of flows of datagrams, and of claimed addresses.
    pub flows: Vec<(RecordId, Record)>,
    /// What it has left of VMs, until their ports are there: listening sockets and cables.
    pub places: Vec<(RecordId, Record)>,
    /// Sockets of connections that are over, until the guests have what they are told of that.
    retired: Vec<Retired>,
}

/// A connection that is over.
pub struct Retired {
    /// Whose.
    pub port: PortId,
    /// Its socket.
    pub socket: HostSocket,
    /// Its record.
    pub record: Option<RecordId>,
    /// Both streams have ended, neither by a reset.
    pub in_order: bool,
}

impl Records {
    /// With all that stands there: every worker knows it until it is known whose it is.
    pub fn new(checkpoint: Arc<Checkpoint>, free: FreeNumbers, own: usize) -> Records {
        let (inherited, others): (Vec<_>, Vec<_>) =
            checkpoint.records().partition(|(_, record)| record.kind.is_connection());
        let is_flow = |record: &Record| matches!(record.kind, Kind::Datagrams | Kind::Claim);
        let (flows, places) = others.into_iter().partition(|(_, record)| is_flow(record));
        let (sessions, retired) = (Vec::new(), Vec::with_capacity(RETIRED));
        Records { own, sessions, inherited, flows, places, retired, free, checkpoint }
    }

    /// What was left of a VMM connection is this worker's.
    pub fn keep_session(&mut self, session: u64) {
        self.sessions.push(session);
    }

    /// It is another worker's.
    pub fn leave_session_to_others(&mut self, session: u64) {
        self.inherited.retain(|(_, record)| record.session != session);
        self.flows.retain(|(_, record)| record.session != session);
    }

    /// Sockets of these descriptors and cookies are another worker's.
    pub fn leave_to_others(&mut self, places: &[(RawFd, u64)]) {
        self.places.retain(|(_, record)| !places.contains(&(record.descriptor, record.cookie)));
    }

    /// What is nobody's by now is the first worker's to end. Of a VMM connection that this worker has it ends what did not go on.
    pub fn leave_rest_to_first(&mut self) {
        if self.own == 0 {
            return;
        }
        let sessions = &self.sessions;
        self.inherited.retain(|(_, record)| sessions.contains(&record.session));
        self.flows.retain(|(_, record)| sessions.contains(&record.session));
        self.places.clear();
    }

    /// Writes the record of something that is no connection; `None`: there is no room, so it ends with this engine.
    pub fn keep(&mut self, record: &Record, local: Option<Local>) -> Option<RecordId> {
        let id = self.free.pop()?;
        match local {
            Some(local) => self.checkpoint.write_forwarded(id, record, local),
            None => self.checkpoint.write(id, record),
        }
        Some(id)
    }

    /// Something has happened to what [`Records::keep`] wrote.
    pub fn mark(&self, id: RecordId, bits: Bits) {
        self.checkpoint.add(id, bits);
    }

    /// What was kept beside the record of a flow by a forward.
    pub fn local(&self, id: RecordId) -> Option<Local> {
        self.checkpoint.local(id)
    }

    /// From now on connections of a listener are accepted; `None`: all of them have their records.
    pub fn accepting(&self, listener: Option<RawFd>) {
        self.checkpoint.header().set_accepting(self.own, listener);
    }

    /// A connection of which there is no record, though a worker of an engine before this one has accepted it.
    pub fn accepted(&self, by: usize) -> Option<RawFd> {
        let is_recorded = |fd: &RawFd| self.checkpoint.records().any(|(_, record)| record.descriptor == *fd);
        self.checkpoint.header().accepted(by).filter(|fd| !is_recorded(fd))
    }

    /// Whether there is such a connection of any worker's.
    pub fn has_accepted(&self) -> bool {
        (0..WORKERS_MAX).any(|worker| self.accepted(worker).is_some())
    }

    /// Whether there is no place for one of this worker's, since another worker has one in it still.
    pub fn is_place_taken(&self) -> bool {
        self.checkpoint.header().accepted(self.own).is_some()
    }

    /// It is on record by now, or closed.
    pub fn forget_accepted(&self, by: usize) {
        self.checkpoint.header().clear_accepted(by);
    }

    /// Writes the record of a connection of the VMM connection, whose timestamps begin at `timestamps`. Without room, or a socket that
    /// the next engine could know again, it has none and ends with this engine.
    pub fn begin(&mut self, flow: &mut Flow, (session, timestamps): (u64, u32)) {
        let Some(socket) = &flow.socket else { return };
        let (Ok(cookie), Some(id)) = (socket.cookie(), self.free.pop()) else { return };
        let record = describe(flow, (session, timestamps), (socket.as_raw_fd(), cookie));
        self.checkpoint.write(id, &record);
        flow.record = Some(id);
    }

    /// What stands of a connection; `None`: nothing does.
    pub fn read(&self, flow: &Flow) -> Option<(RecordId, Record)> {
        flow.record.and_then(|id| Some((id, self.checkpoint.read(id)?)))
    }

    /// The guest has answered a SYN of ours: to be called before anything of it is acknowledged.
    pub fn synchronized(&self, flow: &Flow) {
        if let (Some(id), Some(agreed)) = (flow.record, flow.leg.agreed()) {
            self.checkpoint.synchronize(id, irs(&flow.leg), options(agreed));
        }
    }

    /// Something has happened, or is about to.
    pub fn add(&self, flow: &Flow, bits: Bits) {
        if let Some(id) = flow.record {
            self.checkpoint.add(id, bits);
        }
    }

    /// Something that was about to happen has not.
    pub fn remove(&self, flow: &Flow, bits: Bits) {
        if let Some(id) = flow.record {
            self.checkpoint.remove(id, bits);
        }
    }

    /// The connection's descriptor is closed: with a record it would not be swept away, and what has none is.
    pub fn end(&mut self, flow: &mut Flow) {
        if let Some(id) = flow.record.take() {
            crash_point!("after-close");
            self.free(id);
            crash_point!("record-freed");
        }
    }

    /// Both ends of a connection are to be reset: the guest's leg is aborted, and the peer hears of it once the guest has its reset. An
    /// engine that takes over meanwhile resets both.
    pub fn doom(&self, flow: &mut Flow) {
        flow.failed = true;
        flow.mortal = true;
        self.add(flow, Bits::MORTAL);
        if let Some(socket) = &mut flow.socket {
            socket.abort_on_close();
        }
    }

    /// Keeps the socket of a connection that is over, and by that its record, until the guest has what it is told of that: the next
    /// engine would have nothing to tell it again.
    pub fn retire(&mut self, flow: &mut Flow, socket: HostSocket) {
        let (port, in_order) = (flow.key.port, !flow.failed);
        self.retired.push(Retired { port, socket, record: flow.record.take(), in_order });
    }

    /// The next of those, once the guests have it.
    pub fn next_retired(&mut self) -> Option<Retired> {
        self.retired.pop()
    }

    /// Closes it.
    pub fn close(&mut self, retired: Retired) {
        crash_point!("socket-retired");
        drop(retired.socket);
        if let Some(id) = retired.record {
            crash_point!("socket-retired-closed");
            self.free(id);
            crash_point!("socket-retired-freed");
        }
    }

    /// What stands under a number.
    pub fn get(&self, id: RecordId) -> Option<Record> {
        self.checkpoint.read(id)
    }

    /// As [`Records::end`], of what nobody has taken over.
    pub fn free(&mut self, id: RecordId) {
        self.checkpoint.free(id);
        self.free.push(id);
    }
}

/// The record of a connection that has moved nothing yet.
pub fn describe(flow: &Flow, (session, timestamps): (u64, u32), (descriptor, cookie): (RawFd, u64)) -> Record {
    let agreed = flow.leg.agreed();
    Record {
        kind: if flow.guest_opens { Kind::GuestOpens } else { Kind::WorldOpens },
        bits: Bits(Bits::SYNCHRONIZED.only_if(agreed.is_some()).0 | Bits::MORTAL.only_if(flow.mortal).0),
        descriptor,
        cookie,
        session,
        guest: flow.key.guest,
        remote: flow.key.remote,
        host: flow.host,
        iss: flow.leg.iss().0,
        timestamps,
        irs: irs(&flow.leg),
        options: agreed.map(options).unwrap_or_default(),
        opened: flow.opened.0,
        base: (0, 0),
    }
}

/// IRS of a leg that has taken nothing yet; meaningless before the guest's SYN.
fn irs(leg: &Leg) -> u32 {
    (leg.rcv_nxt() - 1).0
}

fn options(agreed: Agreed) -> Options {
    let Agreed { mss, send_scale, scaled, sack, timestamps } = agreed;
    Options { mss, send_scale, scaled, sack, timestamps }
}

/// The same, as the leg has it.
pub fn agreed(options: Options) -> Agreed {
    let Options { mss, send_scale, scaled, sack, timestamps } = options;
    Agreed { mss, send_scale, scaled, sack, timestamps }
}

/// Where the counters of a record's socket began.
pub fn origin(record: &Record) -> Origin {
    if !record.bits.has(Bits::RESTORED) {
        return Origin::fresh(record.kind == Kind::GuestOpens);
    }
    let stage = match (record.bits.has(Bits::PEER_GONE), record.bits.has(Bits::PEER_FIN)) {
        (false, false) => Stage::Open,
        (false, true) => Stage::PeerFinished,
        (true, true) => Stage::Over,
        (true, false) => Stage::Reset,
    };
    Origin { connected: false, stage, taken: record.base.0, dropped: record.base.1 }
}

/// The start of a record's connection.
pub fn opened(record: &Record) -> Instant {
    Instant(record.opened)
}
