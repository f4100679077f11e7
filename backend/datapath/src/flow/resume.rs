//! Connections of an engine that has died: they go on with this one, from where the kernel's counters say that they are.
use crate::crash::crash_point;
use crate::flow::open::leg_config;
use crate::flow::records::{agreed, opened};
use crate::flow::table::{Flow, FlowKey};
use crate::spec::PortId;
use crate::worker::Worker;
use vonic_record::{Bits, Kind, Record, RecordId};
use vonic_tcp::{Config, Leg, Restored, Seq};
use vonic_uplink::{HostSocket, Peer, Progress};

impl Worker {
    /// Takes over the connections of a port that has just been attached.
    pub(crate) fn resume_connections(&mut self, port: PortId) {
        let Some(vm) = Worker::port_mut(&mut self.ports, port).map(|port| port.spec.vm) else { return };
        let inherited = std::mem::take(&mut self.records.inherited);
        let (own, others): (Vec<_>, Vec<_>) = inherited.into_iter().partition(|(_, record)| record.vm == vm);
        self.records.inherited = others;
        for (id, record) in own {
            crash_point!("before-resumption");
            if !self.resume_connection(port, id, &record) {
                self.records.end(id);
            }
        }
    }

    /// Every port that there will be is attached: what nobody has taken over is reset.
    pub(crate) fn abandon_connections(&mut self) {
        for (id, record) in std::mem::take(&mut self.records.inherited) {
            let mode = self.peek_mode(record.host);
            if let Ok(Some(socket)) = HostSocket::resume(record.descriptor, record.cookie, mode) {
                socket.abort();
            }
            self.records.end(id);
        }
    }

    /// Takes over one connection; false: its socket is gone.
    fn resume_connection(&mut self, port_id: PortId, id: RecordId, record: &Record) -> bool {
        let (now, mode) = (self.now, self.peek_mode(record.host));
        let resumed = HostSocket::resume(record.descriptor, record.cookie, mode);
        let Ok(Some(socket)) = resumed else { return false };
        let (guest_opens, shut) = (record.kind == Kind::GuestOpens, record.bits.has(Bits::GUEST_FIN));
        if shut {
            // The engine before may have died between record and call, after which nobody would ask for it again. A second time it
            // changes nothing.
            let _ = socket.shutdown_write();
        }
        let Ok(progress) = socket.progress(guest_opens, shut) else { return false };
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return false };
        let key = FlowKey { port: port_id, guest: record.guest, remote: record.remote };
        let config = Config { timestamps: Some(record.timestamps), ..leg_config(&key, &port.spec, 0) };
        let leg = if record.bits.has(Bits::SYNCHRONIZED) {
            Leg::restore(&config, &restored(record, &progress), now)
        } else {
            Leg::open(&config, Seq(record.iss), now)
        };
        let mut flow = Flow::new(key, leg, socket, record.host, opened(record));
        flow.guest_opens = guest_opens;
        flow.shut = shut;
        flow.record = Some(id);
        flow.connecting = progress.peer == Peer::Connecting || !record.bits.has(Bits::ESTABLISHED);
        // What came before a reset still gets to the guest.
        flow.doomed = progress.peer == Peer::Reset;
        if flow.connecting {
            port.usage.begin(flow.destination());
        }
        let flow = self.register(flow);
        self.flows.make_ready(flow);
        crash_point!("after-resumption");
        true
    }
}

/// Where a connection's leg is.
fn restored(record: &Record, progress: &Progress) -> Restored {
    let (iss, irs) = (Seq(record.iss), Seq(record.irs));
    Restored {
        iss,
        irs,
        agreed: agreed(record.options),
        connected: progress.peer != Peer::Connecting,
        established: record.bits.has(Bits::ESTABLISHED),
        una: iss + 1 + progress.dropped as u32,
        queued: progress.queued,
        host_fin: progress.peer == Peer::Finished,
        rcv_nxt: irs + 1 + progress.taken as u32,
        guest_fin: record.bits.has(Bits::GUEST_FIN),
        held: progress.unacknowledged,
    }
}
