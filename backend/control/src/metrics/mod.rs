//! Metrics for Prometheus: what the API's counters say, in the OpenMetrics text format.
//!
//! Nothing is counted for it: each scrape reads what the data path counts anyway.
mod families;
mod guests;

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::api::types::{EngineStatus, GuestReport, Histogram, Stats, VmRow};
use families::Families;

/// The text's media type (OpenMetrics 1.0).
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is told at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The engine.
    pub engine: EngineStatus,
    /// Everybody's counters.
    pub stats: Stats,
    /// What every VM is.
    pub vms: Vec<VmRow>,
    /// What the agents in guests say, by VM.
    pub guests: BTreeMap<String, GuestReport>,
    /// What the operator should change on this host.
    pub hints: usize,
}

impl Snapshot {
    /// The text.
    ///
    /// # Errors
    /// None that a [`String`] could have.
    pub fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        service(self, &mut families)?;
        vms(self, &mut families)?;
        traffic(self, &mut families)?;
        protocols(self, &mut families)?;
        distributions(self, &mut families)?;
        guests::tell(self, &mut families)
    }
}

/// The service as a whole, and its engines.
fn service(all: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    let engine = &all.engine;
    families.gauge(
        "vonic_build_info",
        "The version that runs; always 1",
        [([("version", engine.version.as_str())], 1)],
    )?;
    families.plain_gauge("vonic_uptime_seconds", "Seconds since the engine began", engine.uptime_seconds)?;
    families.plain_gauge("vonic_vms", "VMs that are configured", all.vms.len() as u64)?;
    families.plain_gauge(
        "vonic_hints",
        "What the operator should change on this host: vonic vm show",
        all.hints as u64,
    )?;
    families.plain_counter("vonic_engine_deaths", "Engines that have died", engine.deaths)?;
    families.plain_counter("vonic_engine_replacements", "Engines that were replaced on request", engine.replaced)?;
    let standby = u64::from(engine.standby);
    families.plain_gauge("vonic_engine_standby", "Whether another process stands ready to be the engine", standby)?;
    let Some(last) = engine.last_takeover else { return Ok(()) };
    let seconds = last.microseconds as f64 / 1e6;
    families.plain_gauge(
        "vonic_engine_last_takeover_seconds",
        "From the end of one engine until every VMM's connection stood again",
        seconds,
    )
}

/// What VMs are, and how they do.
fn vms(all: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    let info = |vm: &VmRow| ([("vm", vm.name.clone()), ("mac", vm.mac.clone()), ("network", vm.network.clone())], 1);
    families.gauge("vonic_vm_info", "What the VM's file says; always 1", all.vms.iter().map(info))?;
    let flag = |is: fn(&VmRow) -> bool| all.vms.iter().map(move |vm| ([("vm", vm.name.as_str())], u64::from(is(vm))));
    families.gauge("vonic_vm_connected", "Whether a VMM is connected", flag(|vm| vm.connected))?;
    families.gauge(
        "vonic_vm_driver_ready",
        "Whether the guest's driver has started its rings",
        flag(|vm| vm.driver_ready),
    )?;
    families.gauge(
        "vonic_vm_quarantined",
        "Whether its rings are left alone: engines died of it",
        flag(|vm| vm.quarantined),
    )?;
    families.gauge("vonic_vm_agent_silent", "Whether an agent spoke once and is silent now", {
        flag(|vm| vm.agent.as_ref().is_some_and(|agent| agent.silent))
    })?;
    let by_vm = |of: fn(&crate::api::types::VmStats) -> u64| {
        all.stats.vms.iter().map(move |(vm, stats)| ([("vm", vm.as_str())], of(stats)))
    };
    families.counter(
        "vonic_vm_engine_deaths",
        "Engines that died of what its guest sends",
        by_vm(|vm| vm.engine_deaths),
    )?;
    families.gauge(
        "vonic_vm_forwards_failed",
        "Ports of its forwards that could not be opened",
        by_vm(|vm| vm.forwards_failed as u64),
    )
}

/// Frames.
fn traffic(all: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    let ways = |of: fn(&crate::api::types::Traffic) -> u64| {
        all.stats.vms.iter().flat_map(move |(vm, stats)| {
            let label = move |way| [("vm", vm.as_str()), ("direction", way)];
            [(label("guest_to_host"), of(&stats.guest_to_host)), (label("host_to_guest"), of(&stats.host_to_guest))]
        })
    };
    families.counter(
        "vonic_vm_frames",
        "Frames; a large one that is to be segmented counts once",
        ways(|t| t.frames),
    )?;
    families.counter("vonic_vm_bytes", "Bytes of frames, without the virtio-net header", ways(|t| t.bytes))?;
    let drops = all.stats.vms.iter().flat_map(|(vm, stats)| {
        stats.drops_by_reason.iter().flat_map(move |(reason, ways)| {
            let label = move |way| [("vm", vm.as_str()), ("direction", way), ("reason", reason.as_str())];
            ways.iter().map(move |(way, &count)| (label(way.as_str()), count))
        })
    });
    families.counter("vonic_vm_drops", "Frames dropped, by reason", drops)?;
    let copied = all.stats.vms.iter().flat_map(|(vm, stats)| {
        stats.copied_bytes.iter().map(move |(path, &bytes)| ([("vm", vm.as_str()), ("path", path.as_str())], bytes))
    });
    families.counter("vonic_vm_copied_bytes", "Bytes of frames that vonic itself copied, by path", copied)?;
    let limits = all.stats.vms.iter().flat_map(|(vm, stats)| {
        stats.limits.iter().map(move |(limit, &times)| ([("vm", vm.as_str()), ("limit", limit.as_str())], times))
    });
    families.counter("vonic_vm_limit_reached", "How often a limit has refused something or put it off", limits)
}

/// The least bound of the sizes that are told: a segment is larger.
const LEAST_SIZE: u64 = 1024;
const MICROSECOND: f64 = 1e-6;

/// How long things take, and how large they are.
fn distributions(all: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    let by_vm = |of: fn(&crate::api::types::VmStats) -> &Histogram| {
        all.stats.vms.iter().map(move |(vm, stats)| ([("vm", vm.as_str())], of(stats)))
    };
    families.histogram(
        ("vonic_vm_latency_seconds", "From the signal of what a guest sends until the guest can see that it is done"),
        (1, MICROSECOND),
        by_vm(|vm| &vm.latency_us),
    )?;
    families.histogram(
        ("vonic_vm_coalesced_bytes", "Payload of the large frames that received TCP segments were put together to"),
        (LEAST_SIZE, 1.0),
        by_vm(|vm| &vm.coalesced_bytes),
    )?;
    let coalesced = all.stats.vms.iter().flat_map(|(vm, stats)| {
        stats.coalesced.iter().map(move |(event, &n)| ([("vm", vm.as_str()), ("event", event.as_str())], n))
    });
    families.counter("vonic_vm_coalesced", "Received TCP segments that were put together: vonic vm show", coalesced)
}

/// What is open now, in a protocol's counters.
const OPEN: &str = "open";

/// Counters of the protocols that vonic terminates.
fn protocols(all: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    type Of = fn(&crate::api::types::VmStats) -> &BTreeMap<String, u64>;
    let protocols: [(&str, &str, Of); 3] = [
        ("tcp", "Terminated TCP connections", |vm| &vm.tcp),
        ("udp", "Flows of UDP beyond the network", |vm| &vm.udp),
        ("icmp", "Flows of pings to the world", |vm| &vm.icmp),
    ];
    for (protocol, what, of) in protocols {
        let counters = || all.stats.vms.iter().map(move |(vm, stats)| (vm, of(stats)));
        let open = counters().filter_map(|(vm, all)| Some(([("vm", vm.as_str())], *all.get(OPEN)?)));
        families.gauge(&format!("vonic_vm_{protocol}_open"), &format!("{what}, now"), open)?;
        let events = counters().flat_map(|(vm, all)| {
            let label = move |event| [("vm", vm.as_str()), ("event", event)];
            all.iter().filter(|(event, _)| *event != OPEN).map(move |(event, &n)| (label(event.as_str()), n))
        });
        families.counter(
            &format!("vonic_vm_{protocol}"),
            &format!("{what}, by what is counted: vonic stats"),
            events,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
