//! What a message says of one interface.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One interface of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC as `52:54:00:00:00:02`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What it received: host to guest.
    pub received: Counters,
    /// What it sent: guest to host.
    pub sent: Counters,
    /// The largest IP packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Of the first interfaces that are devices: more by their driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
}

/// Counters of one direction, since the interface was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Counters {
    /// Frames; one of 64 KiB by segmentation offload is one.
    pub packets: u64,
    /// Bytes with the Ethernet header.
    pub bytes: u64,
    /// Frames with an error.
    pub errors: u64,
    /// Frames dropped by the guest.
    pub dropped: u64,
}

/// What an interface's driver says (ethtool).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Device {
    /// The driver's name, such as `virtio_net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The device's place, such as `0000:00:02.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The features that the device or its driver has, by the kernel's names, and whether each is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offloads: Option<BTreeMap<String, bool>>,
    /// The driver's own counters, by its names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<BTreeMap<String, u64>>,
}
