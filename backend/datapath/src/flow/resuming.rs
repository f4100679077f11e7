//! Connections that wait to be taken over. Each takes some microseconds, a port may have thousands, and the port's memory and rings come
//! meanwhile: some are taken over in each round, and whichever its guest has sent a segment of, so that each that is has buffers and answers
//! as soon as there are any.
use crate::crash::crash_point;
use crate::flow::table::FlowKey;
use crate::keyed::KeyedMap;
use crate::spec::PortId;
use crate::worker::Worker;
use std::net::SocketAddr;
use vonic_record::{Bits, Record, RecordId};

/// Connections taken over in one round: about a tenth of a millisecond's worth.
const RESUMES_A_ROUND: usize = 16;

/// Those of one port.
pub struct Resuming {
    port: PortId,
    /// Those that wait; `None` where one waited.
    records: Vec<Option<(RecordId, Record)>>,
    /// How many of the first wait no longer.
    done: usize,
    /// The places of all: the guest's end and the other.
    places: KeyedMap<(SocketAddr, SocketAddr), usize>,
    /// What decides who may reach what has changed since it was begun.
    recheck: bool,
}

impl Resuming {
    fn new(port: PortId, records: Vec<(RecordId, Record)>) -> Resuming {
        // Of one that is over for its guest another may have the name.
        let named = |record: &Record| !record.bits.has(Bits::FINISHED);
        let places = records.iter().enumerate().filter(|(_, (_, record))| named(record));
        let places = places.map(|(place, (_, record))| ((record.guest, record.remote), place)).collect();
        Resuming { port, records: records.into_iter().map(Some).collect(), done: 0, places, recheck: false }
    }

    /// The next that waits.
    fn next(&mut self) -> Option<(RecordId, Record)> {
        while let Some(record) = self.records.get_mut(self.done) {
            self.done += 1;
            if let Some(record) = record.take() {
                return Some(record);
            }
        }
        None
    }

    /// That connection, if it waits.
    fn take(&mut self, key: &FlowKey) -> Option<(RecordId, Record)> {
        let place = self.places.get(&(key.guest, key.remote)).filter(|_| self.port == key.port)?;
        self.records.get_mut(*place)?.take()
    }
}

impl Worker {
    /// Takes these over bit by bit.
    pub(crate) fn resume_later(&mut self, port: PortId, records: Vec<(RecordId, Record)>) {
        if !records.is_empty() {
            self.resuming.push(Resuming::new(port, records));
            self.woken = true;
        }
    }

    /// Takes a connection over at once, if it waits: its guest has sent a segment.
    pub(crate) fn resume_now(&mut self, key: &FlowKey) {
        let found = self.resuming.iter_mut().find_map(|resuming| resuming.take(key));
        if let Some((id, record)) = found {
            self.resume(key.port, id, &record);
        }
    }

    /// Takes over the next; true if there were any.
    pub(crate) fn resume_some(&mut self) -> bool {
        let Some(mut resuming) = self.resuming.pop() else { return false };
        for _ in 0..RESUMES_A_ROUND {
            let Some((id, record)) = resuming.next() else {
                if resuming.recheck {
                    self.check_connections(Some(resuming.port));
                }
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
        while let Some(place) = self.resuming.iter().position(|resuming| port.is_none_or(|port| resuming.port == port))
        {
            let mut resuming = self.resuming.swap_remove(place);
            while let Some((id, record)) = resuming.next() {
                self.resume(resuming.port, id, &record);
            }
        }
    }

    /// What decides who may reach what has changed.
    pub(crate) fn recheck_resuming(&mut self) {
        self.resuming.iter_mut().for_each(|resuming| resuming.recheck = true);
    }

    fn resume(&mut self, port: PortId, id: RecordId, record: &Record) {
        crash_point!("before-resumption");
        if !self.resume_connection(port, id, record) {
            self.records.free(id);
        }
    }
}
