//! What a message says of the guest as a whole.
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A group each of whose fields is told or absent.
macro_rules! group {
    ($(#[$what:meta])* $name:ident: $($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        $(#[$what])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub struct $name {
            $($(#[$doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }
    };
}

group! {
    /// TCP of both families: counters since the guest booted (RFC 4022, and the kernel's own), and its open connections.
    Tcp:
    /// Connections that are established now (CurrEstab).
    established: u64,
    /// Connections that the guest opened (ActiveOpens).
    opened: u64,
    /// Connections that were opened to it (PassiveOpens).
    accepted: u64,
    /// Connections that never got established (AttemptFails).
    failed: u64,
    /// Established connections that ended by a reset (EstabResets).
    reset: u64,
    /// Segments received (InSegs).
    segments_received: u64,
    /// Segments sent, without those sent again (OutSegs).
    segments_sent: u64,
    /// Segments sent again (RetransSegs).
    retransmitted: u64,
    /// Segments received with an error (InErrs).
    bad: u64,
    /// Resets sent (OutRsts).
    resets_sent: u64,
    /// Retransmission timeouts (TCPTimeouts).
    timeouts: u64,
    /// Segments sent again by fast retransmit (TCPFastRetrans).
    fast_retransmits: u64,
    /// Retransmitted segments that were lost again (TCPLostRetransmit).
    lost_retransmits: u64,
    /// SYNs sent again (TCPSynRetrans).
    syn_retransmits: u64,
    /// Connections that found a listener's queue full (ListenOverflows).
    listen_overflows: u64,
    /// Connections that a listener dropped, for that or another reason (ListenDrops).
    listen_drops: u64,
    /// The open connections themselves.
    sockets: Sockets,
}

group! {
    /// The guest's established connections, each looked at (sock_diag(7)).
    Sockets:
    /// How many were looked at.
    count: u64,
    /// Whether there are more.
    more: bool,
    /// The median of their round-trip times in microseconds, of those that have one.
    rtt_median_us: u64,
    /// 99 of 100 have one of at most so many microseconds.
    rtt_p99_us: u64,
    /// Segments that they have sent again.
    retransmitted: u64,
    /// How many of them are just now waiting for something that was sent again.
    retransmitting: u64,
}

group! {
    /// Processor time of all processors in milliseconds, and what the network does with it; since the guest booted.
    Cpu:
    /// Processors.
    processors: u64,
    /// All time but that in which there was nothing to do.
    busy_ms: u64,
    /// Time with nothing to do.
    idle_ms: u64,
    /// Of the busy time: in software interrupts, most of which are the network's.
    softirq_ms: u64,
    /// Of the busy time: in hardware interrupts.
    irq_ms: u64,
    /// Time that the hypervisor gave to others.
    steal_ms: u64,
    /// Software interrupts for receiving (NET_RX).
    net_rx: u64,
    /// Software interrupts for sending (NET_TX).
    net_tx: u64,
    /// Frames dropped since a processor's backlog was full.
    backlog_dropped: u64,
    /// Times that receiving stopped with work left, since its time or budget was up.
    squeezed: u64,
}

group! {
    /// Memory in bytes.
    Memory:
    /// All of it.
    total: u64,
    /// What programs could get without swapping.
    available: u64,
    /// Swap space.
    swap_total: u64,
    /// What of it is free.
    swap_free: u64,
    /// How much programs wait for memory.
    pressure: Pressure,
}

group! {
    /// Pressure stall information about memory (the kernel's /proc/pressure/memory).
    Pressure:
    /// Time in which at least one task waited.
    some: Stall,
    /// Time in which all tasks waited.
    full: Stall,
}

group! {
    /// Time that was lost to waiting.
    Stall:
    /// Its share of the last ten seconds, in hundredths of a percent.
    avg10_basis_points: u64,
    /// Its share of the last minute, in hundredths of a percent.
    avg60_basis_points: u64,
    /// Microseconds since the guest booted.
    total_us: u64,
}

group! {
    /// Tracked connections.
    Conntrack:
    /// How many there are.
    count: u64,
    /// How many there may be.
    most: u64,
}

/// Where programs listen, in both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Listening {
    /// TCP, as `0.0.0.0:22` or `[::]:22`.
    #[serde(default)]
    pub tcp: Vec<SocketAddr>,
    /// UDP sockets without a peer.
    #[serde(default)]
    pub udp: Vec<SocketAddr>,
    /// Whether there are more than these.
    #[serde(default)]
    pub more: bool,
}
