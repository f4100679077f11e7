//! Traffic for tests, on either side of a NIC: byte streams and datagrams in which every byte is checked, many short connections, raw frames.
//!
//! The program `vonic-peer` is a thin command line over this library; it is linked statically so that it runs in any guest.

pub mod application;
pub mod churn;
pub mod datagrams;
pub mod many;
pub mod packet;
pub mod pattern;
pub mod stream;
mod sys;

pub use sys::listen_to_all;
