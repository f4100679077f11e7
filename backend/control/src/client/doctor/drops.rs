//! What dropped frames mean to an operator, by reason.
use vonic_frame::DropReason;

use super::finding::Level;

/// What one reason means.
pub(super) struct Meaning {
    pub level: Level,
    pub what: &'static str,
    pub mend: &'static str,
}

const DRIVER: &str = "the guest's driver is broken or hostile: update the guest's kernel, or stop the guest";
const GUEST: &str = "find out in the guest what sends this; frames like these never go further";

/// What a reason means, and what to do about it. Every new one has to say so.
pub(super) fn meaning(reason: DropReason) -> Meaning {
    use DropReason as R;
    use Level::{Note, Warning};
    let (level, what, mend) = match reason {
        R::ChainTooLong | R::BadDescriptor | R::BadAddress | R::BadIndirect | R::WrongDirection => {
            (Warning, "the guest's rings hold what no driver should write", DRIVER)
        }
        R::SmallBuffer => (Warning, "the guest offers buffers that can hold no frame", DRIVER),
        R::BadVnetHeader => (Warning, "the guest asks for offloads that it has not negotiated", DRIVER),
        R::Truncated | R::BadHeader | R::BadChecksum => (Note, "frames that contradict themselves", GUEST),
        R::Oversized => (
            Warning,
            "frames longer than the MTU",
            "give the guest's interface the MTU of the VM's file (mtu), and the uplink at least that",
        ),
        R::SpoofedMac | R::SpoofedAddress | R::SpoofedArp | R::SpoofedNdp => (
            Warning,
            "the guest sends from a MAC or an address that is not its own",
            "give the guest the address of its file, or the file (address4, address6, mac) the guest's; bridges and VMs inside a guest \
             need addresses translated there",
        ),
        R::RogueServer => {
            (Warning, "the guest answers as a DHCP server or a router", "switch that service off in the guest")
        }
        R::VlanTagged => (Note, "frames with a VLAN's tag", "send untagged frames; a VLAN needs a VM's NIC of its own"),
        R::UnknownDestination => (
            Note,
            "nobody on the network has the frame's destination",
            "nothing, if the guest has just looked for a neighbour",
        ),
        R::Isolated => (Note, "guest to guest on an isolated network", "nothing, or isolated = false"),
        R::NoRoom => (
            Warning,
            "the guest posts no receive buffers in time",
            "the guest is too busy or has stopped: give it more processor time, longer rings (ethtool -G), or look at its console",
        ),
        R::PortDown => (Note, "the other VM's device is not started", "start that VM"),
        R::QueueDisabled => {
            (Note, "sent on a queue that the VMM has disabled", "nothing, while the guest changes its queues")
        }
        R::UplinkDown => (
            Warning,
            "the network's bridge or interface, or the way of this VM to it, is not there",
            "see the uplink's own finding, or vonic vm show",
        ),
        R::UplinkFull => (
            Warning,
            "the tap or the interface takes no more",
            "the network behind is slower than the guest: look at its queue (tc -s qdisc)",
        ),
        R::UplinkOverflow => (
            Warning,
            "more came for the guest than the kernel keeps for it",
            "give the guest more processor time, or raise net.core.rmem_max",
        ),
        R::Unsupported => {
            (Note, "a protocol that this uplink does not carry", "use uplink = \"tap:BRIDGE\" if guests need it")
        }
        R::Fragment => (Note, "a fragment where none can be taken", "lower the MTU of what sends fragments"),
        R::Denied => (
            Note,
            "the guest may not reach that: egress rules, or never a destination",
            "nothing, or add a rule that allows it",
        ),
        R::NoConnection => (Note, "segments of no connection", "nothing, after a restart of either end"),
        R::Limit => {
            (Warning, "a limit of the VM was reached", "see which one under limits, and raise it in the VM's file")
        }
        R::NotPermitted => {
            (Warning, "the host does not let vonic do it", "as root: sysctl net.ipv4.ping_group_range=\"0 2147483647\"")
        }
        R::HostBusy => (
            Warning,
            "the host's socket has a full queue",
            "the host's network is slower than the guest: look at its interfaces",
        ),
        R::WorkerBusy => {
            (Warning, "a worker does not keep up", "give vonicd more processors and workers, or move the VM (worker)")
        }
    };
    Meaning { level, what, mend }
}

/// The reason by its name in the API; `None` for one that this vonic does not know.
pub(super) fn reason(name: &str) -> Option<DropReason> {
    DropReason::ALL.iter().copied().find(|reason| reason.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_to_do() {
        for known in DropReason::ALL {
            let Meaning { level, what, mend } = meaning(*known);
            assert!(matches!(level, Level::Note | Level::Warning) && !what.is_empty() && !mend.is_empty());
            assert_eq!(reason(known.name()), Some(*known));
        }
        assert_eq!(reason("of_a_later_version"), None);
    }
}
