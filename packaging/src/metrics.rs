//! The manual's page of the metrics: what a scrape says of itself.
use std::collections::BTreeMap;

use vonic_control::api::types::{
    AgentRow, Conntrack, Cpu, EngineStatus, GuestReport, Memory, NicCounters, Sockets, Stats, TakeoverRow, Tcp, VmRow,
    VmStats,
};
use vonic_control::metrics::Snapshot;

/// One family of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, as a scrape declares it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it means.
    pub help: String,
    /// The names of its labels.
    pub labels: Vec<String>,
}

impl Family {
    /// The names under which its values stand (OpenMetrics 1.0, §5).
    pub fn samples(&self) -> Vec<String> {
        let ends: &[&str] = match self.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        ends.iter().map(|end| format!("{}{end}", self.name)).collect()
    }
}

/// Every family, in the order of a scrape.
pub fn families() -> Vec<Family> {
    let text = sample().text().unwrap_or_default();
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let help = help.trim_end_matches('.').to_string();
            families.push(Family { name: name.into(), kind: String::new(), help, labels: Vec::new() });
            continue;
        }
        let Some(family) = families.last_mut() else { continue };
        if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            family.kind = kind.into();
        } else if let Some((_, labels)) = line.split_once('{') {
            for label in labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(label, _)| label) {
                // A histogram's bounds are its own matter.
                if label != "le" && !family.labels.iter().any(|known| known == label) {
                    family.labels.push(label.into());
                }
            }
        }
    }
    families
}

/// The page.
pub fn markdown() -> String {
    let mut page = "# Metrics\n\nMade of what vonicd tells by `make docs-reference`: do not edit. Prometheus reads it at `metrics_listen` \
        ([configuration](../config.md#vonictoml)), everybody else with `curl --unix-socket /run/vonic/api.sock http://localhost/v1/metrics`. \
        A counter's samples end in `_total`, a histogram's in `_bucket`, `_sum` and `_count`; counters never go back but for a new start \
        of vonicd. How to watch them: [Monitoring](../monitoring.md).\n\n| family | type | labels | meaning |\n|---|---|---|---|\n"
        .to_string();
    for Family { name, kind, help, labels } in families() {
        page.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    page
}

/// One VM of which everything is told.
fn sample() -> Snapshot {
    let name = || "web1".to_string();
    let one = |key: &str| BTreeMap::from([(key.to_string(), 1)]);
    let (tcp, udp, icmp) = (counts(["open", "reset"]), counts(["open", "evicted"]), counts(["open", "sent"]));
    let stats = VmStats {
        copied_bytes: one("guest_to_guest"),
        limits: one("pending"),
        drops_by_reason: BTreeMap::from([("no_room".to_string(), one("guest_to_host"))]),
        tcp,
        udp,
        icmp,
        ..VmStats::default()
    };
    let sockets = Sockets { rtt_median_us: Some(1), rtt_p99_us: Some(1), ..Sockets::default() };
    let guest = GuestReport {
        nic: Some(NicCounters::default()),
        tcp: Some(Tcp {
            established: Some(1),
            segments_sent: Some(1),
            retransmitted: Some(1),
            timeouts: Some(1),
            listen_drops: Some(1),
            sockets: Some(sockets),
            ..Tcp::default()
        }),
        cpu: Some(Cpu {
            busy_ms: Some(1),
            softirq_ms: Some(1),
            steal_ms: Some(1),
            backlog_dropped: Some(1),
            ..Cpu::default()
        }),
        memory: Some(Memory { total: Some(1), available: Some(1), ..Memory::default() }),
        conntrack: Some(Conntrack { count: Some(1), most: Some(1) }),
        ..GuestReport::default()
    };
    Snapshot {
        engine: EngineStatus { last_takeover: Some(TakeoverRow::default()), ..EngineStatus::default() },
        stats: Stats { vms: BTreeMap::from([(name(), stats)]), ..Stats::default() },
        vms: vec![VmRow { name: name(), agent: Some(AgentRow::default()), ..VmRow::default() }],
        guests: BTreeMap::from([(name(), guest)]),
        ..Snapshot::default()
    }
}

fn counts<const N: usize>(names: [&str; N]) -> BTreeMap<String, u64> {
    names.into_iter().map(|name| (name.to_string(), 1)).collect()
}
