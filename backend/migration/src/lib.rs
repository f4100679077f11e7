//! What a guest's port takes along to another host, as a stream of bytes (ADR 0013).
//!
//! [`PortState`] is plain data of today's shape. [`Stream`] is what was written, in one of the versions there ever were: an old one is read for
//! ever, and made into today's; a newer one is refused by name. Reading allocates no more than there are bytes, whatever lengths are
//! claimed, and gives the whole or nothing.
#![forbid(unsafe_code)]

mod header;
mod section;
mod state;
mod stream;
mod v1;

pub use header::{Header, StreamError, VERSION};
pub use state::{DatagramState, FlowState, Identity, PortState};
pub use stream::{Stream, write};
