//! What a VM is told of itself: `GET /v1/`.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of everything that a guest is told. A reader ignores fields that it does not know; what it knows keeps its meaning.
pub const VERSION: u32 = 1;

/// A VM, as its host's configuration has it. Each field is also a path of its own, as text: `GET /v1/mtu`, `/v1/labels/tier`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// [`VERSION`].
    pub version: u32,
    /// The VM's name.
    pub name: String,
    /// Its NIC's MAC.
    pub mac: String,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// The network's name.
    pub network: String,
    /// The name that the guest is given by DHCP.
    pub hostname: Option<String>,
    /// Its IPv4 address and gateway.
    pub ipv4: Addresses,
    /// Its IPv6 address and gateway.
    pub ipv6: Addresses,
    /// Who answers for names, as DHCP and router advertisements have it.
    pub resolvers: Vec<String>,
    /// Domains that names without dots are looked for in.
    pub search: Vec<String>,
    /// The operator's labels.
    pub labels: BTreeMap<String, String>,
}

/// Addresses of one family; none of those that are absent is handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The guest's own.
    pub address: Option<String>,
    /// Bits of its subnet's prefix.
    pub prefix_len: Option<u8>,
    /// The gateway's.
    pub gateway: Option<String>,
}
