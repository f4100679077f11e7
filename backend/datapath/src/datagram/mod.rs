//! Terminated datagram flows: a guest's datagrams from one of its ends to one destination, and a host socket of their own.
//!
//! There is no connection to open or close: a flow begins with a guest's datagram and ends when the guest has been silent for
//! a time, or sooner to make room. `table` holds the flows, `open` begins and ends them, `pump` brings what their sockets
//! receive to the guest, and each kind of datagram has a file of its own: `echo` (ICMP).
pub mod echo;
pub(crate) mod fragmenter;
pub(crate) mod fragments;
pub mod open;
pub mod pump;
pub(crate) mod reassembly;
pub mod table;

use crate::spec::PortId;
use std::net::SocketAddr;
use std::time::Duration;
use vonic_frame::{Envelope, MacAddr};
use vonic_tcp::Instant;
use vonic_uplink::DatagramSocket;

/// What kind of datagrams a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ICMP echo. A flow is one identifier of the guest's towards one address.
    Echo,
}

impl Kind {
    /// Every kind, in the order of the table's lists.
    pub const ALL: [Kind; 1] = [Kind::Echo];

    /// How long the guest may be silent: half a minute after its last ping nobody waits for a reply.
    pub const fn idle(self) -> Duration {
        match self {
            Kind::Echo => Duration::from_secs(30),
        }
    }

    /// How many flows one guest has at most; the one that has been silent for the longest time makes room for a new one.
    pub const fn most(self) -> u32 {
        match self {
            Kind::Echo => 64,
        }
    }
}

/// A flow as its guest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// What it carries.
    pub kind: Kind,
    /// The guest's port of the switch.
    pub port: PortId,
    /// The guest's end. In place of a port an echo has its identifier.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it. An echo's has port 0.
    pub remote: SocketAddr,
}

impl Key {
    /// The addresses of a frame from the other end to the guest, whose MAC is `guest`.
    pub fn envelope(&self, gateway: MacAddr, guest: MacAddr) -> Envelope {
        Envelope { src_mac: gateway, dst_mac: guest, src: self.remote.ip(), dst: self.guest.ip() }
    }
}

/// One flow.
pub struct Datagram {
    /// Its ends.
    pub key: Key,
    /// The host's socket.
    pub socket: DatagramSocket,
    /// Where the host's socket leads.
    pub host: SocketAddr,
    /// Bytes of the guest's last datagram behind its IP header.
    pub last_len: u32,
    /// The most that there were of those so far.
    pub largest: u32,
    /// Errors may wait at the socket.
    pub failed: bool,
    /// In the port's list of flows without buffers.
    pub starved: bool,
    /// Until when it waits for as many buffers as a large datagram takes.
    pub short: Option<Instant>,
}
