//! Checkpoint memory: the few facts about each connection that neither the kernel's counters nor the guest can tell the next
//! engine (ADR 0012).
//!
//! One sealed memfd holds a [header](Header) and [records](Record) of 128 bytes. The engine writes a record when a connection begins,
//! and a bit of it at its few turning points; nothing is written per segment. The master has the same memory mapped, and reads of it
//! only which descriptors are to be kept when an engine has died.
//!
//! One thread writes a record at a time. A record becomes visible by one store, so that whoever reads after a crash finds it whole or
//! not at all.

mod checkpoint;
mod header;
mod layout;
mod record;
mod sys;

pub use checkpoint::{Checkpoint, RecordId};
pub use header::{CheckpointError, Header, OLDEST, Secrets, VERSION, WORKERS_MAX};
pub use record::{Bits, Kind, Options, Record};

/// What a VM is known as in a checkpoint: FNV-1a of its name, which every version computes alike; never 0.
pub fn vm_number(name: &str) -> u64 {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    std::cmp::max(hash, 1)
}
