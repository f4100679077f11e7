//! vonic's own service for guests: HTTP/1.1 on the service address, on one thread of its own.
//!
//! A connection comes from the worker as a Unix stream together with the VM whose port it arrived on; who a guest is stands nowhere
//! in what it sends. Nothing that a guest sends holds up or fills anybody else: a VM has eight places, a pace, and deadlines, and of
//! its messages only the last one is kept.
mod connections;
mod events;
mod listening;
mod nic;
mod query;
mod question;
mod routes;
mod server;
mod state;
mod tree;

pub use question::{Asker, Question};
pub use server::{Host, Service};
pub use state::{Guest, Report};
