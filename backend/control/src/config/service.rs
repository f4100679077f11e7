//! Reading `vonic.toml`.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;
use vonic_record::WORKERS_MAX;

use super::account::{self, KnowsUser, user};
use super::family::{Family, Keys, special};
use super::gateway::gateway_mac;
use super::keys::{MIGRATION, NETWORK, SERVICE};
use super::name;
use super::reader::{Places, Source, Table, Wrong, flag, integer, number, text};
use super::{Hooks, Network, Poll, Seccomp, Service, Subnet, Uplink, names, uplink};

/// The longest path that a Unix socket can be bound to in bytes: `sun_path` less the terminating zero.
pub(super) const SOCKET_PATH: usize = 107;
/// The longest `poll_us`: whoever wants more wants "always".
const POLL_US: i64 = 1_000_000;
/// The longest that a received segment may wait for another one.
const WAIT_US: u64 = 1000;
/// The guest stands still meanwhile, and the VMM is answered after five seconds at most.
const HOOK_MS: RangeInclusive<i64> = 1..=4000;
/// From what is longer than a busy host lets a thread wait, to what nobody wants to wait.
const HEARTBEAT_MS: RangeInclusive<i64> = 500..=600_000;

/// `vonic.toml` as read: what is bad in it stands at its default.
pub(super) struct ServiceDraft {
    pub source: Source,
    pub service: Service,
    pub networks: BTreeMap<String, NetworkDraft>,
    /// Whether the networks' names are known, since the file could be read so far.
    pub networks_known: bool,
}

/// One network as read.
pub(super) struct NetworkDraft {
    pub network: Network,
    /// Whether nothing is wrong with it, so that VMs can be checked against it.
    pub good: bool,
    pub line: Option<usize>,
    pub places: Places,
}

impl Default for Service {
    fn default() -> Self {
        let poll = Poll::For(Duration::from_micros(50));
        let resolv_conf = PathBuf::from("/etc/resolv.conf");
        let heartbeat = Some(Duration::from_secs(2));
        let runtime_dir = PathBuf::from("/run/vonic");
        Service {
            runtime_dir,
            user: None,
            workers: 1,
            poll,
            metrics_listen: None,
            reload_on_change: false,
            resolv_conf,
            heartbeat,
            quarantine: true,
            seccomp: Seccomp::default(),
            landlock: true,
            migration: Hooks::default(),
        }
    }
}

/// The network that there is where `vonic.toml` names none.
pub(super) fn default_network() -> Network {
    Network {
        name: "default".to_string(),
        subnet4: Some(Subnet { address: Ipv4Addr::new(192, 0, 2, 0).into(), prefix: 24 }),
        gateway4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        subnet6: None,
        gateway6: None,
        uplink: Uplink::Sockets,
        host_loopback4: None,
        host_loopback6: None,
        reach_host: false,
        isolated: false,
        dns: None,
        search: Vec::new(),
        slaac: false,
        coalesce: true,
        coalesce_us: 0,
    }
}

/// Reads `vonic.toml`; `None` for a file that is not there. `known` says whom there is on this host.
pub(super) fn read(file: &Path, content: Option<&str>, known: KnowsUser) -> ServiceDraft {
    let text = content.unwrap_or_default();
    let source = Source::new(file, text);
    let mut draft =
        ServiceDraft { source, service: Service::default(), networks: BTreeMap::new(), networks_known: true };
    match draft.source.parse(text) {
        Some(root) => {
            let mut table = Table::new(&draft.source, &SERVICE, &root, None);
            draft.service = read_service(&mut table, known);
            draft.networks = read_networks(&mut table);
            draft.networks_known = !table.places.is_bad("network");
        }
        None => draft.networks_known = false,
    }
    if draft.networks_known && draft.networks.is_empty() {
        let network = default_network();
        let alone = NetworkDraft { network, good: true, line: None, places: Places::default() };
        draft.networks.insert("default".to_string(), alone);
    }
    check_subnets(&mut draft);
    uplink::check_bridges(&mut draft);
    draft
}

fn read_service(table: &mut Table<'_, '_>, known: KnowsUser) -> Service {
    let default = Service::default();
    Service {
        runtime_dir: table.read("runtime_dir", runtime_dir).unwrap_or(default.runtime_dir),
        user: table.read("user", |value| user(value, known)),
        workers: table.read("workers", number(1..=WORKERS_MAX as u16)).unwrap_or(default.workers),
        poll: table.read("poll_us", poll).unwrap_or(default.poll),
        metrics_listen: table.read("metrics_listen", metrics_listen),
        reload_on_change: table.read("reload_on_change", flag).unwrap_or(default.reload_on_change),
        resolv_conf: table.read("resolv_conf", resolv_conf).unwrap_or(default.resolv_conf),
        heartbeat: table.read("heartbeat_ms", heartbeat).unwrap_or(default.heartbeat),
        quarantine: table.read("quarantine", flag).unwrap_or(default.quarantine),
        seccomp: table.read("seccomp", seccomp).unwrap_or_default(),
        landlock: table.read("landlock", flag).unwrap_or(default.landlock),
        migration: table.table("migration", &MIGRATION).map_or(default.migration, |mut table| read_hooks(&mut table)),
    }
}

fn read_hooks(table: &mut Table<'_, '_>) -> Hooks {
    let default = Hooks::default();
    Hooks {
        depart: table.read("depart", command).unwrap_or_default(),
        arrive: table.read("arrive", command).unwrap_or_default(),
        limit: table.read("limit_ms", hook_limit).unwrap_or(default.limit),
    }
}

/// A program with its arguments.
fn command(value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    let elements = value.as_array().ok_or(Wrong::Type)?;
    let words: Option<Vec<String>> = elements.iter().map(|e| e.get_ref().as_str().map(str::to_string)).collect();
    let words = words.ok_or(Wrong::Type)?;
    match words.first() {
        Some(program) if !Path::new(program).is_absolute() => {
            Err(Wrong::Value(format!("'{program}' is not absolute: write the program's whole path")))
        }
        _ => Ok(words),
    }
}

fn hook_limit(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    let n = integer(value)?;
    let (least, most) = HOOK_MS.into_inner();
    if !(least..=most).contains(&n) {
        return Err(Wrong::Value(format!("{n} is out of range: write a number from {least} to {most}")));
    }
    Ok(Duration::from_millis(n as u64))
}

fn runtime_dir(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let dir = PathBuf::from(text(value)?);
    if !dir.is_absolute() {
        return Err(Wrong::Value(format!("'{}' is not absolute: write it as /run/vonic", dir.display())));
    }
    let socket = dir.join("api.sock");
    let length = socket.as_os_str().len();
    if length > SOCKET_PATH {
        let path = socket.display();
        return Err(Wrong::Value(format!(
            "'{path}' has {length} bytes, a socket's path at most {SOCKET_PATH}: write a shorter one"
        )));
    }
    Ok(dir)
}

fn resolv_conf(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let file = PathBuf::from(text(value)?);
    if file.is_absolute() {
        return Ok(file);
    }
    Err(Wrong::Value(format!("'{}' is not absolute: write it as /etc/resolv.conf", file.display())))
}

fn metrics_listen(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let text = text(value)?;
    match text.parse::<SocketAddr>() {
        Ok(at) if at.port() == 0 => Err(Wrong::Value(format!("'{text}' has no port: write it as 127.0.0.1:9477"))),
        Ok(at) if at.ip().is_multicast() => {
            Err(Wrong::Value(format!("'{text}' is a group's: write an address of this host")))
        }
        Ok(at) => Ok(at),
        Err(_) => {
            Err(Wrong::Value(format!("'{text}' is no address with a port: write it as 127.0.0.1:9477 or [::1]:9477")))
        }
    }
}

fn poll(value: &DeValue<'_>) -> Result<Poll, Wrong> {
    match value.as_str() {
        Some("always") => return Ok(Poll::Always),
        Some(other) => {
            return Err(Wrong::Value(format!(
                "'{other}' is not known here: write \"always\" or a number of microseconds"
            )));
        }
        None => {}
    }
    match integer(value)? {
        0 => Ok(Poll::Never),
        n if n > POLL_US => Err(Wrong::Value(format!("{n} is more than {POLL_US}: write \"always\" to never sleep"))),
        n => match u64::try_from(n) {
            Ok(n) => Ok(Poll::For(Duration::from_micros(n))),
            Err(_) => Err(Wrong::Value(format!("{n} is negative: write 0 to sleep at once"))),
        },
    }
}

/// Milliseconds; 0: none.
fn heartbeat(value: &DeValue<'_>) -> Result<Option<Duration>, Wrong> {
    match integer(value)? {
        0 => Ok(None),
        n if !HEARTBEAT_MS.contains(&n) => {
            let (least, most) = (HEARTBEAT_MS.start(), HEARTBEAT_MS.end());
            Err(Wrong::Value(format!(
                "{n} is out of range: write a number from {least} to {most}, or 0 for no heartbeat"
            )))
        }
        n => Ok(Some(Duration::from_millis(n.unsigned_abs()))),
    }
}

fn seccomp(value: &DeValue<'_>) -> Result<Seccomp, Wrong> {
    let word = text(value)?;
    let known = [Seccomp::Refuse, Seccomp::Kill, Seccomp::Off].into_iter().find(|way| way.name() == word);
    known.ok_or_else(|| Wrong::Value(format!("'{word}' is not known here: write \"refuse\", \"kill\" or \"off\"")))
}

/// The hooks that a file names now, whatever else is in it.
pub(super) fn hooks(file: &Path) -> Hooks {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    read(file, Some(&text), account::anybody).service.migration
}

fn read_networks(root: &mut Table<'_, '_>) -> BTreeMap<String, NetworkDraft> {
    let source = root.source;
    let mut networks = BTreeMap::new();
    for (name, line, value) in root.named("network") {
        let before = source.error_count();
        if let Err(message) = name::check(name) {
            source.error(Some(line), format!("a network's name: {message}"));
        }
        let Some(entries) = value.as_table() else {
            source.error(Some(line), format!("network.{name} is not a table: write [network.{name}]"));
            continue;
        };
        let mut table = Table::new(source, &NETWORK, entries, Some(line));
        let network = read_network(name, &mut table);
        check_network(&network, &table);
        let good = source.error_count() == before;
        networks.insert(name.to_string(), NetworkDraft { network, good, line: Some(line), places: table.places });
    }
    networks
}

fn read_network(name: &str, table: &mut Table<'_, '_>) -> Network {
    Network {
        name: name.to_string(),
        subnet4: table.read("subnet4", Family::V4.subnet()),
        gateway4: table.read("gateway4", Family::V4.address()),
        subnet6: table.read("subnet6", Family::V6.subnet()),
        gateway6: table.read("gateway6", Family::V6.address()),
        uplink: table.read("uplink", uplink::uplink).unwrap_or(Uplink::Sockets),
        host_loopback4: table.read("host_loopback4", Family::V4.address()),
        host_loopback6: table.read("host_loopback6", Family::V6.address()),
        reach_host: table.read("reach_host", flag).unwrap_or(false),
        isolated: table.read("isolated", flag).unwrap_or(false),
        dns: table.read("dns", names::resolvers),
        search: table.read("search", names::search).unwrap_or_default(),
        slaac: table.read("slaac", flag).unwrap_or(false),
        coalesce: table.read("coalesce", flag).unwrap_or(true),
        coalesce_us: table.read("coalesce_us", number(0..=WAIT_US)).unwrap_or(0),
    }
}

/// Notes what contradicts itself within one network.
fn check_network(network: &Network, table: &Table<'_, '_>) {
    if network.uplink.is_bridged() {
        return uplink::check_bridged(network, table);
    }
    Family::ALL.into_iter().for_each(|family| check_family(network, family, table));
    names::check_network(network, table);
    let places = &table.places;
    let bare = |family: Family| {
        let of = network.addresses(family);
        of.subnet.is_none() && of.gateway.is_none() && !places.is_bad(family.keys().subnet)
    };
    if network.uplink == Uplink::Sockets && !places.is_bad("uplink") && Family::ALL.into_iter().all(bare) {
        let message = "uplink = \"sockets\" needs subnet4 and gateway4, or subnet6 and gateway6: write both, or uplink = \"none\"";
        table.source.error(places.line("uplink").or(table.line), message);
    }
}

/// The same of its addresses of one family.
fn check_family(network: &Network, family: Family, table: &Table<'_, '_>) {
    let places = &table.places;
    let Keys { subnet: subnet_key, gateway: gateway_key, host_loopback: loopback_key, .. } = family.keys();
    let note = |key: &str, message: String| table.source.error(places.line(key).or(table.line), message);
    let vonic_datapath::Family { subnet, gateway, host_loopback } = network.addresses(family);
    match (subnet, gateway) {
        (Some(subnet), Some(gateway)) if !subnet.is_host(gateway) => {
            let first = subnet.nth(1);
            note(
                gateway_key,
                format!("{gateway_key}: {gateway} is no host's address in {subnet}: write {gateway_key} = \"{first}\""),
            );
        }
        (Some(subnet), None) if !places.is_bad(gateway_key) => {
            note(subnet_key, format!("{subnet_key} needs {gateway_key}: write {gateway_key} = \"{}\"", subnet.nth(1)));
        }
        (None, Some(_)) if !places.is_bad(subnet_key) => {
            note(gateway_key, format!("{gateway_key} needs {subnet_key}: write both, or leave {gateway_key} out"));
        }
        _ => {}
    }
    if let Some(address) = host_loopback {
        let wrong = if let Some(what) = special(Subnet::of(address)) {
            format!("{loopback_key}: {address} is one of {what}: write an address that guests can use")
        } else if subnet.is_some_and(|s| s.contains(address) && !s.is_host(address)) {
            format!("{loopback_key}: {address} is no host's address: write another one")
        } else if network.uplink != Uplink::Sockets {
            format!("{loopback_key} needs uplink = \"sockets\": write that, or leave it out")
        } else {
            return;
        };
        note(loopback_key, wrong);
    }
}

/// Notes subnets that overlap, since a guest's destination belongs to one network at most, and names that stand for the same
/// gateway.
fn check_subnets(draft: &mut ServiceDraft) {
    let mut bad: Vec<String> = Vec::new();
    let all: Vec<&NetworkDraft> = draft.networks.values().collect();
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            for family in Family::ALL {
                if overlap(draft, (a, b), family) {
                    bad.extend([a.network.name.clone(), b.network.name.clone()]);
                }
            }
            if gateway_mac(&a.network.name) == gateway_mac(&b.network.name) {
                let (first, second) = if a.line <= b.line { (a, b) } else { (b, a) };
                let message =
                    format!("the gateway's MAC is the one of network '{}': write another name", first.network.name);
                draft.source.error(second.line, message);
            }
        }
    }
    for name in bad {
        if let Some(network) = draft.networks.get_mut(&name) {
            network.good = false;
        }
    }
}

/// Whether two networks' subnets of one family overlap; it is noted at the second one.
fn overlap(draft: &ServiceDraft, (a, b): (&NetworkDraft, &NetworkDraft), family: Family) -> bool {
    let key = family.keys().subnet;
    let subnet = |d: &NetworkDraft| d.network.addresses(family).subnet;
    let (Some(subnet_a), Some(subnet_b)) = (subnet(a), subnet(b)) else { return false };
    if !subnet_a.overlaps(subnet_b) {
        return false;
    }
    let line_of = |d: &NetworkDraft| d.places.line(key).or(d.line);
    let (first, second) = if line_of(a) <= line_of(b) { (a, b) } else { (b, a) };
    let message = format!(
        "{key} overlaps the one of network '{}' ({}:{}): write another subnet",
        first.network.name,
        draft.source.file.display(),
        line_of(first).unwrap_or(1)
    );
    draft.source.error(line_of(second), message);
    true
}
