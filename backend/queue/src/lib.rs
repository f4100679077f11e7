//! Guest memory and the split virtqueue, device side (virtio 1.3 §2.7).
//!
//! A [`SplitRing`] resolves its three areas once and fetches descriptor chains into a [`Burst`]: a list of heads and of
//! checked segments of guest memory; or passes them on to another ring at once ([`pass_posted`]). Completion is a used entry per chain and one store of the used index per burst.
//!
//! What holds everywhere in this crate:
//!
//! * The guest may change its memory at any time, also while it is read: each index and each descriptor is read exactly
//!   once per decision, and no Rust reference to guest bytes is ever made.
//! * A segment lives no longer than the [`MemoryMap`] in which it was found: the burst keeps that map.
//! * No core dump has guest memory, a VMM's log or [`Undumped`] bytes.
//! * After construction nothing allocates, locks or logs.
//! * While a VMM keeps a log of its guest's memory ([`DirtyLog`]), the driver sees nothing that is not in the log.
//! * Payload is copied in one file, by [`copy_payload`], [`pass_payload`], [`pass_posted`], [`move_payload`] and [`keep_payload`], and counted there.

mod burst;
mod chain;
mod dirty;
mod error;
mod gather;
mod handover;
mod iovec;
mod payload;
mod ring;
mod setup;
mod slots;
mod sys;

pub use burst::{Burst, Chain};
pub use error::QueueError;
pub use gather::{Gather, Gathering, Part};
pub use handover::{Done, Waiter, handover};
pub use iovec::IoVecs;
pub use payload::{Passed, Terms, copy_payload, keep_payload, move_payload, pass_payload, pass_posted};
pub use ring::SplitRing;
pub use setup::{ControlChain, Direction, RingSetup};
pub use sys::{DirtyLog, FRONT, Front, Held, MemoryMap, Pattern, Undumped, call, drain, survive_truncation};
