//! Connections of an engine that has died: they go on with this one, from where the kernel's counters say that they are.
use crate::crash::crash_point;
use crate::flow::open::leg_config;
use crate::flow::pump::open_window;
use crate::flow::records::{agreed, opened, origin};
use crate::flow::table::{Flow, FlowId, FlowKey};
use crate::notification::What;
use crate::spec::PortId;
use crate::worker::Worker;
use vonic_record::{Bits, Kind, Record, RecordId};
use vonic_tcp::{Config, Leg, Restored, Seq, State};
use vonic_uplink::{HostSocket, Known, Peer, Progress, Stage};

impl Worker {
    /// A VMM is connected: its connection's own connections go on.
    pub(crate) fn begin_session(&mut self, port_id: PortId, session: u64) {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        port.session = session;
        port.told_left = false;
        if self.taking_over {
            self.records.keep_session(session);
        }
        if port.spec.quarantined {
            // What is left of its connections is reset with what is nobody's.
            return;
        }
        if self.taking_over {
            self.await_port(port_id);
        }
        self.resume_flows(port_id, session);
        let inherited = std::mem::take(&mut self.records.inherited);
        let (own, others): (Vec<_>, Vec<_>) = inherited.into_iter().partition(|(_, record)| record.session == session);
        self.records.inherited = others;
        self.resume_later(port_id, own);
    }

    /// Every VMM that is connected has had its own: what nobody has taken over is reset.
    pub(crate) fn abandon_connections(&mut self) {
        self.adopt_accepted();
        self.taking_over = false;
        for port in self.ports.iter_mut().flatten().filter(|port| port.session == 0) {
            port.awaited = None;
        }
        for (id, record) in std::mem::take(&mut self.records.inherited) {
            let mode = self.peek_mode(record.host);
            if let Ok(Some(socket)) = HostSocket::resume(record.descriptor, record.cookie, mode)
                && !record.bits.has(Bits::FINISHED)
            {
                socket.abort();
            }
            self.records.free(id);
        }
    }

    /// Takes over one connection; false: there is nothing that could go on.
    pub(crate) fn resume_connection(&mut self, port_id: PortId, id: RecordId, record: &Record) -> bool {
        let mode = self.peek_mode(record.host);
        let resumed = HostSocket::resume(record.descriptor, record.cookie, mode);
        let Ok(Some(socket)) = resumed else { return false };
        if socket.is_frozen() {
            return self.resume_leaving(port_id, id, record, socket);
        }
        let goes_on = self.go_on(port_id, Some(id), record, socket);
        if goes_on {
            self.tell_resumed(FlowKey { port: port_id, guest: record.guest, remote: record.remote });
        }
        goes_on
    }

    /// Whoever listens already has asked for the list, perhaps, in which this one has not been yet.
    fn tell_resumed(&mut self, key: FlowKey) {
        let Some(flow) = self.flows.find(&key).and_then(|id| self.flows.get_mut(id)).filter(|flow| flow.established)
        else {
            return;
        };
        if let Some(port) = Worker::port_mut(&mut self.ports, key.port) {
            port.tell(flow, What::Established, &self.secret, self.now);
        }
    }

    /// Goes on with a connection by its record and its socket; false: there is nothing that could go on.
    pub(super) fn go_on(
        &mut self,
        port_id: PortId,
        id: Option<RecordId>,
        record: &Record,
        mut socket: HostSocket,
    ) -> bool {
        let now = self.now;
        if record.bits.has(Bits::FINISHED) {
            // Without a record it is the kernel's alone.
            let Some(id) = id else { return false };
            self.drain(port_id, id, socket);
            return true;
        }
        let known = known(record);
        if known.shut && !matches!(known.origin.stage, Stage::Over | Stage::Reset) {
            // The engine before may have died between record and call, after which nobody would ask for it again. A second time it
            // changes nothing. What is only a place for bytes has nobody to tell: it would get a reset for an answer.
            let _ = socket.shutdown_write();
        }
        let Ok(mut progress) = socket.progress(&known) else {
            // The peer must not take an orderly end for that of the stream.
            socket.abort();
            return false;
        };
        if progress.peer == Peer::Reset && known.origin.stage == Stage::Open {
            id.into_iter().for_each(|id| self.records.mark(id, Bits::ABORTED));
            // Fails of no open socket; then there is nothing to tell by.
            let _ = socket.amend(&mut progress);
        }
        if progress.peer == Peer::Nobody {
            // The guest's SYN comes again.
            return false;
        }
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return false };
        let key = FlowKey { port: port_id, guest: record.guest, remote: record.remote };
        let config = Config { timestamps: Some(record.timestamps), ..leg_config(&key, &port.spec, 0) };
        let leg = if record.bits.has(Bits::SYNCHRONIZED) {
            Leg::restore(&config, &restored(record, &progress), now)
        } else {
            Leg::reopen(&config, Seq(record.iss), now)
        };
        let mut flow = Flow::new(key, leg, socket, record.host, opened(record));
        flow.guest_opens = record.kind == Kind::GuestOpens;
        flow.shut = known.shut;
        flow.established = record.bits.has(Bits::ESTABLISHED);
        flow.record = id;
        let opening = matches!(flow.leg.state(), State::SynSent | State::SynReceived);
        flow.connecting = progress.peer == Peer::Connecting || (opening && !flow.guest_opens);
        flow.bytes_guest_to_host = progress.taken - u64::from(known.shut && progress.taken > 0);
        flow.bytes_host_to_guest = progress.dropped;
        if flow.connecting {
            port.usage.begin(flow.destination());
        }
        if record.bits.has(Bits::MORTAL) {
            self.end_mortal(flow);
            return false;
        }
        if progress.peer != Peer::Reset {
            // Whatever the engine before was afraid of, no reset has come: then there would be no connection.
            self.records.remove(&flow, Bits::ABORTED);
        }
        // The first segment may come before the first pump, and would find no window to be in.
        open_window(&mut flow);
        let flow = self.register(flow);
        if progress.peer == Peer::Reset {
            self.resume_reset(flow);
        }
        self.flows.make_ready(flow);
        crash_point!("after-resumption");
        true
    }

    /// The peer has reset, or could not be reached, and the guest is to hear of it.
    fn resume_reset(&mut self, id: FlowId) {
        let open = self.flows.get_mut(id).is_some_and(|flow| flow.leg.state() != State::SynReceived);
        // What came before it still gets to a guest that has seen a handshake.
        if open { self.host_failed(id) } else { self.reset_guest(id) }
    }

    /// Ends a connection that is not to outlive its engine: its peer gets a reset now, its guest as soon as it has buffers.
    pub(super) fn end_mortal(&mut self, mut flow: Flow) {
        if let Some(socket) = flow.socket.take() {
            socket.abort();
        }
        flow.record = None;
        flow.leg.abort();
        if let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) {
            port.spec.stats.tcp.reset.add(1);
        }
        let flow = self.register(flow);
        self.flows.make_ready(flow);
    }
}

pub(super) fn known(record: &Record) -> Known {
    Known { origin: origin(record), shut: record.bits.has(Bits::GUEST_FIN), aborted: record.bits.has(Bits::ABORTED) }
}

/// Where a connection's leg is.
pub(super) fn restored(record: &Record, progress: &Progress) -> Restored {
    let (iss, irs) = (Seq(record.iss), Seq(record.irs));
    Restored {
        iss,
        irs,
        agreed: agreed(record.options),
        connected: !matches!(progress.peer, Peer::Connecting | Peer::Reset),
        established: record.bits.has(Bits::ESTABLISHED),
        una: iss + 1 + progress.dropped as u32,
        queued: progress.queued,
        host_fin: progress.peer == Peer::Finished,
        rcv_nxt: irs + 1 + progress.taken as u32,
        guest_fin: record.bits.has(Bits::GUEST_FIN),
        held: progress.unacknowledged,
    }
}
