//! What stands of each connection in the checkpoint, for the engine after this one.
use crate::flow::table::Flow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use vonic_record::{Bits, Checkpoint, FreeNumbers, Kind, Options, Record, RecordId};
use vonic_tcp::{Agreed, Instant, Leg};

/// The checkpoint, as its one writer has it.
pub struct Records {
    checkpoint: Arc<Checkpoint>,
    free: FreeNumbers,
    /// What an engine before this one has left, until the VMM connection's number is known.
    pub inherited: Vec<(RecordId, Record)>,
}

impl Records {
    /// With all that stands there.
    pub fn new(checkpoint: Arc<Checkpoint>) -> Records {
        let free = checkpoint.free_numbers();
        Records { inherited: checkpoint.records().collect(), free, checkpoint }
    }

    /// From now on connections of a listener are accepted; `None`: all of them have their records.
    pub fn accepting(&self, listener: Option<RawFd>) {
        self.checkpoint.header().set_accepting(listener);
    }

    /// A connection of which there is no record, though an engine before this one has accepted it.
    pub fn take_accepted(&self) -> Option<RawFd> {
        self.checkpoint.header().take_accepted()
    }

    /// Writes the record of a connection of the VMM connection, whose timestamps begin at `timestamps`. Without room, or a socket that
    /// the next engine could know again, it has none and ends with this engine.
    pub fn begin(&mut self, flow: &mut Flow, (session, timestamps): (u64, u32)) {
        let Some(socket) = &flow.socket else { return };
        let (Ok(cookie), Some(id)) = (socket.cookie(), self.free.pop()) else { return };
        let agreed = flow.leg.agreed();
        let record = Record {
            kind: if flow.guest_opens { Kind::GuestOpens } else { Kind::WorldOpens },
            bits: if agreed.is_some() { Bits::SYNCHRONIZED } else { Bits::default() },
            descriptor: socket.as_raw_fd(),
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
        };
        self.checkpoint.write(id, &record);
        flow.record = Some(id);
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
            self.free(id);
        }
    }

    /// As [`Records::end`], of what nobody has taken over.
    pub fn free(&mut self, id: RecordId) {
        self.checkpoint.free(id);
        self.free.push(id);
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

/// The start of a record's connection.
pub fn opened(record: &Record) -> Instant {
    Instant(record.opened)
}
