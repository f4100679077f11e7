//! A checkpoint whose memory says anything: what another engine reads of it is bounded by what there is.
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vonic_datapath::PortStats;
use vonic_record::{Checkpoint, Ledger, Shared};

use crate::bytes::Bytes;

/// Words of the header, and of a record.
const HEADER: u64 = 512;
const RECORD: u64 = 16;

fn again(checkpoint: &Checkpoint) -> Option<OwnedFd> {
    checkpoint.as_fd().try_clone_to_owned().ok()
}

/// An input is a capacity, and words with the places that they are written to.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let capacity = usize::from(bytes.byte());
    let Ok(made) = Checkpoint::create(capacity) else { return };
    // An engine's counters, whose layout may then be another.
    let own: Shared<PortStats> = Ledger::new(Arc::new(match again(&made).map(Checkpoint::open) {
        Some(Ok(same)) => same,
        _ => return,
    }))
    .open(7, 1);
    let Some(file) = again(&made).map(File::from) else { return };
    while !bytes.is_empty() {
        let word = match bytes.byte() {
            0..40 => u64::from(bytes.byte()) % 16,
            40..70 => u64::from(bytes.half()) % HEADER,
            70..170 => HEADER + u64::from(bytes.half()) % (RECORD * capacity.max(1) as u64),
            _ => HEADER + RECORD * capacity as u64 + u64::from(bytes.half()) % 2000,
        };
        let value = bytes.number();
        let _ = file.write_all_at(&value.to_le_bytes(), word * 8);
    }
    let Some(Ok(read)) = again(&made).map(Checkpoint::open) else { return };
    assert_eq!(read.capacity(), capacity, "the file is as long as it was");
    let records: Vec<_> = read.records().collect();
    assert!(records.len() <= capacity && records.iter().all(|(id, _)| (*id as usize) < capacity));
    assert!(records.iter().all(|(id, record)| read.read(*id) == Some(*record)));
    let free: Vec<u32> = read.free_numbers().collect();
    // Behind those that were ever used nobody looks: a look would take memory.
    let taken = |id: &u32| records.iter().any(|(taken, _)| taken == id);
    assert!(free.iter().all(|id| (*id as usize) < capacity && !taken(id)), "a number that is taken");
    let (header, read) = (read.header(), &read);
    assert!((1..=16).contains(&header.workers()));
    let _ = (header.secrets(), header.elapsed(), header.latest(), header.take_culprit(), header.asked());
    for worker in 0..header.workers() {
        let _ = (header.working_on(worker), header.accepting(worker), header.accepted(worker));
    }
    for (id, record) in &records {
        read.add(*id, record.bits);
        let _ = read.local(*id);
        read.free(*id);
        assert_eq!(read.read(*id), None);
    }
    let Some(Ok(read)) = again(&made).map(Checkpoint::open) else { return };
    let mut ledger = Ledger::new(Arc::new(read));
    let counters: [Shared<PortStats>; 2] = [ledger.open(7, 1), ledger.open(7, 2)];
    ledger.end_inheritance();
    drop(counters);
    let _: Shared<PortStats> = ledger.open(9, 1);
    drop(own);
}
