//! The master in this process, with the engine's real sessions behind it, and VMMs that are these tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod conduct;
mod hostile;
mod migration;
mod support;
mod traces;
