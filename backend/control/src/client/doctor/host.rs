//! Checks of the host. Each is a function of the facts alone.
use std::collections::BTreeMap;

use super::facts::{Facts, Host, Link};
use super::finding::Finding;
use crate::client::layout::bytes;
use crate::config::{Config, Network, Protocol, Uplink, Vm};

/// What vonic's listeners ask for: more connections wait nowhere.
const BACKLOG: u64 = 4096;
/// What a packet socket asks for.
const BUFFER: u64 = 4 << 20;
/// Below this much no guest's memory fits.
const ROOM: u64 = 64 << 20;

/// Capabilities by their numbers (capabilities(7)).
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;

/// All of them, in the order in which they are printed.
pub(super) static CHECKS: &[fn(&Facts) -> Vec<Finding>] =
    &[kernel, files, privileges, ports, listeners, memory, resolvers, links, super::paths::check];

fn vms(facts: &Facts) -> impl Iterator<Item = &Vm> {
    facts.config.iter().flat_map(|config| config.vms.values())
}

fn networks(facts: &Facts) -> impl Iterator<Item = &Network> {
    facts.config.iter().flat_map(|config| config.networks.values())
}

fn number(host: &Host, sysctl: &str) -> Option<u64> {
    host.sysctls.get(sysctl)?.parse().ok()
}

/// Of `6.9.3-arch1` 6 and 9.
fn version(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "kernel";
    let Host { kernel, no_pidfd, no_sealing, .. } = &facts.host;
    let mut found = Vec::new();
    for (missing, what) in [(no_pidfd, "pidfds (Linux 5.3)"), (no_sealing, "sealed memory (memfd_create)")] {
        if let Some(error) = missing {
            let message = format!("this kernel ({kernel}) gives no {what}: {error}; vonicd cannot start");
            found.push(Finding::problem(
                CHECK,
                message,
                "use a kernel from 5.4 on, and no sandbox that forbids these calls",
            ));
        }
    }
    let v6 = networks(facts).any(|network| network.uplink == Uplink::Sockets && network.subnet6.is_some());
    let costs = "answers to guests are looked at twice where the kernel cannot look behind a queue's head";
    match version(kernel) {
        Some(version) if version < (6, 9) => {
            let message = format!("{kernel}: no SO_PEEK_OFF for TCP: {costs}");
            found.push(Finding::note(CHECK, message, "Linux 6.9 or later makes terminated connections faster"));
        }
        Some(version) if version < (6, 11) && v6 => {
            let message = format!("{kernel}: no SO_PEEK_OFF for TCP over IPv6: {costs}");
            found.push(Finding::note(CHECK, message, "Linux 6.11 or later makes them faster"));
        }
        _ if found.is_empty() => found.push(Finding::ok(CHECK, format!("{kernel} has what vonic uses"))),
        _ => {}
    }
    found
}

/// How many files may be open, beside what VMs may open.
fn files(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "files";
    let Some(limit) = facts.host.process.files else {
        return vec![Finding::note(CHECK, "the limit of open files is not known", "run this as root")];
    };
    let most = vonic_datapath::connections_max(limit) as u64;
    let of = |vm: &Vm| u64::from(vm.limits.connections) + u64::from(vm.limits.udp_flows);
    let (all, largest) = (vms(facts).map(of).sum::<u64>(), vms(facts).map(of).max().unwrap_or(0));
    let may = format!("{limit} files may be open, and by them {most} connections and flows");
    let mend = "raise it: LimitNOFILE=1048576 in vonicd's unit, or ulimit -Hn before it is started";
    vec![if largest > most {
        Finding::warning(CHECK, format!("{may}, but one VM alone may have {largest} by its limits"), mend)
    } else if all > most {
        Finding::note(CHECK, format!("{may}; all VMs together may have {all} by their limits"), mend)
    } else {
        Finding::ok(CHECK, may)
    }]
}

fn privileges(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "privileges";
    let Host { process, of_vonicd, no_tun, .. } = &facts.host;
    let who = if *of_vonicd { "vonicd" } else { "this user (vonicd's rights are not known)" };
    let has = |capability: u32| process.capabilities.is_none_or(|bits| bits >> capability & 1 == 1);
    let give =
        |name: &str| format!("AmbientCapabilities={name} in its unit, or setcap {}=ep on vonicd", name.to_lowercase());
    let mut found = Vec::new();
    let tap = networks(facts).any(|network| matches!(network.uplink, Uplink::Tap(_)));
    let packet = networks(facts).any(|network| matches!(network.uplink, Uplink::Packet(_)));
    if let (true, Some(error)) = (tap, no_tun) {
        found.push(Finding::problem(CHECK, format!("uplink = \"tap:\" needs /dev/net/tun: {error}"), "modprobe tun"));
    }
    if *of_vonicd && process.user == Some(0) {
        let mend = "write a user of its own in vonic.toml (user = \"vonic\"), or start it as one, as the package's vonic.service does (confinement.md)";
        found.push(Finding::warning(CHECK, "vonicd runs as root: its files, sockets and programs are root's", mend));
    }
    if tap && !has(NET_ADMIN) {
        let message = format!("uplink = \"tap:\" needs CAP_NET_ADMIN, which {who} has not");
        found.push(Finding::problem(CHECK, message, give("CAP_NET_ADMIN")));
    }
    if packet && !has(NET_RAW) {
        let message = format!("uplink = \"packet:\" needs CAP_NET_RAW, which {who} has not");
        found.push(Finding::problem(CHECK, message, give("CAP_NET_RAW")));
    }
    if packet && !has(NET_ADMIN) && small_buffers(&facts.host) {
        let message = format!(
            "the kernel keeps less than {} of what comes by a packet: uplink for a guest that is busy",
            bytes(BUFFER)
        );
        let mend =
            format!("sysctl net.core.rmem_max={BUFFER} net.core.wmem_max={BUFFER}, or {}", give("CAP_NET_ADMIN"));
        found.push(Finding::warning(CHECK, message, mend));
    }
    for (vm, port) in low_ports(facts).filter(|_| !has(NET_BIND_SERVICE)) {
        let message =
            format!("{vm}'s forward listens on port {port}, which needs CAP_NET_BIND_SERVICE; {who} has it not");
        let mend = format!("sysctl net.ipv4.ip_unprivileged_port_start={port}, or {}", give("CAP_NET_BIND_SERVICE"));
        found.push(Finding::problem(CHECK, message, mend));
    }
    if !tap && !has(NET_ADMIN) {
        let message =
            format!("{who} has no CAP_NET_ADMIN: connections do not go along with guests that move (TCP_REPAIR)");
        found.push(Finding::note(CHECK, message, format!("nothing, or {}", give("CAP_NET_ADMIN"))));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, format!("{who} has what the configuration needs")));
    }
    found
}

/// Forwards on ports that not everybody may listen on, each VM's lowest.
fn low_ports(facts: &Facts) -> impl Iterator<Item = (&str, u16)> {
    let first = number(&facts.host, "net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    vms(facts).filter_map(move |vm| {
        let lowest = vm.forwards.iter().map(|forward| *forward.listen.ports.start()).min()?;
        (u64::from(lowest) < first).then_some((vm.name.as_str(), lowest))
    })
}

/// From how many ports vonic's own connections can go to one destination.
fn ports(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "ports";
    if !networks(facts).any(|network| network.uplink == Uplink::Sockets) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let range = facts.host.sysctls.get("net/ipv4/ip_local_port_range").map(String::as_str);
    let count = range.and_then(pair).map(|(first, last)| (last + 1).saturating_sub(first));
    let most = vms(facts).map(|vm| u64::from(vm.limits.connections)).max().unwrap_or(0);
    found.push(match count {
        Some(count) if count < most => Finding::note(
            CHECK,
            format!("the host has {count} ports for connections to one destination; a VM may have {most} connections"),
            "sysctl net.ipv4.ip_local_port_range=\"1024 65535\", if guests talk much to one server",
        ),
        Some(count) => Finding::ok(CHECK, format!("{count} ports for connections to one destination")),
        None => return found,
    });
    // While vonicd runs it knows by trying.
    let pings = facts.host.sysctls.get("net/ipv4/ping_group_range").map(String::as_str).and_then(pair);
    if facts.service.is_none() && pings.is_some_and(|(first, last)| first > last) {
        let mend = "as root: sysctl net.ipv4.ping_group_range=\"0 2147483647\"";
        found.push(Finding::warning(
            CHECK,
            "guests cannot ping the world: the kernel lets no group have ping sockets",
            mend,
        ));
    }
    found
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn listeners(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "listeners";
    let tcp = vms(facts).flat_map(|vm| &vm.forwards).filter(|forward| forward.proto == Protocol::Tcp).count();
    if tcp == 0 {
        return Vec::new();
    }
    vec![match number(&facts.host, "net/core/somaxconn") {
        Some(most) if most < BACKLOG => Finding::note(
            CHECK,
            format!(
                "{most} connections may wait at a forward's listener (net.core.somaxconn); vonic asks for {BACKLOG}"
            ),
            format!("sysctl net.core.somaxconn={BACKLOG}, if many come at once"),
        ),
        _ => Finding::ok(CHECK, format!("{BACKLOG} connections may wait at a forward's listener")),
    }]
}

/// Where the memory of guests comes from that vonic shares.
fn memory(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "memory";
    let Host { shm_free, memory, .. } = &facts.host;
    let kib = |name: &str| memory.get(name).map(|kib| kib.saturating_mul(1024));
    let mut found = Vec::new();
    if let Some(available) = kib("MemAvailable").filter(|available| *available < ROOM) {
        let message = format!("{} of memory are left on this host", bytes(available));
        found.push(Finding::warning(CHECK, message, "stop something, or add memory: guests' memory is the host's"));
    }
    match shm_free {
        Some(free) if *free < ROOM => found.push(Finding::warning(
            CHECK,
            format!("/dev/shm has {} left: a VMM that keeps guest memory there cannot start", bytes(*free)),
            "mount -o remount,size=… /dev/shm; or give VMMs a memfd (QEMU: memory-backend-memfd, as vonic vm command does)",
        )),
        None => found.push(Finding::note(CHECK, "there is no /dev/shm", "give VMMs a memfd, as vonic vm command does")),
        Some(_) => {}
    }
    let (total, free) = (memory.get("HugePages_Total").copied().unwrap_or(0), memory.get("HugePages_Free").copied());
    if total > 0 && free == Some(0) {
        let message = format!("all {total} huge pages are taken: another VM with hugetlb memory cannot start");
        found.push(Finding::note(CHECK, message, "sysctl vm.nr_hugepages=… for more"));
    }
    if found.is_empty() {
        let huge = if total == 0 { "no huge pages set aside".into() } else { format!("{total} huge pages") };
        let shm = bytes(shm_free.unwrap_or(0));
        found.push(Finding::ok(CHECK, format!("{shm} in /dev/shm, {huge}")));
    }
    found
}

fn resolvers(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "resolvers";
    let Some(config) = &facts.config else { return Vec::new() };
    if !networks(facts).any(|network| network.uplink == Uplink::Sockets && network.dns.as_deref() != Some(&[])) {
        return Vec::new();
    }
    let file = config.service.resolv_conf.display();
    let Host { resolvers, resolv_conf, .. } = &facts.host;
    if resolvers.is_empty() {
        let why = if resolv_conf.is_empty() { String::new() } else { format!(" ({})", resolv_conf.join("; ")) };
        let message = format!("{file} names no resolver{why}: guests can look up no names");
        let mend = "name one there, or write dns = [\"ADDRESS\"] in the network";
        return vec![Finding::warning(CHECK, message, mend)];
    }
    let note =
        |wrong: &String| Finding::note(CHECK, format!("{file}: {wrong}"), "mend the file, or write dns in the network");
    let mut found: Vec<Finding> = resolv_conf.iter().map(note).collect();
    for (to, error) in resolvers {
        found.push(match error {
            None => Finding::ok(CHECK, format!("{} answers", to.ip())),
            Some(error) => Finding::warning(
                CHECK,
                format!("{} does not answer: {error}; guests that ask the gateway wait for it", to.ip()),
                format!("start it, name another one in {file}, or write dns in the network"),
            ),
        });
    }
    found
}

/// The bridges and interfaces of uplinks.
fn links(facts: &Facts) -> Vec<Finding> {
    let Some(config) = &facts.config else { return Vec::new() };
    config.networks.values().flat_map(|network| link(config, network, &facts.host.links)).collect()
}

fn link(config: &Config, network: &Network, links: &BTreeMap<String, Link>) -> Vec<Finding> {
    const CHECK: &str = "uplink";
    let (name, bridge) = match &network.uplink {
        Uplink::Tap(name) => (name, true),
        Uplink::Packet(name) => (name, false),
        Uplink::None | Uplink::Sockets => return Vec::new(),
    };
    let of = format!("network '{}': ", network.name);
    let what = if bridge { "bridge" } else { "interface" };
    let Some(link) = links.get(name) else {
        let mend = match bridge {
            true => format!("ip link add {name} type bridge; ip link set {name} up"),
            false => "make it, or name another one (ip link shows what there is)".to_string(),
        };
        return vec![Finding::problem(CHECK, format!("{of}there is no {what} '{name}'"), mend)];
    };
    let mut found = Vec::new();
    if bridge && !link.is_bridge {
        found.push(Finding::problem(CHECK, format!("{of}'{name}' is no bridge"), "name a bridge"));
    }
    if !link.up {
        found.push(Finding::problem(CHECK, format!("{of}'{name}' is down"), format!("ip link set {name} up")));
    }
    let guests = config.vms.values().filter(|vm| vm.network == network.name);
    let larger = guests.filter(|vm| link.mtu.is_some_and(|mtu| u32::from(vm.mtu) > mtu));
    for vm in larger {
        let most = link.mtu.unwrap_or(0);
        let message = format!("{of}'{name}' has an MTU of {most}, {} one of {}", vm.name, vm.mtu);
        let mend = format!("ip link set {name} mtu {}, or write mtu = {most} in the VM's file", vm.mtu);
        found.push(Finding::warning(CHECK, message, mend));
    }
    if found.is_empty() {
        let mtu = link.mtu.map(|mtu| format!(" with an MTU of {mtu}")).unwrap_or_default();
        found.push(Finding::ok(CHECK, format!("{of}{what} '{name}'{mtu}")));
    }
    found
}

/// Whether packet sockets get less than they ask for.
fn small_buffers(host: &Host) -> bool {
    ["net/core/rmem_max", "net/core/wmem_max"].iter().any(|name| number(host, name).is_some_and(|most| most < BUFFER))
}
