//! The atomics of [`record`](crate::record): where that is modelled, they are loom's.
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
