//! The limits that a guest can come up against, each with a counter of its own.

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What there was no more of. Every variant has a counter in [`PortStats`](crate::PortStats).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit { $($(#[$doc])* $name,)* }

        impl Limit {
            /// Every limit, in the order of the counter array.
            pub const ALL: [Limit; [$($text),*].len()] = [$(Limit::$name),*];

            /// The name in statistics; where there is one, the key's in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Limit::$name => $text,)* }
            }
        }
    };
}

limits! {
    /// Open connections.
    Connections = "connections",
    /// Handshakes in progress.
    Pending = "pending",
    /// Handshakes in progress towards one address and port.
    PendingPerDestination = "pending_per_destination",
    /// Flows of UDP: the least used one makes room.
    UdpFlows = "udp_flows",
    /// New connections and flows in a second.
    NewPerSecond = "new_per_second",
    /// Frames to groups in a second.
    GroupsPerSecond = "groups_per_second",
    /// Kicks of a ring in a row to which nothing was posted: the next are heard a millisecond later.
    Kicks = "kicks",
    /// Time for frames of which nothing was forwarded: the transmit queues rest.
    Unforwarded = "unforwarded",
    /// Connections to vonic's own service.
    Service = "service",
    /// Sockets that the host lets vonic have, for all guests together.
    Host = "host",
}

impl Limit {
    /// Whether a guest's SYN is answered by a reset. What is short for a moment only is kept silent about: the guest sends its
    /// SYN again after a second (RFC 6298 §2), and most likely gets in, while an application gives up at a reset.
    pub const fn refuses(self) -> bool {
        match self {
            Limit::Connections | Limit::Service | Limit::Host => true,
            Limit::Pending | Limit::PendingPerDestination | Limit::UdpFlows => false,
            Limit::NewPerSecond | Limit::GroupsPerSecond => false,
            Limit::Kicks | Limit::Unforwarded => false,
        }
    }
}
