//! Reading one VM's file.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use toml::de::DeValue;
use vonic_datapath::QUEUE_PAIRS_MAX;
use vonic_frame::{MacAddr, is_label};
use vonic_record::WORKERS_MAX;

use super::error::ConfigError;
use super::family::Family;
use super::features::FEATURES;
use super::keys::{EGRESS, FEATURE_SWITCHES, FORWARD, LIMITS, VM};
use super::listen;
use super::reader::{Places, Source, Table, Wrong, choice, flag, number, parsed, text};
use super::{Acknowledge, Action, EgressRule, Features, Forward, Limits, Protocol, SocketMode, Subnet, Vm, names};

/// The largest number that a limit may be.
const LIMIT: u32 = 1_000_000;

/// The longest that a guest may be called later: a tenth of what TCP's own timers are made for.
const CALL_US: u64 = 10_000;
/// Frames of bulk for which one call is enough, by default and at most.
const CALL_FRAMES: u32 = 64;
const CALL_FRAMES_MAX: u32 = 1024;

/// A VM's file as read: what is bad in it stands at its default.
pub(super) struct VmDraft {
    pub source: Source,
    pub vm: Vm,
    pub places: Places,
    /// The line of each of `vm.forwards`.
    pub forward_lines: Vec<Option<usize>>,
    /// Whether the file is TOML, so that an absent key is really absent.
    pub readable: bool,
}

impl VmDraft {
    /// A file that could not be read.
    pub fn unreadable(name: &str, file: &Path, error: ConfigError) -> Self {
        let source = Source::new(file, "");
        source.error(error.line, error.message);
        VmDraft { source, vm: blank(name), places: Places::default(), forward_lines: Vec::new(), readable: false }
    }
}

/// Reads a VM's file.
pub(super) fn read(name: &str, file: &Path, content: &str) -> VmDraft {
    let source = Source::new(file, content);
    let mut draft =
        VmDraft { vm: blank(name), places: Places::default(), forward_lines: Vec::new(), source, readable: false };
    if let Some(root) = draft.source.parse(content) {
        let mut table = Table::new(&draft.source, &VM, &root, None);
        read_vm(&mut draft.vm, &mut table);
        let forwards = read_forwards(&mut table, draft.vm.failover);
        (draft.forward_lines, draft.vm.forwards) = forwards.into_iter().unzip();
        draft.vm.egress = read_egress(&mut table);
        draft.places = table.places;
        draft.readable = true;
    }
    draft
}

/// A VM with every default, and no MAC yet.
pub(super) fn blank(name: &str) -> Vm {
    Vm {
        name: name.to_string(),
        mac: MacAddr::default(),
        network: "default".to_string(),
        address4: None,
        address6: None,
        hostname: Some(name.to_string()).filter(|name| is_label(name)),
        worker: None,
        queue_pairs: 1,
        mtu: 1500,
        socket_mode: SocketMode::Server,
        failover: true,
        ack: Acknowledge::default(),
        coalesce: None,
        call_us: 0,
        call_frames: CALL_FRAMES,
        labels: BTreeMap::new(),
        features: Features::default(),
        limits: Limits::default(),
        forwards: Vec::new(),
        egress: Vec::new(),
    }
}

fn read_vm(vm: &mut Vm, table: &mut Table<'_, '_>) {
    if let Some(mac) = table.require("mac", mac) {
        vm.mac = mac;
    }
    if let Some(network) = table.read("network", text) {
        vm.network = network.to_string();
    }
    vm.address4 = table.read("address4", Family::V4.address());
    vm.address6 = table.read("address6", Family::V6.address());
    if let Some(hostname) = table.read("hostname", names::hostname) {
        vm.hostname = Some(hostname).filter(|name| !name.is_empty());
    }
    vm.queue_pairs = table.read("queue_pairs", number(1..=QUEUE_PAIRS_MAX)).unwrap_or(vm.queue_pairs);
    vm.worker = table.read("worker", number(0..=WORKERS_MAX as u16 - 1));
    vm.mtu = table.read("mtu", number(576..=65520)).unwrap_or(vm.mtu);
    let modes = choice(&[("server", SocketMode::Server), ("client", SocketMode::Client)]);
    vm.socket_mode = table.read("socket_mode", modes).unwrap_or(vm.socket_mode);
    let policies = choice(&[("kernel", Acknowledge::Kernel), ("peer", Acknowledge::Peer)]);
    vm.ack = table.read("ack", policies).unwrap_or(vm.ack);
    vm.failover = table.read("failover", flag).unwrap_or(vm.failover);
    vm.coalesce = table.read("coalesce", flag);
    vm.call_us = table.read("call_us", number(0..=CALL_US)).unwrap_or(vm.call_us);
    vm.call_frames = table.read("call_frames", number(1..=CALL_FRAMES_MAX)).unwrap_or(vm.call_frames);
    let labels = table.named("labels");
    let line = labels.first().map(|(_, line, _)| *line);
    vm.labels = labels.into_iter().filter_map(|label| super::labels::read(table.source, label)).collect();
    super::labels::check(table.source, line, &vm.labels);
    if let Some(switches) = table.table("features", &FEATURE_SWITCHES) {
        read_features(&mut vm.features, switches);
    }
    if vm.queue_pairs > 1 && !vm.features.ctrl_vq {
        let line = table.places.line("queue_pairs").or(table.line);
        let message =
            "queue_pairs: more than one needs ctrl_vq (virtio 1.3 §5.1.3.1): write queue_pairs = 1, or ctrl_vq = true";
        table.source.error(line, message);
    }
    if let Some(mut limits) = table.table("limits", &LIMITS) {
        read_limits(&mut vm.limits, &mut limits);
    }
}

fn mac(value: &DeValue<'_>) -> Result<MacAddr, Wrong> {
    let mac: MacAddr = parsed(value)?;
    if mac == MacAddr::default() {
        return Err(Wrong::Value(format!("{mac} is no address: write one as 52:54:00:00:00:02")));
    }
    if mac.is_group() {
        let MacAddr([first, rest @ ..]) = mac;
        let [b, c, d, e, f] = rest;
        let unicast = MacAddr([first & 0xfe, b, c, d, e, f]);
        return Err(Wrong::Value(format!("{mac} is a group's address: write a unicast one, as {unicast}")));
    }
    Ok(mac)
}

fn read_features(features: &mut Features, mut table: Table<'_, '_>) {
    for feature in FEATURES {
        if let Some(on) = table.read(feature.name, flag) {
            features.set(feature, on);
        }
    }
    features.follow(|feature| table.has(feature.name));
    for (on, off) in features.contradictions() {
        let line = table.places.line(off).or(table.line);
        table.source.error(line, format!("features: {on} needs {off} (virtio 1.3 §5.1.3.1): leave {on} = true out"));
    }
}

fn read_limits(limits: &mut Limits, table: &mut Table<'_, '_>) {
    let mut read = |key, limit: &mut u32| *limit = table.read(key, number(1..=LIMIT)).unwrap_or(*limit);
    read("connections", &mut limits.connections);
    read("pending", &mut limits.pending);
    read("pending_per_destination", &mut limits.pending_per_destination);
    read("udp_flows", &mut limits.udp_flows);
    read("new_per_second", &mut limits.new_per_second);
    read("groups_per_second", &mut limits.groups_per_second);
}

/// The good ones, each with its line. `failover`: what holds for a forward that says nothing of it.
fn read_forwards(root: &mut Table<'_, '_>, failover: bool) -> Vec<(Option<usize>, Forward)> {
    let mut forwards = Vec::new();
    for mut table in root.tables("forward", &FORWARD) {
        let proto = table.require("proto", choice(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]));
        let listen = table.require("listen", |value| listen::listen(text(value)?).map_err(Wrong::Value));
        let port = table.require("port", number(1..=u16::MAX));
        let failover = table.read("failover", flag).unwrap_or(failover);
        let (Some(proto), Some(listen), Some(port)) = (proto, listen, port) else { continue };
        let span = listen.ports.end() - listen.ports.start();
        if port.checked_add(span).is_none() {
            let last = u16::MAX - span;
            let message =
                format!("port: {port} and {span} more pass 65535: write a port up to {last}, or a shorter range");
            table.source.error(table.places.line("port"), message);
        }
        forwards.push((table.places.line("listen"), Forward { proto, listen, port, failover }));
    }
    forwards
}

/// A subnet of the world's: IPv6's way to write an IPv4 address is no destination (RFC 4291 §2.5.5.2).
fn destination(value: &DeValue<'_>) -> Result<Subnet, Wrong> {
    let to: Subnet = parsed(value)?;
    let mapped = |v6: Ipv6Addr| v6.to_ipv4_mapped().filter(|_| to.prefix >= 96);
    let v4 = if let IpAddr::V6(v6) = to.address { mapped(v6) } else { None };
    match v4 {
        Some(v4) => Err(Wrong::Value(format!("{to} is no destination: write it as {v4}/{}", to.prefix - 96))),
        None => Ok(to),
    }
}

fn read_egress(root: &mut Table<'_, '_>) -> Vec<EgressRule> {
    let mut rules = Vec::new();
    for mut table in root.tables("egress", &EGRESS) {
        let action = table.require("action", choice(&[("allow", Action::Allow), ("deny", Action::Deny)]));
        let to = table.require("to", destination);
        let protocols: &[(&str, Protocol)] =
            &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("icmp", Protocol::Icmp)];
        let proto = table.read("proto", choice(protocols));
        let ports = table.read("ports", |value| listen::ports(text(value)?).map_err(Wrong::Value));
        if proto == Some(Protocol::Icmp) && table.has("ports") {
            table.source.error(table.places.line("ports"), "ports: ICMP has none: leave ports out");
        }
        if let (Some(action), Some(to)) = (action, to) {
            rules.push(EgressRule { action, to, proto, ports });
        }
    }
    rules
}
