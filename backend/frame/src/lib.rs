//! Frames as vonic reads and writes them: headers, checksums, virtio-net header, drop reasons.
//!
//! Everything here is a value made from bytes that were copied once: nothing refers to guest memory.
#![forbid(unsafe_code)]

mod mac;
mod reason;

pub use mac::MacAddr;
pub use reason::DropReason;
