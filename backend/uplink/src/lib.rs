//! Where bytes leave the guests: host sockets, one per terminated connection or datagram flow. Payload moves between the kernel and guest
//! memory directly, through the checked iovecs of `vonic-queue`; this crate holds no payload.
#![deny(unsafe_code)]

mod datagram;
mod socket;
mod sys;

pub use datagram::{DatagramError, DatagramSocket, Hops, OpenError, Received};
pub use socket::{Connecting, HostSocket, PeekMode, Room, Scratch, classify};
pub use sys::addresses::{AddressWatch, host_addresses};
pub use sys::limit::descriptor_limit;
pub use sys::listener::{Accepted, Listener};
