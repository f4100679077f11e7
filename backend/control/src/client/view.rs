//! The API's answers as tables for people.
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::guest;
use super::layout::{Table, bytes, duration};
use crate::api::types::{
    AgentRow, ConnectionRow, Drops, EngineStatus, Health, Histogram, LimitRow, LoadReport, OffloadRow, Rates, RingRow,
    Stats, Traffic, UpgradeReport, UplinkRow, VmDetail, VmRow, VmStats,
};

/// `migrate load`.
pub(super) fn loaded(report: &LoadReport, out: &mut dyn Write) -> io::Result<()> {
    let LoadReport { from, connections, runs } = report;
    let rings = if *runs { "its rings, which waited, start" } else { "they go on when its rings start" };
    writeln!(out, "{connections} connections have come from {from}: {rings}")
}

/// `vm list`.
pub(super) fn vms(rows: &Vec<VmRow>, out: &mut dyn Write) -> io::Result<()> {
    let headings = &[
        "NAME",
        "NETWORK",
        "ADDRESS",
        "MAC",
        "STATE",
        ">GUEST TO HOST",
        ">HOST TO GUEST",
        ">DROPS",
        ">CONNECTIONS",
        "AGENT",
    ];
    let mut table = Table::new(headings);
    for vm in rows {
        table.row([
            vm.name.clone(),
            vm.network.clone(),
            addresses(vm),
            vm.mac.clone(),
            state(vm).to_string(),
            bytes(vm.guest_to_host.bytes),
            bytes(vm.host_to_guest.bytes),
            vm.drops.to_string(),
            vm.connections.to_string(),
            agent(vm.agent.as_ref()),
        ]);
    }
    if rows.is_empty() { writeln!(out, "no VMs") } else { table.print(out) }
}

/// A VM's addresses of both families.
fn addresses(vm: &VmRow) -> String {
    match (&vm.address4, &vm.address6) {
        (Some(v4), Some(v6)) => format!("{v4},{v6}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "-".to_string(),
    }
}

/// How far a VM has come.
pub(super) fn state(vm: &VmRow) -> &'static str {
    match (vm.connected, vm.driver_ready) {
        _ if vm.quarantined => "quarantined",
        (_, true) => "running",
        (true, false) => "connected",
        (false, false) => "waiting",
    }
}

/// `vm show`.
pub(super) fn vm(vm: &VmDetail, out: &mut dyn Write) -> io::Result<()> {
    let row = &vm.row;
    let mut table = Table::new(&["VM", ""]);
    let mut line = |name: &str, value: String| table.row([name.to_string(), value]);
    line("name", row.name.clone());
    line("state", state(row).to_string());
    if let Some(seconds) = vm.session_seconds {
        line(if row.connected { "connected for" } else { "waiting for" }, duration(seconds));
    }
    line("mac", row.mac.clone());
    line("network", row.network.clone());
    line("address4", row.address4.clone().unwrap_or_else(|| "-".to_string()));
    line("address6", row.address6.clone().unwrap_or_else(|| "-".to_string()));
    line("mtu", vm.mtu.to_string());
    line("socket", format!("{} ({})", vm.socket, vm.socket_mode));
    line("worker", vm.worker.to_string());
    line("queue pairs", vm.queue_pairs.to_string());
    line("failover", if vm.failover { "yes" } else { "no" }.to_string());
    line("ack", vm.ack.clone());
    line("coalesce", if vm.coalesce { format!("yes, within {} us", vm.coalesce_us) } else { "no".to_string() });
    line(
        "calls for bulk",
        match vm.call_us {
            0 => "at once".to_string(),
            us => format!("after {us} us or {} frames", vm.call_frames),
        },
    );
    line("labels", vm.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "));
    line("features offered", vm.features_offered.join(" "));
    line("features negotiated", vm.features_negotiated.join(" "));
    line("offloads from guest", offloads(vm.offloads.guest_to_host));
    line("offloads to guest", offloads(vm.offloads.host_to_guest));
    line("guest to host", traffic(row.guest_to_host));
    line("host to guest", traffic(row.host_to_guest));
    line("latency", latency(&vm.latency_us));
    line("drops", row.drops.to_string());
    line("connections", row.connections.to_string());
    line("uplink", uplink(&vm.uplink));
    for warning in &vm.uplink.warnings {
        line("uplink warning", warning.clone());
    }
    if !vm.resolvers.is_empty() {
        line("resolvers", vm.resolvers.join(", "));
    }
    for forward in &vm.forwards {
        line("forward", forward.clone());
    }
    for error in &vm.forward_errors {
        line("not forwarded", error.clone());
    }
    guest::lines(row.agent.as_ref(), vm.guest.as_ref(), &mut line);
    for hint in &vm.hints {
        line("hint", hint.clone());
    }
    line("last error", vm.last_error.clone().unwrap_or_else(|| "none".to_string()));
    table.print(out)?;
    if let Some(guest) = &vm.guest {
        guest::tables(guest, out)?;
    }
    rings(&vm.rings, out)?;
    drops(&vm.drops_by_reason, out)?;
    egress(vm, out)?;
    limits(&vm.limits, out)?;
    counters(&["COPIED", ">BYTES"], &vm.copied_bytes, out)?;
    counters(&["TCP", ">COUNT"], &vm.tcp, out)?;
    counters(&["ICMP", ">COUNT"], &vm.icmp, out)?;
    counters(&["UDP", ">COUNT"], &vm.udp, out)?;
    counters(&["COALESCED", ">COUNT"], &vm.coalesced, out)
}

/// The rules in their order, and what happens without one.
fn egress(vm: &VmDetail, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["EGRESS", ">DECIDED"]);
    for row in &vm.egress {
        table.row([row.rule.clone(), row.decided.to_string()]);
    }
    let otherwise = |name: &str| vm.denied_otherwise.get(name).copied().unwrap_or_default().to_string();
    if vm.egress.is_empty() {
        table.row(["no rules: allow".to_string(), "-".to_string()]);
    } else {
        table.row(["no rule matched: deny".to_string(), otherwise("no_rule")]);
    }
    table.row(["never a destination: deny".to_string(), otherwise("never")]);
    apart(&table, true, out)
}

fn limits(limits: &[LimitRow], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["LIMIT", ">AT MOST", ">REACHED"]);
    for row in limits {
        let most = row.most.map_or_else(|| "-".to_string(), |most| most.to_string());
        table.row([words(&row.name), most, row.reached.to_string()]);
    }
    apart(&table, !limits.is_empty(), out)
}

fn uplink(uplink: &UplinkRow) -> String {
    let by = uplink.interface.as_ref().map(|name| format!(" by {name}")).unwrap_or_default();
    let error = uplink.error.as_ref().map(|error| format!(" (degraded: {error})")).unwrap_or_default();
    format!("{}{by}{error}", uplink.kind)
}

fn offloads(of: OffloadRow) -> String {
    let all = [("checksum", of.checksum), ("tso4", of.tso4), ("tso6", of.tso6)];
    let on: Vec<&str> = all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    if on.is_empty() { "none".to_string() } else { on.join(" ") }
}

/// The agent in the list.
fn agent(agent: Option<&AgentRow>) -> String {
    match agent {
        None => "-".to_string(),
        Some(agent) if agent.silent => format!("silent for {}", duration(agent.seen_seconds)),
        Some(agent) => agent.version.clone(),
    }
}

fn traffic(traffic: Traffic) -> String {
    format!("{} in {} frames", bytes(traffic.bytes), traffic.frames)
}

/// How long vonic has what a guest sends.
fn latency(histogram: &Histogram) -> String {
    let last = histogram.buckets.iter().filter_map(|bucket| bucket.le).max().unwrap_or_default();
    let most = |bound: Option<u64>| bound.map_or_else(|| format!("beyond {last} us"), |us| format!("within {us} us"));
    match histogram.count {
        0 => "-".to_string(),
        _ => format!("half {}, 99 % {}", most(histogram.p50), most(histogram.p99)),
    }
}

fn rings(rings: &[RingRow], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&[">RING", "DIRECTION", ">SIZE", "ENABLED", "STATE"]);
    for ring in rings {
        table.row([
            ring.index.to_string(),
            words(&ring.direction),
            ring.size.to_string(),
            if ring.enabled { "yes" } else { "no" }.to_string(),
            ring.state.clone(),
        ]);
    }
    apart(&table, !rings.is_empty(), out)
}

fn drops(drops: &Drops, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["DROPPED", "DIRECTION", ">FRAMES"]);
    let rows = drops.iter().flat_map(|(reason, ways)| ways.iter().map(move |(way, n)| (reason, way, *n)));
    let mut any = false;
    for (reason, way, n) in rows.filter(|(_, _, n)| *n > 0) {
        any = true;
        table.row([words(reason), words(way), n.to_string()]);
    }
    apart(&table, any, out)
}

fn counters(
    headings: &'static [&'static str],
    counters: &BTreeMap<String, u64>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut table = Table::new(headings);
    for (name, n) in counters {
        table.row([words(name), n.to_string()]);
    }
    apart(&table, !counters.is_empty(), out)
}

/// Prints a table below others.
pub(super) fn apart(table: &Table, any: bool, out: &mut dyn Write) -> io::Result<()> {
    if any {
        writeln!(out)?;
    }
    table.print(out)
}

/// A name of the API as words.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// `conns`.
pub(super) fn connections(rows: &Vec<ConnectionRow>, out: &mut dyn Write) -> io::Result<()> {
    let headings =
        &["VM", "PROTOCOL", "OPENED BY", "GUEST", "REMOTE", "STATE", ">GUEST TO HOST", ">HOST TO GUEST", ">AGE"];
    let mut table = Table::new(headings);
    for row in rows {
        table.row([
            row.vm.clone(),
            row.protocol.clone(),
            row.direction.word().to_string(),
            row.guest.clone(),
            row.remote.clone(),
            row.state.clone(),
            bytes(row.bytes_guest_to_host),
            bytes(row.bytes_host_to_guest),
            duration(row.age_seconds),
        ]);
    }
    if rows.is_empty() { writeln!(out, "no connections") } else { table.print(out) }
}

/// `stats`.
pub(super) fn stats(stats: &Stats, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "up for {}", duration(stats.uptime_seconds))?;
    let headings =
        &["VM", ">FRAMES GUEST TO HOST", ">BYTES", ">FRAMES HOST TO GUEST", ">BYTES", ">DROPS", ">CONNECTIONS"];
    let mut table = Table::new(headings);
    for (name, vm) in &stats.vms {
        let drops: u64 = vm.drops_by_reason.values().flat_map(BTreeMap::values).sum();
        table.row([
            name.clone(),
            vm.guest_to_host.frames.to_string(),
            vm.guest_to_host.bytes.to_string(),
            vm.host_to_guest.frames.to_string(),
            vm.host_to_guest.bytes.to_string(),
            drops.to_string(),
            vm.connections.to_string(),
        ]);
    }
    apart(&table, !stats.vms.is_empty(), out)?;
    counters(&["COPIED", ">BYTES"], &stats.copied_bytes, out)
}

/// `stats NAME`.
pub(super) fn vm_stats(vm: &VmStats, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["DIRECTION", ">FRAMES", ">BYTES"]);
    for (way, traffic) in [("guest to host", vm.guest_to_host), ("host to guest", vm.host_to_guest)] {
        table.row([way.to_string(), traffic.frames.to_string(), traffic.bytes.to_string()]);
    }
    table.print(out)?;
    writeln!(out, "\nconnections: {}", vm.connections)?;
    writeln!(out, "latency: {}", latency(&vm.latency_us))?;
    if vm.engine_deaths > 0 {
        writeln!(out, "engines that died of what its guest sends: {}", vm.engine_deaths)?;
    }
    if vm.forwards_failed > 0 {
        writeln!(out, "ports not forwarded: {} (vonic vm show says why)", vm.forwards_failed)?;
    }
    drops(&vm.drops_by_reason, out)?;
    counters(&["COPIED", ">BYTES"], &vm.copied_bytes, out)?;
    counters(&["TCP", ">COUNT"], &vm.tcp, out)?;
    counters(&["ICMP", ">COUNT"], &vm.icmp, out)?;
    counters(&["UDP", ">COUNT"], &vm.udp, out)
}

/// `stats --over`.
pub(super) fn rates(rates: &Rates, out: &mut dyn Write) -> io::Result<()> {
    let headings = &[
        "VM",
        ">FRAMES/S GUEST TO HOST",
        ">BYTES/S",
        ">FRAMES/S HOST TO GUEST",
        ">BYTES/S",
        ">DROPS/S",
        ">CONNECTIONS",
    ];
    let mut table = Table::new(headings);
    for (name, vm) in &rates.vms {
        table.row([
            name.clone(),
            format!("{:.0}", vm.guest_to_host.frames_per_second),
            bytes(vm.guest_to_host.bytes_per_second as u64),
            format!("{:.0}", vm.host_to_guest.frames_per_second),
            bytes(vm.host_to_guest.bytes_per_second as u64),
            format!("{:.0}", vm.drops_per_second),
            vm.connections.to_string(),
        ]);
    }
    if rates.vms.is_empty() { writeln!(out, "no VMs") } else { table.print(out) }
}

/// `health`.
pub(super) fn health(health: &Health, out: &mut dyn Write) -> io::Result<()> {
    let Health { status, version, vms, vms_connected, .. } = health;
    let time = duration(health.uptime_seconds);
    writeln!(out, "{status}: vonic {version}, up for {time}, {vms_connected} of {vms} VMs connected")?;
    let hints = health.hints.iter().map(|hint| format!("hint: {hint}"));
    health.problems.iter().cloned().chain(hints).try_for_each(|line| writeln!(out, "{line}"))
}

/// `engine status`.
pub(super) fn engine(status: &EngineStatus, out: &mut dyn Write) -> io::Result<()> {
    let ago = |at: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(at, |now| now.as_secs());
        duration(now.saturating_sub(at))
    };
    let mut table = Table::new(&["ENGINE", ""]);
    let mut line = |name: &str, value: String| table.row([name.to_string(), value]);
    line("process", status.pid.to_string());
    line("version", status.version.clone());
    line("up for", duration(status.uptime_seconds));
    line("generation", status.generation.to_string());
    let checkpoint = &status.checkpoint;
    let (records, capacity) = (checkpoint.records, checkpoint.capacity);
    line("checkpoint", format!("{records} of {capacity} records, format {}", checkpoint.version));
    line("standby", if status.standby { "ready" } else { "none" }.to_string());
    line("deaths", status.deaths.to_string());
    line("replaced", status.replaced.to_string());
    let death = status.last_death.as_ref().map(|death| format!("{} ago: the engine {}", ago(death.at), death.reason));
    line("last death", death.unwrap_or_else(|| "none".to_string()));
    if status.next_was_delayed_ms > 0 {
        let (deaths, delay) = (status.deaths_in_short_succession, status.next_was_delayed_ms);
        line("short succession", format!("{deaths} deaths: the next one was made to wait for {delay} ms"));
    }
    let takeover = status.last_takeover.map(|takeover| {
        let planned = if takeover.planned { ", as was asked for" } else { "" };
        format!("{} ago, in {}{planned}", ago(takeover.at), milliseconds(takeover.microseconds))
    });
    line("last takeover", takeover.unwrap_or_else(|| "none".to_string()));
    line("quarantined", if status.quarantined.is_empty() { "none".to_string() } else { status.quarantined.join(", ") });
    table.print(out)
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03} ms", microseconds / 1000, microseconds % 1000)
}

/// `engine restart`.
pub(super) fn restarted(before: u32, now: &EngineStatus, out: &mut dyn Write) -> io::Result<()> {
    let took = now.last_takeover.map(|takeover| format!(" in {}", milliseconds(takeover.microseconds)));
    writeln!(out, "process {} has taken over from {before}{}", now.pid, took.unwrap_or_default())
}

/// `upgrade`.
pub(super) fn upgrade(report: &UpgradeReport, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "vonicd {} serves as process {}", report.version, report.process)
}
