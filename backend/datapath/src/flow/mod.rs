//! Terminated TCP connections: a leg towards the guest, a socket towards the host.
//!
//! `open` starts them, `guest_side` takes the guest's segments, `host_side` the socket's events, and `pump` sends to the
//! guest; `peer` finds out what the far end has acknowledged, and `draining` waits for the last of it. All of them end in the table's ready list, which the worker pumps once a
//! round: so a burst costs one ACK.
pub mod admission;
pub mod adoption;
pub mod challenge;
pub mod draining;
pub mod guest_side;
pub mod host_side;
pub mod mark;
pub mod names;
pub mod open;
pub mod patience;
pub mod peer;
pub mod policy;
pub mod pump;
pub mod ready;
pub mod records;
pub mod refusal;
pub mod resume;
pub mod resuming;
pub mod table;
pub mod travel;
pub mod usage;
