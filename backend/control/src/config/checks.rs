//! What contradicts between files: VMs and networks, and VMs among each other.
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::gateway::gateway_mac;
use super::service::{SOCKET_PATH, ServiceDraft};
use super::vm::VmDraft;
use super::{Forward, ListenHost, Network, Subnet, Uplink, Vm, uplink};

/// Notes what is wrong with a VM in view of the service and its network.
pub(super) fn check_vm(draft: &VmDraft, service: &ServiceDraft) {
    let VmDraft { source, vm, places, .. } = draft;
    let path = service.service.vm_socket(&vm.name);
    let length = path.as_os_str().len();
    if length > SOCKET_PATH {
        let limit = format!("'{}' has {length} bytes, a socket's path at most {SOCKET_PATH}", path.display());
        source.error(None, format!("{limit}: shorten the file's name, or runtime_dir"));
    }
    if let Some(owner) = service.networks.values().find(|n| gateway_mac(&n.network.name) == vm.mac) {
        let name = &owner.network.name;
        source
            .error(places.line("mac"), format!("mac: {} is the gateway's on network '{name}': write another", vm.mac));
    }
    if !draft.readable || places.is_bad("network") || !service.networks_known {
        return;
    }
    match service.networks.get(&vm.network) {
        Some(network) if network.good => check_in_network(draft, &network.network),
        Some(_) => {}
        None => {
            let known: Vec<&str> = service.networks.keys().map(String::as_str).collect();
            let message = format!("network: there is no network '{}': write one of {}", vm.network, known.join(", "));
            source.error(places.line("network"), message);
        }
    }
}

fn check_in_network(draft: &VmDraft, network: &Network) {
    let VmDraft { source, vm, places, forward_lines, .. } = draft;
    let name = &network.name;
    let line = places.line("address4");
    let bridged = matches!(network.uplink, Uplink::Tap(_));
    if bridged {
        uplink::check_vm(draft, network);
    }
    match (vm.address4, network.subnet4) {
        // The bridge's network decides what its addresses are.
        (Some(_), None) if bridged => {}
        (Some(address), None) => {
            let message = format!("address4: network '{name}' has no subnet4: leave {address} out, or give it one");
            source.error(line, message);
        }
        (Some(address), Some(subnet)) => {
            let taken = if Some(address) == network.gateway4 {
                Some("the gateway's")
            } else if Some(address) == network.host_loopback4 {
                Some("the network's host_loopback4")
            } else {
                None
            };
            if let Some(whose) = taken {
                source.error(line, format!("address4: {address} is {whose}: write another address in {subnet}"));
            } else if !subnet.is_host(address.into()) {
                let example = free_example(network, subnet);
                let message = format!(
                    "address4: {address} is no host's address in network '{name}' ({subnet}): write one as {example}"
                );
                source.error(line, message);
            }
        }
        (None, _) => {}
    }
    for at in forward_lines {
        if vm.address4.is_none() && !places.is_bad("address4") {
            source.error(*at, "a forward needs the guest's address: write address4 above it");
        }
        if network.uplink != Uplink::Sockets {
            let message =
                format!("a forward needs uplink = \"sockets\" on network '{name}': write that, or leave it out");
            source.error(*at, message);
        }
    }
}

/// An address of the subnet that is neither the gateway's nor the host's.
fn free_example(network: &Network, subnet: Subnet) -> std::net::IpAddr {
    let own = [network.gateway4, network.host_loopback4].map(|own| own.map(std::net::IpAddr::V4));
    let free = (1..=3).map(|n| subnet.nth(n)).find(|a| !own.contains(&Some(*a)));
    free.unwrap_or(subnet.address)
}

/// Notes what two VMs both claim, at the second one's place (by name), and returns the pairs' indices in `drafts`.
pub(super) fn check_pairs(drafts: &[VmDraft]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut macs = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (i, draft) in drafts.iter().enumerate() {
        let VmDraft { source, vm, places, .. } = draft;
        if let Some(line) = places.line("mac") {
            let first = *macs.entry(vm.mac).or_insert(i);
            if first != i {
                let whose = place(&drafts[first], "mac");
                source.error(Some(line), format!("mac: {} is also {whose}: write another one", vm.mac));
                pairs.push((first, i));
            }
        }
        if let (Some(address), Some(line), false) = (vm.address4, places.line("address4"), places.is_bad("network")) {
            let first = *addresses.entry((&vm.network, address)).or_insert(i);
            if first != i {
                let whose = place(&drafts[first], "address4");
                source.error(Some(line), format!("address4: {address} is also {whose}: write another one"));
                pairs.push((first, i));
            }
        }
    }
    check_listeners(drafts, &mut pairs);
    pairs
}

/// Whose a value is, and where that is written.
fn place(draft: &VmDraft, key: &str) -> String {
    format!("{}'s ({}:{})", draft.vm.name, draft.source.file.display(), draft.places.line(key).unwrap_or(1))
}

fn check_listeners(drafts: &[VmDraft], pairs: &mut Vec<(usize, usize)>) {
    let mut seen: Vec<(usize, Option<usize>, &Forward)> = Vec::new();
    for (i, draft) in drafts.iter().enumerate() {
        for (line, forward) in draft.forward_lines.iter().zip(&draft.vm.forwards) {
            if let Some((first, at, other)) = seen.iter().find(|(_, _, other)| clash(forward, other)) {
                let owner = &drafts[*first];
                let message = format!(
                    "listen: {} overlaps {} of {} ({}:{}): write another address or port",
                    forward.listen,
                    other.listen,
                    owner.vm.name,
                    owner.source.file.display(),
                    at.unwrap_or(1)
                );
                draft.source.error(*line, message);
                pairs.push((*first, i));
            }
            seen.push((i, *line, forward));
        }
    }
}

/// What two VMs both claim, if anything.
pub(super) fn claimed_by_both(a: &Vm, b: &Vm) -> Option<String> {
    if a.mac == b.mac {
        return Some(format!("mac {}", a.mac));
    }
    if let Some(address) = a.address4.filter(|address| a.network == b.network && b.address4 == Some(*address)) {
        return Some(format!("address4 {address}"));
    }
    let listener = a.forwards.iter().find(|mine| b.forwards.iter().any(|other| clash(mine, other)))?;
    Some(format!("listen {}", listener.listen))
}

/// Whether the kernel would refuse to bind both. An interface and an address are not compared: which addresses an
/// interface has is not known here.
fn clash(a: &Forward, b: &Forward) -> bool {
    let hosts = match (&a.listen.host, &b.listen.host) {
        (ListenHost::Any, _) | (_, ListenHost::Any) => true,
        (a, b) => a == b,
    };
    hosts && a.proto == b.proto && overlap(&a.listen.ports, &b.listen.ports)
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}
