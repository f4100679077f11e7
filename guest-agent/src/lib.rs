//! What `vonic-agent` in a guest and vonic on the host say to each other.
//!
//! The agent speaks HTTP/1.1 to the service address, which vonic itself answers. It needs no secret: vonic knows the guest by the
//! port of its switch on which the connection arrives, and believes nothing else that the message says about who sent it.
#![forbid(unsafe_code)]

pub mod connection;
pub mod message;
pub mod metadata;
pub mod nic;
