//! System calls. Every unsafe block of the crate is here.
pub mod addresses;
pub mod datagram;
pub mod forward;
pub mod limit;
pub mod listener;
pub mod local;
pub mod netlink;
pub mod packet;
pub mod repair;
pub mod tap;
pub mod tcp;
