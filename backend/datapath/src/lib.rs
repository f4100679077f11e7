//! The data path: one worker owns whole ports, with their rings, connections and sockets.
//!
//! A frame's way: `worker::ingress` fetches and checks it, `switch` decides, and it ends in another port (`offload`,
//! `port`), in a `service`, in a connection (`flow`), in a `datagram` flow, or in the uplink (`bridged`). No lock, no allocation and
//! no logging per frame.
#![forbid(unsafe_code)]

mod agreement;
mod bridged;
mod calls;
mod capture;
mod coalescing;
mod command;
#[doc(hidden)]
pub mod crash;
mod custody;
mod datagram;
mod exchange;
mod express;
mod flow;
mod histogram;
mod keyed;
mod kicks;
mod limit;
mod notification;
mod offload;
mod port;
mod queues;
mod recall;
mod receive_filter;
mod ring;
mod service;
mod shares;
mod spec;
mod stats;
mod steering;
mod switch;
mod sync;
mod worker;

pub use calls::CallPolicy;
pub use capture::{CaptureCounts, CaptureReader, CaptureSpec, Captured, Capturer, Filter, capture};
pub use coalescing::{Coalesce, CoalesceStats};
pub use command::{Command, ConnectionView, GuestLog, ListPart, ListPlace, Notice, Reply, RingCommand};
pub use datagram::travel::{ArrivingDatagrams, Traveller};
pub use flow::travel::{Arriving, Bound, Departure, Leaving};
pub use flow::usage::ServicePlace;
pub use histogram::Histogram;
pub use limit::Limit;
pub use notification::{Batch, Notification, Notifications, Notifier, What, notifications};
pub use port::{Negotiated, feature};
pub use queues::{QUEUE_PAIRS_MAX, queue_direction};
pub use shares::TURN_US;
pub use spec::{
    Action, EgressRule, Family, ForwardSocket, ForwardSpec, HostView, Limits, Member, Names, NetworkId, NetworkSpec,
    PortId, PortSpec, Uplink,
};
pub use stats::{Copied, CopyPath, Counter, EgressStats, IcmpStats, PortStats, TcpStats, UdpStats, Way};
pub use vonic_tcp::AckPolicy;
pub use worker::{Notify, Poll, Waker, Worker, WorkerConfig, WorkerHandle, connections_max};
