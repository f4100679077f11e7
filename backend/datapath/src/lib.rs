//! The data path: one worker owns whole ports, with their rings, connections and sockets.
//!
//! A frame's way: `worker::ingress` fetches and checks it, `switch` decides, and it ends in another port (`offload`,
//! `port`), in a `service`, in a connection (`flow`), or in a `datagram` flow. No lock, no allocation and no logging per frame.
#![forbid(unsafe_code)]

mod command;
mod datagram;
mod flow;
mod offload;
mod port;
mod ring;
mod service;
mod spec;
mod stats;
mod switch;
mod worker;

pub use command::{Command, ConnectionView, Notice, RingCommand};
pub use port::feature;
pub use spec::{Action, EgressRule, ForwardSpec, HostView, Limits, NetworkId, NetworkSpec, PortId, PortSpec};
pub use stats::{CopyPath, Counter, IcmpStats, PortStats, TcpStats, Way};
pub use worker::{Notify, Poll, Worker, WorkerConfig, WorkerHandle};
