//! Where bytes leave the guests: host sockets, one per terminated connection or datagram flow, and cables (taps or packet
//! sockets), one per guest of a bridged network. Payload moves between the kernel and guest memory directly, through the checked iovecs of `vonic-queue`;
//! this crate holds no payload.
#![deny(unsafe_code)]

mod cable;
mod datagram;
mod error;
mod forward;
mod inherited;
mod link;
#[cfg(feature = "crash-points")]
pub mod mutation;
mod packet;
mod progress;
mod repair;
mod socket;
mod sys;
mod tap;

pub use cable::Cable;
pub use datagram::{DatagramError, DatagramSocket, Hops, OpenError, Received};
pub use error::UplinkError;
pub use forward::{Arrived, Local, UdpListener};
pub use inherited::{BoundTo, Inherited};
pub use link::LinkWatch;
pub use packet::Packet;
pub use progress::{Known, Origin, Peer, Progress, Stage};
pub use repair::{Agreed, Frozen, Parked, QUEUE_MAX, SaveError, SocketState, can_repair};
pub use socket::{Ahead, Connecting, HostSocket, PeekMode, Peeked, Room, Scratch, classify};
pub use sys::addresses::{AddressWatch, host_addresses};
pub use sys::limit::descriptor_limit;
pub use sys::listener::{Accepted, Listener, is_on_interface};
pub use tap::Tap;
