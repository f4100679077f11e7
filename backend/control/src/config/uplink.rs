//! What a network's `uplink` says, and what goes together with a bridge, or an interface of the host.
//!
//! On a bridged network vonic is a cable with a filter: the gateway, DHCP and the rules of what may be reached are those of
//! the network behind it. Keys that make vonic a gateway are refused there, so that none is set in vain.
use std::collections::BTreeMap;

use toml::de::DeValue;

use super::family::{Family, special};
use super::listen::is_interface;
use super::reader::{Table, Wrong, text};
use super::service::{NetworkDraft, ServiceDraft};
use super::vm::VmDraft;
use super::{Network, Subnet, Uplink};

/// Keys of a network by which vonic is its gateway.
const GATEWAY_KEYS: [&str; 7] = ["gateway4", "gateway6", "host_loopback4", "host_loopback6", "dns", "search", "slaac"];

/// Reads `none`, `sockets`, `tap:BRIDGE` or `packet:INTERFACE`.
pub(super) fn uplink(value: &DeValue<'_>) -> Result<Uplink, Wrong> {
    let s = text(value)?;
    let named = |name: &str, uplink: fn(String) -> Uplink, example: &str| match is_interface(name) {
        true => Ok(uplink(name.to_string())),
        false => Err(Wrong::Value(format!("'{name}' is no interface's name: write it as \"{example}\""))),
    };
    match (s, s.split_once(':')) {
        ("none", _) => Ok(Uplink::None),
        ("sockets", _) => Ok(Uplink::Sockets),
        (_, Some(("tap", bridge))) => named(bridge, Uplink::Tap, "tap:br0"),
        (_, Some(("packet", interface))) => named(interface, Uplink::Packet, "packet:eth0"),
        _ => Err(Wrong::Value(format!(
            "'{s}' is not known here: write \"none\", \"sockets\", \"tap:BRIDGE\" or \"packet:INTERFACE\""
        ))),
    }
}

/// Notes the keys of a bridged network that only a gateway has.
pub(super) fn check_bridged(network: &Network, table: &Table<'_, '_>) {
    let (kind, place, host) = match network.uplink {
        Uplink::Packet(_) => {
            ("packet:", "interface's network has its own router, which", "what is on the interface's network")
        }
        _ => ("tap:", "bridge's own router", "the host's addresses by the bridge"),
    };
    for key in GATEWAY_KEYS {
        if let Some(line) = table.places.line(key) {
            let message = format!("{key}: on a {kind} uplink the {place} is the gateway: leave {key} out");
            table.source.error(Some(line), message);
        }
    }
    if network.reach_host {
        let message = format!("reach_host: on a {kind} uplink guests reach {host}: leave it out");
        table.source.error(table.places.line("reach_host"), message);
    }
}

/// Notes networks with the same bridge or interface. Taps are isolated from each other, and packet sockets do not hear what is sent
/// beside them, so what looks like one network would be two that do not see each other.
pub(super) fn check_bridges(draft: &mut ServiceDraft) {
    let line_of = |d: &NetworkDraft| d.places.line("uplink").or(d.line);
    let mut all: Vec<&NetworkDraft> = draft.networks.values().collect();
    all.sort_by_key(|d| line_of(d));
    let mut bridges: BTreeMap<&str, &NetworkDraft> = BTreeMap::new();
    let mut bad = Vec::new();
    for second in all {
        let (what, bridge) = match &second.network.uplink {
            Uplink::Tap(bridge) => ("bridge", bridge),
            Uplink::Packet(interface) => ("interface", interface),
            Uplink::None | Uplink::Sockets => continue,
        };
        let first = *bridges.entry(bridge).or_insert(second);
        let name = &first.network.name;
        if *name != second.network.name {
            let message = format!(
                "uplink: {what} '{bridge}' is network '{name}''s already ({}:{}): put the VMs into '{name}', or name another {what}",
                draft.source.file.display(),
                line_of(first).unwrap_or(1)
            );
            draft.source.error(line_of(second), message);
            bad.push(second.network.name.clone());
        }
    }
    for name in bad {
        if let Some(network) = draft.networks.get_mut(&name) {
            network.good = false;
        }
    }
}

/// Notes what a VM on a bridged network has in vain, and an address that no guest can have.
pub(super) fn check_vm(draft: &VmDraft, network: &Network) {
    let VmDraft { source, vm, places, .. } = draft;
    if !vm.egress.is_empty() {
        let message = format!(
            "egress needs uplink = \"sockets\" on network '{}': leave it out, and filter on the network behind",
            network.name
        );
        source.error(places.line("egress"), message);
    }
    for family in Family::ALL {
        let key = family.keys().address;
        let free = vm.address(family).filter(|_| network.addresses(family).subnet.is_none());
        if let Some((address, what)) = free.and_then(|address| Some((address, special(Subnet::of(address))?))) {
            let message = format!("{key}: {address} is one of {what}: write an address that a guest can have");
            source.error(places.line(key), message);
        }
    }
}
