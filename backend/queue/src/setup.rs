//! What a ring is told at its start, and what it tells of a chain.
use vonic_frame::DropReason;

/// Where a ring lies and how it notifies. Addresses are guest-physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// Descriptors: a power of two up to 32768.
    pub size: u16,
    /// The descriptor table, aligned to 16.
    pub descriptors: u64,
    /// The available ring, aligned to 2.
    pub available: u64,
    /// The used ring, aligned to 4.
    pub used: u64,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
}

/// Which way the buffers of a ring carry frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest's transmit queue: buffers that the device reads.
    GuestToHost,
    /// The guest's receive queue: buffers that the device writes.
    HostToGuest,
    /// The control queue: buffers that the device reads, then buffers for its answer. Its chains come by
    /// [`fetch_control`](crate::SplitRing::fetch_control).
    Control,
}

/// A chain of the control queue, the only one in its burst: what the device reads, and behind it what it may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlChain {
    /// The descriptor index by which the chain is returned.
    pub head: u16,
    /// Bytes that the device reads; 0 with a fault.
    pub readable: u32,
    /// Bytes that the device may write, at the offset `readable` of the chain; 0 with a fault.
    pub writable: u32,
    /// Why the chain must go back with length 0.
    pub fault: Option<DropReason>,
}
