//! What the NIC sees of its VM: `GET /v1/nic`.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The NIC, as the host counts: since vonic was started, and over all of its engines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    /// [`crate::metadata::VERSION`].
    pub version: u32,
    /// The VM's name.
    pub name: String,
    /// What the guest sent.
    pub guest_to_host: Traffic,
    /// What it was sent.
    pub host_to_guest: Traffic,
    /// The same in a second, over the time since the question before; absent if that was less than a second or more than a minute ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
    /// Frames that went no further, by reason and by direction (`guest_to_host`, `host_to_guest`); what never happened is left out.
    pub drops: BTreeMap<String, BTreeMap<String, u64>>,
    /// What is left to the other side.
    pub offloads: Offloads,
    /// Virtio features that the NIC offers.
    pub features_offered: Vec<String>,
    /// Those that the guest's driver has taken.
    pub features_negotiated: Vec<String>,
    /// Pairs of queues that it offers.
    pub queue_pairs: u16,
    /// Terminated TCP connections now.
    pub connections: u64,
    /// Limits with how often each was reached.
    pub limits: Vec<Limit>,
    /// Counters of terminated TCP.
    pub tcp: BTreeMap<String, u64>,
    /// Counters of UDP beyond the network.
    pub udp: BTreeMap<String, u64>,
    /// Counters of ICMP echo to the world.
    pub icmp: BTreeMap<String, u64>,
}

/// Frames, one of 64 KiB by segmentation offload being one, and their bytes with the Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Rates of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The time over which they are.
    pub seconds: f64,
    /// What the guest sent.
    pub guest_to_host: Rate,
    /// What it was sent.
    pub host_to_guest: Rate,
}

/// In a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Frames.
    pub frames: u64,
    /// Bits, with the Ethernet headers.
    pub bits: u64,
}

impl Rate {
    /// Of what was counted in so many seconds.
    pub fn over(seconds: f64, before: Traffic, now: Traffic) -> Rate {
        let of = |before: u64, now: u64| (now.saturating_sub(before) as f64 / seconds).round() as u64;
        Rate { frames: of(before.frames, now.frames), bits: of(before.bytes, now.bytes).saturating_mul(8) }
    }
}

/// Offloads of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// What the guest may leave to vonic.
    pub guest_to_host: Offload,
    /// What vonic leaves to the guest.
    pub host_to_guest: Offload,
}

/// Offloads of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// Checksums.
    pub checksum: bool,
    /// Segmentation of TCP over IPv4.
    pub tso4: bool,
    /// Segmentation of TCP over IPv6.
    pub tso6: bool,
}

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// Its value; absent: it is not the VM's own.
    pub most: Option<u32>,
    /// How often it was reached.
    pub reached: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_counted_in_a_second() {
        let (before, now) = (Traffic { frames: 10, bytes: 1000 }, Traffic { frames: 30, bytes: 5000 });
        assert_eq!(Rate::over(2.0, before, now), Rate { frames: 10, bits: 16_000 });
        assert_eq!(Rate::over(1.0, now, before), Rate::default(), "counted anew");
    }
}
