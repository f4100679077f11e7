//! What contradicts between files: VMs and networks, and VMs among each other.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::family::Keys;
use super::gateway::gateway_mac;
use super::service::{SOCKET_PATH, ServiceDraft};
use super::vm::VmDraft;
use super::{Family, Forward, ListenHost, Network, Subnet, Uplink, Vm, uplink};

/// The smallest MTU of a link that carries IPv6 (RFC 8200 §5).
const IPV6_MTU: u16 = 1280;

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
    let workers = service.service.workers;
    if let Some(worker) = vm.worker.filter(|worker| *worker >= workers) {
        let last = workers - 1;
        let message = format!(
            "worker: there is no worker {worker} of {workers}: write a number from 0 to {last}, or leave it out"
        );
        source.error(places.line("worker"), message);
    }
    if vm.address6.is_some() && vm.mtu < IPV6_MTU {
        let message = format!("mtu: IPv6 needs {IPV6_MTU} at least, for address6: write mtu = {IPV6_MTU} or more");
        source.error(places.line("mtu"), message);
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
    if network.uplink.is_bridged() {
        uplink::check_vm(draft, network);
    }
    Family::ALL.into_iter().for_each(|family| check_address(draft, network, family));
    let VmDraft { source, vm, forward_lines, .. } = draft;
    for (line, forward) in forward_lines.iter().zip(&vm.forwards) {
        check_forward(draft, forward, *line);
        if network.uplink != Uplink::Sockets {
            let message = format!(
                "a forward needs uplink = \"sockets\" on network '{}': write that, or leave it out",
                network.name
            );
            source.error(*line, message);
        }
    }
}

/// Notes an address that no guest of this network can have.
fn check_address(draft: &VmDraft, network: &Network, family: Family) {
    let name = &network.name;
    let Keys { address: key, subnet: subnet_key, host_loopback: loopback_key, .. } = family.keys();
    let own = network.addresses(family);
    let Some(address) = draft.vm.address(family) else { return };
    let message = match own.subnet {
        // The bridge's network decides what its addresses are.
        None if network.uplink.is_bridged() => return,
        None => format!("{key}: network '{name}' has no {subnet_key}: leave {address} out, or give it one"),
        Some(subnet) if Some(address) == own.gateway => {
            format!("{key}: {address} is the gateway's: write another address in {subnet}")
        }
        Some(subnet) if Some(address) == own.host_loopback => {
            format!("{key}: {address} is the network's {loopback_key}: write another address in {subnet}")
        }
        Some(subnet) if !subnet.is_host(address) => {
            let example = free_example(own, subnet);
            format!("{key}: {address} is no host's address in network '{name}' ({subnet}): write one as {example}")
        }
        Some(_) => return,
    };
    draft.source.error(draft.places.line(key), message);
}

/// An address of the subnet that is neither the gateway's nor the host's.
fn free_example(own: vonic_datapath::Family, subnet: Subnet) -> IpAddr {
    let free = (1..=3).map(|n| subnet.nth(n)).find(|a| ![own.gateway, own.host_loopback].contains(&Some(*a)));
    free.unwrap_or(subnet.address)
}

/// Notes a forward to a guest without an address of any family in which the forward listens.
fn check_forward(draft: &VmDraft, forward: &Forward, line: Option<usize>) {
    let listens = || Family::ALL.into_iter().filter(|family| forward.listen.host.is_of(*family));
    let known = |family: Family| draft.vm.address(family).is_some() || draft.places.is_bad(family.keys().address);
    if !listens().any(known) {
        let keys: Vec<&str> = listens().map(|family| family.keys().address).collect();
        let message = format!(
            "a forward from {} needs the guest's address: write {} above it",
            forward.listen,
            keys.join(" or ")
        );
        draft.source.error(line, message);
    }
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
        for family in Family::ALL {
            let key = family.keys().address;
            let address = vm.address(family).filter(|_| !places.is_bad("network"));
            let (Some(address), Some(line)) = (address, places.line(key)) else { continue };
            let first = *addresses.entry((&vm.network, address)).or_insert(i);
            if first != i {
                let whose = place(&drafts[first], key);
                source.error(Some(line), format!("{key}: {address} is also {whose}: write another one"));
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
            let clashing =
                |(of, _, other): &&(usize, _, &Forward)| clash((&draft.vm, forward), (&drafts[*of].vm, other));
            if let Some((first, at, other)) = seen.iter().find(clashing) {
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
    for family in Family::ALL.into_iter().filter(|_| a.network == b.network) {
        if let Some(address) = a.address(family).filter(|address| b.address(family) == Some(*address)) {
            return Some(format!("{} {address}", family.keys().address));
        }
    }
    let listener = a.forwards.iter().find(|mine| b.forwards.iter().any(|other| clash((a, mine), (b, other))))?;
    Some(format!("listen {}", listener.listen))
}

/// Whether the kernel would refuse to bind both: in any family in which both VMs listen.
fn clash((of_a, a): (&Vm, &Forward), (of_b, b): (&Vm, &Forward)) -> bool {
    let listens =
        |vm: &Vm, forward: &Forward, family| forward.listen.host.is_of(family) && vm.address(family).is_some();
    let same = |family: &Family| listens(of_a, a, *family) && listens(of_b, b, *family);
    a.proto == b.proto
        && overlap(&a.listen.ports, &b.listen.ports)
        && Family::ALL.iter().any(same)
        && share_a_host(&a.listen.host, &b.listen.host)
}

/// Whether two listeners of one family and port are in each other's way. An interface's listener is bound to every address, and
/// any address' listener to every interface: these exclude each other whichever they are.
fn share_a_host(a: &ListenHost, b: &ListenHost) -> bool {
    match (a, b) {
        (ListenHost::Address(a), ListenHost::Address(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
        (ListenHost::Interface(a), ListenHost::Interface(b)) => a == b,
        (ListenHost::Any | ListenHost::Interface(_), _) | (_, ListenHost::Any | ListenHost::Interface(_)) => true,
    }
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}
