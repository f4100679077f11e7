//! Why a frame went no further. One counter per reason and port; nothing is logged per frame.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why one frame, or one descriptor chain, was dropped. The blast radius of each is that frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in statistics and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// The reason's place in a counter array of [`DropReason::COUNT`] entries.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    /// A descriptor chain with more descriptors than the cap, or a loop.
    ChainTooLong = "chain_too_long",
    /// A descriptor index outside the table.
    BadDescriptor = "bad_descriptor",
    /// A descriptor that points outside guest memory.
    BadAddress = "bad_address",
    /// An indirect table of a wrong size, nested, or outside guest memory (virtio 1.3 §2.7.5.3).
    BadIndirect = "bad_indirect",
    /// A device-writable descriptor where a readable one belongs, or the other way round.
    WrongDirection = "wrong_direction",
    /// Shorter than its virtio-net and Ethernet headers, or than a length in its own headers.
    Truncated = "truncated",
    /// Longer than a frame may be.
    Oversized = "oversized",
    /// A virtio-net header that breaks virtio 1.3 §5.1.6.2, or asks for a feature not negotiated.
    BadVnetHeader = "bad_vnet_header",
    /// An IP, TCP, UDP, ICMP or ARP header that contradicts itself.
    BadHeader = "bad_header",
    /// A wrong checksum.
    BadChecksum = "bad_checksum",
    /// A source MAC address that is not the guest's own.
    SpoofedMac = "spoofed_mac",
    /// A source IP address that is not the guest's own.
    SpoofedAddress = "spoofed_address",
    /// An ARP message in which the guest claims a MAC or IP address that is not its own.
    SpoofedArp = "spoofed_arp",
    /// A message of neighbour discovery in which the guest claims a MAC or IPv6 address that is not its own.
    SpoofedNdp = "spoofed_ndp",
    /// A DHCP server's message, a router advertisement or a redirect from a guest.
    RogueServer = "rogue_server",
    /// A VLAN-tagged frame.
    VlanTagged = "vlan_tagged",
    /// A unicast destination that nobody on the network has.
    UnknownDestination = "unknown_destination",
    /// Guest to guest on an isolated network.
    Isolated = "isolated",
    /// No buffer posted in the destination's ring, or none large enough.
    NoRoom = "no_room",
    /// A posted buffer that can hold no frame, returned empty.
    SmallBuffer = "small_buffer",
    /// The destination guest's device is not started.
    PortDown = "port_down",
    /// Sent on a queue that the VMM has disabled while others of the device run.
    QueueDisabled = "queue_disabled",
    /// The network's bridge or interface, or the guest's tap or packet socket at it, is not there.
    UplinkDown = "uplink_down",
    /// The guest's tap, or its packet socket's interface, took no more.
    UplinkFull = "uplink_full",
    /// Came while the kernel held as much for the guest as its packet socket has room for.
    UplinkOverflow = "uplink_overflow",
    /// A protocol that the network's uplink does not carry.
    Unsupported = "unsupported",
    /// A fragment of an IP datagram on the terminated path.
    Fragment = "fragment",
    /// A destination that no guest may reach, or that egress rules deny.
    Denied = "denied",
    /// A segment that belongs to no connection.
    NoConnection = "no_connection",
    /// A connection limit of the VM was reached.
    Limit = "limit",
    /// The host does not let vonic do it: a ping socket outside of net.ipv4.ping_group_range.
    NotPermitted = "not_permitted",
    /// The host's socket took nothing: its queue is full.
    HostBusy = "host_busy",
    /// The worker that has the destination's port did not take it in time, or had no room for more.
    WorkerBusy = "worker_busy",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_place_in_all_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(r.index(), i);
            assert!(names.insert(r.name()));
        }
    }
}
