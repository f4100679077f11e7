//! The atomics of [`agreement`](crate::agreement): where that is modelled, they are loom's.
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
