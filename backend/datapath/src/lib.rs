//! The data path: one worker owns whole ports, with their rings, connections and sockets.
//!
//! A frame's way: `worker::ingress` fetches and checks it, `switch` decides, and it ends in another port (`offload`,
//! `port`), in a `service`, in a connection (`flow`), in a `datagram` flow, or in the uplink (`bridged`). No lock, no allocation and
//! no logging per frame.
#![forbid(unsafe_code)]

mod bridged;
mod command;
#[doc(hidden)]
pub mod crash;
mod custody;
mod datagram;
mod flow;
mod keyed;
mod limit;
mod notification;
mod offload;
mod port;
mod queues;
mod ring;
mod service;
mod spec;
mod stats;
mod steering;
mod switch;
mod worker;

pub use command::{Command, ConnectionView, GuestLog, ListPart, ListPlace, Notice, Reply, RingCommand};
pub use datagram::travel::{ArrivingDatagrams, Traveller};
pub use flow::travel::{Arriving, Bound, Departure, Leaving};
pub use flow::usage::ServicePlace;
pub use limit::Limit;
pub use notification::{Batch, Notification, Notifications, Notifier, What, notifications};
pub use port::{Negotiated, feature};
pub use queues::{QUEUE_PAIRS_MAX, queue_direction};
pub use spec::{
    Action, EgressRule, Family, ForwardSocket, ForwardSpec, HostView, Limits, Names, NetworkId, NetworkSpec, PortId,
    PortSpec, Uplink,
};
pub use stats::{Copied, CopyPath, Counter, EgressStats, IcmpStats, PortStats, TcpStats, UdpStats, Way};
pub use vonic_tcp::AckPolicy;
pub use worker::{Notify, Poll, Waker, Worker, WorkerConfig, WorkerHandle};
