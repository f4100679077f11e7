//! The queue seen from outside: against virtio-queue, against simple models, and against guests that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod bursts;
mod concurrent;
mod control;
mod differential;
mod dirty;
mod dumps;
mod exhaustive;
mod guest;
mod handover;
mod malformed;
mod passing;
mod payload;
mod setup;
mod truncation;
mod wrap;
