//! Terminated datagram flows: a guest's datagrams between one of its ends and one end in the world, and how they leave the host.
//!
//! There is no connection to open or close: a flow begins with a datagram, the guest's or by a `forward` the world's, and ends
//! when there was silence for a time, or sooner to make room. `table` holds the flows, `class` says how long each may be silent,
//! `open` begins and ends them, `send` gives a guest's datagram to the host, `pump` brings what their sockets receive to the
//! guest, `errors` tells it what became of what it sent, what the kinds of datagrams differ in is in `echo` (ICMP) and `udp`,
//! `resume` has flows go on when the engine has died, and `travel` on another host.
pub mod class;
pub mod echo;
pub mod errors;
pub mod forward;
pub(crate) mod fragmenter;
pub(crate) mod fragments;
pub mod landing;
pub mod names;
pub mod open;
pub mod pump;
pub(crate) mod reassembly;
mod resume;
pub mod send;
pub mod table;
pub mod travel;
pub mod udp;

use crate::limit::Limit;
use crate::spec::{Limits, PortId};
use crate::stats::PortStats;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use vonic_frame::{Envelope, MacAddr, PROTOCOL_ICMP, PROTOCOL_UDP};
use vonic_queue::IoVecs;
use vonic_record::RecordId;
use vonic_tcp::Instant;
use vonic_uplink::{DatagramSocket, Hops, Local, UdpListener};

/// Bytes of a datagram's own header, ICMP's or UDP's: both have eight (RFC 792, RFC 768).
pub const HEADER_LEN: usize = 8;

/// What kind of datagrams a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ICMP echo. A flow is one identifier of the guest's towards one address.
    Echo,
    /// UDP.
    Udp,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 2] = [Kind::Echo, Kind::Udp];

    /// How many flows one guest has at most; a new one takes the place of the least used.
    pub const fn most(self, limits: &Limits) -> u32 {
        match self {
            Kind::Echo => 64,
            Kind::Udp => limits.udp_flows,
        }
    }

    /// The number by which rules know it: ICMP is one protocol to them, in either family.
    pub const fn protocol(self) -> u8 {
        match self {
            Kind::Echo => PROTOCOL_ICMP,
            Kind::Udp => PROTOCOL_UDP,
        }
    }

    /// Counts a flow that begins.
    fn opened(self, stats: &PortStats, by_guest: bool) {
        match self {
            Kind::Echo => &stats.icmp.opened,
            Kind::Udp if by_guest => &stats.udp.guest_opened,
            Kind::Udp => &stats.udp.world_opened,
        }
        .add(1);
        self.resumed(stats);
    }

    /// Counts one more flow that there is.
    fn resumed(self, stats: &PortStats) {
        match self {
            Kind::Echo => &stats.icmp.open,
            Kind::Udp => &stats.udp.open,
        }
        .add(1);
    }

    /// Counts a flow that ends.
    fn closed(self, stats: &PortStats) {
        match self {
            Kind::Echo => stats.icmp.one_closed(),
            Kind::Udp => stats.udp.one_closed(),
        }
    }

    /// Counts a flow that makes room for another one.
    fn evicted(self, stats: &PortStats) {
        match self {
            Kind::Echo => &stats.icmp.evicted,
            Kind::Udp => {
                stats.limited(Limit::UdpFlows);
                &stats.udp.evicted
            }
        }
        .add(1);
    }

    /// Counts an ICMP error that the guest gets.
    fn told(self, stats: &PortStats) {
        match self {
            Kind::Echo => &stats.icmp.errors,
            Kind::Udp => &stats.udp.errors,
        }
        .add(1);
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

/// How a flow's datagrams leave the host.
pub enum Far {
    /// By a socket of the flow's own, connected.
    Own(DatagramSocket),
    /// By the socket of a forward, from the address that the peer had sent to.
    Forward {
        /// The socket, which all peers share.
        listener: Arc<UdpListener>,
        /// The address.
        local: Local,
    },
}

impl Far {
    /// The flow's own socket, if it has one.
    fn own(&self) -> Option<&DatagramSocket> {
        match self {
            Far::Own(socket) => Some(socket),
            Far::Forward { .. } => None,
        }
    }

    /// Sends one datagram to `to`, straight from guest memory.
    fn send(&mut self, hops: Hops, vecs: &IoVecs<'_>, to: SocketAddr) -> io::Result<()> {
        match self {
            Far::Own(socket) => socket.send(hops, vecs),
            Far::Forward { listener, local } => listener.send(hops, vecs, to, *local),
        }
    }
}

/// A guest's datagram, as an ICMP error about it has to quote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// Its first eight bytes behind the IP header: a UDP header, or an echo's.
    pub header: [u8; HEADER_LEN],
    /// Bytes behind its IP header.
    pub len: u32,
}

/// What went one way on a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams.
    pub datagrams: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

impl Tally {
    fn count(&mut self, bytes: u32) {
        self.datagrams += 1;
        self.bytes += u64::from(bytes);
    }
}

/// One flow.
pub struct Datagram {
    /// Its ends.
    pub key: Key,
    /// How it leaves the host.
    pub far: Far,
    /// The other end, as the host sees it.
    pub host: SocketAddr,
    /// When it began.
    pub opened: Instant,
    /// What the guest has sent.
    pub sent: Tally,
    /// What the guest has got.
    pub received: Tally,
    /// The guest's last datagram.
    pub last: Quote,
    /// The length of the guest's longest one, behind its IP header.
    pub longest: u32,
    /// What the way to the other end was last found to take in bytes, with the IP header; 0: not known.
    pub mtu: u32,
    /// Errors may wait at the socket.
    pub failed: bool,
    /// In the port's list of flows without buffers.
    pub starved: bool,
    /// Both sides spoke on it while another engine had it.
    pub was_stream: bool,
    /// Its place in the checkpoint.
    pub record: Option<RecordId>,
}

impl Datagram {
    /// A flow on which nothing was said yet.
    fn new(key: Key, far: Far, host: SocketAddr, now: Instant) -> Datagram {
        Datagram {
            key,
            far,
            host,
            opened: now,
            sent: Tally::default(),
            received: Tally::default(),
            last: Quote::default(),
            longest: 0,
            mtu: 0,
            failed: false,
            starved: false,
            was_stream: false,
            record: None,
        }
    }
}
