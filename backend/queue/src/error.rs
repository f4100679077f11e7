//! Why a queue stopped.
use std::error::Error;
use std::fmt;

/// A fault of one queue's set-up or indices. Its blast radius is that queue: it stops alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// Not a power of two, zero, or more than 32768 (virtio 1.3 §2.7).
    BadSize(u16),
    /// An area that is not aligned as virtio 1.3 §2.7 asks, in guest memory or where the guest's memory is mapped.
    BadAlignment {
        /// The area: descriptors, available or used.
        what: &'static str,
        /// Its guest-physical address.
        address: u64,
    },
    /// An area that is not, as a whole, inside one region of guest memory.
    Unmapped {
        /// The area: descriptors, available or used.
        what: &'static str,
        /// Its guest-physical address.
        address: u64,
    },
    /// The available index says that more chains are outstanding than the queue has descriptors.
    AvailableIndex {
        /// The index that was read.
        index: u16,
        /// The position up to which chains have been fetched.
        last: u16,
        /// The queue's size in descriptors.
        size: u16,
    },
    /// The available ring names a descriptor outside the table.
    BadHead {
        /// The descriptor index that was read.
        head: u16,
        /// The queue's size in descriptors.
        size: u16,
    },
    /// The call descriptor blocks whoever writes it: its VMM has cleared O_NONBLOCK and does not read it.
    CallBlocks,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueError::BadSize(size) => write!(f, "queue size {size} is not a power of two up to 32768"),
            QueueError::BadAlignment { what, address } => write!(f, "{what} area at {address:#x} is not aligned"),
            QueueError::Unmapped { what, address } => write!(f, "{what} area at {address:#x} is not in guest memory"),
            QueueError::AvailableIndex { index, last, size } => {
                write!(f, "available index {index} is more than {size} chains ahead of {last}")
            }
            QueueError::CallBlocks => write!(f, "its call descriptor blocks whoever signals it"),
            QueueError::BadHead { head, size } => write!(f, "available ring names descriptor {head} of {size}"),
        }
    }
}

impl Error for QueueError {}
