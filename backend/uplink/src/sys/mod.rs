//! System calls. Every unsafe block of the crate is here.
pub mod addresses;
pub mod datagram;
pub mod limit;
pub mod listener;
pub mod tcp;
