//! The virtio features that a VM's file switches: one table, which the reader, the documentation and the tests share.
use serde::Serialize;
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// VHOST_USER_F_PROTOCOL_FEATURES (vhost-user specification, "Feature negotiation"): a bit between frontend and
/// backend that no guest sees.
const PROTOCOL_FEATURES: u32 = 30;

/// Which virtio features a VM is offered; all are by default. Names and bits stand in [`FEATURES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "FEATURES says what each key means")]
pub struct Features {
    pub csum: bool,
    pub guest_csum: bool,
    pub tso: bool,
    pub guest_tso: bool,
    pub ecn: bool,
    pub guest_ecn: bool,
    pub mrg_rxbuf: bool,
    pub event_idx: bool,
    pub indirect: bool,
    pub in_order: bool,
    pub mtu: bool,
    pub status: bool,
    pub ctrl_vq: bool,
    pub ctrl_rx: bool,
    pub ctrl_vlan: bool,
    pub ctrl_mac: bool,
    pub announce: bool,
}

/// One key of a VM's `features` table.
pub struct Feature {
    /// The key in the file.
    pub name: &'static str,
    /// The feature bits that it offers (virtio 1.3 §5.1.3, §6).
    pub bits: &'static [u32],
    /// What it does for the guest.
    pub help: &'static str,
    /// The key that this one needs to be on (virtio 1.3 §5.1.3.1).
    pub needs: Option<&'static str>,
    field: fn(&mut Features) -> &mut bool,
}

/// Every feature key.
pub static FEATURES: &[Feature] = &[
    Feature {
        name: "csum",
        bits: &[VIRTIO_NET_F_CSUM],
        help: "the guest may leave a checksum to vonic (guest to host)",
        needs: None,
        field: |f| &mut f.csum,
    },
    Feature {
        name: "guest_csum",
        bits: &[VIRTIO_NET_F_GUEST_CSUM],
        help: "vonic may hand frames with an unfinished checksum to the guest (host to guest)",
        needs: None,
        field: |f| &mut f.guest_csum,
    },
    Feature {
        name: "tso",
        bits: &[VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6],
        help: "the guest may send TCP frames of up to 64 KiB",
        needs: Some("csum"),
        field: |f| &mut f.tso,
    },
    Feature {
        name: "guest_tso",
        bits: &[VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6],
        help: "the guest takes TCP frames of up to 64 KiB",
        needs: Some("guest_csum"),
        field: |f| &mut f.guest_tso,
    },
    Feature {
        name: "ecn",
        bits: &[VIRTIO_NET_F_HOST_ECN],
        help: "such frames may say by CWR that the guest has heard of congestion",
        needs: Some("tso"),
        field: |f| &mut f.ecn,
    },
    Feature {
        name: "guest_ecn",
        bits: &[VIRTIO_NET_F_GUEST_ECN],
        help: "the guest takes such frames that say so",
        needs: Some("guest_tso"),
        field: |f| &mut f.guest_ecn,
    },
    Feature {
        name: "mrg_rxbuf",
        bits: &[VIRTIO_NET_F_MRG_RXBUF],
        help: "a frame to the guest may lie in several of its buffers",
        needs: None,
        field: |f| &mut f.mrg_rxbuf,
    },
    Feature {
        name: "event_idx",
        bits: &[VIRTIO_RING_F_EVENT_IDX],
        help: "fewer notifications: each side says at which index it wants the next",
        needs: None,
        field: |f| &mut f.event_idx,
    },
    Feature {
        name: "indirect",
        bits: &[VIRTIO_RING_F_INDIRECT_DESC],
        help: "a chain may lie in a table of its own, outside the ring",
        needs: None,
        field: |f| &mut f.indirect,
    },
    Feature {
        name: "in_order",
        bits: &[VIRTIO_F_IN_ORDER],
        help: "buffers come back in the order in which they were made available",
        needs: None,
        field: |f| &mut f.in_order,
    },
    Feature {
        name: "mtu",
        bits: &[VIRTIO_NET_F_MTU],
        help: "the guest is told its MTU by the device",
        needs: None,
        field: |f| &mut f.mtu,
    },
    Feature {
        name: "status",
        bits: &[VIRTIO_NET_F_STATUS],
        help: "the guest is told whether the link is up",
        needs: None,
        field: |f| &mut f.status,
    },
    Feature {
        name: "ctrl_vq",
        bits: &[VIRTIO_NET_F_CTRL_VQ],
        help: "the guest's commands, where the VMM does not take them itself",
        needs: None,
        field: |f| &mut f.ctrl_vq,
    },
    Feature {
        name: "ctrl_rx",
        bits: &[VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA],
        help: "the guest may say which groups it listens to",
        needs: Some("ctrl_vq"),
        field: |f| &mut f.ctrl_rx,
    },
    Feature {
        name: "ctrl_vlan",
        bits: &[VIRTIO_NET_F_CTRL_VLAN],
        help: "the guest may say which VLANs it listens to",
        needs: Some("ctrl_vq"),
        field: |f| &mut f.ctrl_vlan,
    },
    Feature {
        name: "ctrl_mac",
        bits: &[VIRTIO_NET_F_CTRL_MAC_ADDR],
        help: "the guest may set its own MAC address again",
        needs: Some("ctrl_vq"),
        field: |f| &mut f.ctrl_mac,
    },
    Feature {
        name: "announce",
        bits: &[VIRTIO_NET_F_GUEST_ANNOUNCE],
        help: "the guest can be asked to say where it is",
        needs: Some("ctrl_vq"),
        field: |f| &mut f.announce,
    },
];

/// What is offered always: bit and name.
const ALWAYS: &[(u32, &str)] =
    &[(VIRTIO_NET_F_MAC, "mac"), (PROTOCOL_FEATURES, "protocol_features"), (VIRTIO_F_VERSION_1, "version_1")];

/// What is offered with more than one pair of queues.
const PAIRS: (u32, &str) = (VIRTIO_NET_F_MQ, "mq");

impl Default for Features {
    fn default() -> Self {
        Features {
            csum: true,
            guest_csum: true,
            tso: true,
            guest_tso: true,
            ecn: true,
            guest_ecn: true,
            mrg_rxbuf: true,
            event_idx: true,
            indirect: true,
            in_order: true,
            mtu: true,
            status: true,
            ctrl_vq: true,
            ctrl_rx: true,
            ctrl_vlan: true,
            ctrl_mac: true,
            announce: true,
        }
    }
}

impl Features {
    /// Whether the feature is on.
    pub fn get(mut self, feature: &Feature) -> bool {
        *(feature.field)(&mut self)
    }

    /// Switches a feature.
    pub fn set(&mut self, feature: &Feature, on: bool) {
        *(feature.field)(self) = on;
    }

    /// The feature bits to offer: those switched on, with VERSION_1, MAC and the vhost-user bit for protocol features (30).
    pub fn virtio_bits(&self) -> u64 {
        let always = ALWAYS.iter().fold(0, |bits, (bit, _)| bits | 1 << bit);
        let on = FEATURES.iter().filter(|f| self.get(f)).flat_map(|f| f.bits);
        on.fold(always, |bits, bit| bits | 1u64 << bit)
    }

    /// Switches off what needs a feature that is off, but for what was `said` to be on (virtio 1.3 §5.1.3.1).
    pub(crate) fn follow(&mut self, said: impl Fn(&Feature) -> bool) {
        // What others need stands before them.
        for feature in FEATURES.iter().filter(|feature| !said(feature)) {
            let off = |needs| FEATURES.iter().any(|other| other.name == needs && !self.get(other));
            if feature.needs.is_some_and(off) {
                self.set(feature, false);
            }
        }
    }

    /// Every key that is on although the key that it needs is off, with that key.
    pub(crate) fn contradictions(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let this = *self;
        FEATURES.iter().filter(move |f| this.get(f)).filter_map(move |f| {
            let needs = f.needs?;
            let off = FEATURES.iter().any(|other| other.name == needs && !this.get(other));
            off.then_some((f.name, needs))
        })
    }
}

/// Names for feature bits, in the order of the bits: the keys of [`FEATURES`], the names of those offered always, and
/// `bit_N` for one that vonic does not know. A key with two bits is named once.
pub fn feature_names(bits: u64) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for bit in (0..u64::BITS).filter(|bit| bits >> bit & 1 == 1) {
        let key = FEATURES.iter().find(|f| f.bits.contains(&bit)).map(|f| f.name);
        let name =
            key.or_else(|| ALWAYS.iter().chain([&PAIRS]).find(|(known, _)| *known == bit).map(|(_, name)| *name));
        let name = name.map_or_else(|| format!("bit_{bit}"), str::to_string);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_offers_every_bit_of_the_table_and_each_key_its_own() {
        let all = Features::default();
        // CSUM 0, GUEST_CSUM 1, MTU 3, MAC 5, GUEST_TSO4/6 7 8, GUEST_ECN 9, HOST_TSO4/6 11 12, HOST_ECN 13, MRG_RXBUF 15, STATUS 16,
        // CTRL_VQ 17, CTRL_RX 18, CTRL_VLAN 19, CTRL_RX_EXTRA 20, GUEST_ANNOUNCE 21, CTRL_MAC_ADDR 23, INDIRECT 28, EVENT_IDX 29,
        // PROTOCOL_FEATURES 30, VERSION_1 32, IN_ORDER 35.
        assert_eq!(all.virtio_bits(), 0x9_70bf_bbab);
        for feature in FEATURES {
            let mut one_off = all;
            one_off.set(feature, false);
            assert!(!one_off.get(feature));
            let gone = feature.bits.iter().fold(0u64, |bits, bit| bits | 1 << bit);
            assert_eq!(all.virtio_bits() & !one_off.virtio_bits(), gone, "{}", feature.name);
        }
    }

    #[test]
    fn segmentation_needs_checksums() {
        assert_eq!(Features::default().contradictions().count(), 0);
        let off = Features { csum: false, guest_csum: false, ..Features::default() };
        assert_eq!(off.contradictions().collect::<Vec<_>>(), [("tso", "csum"), ("guest_tso", "guest_csum")]);
        let both = Features { tso: false, guest_tso: false, ecn: false, guest_ecn: false, ..off };
        assert_eq!(both.contradictions().count(), 0);
    }

    #[test]
    fn what_needs_a_feature_goes_with_it_unless_its_file_says_otherwise() {
        for feature in FEATURES {
            let mut features = Features::default();
            features.set(feature, false);
            features.follow(|other| other.name == feature.name);
            assert_eq!(features.contradictions().count(), 0, "{}", feature.name);
            assert!(FEATURES.iter().all(|f| f.needs.is_none_or(|needs| needs != feature.name) || !features.get(f)));
        }
        let mut features = Features { csum: false, ..Features::default() };
        features.follow(|feature| feature.name == "csum");
        assert!(!features.tso && !features.ecn && features.guest_tso && features.guest_ecn);
        let mut said = Features { csum: false, ..Features::default() };
        said.follow(|feature| ["csum", "tso"].contains(&feature.name));
        assert_eq!(said.contradictions().collect::<Vec<_>>(), [("tso", "csum")]);
    }

    #[test]
    fn names_of_bits() {
        let bits = 1 | 1 << 11 | 1 << 12 | 1 << 22 | 1 << 32 | 1 << 40;
        assert_eq!(feature_names(bits), ["csum", "tso", "mq", "version_1", "bit_40"]);
    }
}
