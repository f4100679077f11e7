//! Connections that wait to be taken over. Each takes some microseconds, a port may have thousands, and the port's memory and rings come
//! meanwhile: some are taken over in each round, so that those that are have their guest's buffers as soon as there are any.
use crate::spec::PortId;
use crate::worker::Worker;
use std::vec::IntoIter;
use vonic_record::{Record, RecordId};

/// Connections taken over in one round: about a tenth of a millisecond's worth.
const RESUMES_A_ROUND: usize = 16;

/// Those of one port.
pub struct Resuming {
    port: PortId,
    left: IntoIter<(RecordId, Record)>,
    /// What decides who may reach what has changed since it was begun.
    recheck: bool,
}

impl Worker {
    /// Takes these over bit by bit. Until all are, nothing is taken from the guest: a segment of one that waits would be answered by a reset.
    pub(crate) fn resume_later(&mut self, port: PortId, records: Vec<(RecordId, Record)>) {
        if !records.is_empty() {
            self.resuming.push(Resuming { port, left: records.into_iter(), recheck: false });
            self.woken = true;
        }
    }

    /// Whether connections of a port wait.
    pub(crate) fn is_resuming(&self, port: PortId) -> bool {
        self.resuming.iter().any(|resuming| resuming.port == port)
    }

    /// Takes over the next; true if there were any.
    pub(crate) fn resume_some(&mut self) -> bool {
        let Some(mut resuming) = self.resuming.pop() else { return false };
        for _ in 0..RESUMES_A_ROUND {
            let Some((id, record)) = resuming.left.next() else {
                self.end_resuming(&resuming);
                return true;
            };
            self.resume(resuming.port, id, &record);
        }
        // Ports take turns.
        self.resuming.insert(0, resuming);
        true
    }

    /// Takes over all of a port's, or of every port's, since they are to be ended.
    pub(crate) fn finish_resuming(&mut self, port: Option<PortId>) {
        while let Some(place) = self.resuming.iter().position(|resuming| port.is_none_or(|port| resuming.port == port)) {
            let mut resuming = self.resuming.swap_remove(place);
            while let Some((id, record)) = resuming.left.next() {
                self.resume(resuming.port, id, &record);
            }
        }
    }

    /// What decides who may reach what has changed.
    pub(crate) fn recheck_resuming(&mut self) {
        self.resuming.iter_mut().for_each(|resuming| resuming.recheck = true);
    }

    fn end_resuming(&mut self, resuming: &Resuming) {
        // What the guest has sent meanwhile is looked at now.
        self.woken = true;
        if resuming.recheck {
            self.check_connections(Some(resuming.port));
        }
    }

    fn resume(&mut self, port: PortId, id: RecordId, record: &Record) {
        if !self.resume_connection(port, id, record) {
            self.records.free(id);
        }
    }
}
