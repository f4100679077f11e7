//! The master in this process, with the engine's real sessions behind it, and VMMs that are these tests.

mod conduct;
mod hostile;
mod support;
mod traces;
