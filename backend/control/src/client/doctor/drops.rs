//! What dropped frames mean to an operator, by reason: to `vonic doctor`, and in the manual, whose table is made of this.
use vonic_frame::DropReason;
use vonic_frame::DropReason as R;

use super::finding::Level;

/// What one reason means. The texts begin small and end without a dot; code stands between backticks.
pub struct Meaning {
    /// The reason; `None` of one that this vonic does not know.
    pub reason: Option<DropReason>,
    pub(super) level: Level,
    /// What has happened.
    pub what: &'static str,
    /// What to do about it.
    pub mend: &'static str,
    /// Where the manual has more.
    pub more: Option<&'static str>,
}

impl Meaning {
    /// What the reason means whose name in the API this is. A later vonicd may have others.
    pub(super) fn of(name: &str) -> &'static Meaning {
        const LATER: &Meaning =
            &Meaning { reason: None, ..note(R::NoRoom, "a reason of a later version", "see its documentation") };
        MEANINGS.iter().find(|meaning| meaning.reason.is_some_and(|reason| reason.name() == name)).unwrap_or(LATER)
    }

    const fn more(self, more: &'static str) -> Meaning {
        Meaning { more: Some(more), ..self }
    }
}

/// Frames like these are no fault where they are few.
const fn note(reason: DropReason, what: &'static str, mend: &'static str) -> Meaning {
    Meaning { reason: Some(reason), level: Level::Note, what, mend, more: None }
}

/// Somebody or something is at fault.
const fn warning(reason: DropReason, what: &'static str, mend: &'static str) -> Meaning {
    Meaning { level: Level::Warning, ..note(reason, what, mend) }
}

const DRIVER: &str = "the guest's driver is broken or hostile: update the guest's kernel, or stop the guest";
const SENDER: &str = "the sender is broken or hostile: find out in the guest what sends this; it goes no further";

/// Every reason, in the order of [`DropReason::ALL`].
pub static MEANINGS: [Meaning; DropReason::COUNT] = [
    warning(R::ChainTooLong, "a descriptor chain with more descriptors than may be, or a loop", DRIVER),
    warning(R::BadDescriptor, "a descriptor index outside of the ring's table", DRIVER),
    warning(
        R::BadAddress,
        "a descriptor that points outside of the guest's memory",
        "after memory was unplugged the driver still uses it; else it is broken or hostile: update the guest's kernel, or stop the guest",
    ),
    warning(
        R::BadIndirect,
        "a table of indirect descriptors of a wrong size or place",
        "`features = { indirect = false }` in the VM's file works around a broken driver; else update the guest's kernel, or stop the guest",
    ),
    warning(R::WrongDirection, "a buffer to be written where one to be read belongs, or the other way round", DRIVER),
    note(R::Truncated, "a frame that is shorter than its own headers say", SENDER),
    warning(
        R::Oversized,
        "a frame that is longer than the VM's `mtu`, or than the interface behind the uplink takes",
        "give the guest's interface the MTU of the VM's file (`mtu`), and the uplink at least that",
    )
    .more("many-hosts.md#mtu"),
    warning(
        R::BadVnetHeader,
        "a virtio-net header that contradicts itself, or asks for offloads that were not negotiated",
        "the driver is broken: switch the feature off (`features` in the VM's file), or update the guest's kernel",
    ),
    note(R::BadHeader, "an IP, TCP, UDP, ICMP or ARP header that contradicts itself", SENDER),
    note(
        R::BadChecksum,
        "a wrong checksum, or none for UDP over IPv6",
        "the guest offloads what it has not negotiated, or forwards damaged packets",
    ),
    warning(
        R::SpoofedMac,
        "the source MAC is not the VM's",
        "`mac` of the VM's file has to be the one that the VMM gives the card; a bridge or VMs inside of the guest cannot have MACs of \
         their own",
    ),
    warning(
        R::SpoofedAddress,
        "the source address is not the guest's",
        "compare `ip addr` in the guest with `address4` and `address6` of the VM's file; containers and VMs inside need addresses \
         translated in the guest",
    ),
    warning(
        R::SpoofedArp,
        "an ARP message that claims somebody else's MAC or address",
        "compare `ip addr` in the guest with `address4` of the VM's file; else the guest tries to take another one's place",
    ),
    warning(
        R::SpoofedNdp,
        "a message of IPv6's neighbour discovery that claims somebody else's MAC or address",
        "compare `ip addr` in the guest with `address6` of the VM's file; else the guest tries to take another one's place",
    ),
    warning(
        R::RogueServer,
        "the guest speaks as a DHCP server or as a router",
        "switch that off in the guest (dnsmasq, radvd); it reaches nobody",
    ),
    note(R::VlanTagged, "a frame with a VLAN's tag", "send it untagged; instead of a VLAN give the VM a network of its own"),
    note(
        R::UnknownDestination,
        "nobody on the network has that MAC",
        "mostly a neighbour that has gone: it ends when caches expire",
    ),
    note(R::Isolated, "from guest to guest of a network that is `isolated`", "nothing, or `isolated = false`"),
    warning(
        R::NoRoom,
        "the receiving guest posts no receive buffers in time",
        "the guest is too busy, or stands still: look at its console; give it more processor time, longer rings (the VMM's queue size, \
         `ethtool -G` in the guest) or `queue_pairs = 2`",
    ),
    warning(R::SmallBuffer, "the guest posted a buffer that no frame fits in", DRIVER),
    note(
        R::PortDown,
        "the destination's device is not started",
        "nothing, while its guest boots; else it is off, or its driver unloaded",
    ),
    note(
        R::QueueDisabled,
        "sent on a queue that the VMM has switched off",
        "nothing, while the guest changes the number of its queues; else the driver is broken",
    ),
    warning(
        R::UplinkDown,
        "the network's bridge or interface, or the guest's tap or socket at it, is not there",
        "see `uplink` of `vonic vm show`, and put it up; it is found again by itself",
    ),
    warning(
        R::UplinkFull,
        "the tap or the interface takes no more",
        "the network behind it is slower than the guest, to which TCP adapts: look at its queue (`tc -s qdisc`), or give it a longer \
         `txqueuelen`",
    ),
    warning(
        R::UplinkOverflow,
        "more came for the guest than the kernel keeps for its packet socket (4 MiB)",
        "the guest is too slow for what comes: give it more processor time. Without CAP_NET_ADMIN the kernel keeps less, which `vonic vm \
         show` says: raise `net.core.rmem_max`",
    ),
    note(
        R::Unsupported,
        "a protocol that the uplink does not carry: with `sockets` all but TCP, UDP and ping, and what is for groups",
        "nothing, or a bridged network (`uplink = \"tap:BRIDGE\"`) if guests need it",
    ),
    note(
        R::Fragment,
        "a fragment that is no use: of TCP, overlapping, or of a datagram that is never complete",
        "a few are the network's; many are a wrong MTU in the guest, or an attack",
    ),
    note(
        R::Denied,
        "a destination that no guest may have, or that an egress rule denies",
        "nothing, or a rule that allows it; `vonic vm show` counts by rule, and `never` and `no_rule`",
    )
    .more("config.md#egress"),
    note(
        R::NoConnection,
        "a segment of a connection that is not there; the guest gets a reset",
        "nothing, after a restart of vonicd or of either end",
    ),
    warning(
        R::Limit,
        "a limit of the VM was reached",
        "`vonic vm show` says which: raise it in the VM's file, or find out who opens so many, or sends so much to groups",
    )
    .more("config.md#limits"),
    warning(
        R::NotPermitted,
        "the host does not let vonic do it: ping sockets",
        "as root: `sysctl net.ipv4.ping_group_range=\"0 2147483647\"`",
    )
    .more("config.md#what-the-host-may-refuse"),
    warning(
        R::HostBusy,
        "the host's socket took nothing: its queue is full",
        "the host's network is slower than the guest's datagrams: look at its interfaces",
    ),
    warning(
        R::WorkerBusy,
        "the worker of the destination did not take it in time",
        "give vonicd more processors, and no more `workers` than those; `worker = N` puts VMs that talk much together",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_to_do() {
        for (known, meaning) in DropReason::ALL.iter().zip(&MEANINGS) {
            let Meaning { reason, level, what, mend, .. } = meaning;
            assert_eq!(*reason, Some(*known), "in this order");
            assert!(matches!(level, Level::Note | Level::Warning));
            for text in [what, mend] {
                assert!(!text.is_empty() && !text.ends_with('.') && !text.contains('|'), "{text}");
                assert!(text.matches('`').count().is_multiple_of(2), "{text}");
            }
            assert_eq!(Meaning::of(known.name()).reason, Some(*known));
        }
        assert_eq!(Meaning::of("of_a_later_version").reason, None);
    }
}
