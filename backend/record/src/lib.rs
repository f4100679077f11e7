//! Checkpoint memory: the few facts about each connection that neither the kernel's counters nor the guest can tell the next
//! engine (ADR 0012).
//!
//! One sealed memfd holds a [header](Header) and [records](Record) of 128 bytes. The engine writes a record when a connection begins,
//! and a bit of it at its few turning points; nothing is written per segment. The master has the same memory mapped, and reads of it
//! only which descriptors are to be kept when an engine has died.
//!
//! Behind the records lie [counters](Ledger), which go on where they were.
//!
//! Several workers share it: each has numbers of its own for the records that it makes. One thread writes a record at a time. A record becomes visible by one store, so that whoever reads after a crash finds it whole or
//! not at all.

mod checkpoint;
mod header;
mod layout;
mod ledger;
mod record;
mod sync;
mod sys;
mod whom;

pub use checkpoint::{Checkpoint, FreeNumbers, FreshNumbers, RecordId};
pub use header::{CheckpointError, Header, OLDEST, Secrets, VERSION, WORKERS_MAX};
pub use ledger::{Counters, Ledger, name};
pub use record::{Bits, Kind, Local, Options, Record};
pub use sys::Shared;
pub use whom::{Whom, work_for};

/// What a VM is known as in a checkpoint; never 0.
pub fn vm_number(vm: &str) -> u64 {
    name(vm).max(1)
}
