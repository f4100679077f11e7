//! Answers to the API.
use super::agents;
use super::egress::Counted;
use super::registry::{Entry, Registry};
use crate::api::types::{
    ConnectionRow, Drops, EgressRow, Health, LimitRow, Opener, RingRow, Stats, Traffic, UplinkRow, VmDetail, VmRow,
    VmStats,
};
use crate::api::{ApiError, Reply, Request, Response};
use crate::config::{self, feature_names};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;
use vonic_datapath::{
    Command, ConnectionView, CopyPath, Limit, ListPlace, PortStats, Reply as Sent, Way, queue_direction,
};
use vonic_frame::DropReason;
use vonic_queue::Direction;

/// How long the worker may take for one part of the list of its connections: a round, and the part.
const LIST_LIMIT: Duration = Duration::from_secs(2);

impl Registry {
    /// Answers a request.
    pub(super) fn answer(&mut self, request: Request, reply: Reply) {
        let response = match request {
            Request::Vms => Response::Vms(self.vms.values().map(row).collect()),
            Request::Vm(name) => match self.vms.get(&name) {
                Some(entry) => Response::Vm(Box::new(self.detail(entry))),
                None => Response::Error(ApiError::no_such_vm(&name)),
            },
            Request::Connections { vm } => self.connections(vm),
            Request::Stats => Response::Stats(self.all_stats()),
            Request::Reload => return self.reload(Some(reply)),
            Request::Engine => Response::Engine(Box::new(self.status())),
            Request::RestartEngine => return self.give_way(reply),
            Request::SaveState { vm, limit } => return self.save_by_hand(&vm, limit, reply),
            Request::AwaitState { vm, limit } => return self.await_state(&vm, limit, reply),
            Request::LoadState { vm, number, state } => return self.load_by_hand(&vm, number, state, reply),
            Request::ForgetState { vm, number } => return self.forget_state(&vm, number),
            Request::Upgrade(path) => return self.upgrade(path, reply),
            Request::Upgraded => Response::Upgrade(self.upgrade_report()),
            Request::Health => Response::Health(Health {
                status: "ok".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                uptime_seconds: self.started.elapsed().as_secs(),
                vms: self.vms.len(),
                vms_connected: self.vms.values().filter(|e| e.session.is_some()).count(),
                hints: self.hints.texts(),
            }),
        };
        reply.send(response);
    }

    fn detail(&self, entry: &Entry) -> VmDetail {
        let taps = self.taps.by_vm.get(&entry.vm.name);
        let uplink = UplinkRow {
            kind: self.config.networks.get(&entry.vm.network).map(|n| n.uplink.to_string()).unwrap_or_default(),
            interface: taps.and_then(|u| Some(u.tap.as_ref()?.name().to_string())),
            error: taps.and_then(|u| u.error.clone()),
        };
        let rules = self.egress.of(&entry.vm.name);
        let network = self.config.networks.get(&entry.vm.network);
        let resolvers = network.and_then(|network| self.resolvers.of(network));
        let resolvers = resolvers.iter().flat_map(|all| all.iter()).map(|to| to.ip().to_string()).collect();
        let detail = detail(entry, rules, self.config.service.vm_socket(&entry.vm.name), uplink, self.hints.texts());
        VmDetail { resolvers, ..detail }
    }

    fn connections(&mut self, vm: Option<String>) -> Response {
        let port = match &vm {
            Some(name) => match self.vms.get(name) {
                Some(entry) => Some(entry.port),
                None => return Response::Error(ApiError::no_such_vm(name)),
            },
            None => None,
        };
        let mut views = Vec::new();
        let mut place = Some(ListPlace::default());
        while let Some(from) = place {
            let (sender, answer) = channel();
            // Nobody waits any more: fine.
            let reply = Sent::new(move |part| drop(sender.send(part)));
            self.order(Command::Connections { port, from, reply });
            let Ok(part) = answer.recv_timeout(LIST_LIMIT) else {
                return Response::Error(ApiError::unavailable("the worker did not answer in time"));
            };
            views.extend(part.views);
            place = part.next;
        }
        let names: BTreeMap<u32, &str> = self.vms.iter().map(|(name, e)| (e.port, name.as_str())).collect();
        let row = |view: ConnectionView| Some(connection(names.get(&view.port)?, &view));
        Response::Connections(views.into_iter().filter_map(row).collect())
    }

    fn all_stats(&self) -> Stats {
        let gone = CopyPath::ALL.iter().map(|path| (path.name().to_string(), self.copied_by_gone.on(*path).get()));
        let mut copied: BTreeMap<String, u64> = gone.collect();
        for entry in self.vms.values() {
            for (path, bytes) in copied_bytes(&entry.stats) {
                *copied.entry(path).or_default() += bytes;
            }
        }
        let vms = self.vms.iter().map(|(name, entry)| (name.clone(), vm_stats(entry))).collect();
        Stats { uptime_seconds: self.started.elapsed().as_secs(), copied_bytes: copied, vms }
    }
}

fn connection(vm: &str, view: &ConnectionView) -> ConnectionRow {
    ConnectionRow {
        vm: vm.into(),
        protocol: view.protocol.into(),
        direction: Opener::of(view.guest_opens),
        guest: view.guest.to_string(),
        // An echo has no port there.
        remote: if view.remote.port() == 0 { view.remote.ip().to_string() } else { view.remote.to_string() },
        state: view.state.into(),
        bytes_guest_to_host: view.bytes_guest_to_host,
        bytes_host_to_guest: view.bytes_host_to_guest,
        age_seconds: view.age_seconds,
    }
}

fn traffic(stats: &PortStats, way: Way) -> Traffic {
    let (frames, bytes) = stats.traffic(way);
    Traffic { frames, bytes }
}

/// Drops by reason and direction; reasons that never happened are left out.
pub(super) fn drops(stats: &PortStats) -> Drops {
    let counts = |reason: DropReason| Way::ALL.map(|way| (way.name().to_string(), stats.drops(way, reason)));
    let happened = DropReason::ALL.iter().map(|r| (r.name().to_string(), BTreeMap::from(counts(*r))));
    happened.filter(|(_, counts)| counts.values().any(|n| *n > 0)).collect()
}

fn copied_bytes(stats: &PortStats) -> BTreeMap<String, u64> {
    CopyPath::ALL.iter().map(|path| (path.name().to_string(), stats.copied(*path).get())).collect()
}

pub(super) fn counters(all: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    all.map(|(name, n)| (name.to_string(), n)).collect()
}

fn row(entry: &Entry) -> VmRow {
    let dropped = |way| DropReason::ALL.iter().map(|r| entry.stats.drops(way, *r)).sum::<u64>();
    VmRow {
        name: entry.vm.name.clone(),
        mac: entry.vm.mac.to_string(),
        network: entry.vm.network.clone(),
        address4: entry.vm.address4.map(|a| a.to_string()),
        address6: entry.vm.address6.map(|a| a.to_string()),
        quarantined: entry.blame.quarantined,
        connected: entry.session.is_some(),
        driver_ready: entry.session.as_ref().is_some_and(|s| s.driver_ready()),
        guest_to_host: traffic(&entry.stats, Way::GuestToHost),
        host_to_guest: traffic(&entry.stats, Way::HostToGuest),
        drops: Way::ALL.into_iter().map(dropped).sum(),
        connections: entry.stats.tcp.open.get(),
        agent: entry.guest.report().map(|report| agents::row(&report)),
    }
}

fn detail(entry: &Entry, rules: &[Counted], socket: PathBuf, uplink: UplinkRow, hints: Vec<String>) -> VmDetail {
    let session = entry.session.as_ref();
    let bits = session.and_then(|s| s.features).unwrap_or_default();
    let rings = session.iter().flat_map(|s| &s.rings).map(|(index, ring)| RingRow {
        index: *index,
        direction: match queue_direction(bits, entry.vm.queue_pairs, *index) {
            Some(Direction::HostToGuest) => Way::HostToGuest.name(),
            Some(Direction::GuestToHost) => Way::GuestToHost.name(),
            Some(Direction::Control) => "control",
            None => "none",
        }
        .into(),
        size: ring.size,
        enabled: ring.enabled,
        state: ring.broken.clone().unwrap_or_else(|| if ring.enabled { "running" } else { "stopped" }.into()),
    });
    VmDetail {
        row: row(entry),
        mtu: entry.vm.mtu,
        hostname: entry.vm.hostname.clone(),
        resolvers: Vec::new(),
        socket: socket.display().to_string(),
        socket_mode: entry.vm.socket_mode.to_string(),
        queue_pairs: entry.vm.queue_pairs,
        failover: entry.vm.failover,
        ack: entry.vm.ack.name().into(),
        labels: entry.vm.labels.clone(),
        features_offered: feature_names(entry.vm.virtio_bits()),
        features_negotiated: session.and_then(|s| s.features).map(feature_names).unwrap_or_default(),
        rings: rings.collect(),
        drops_by_reason: drops(&entry.stats),
        copied_bytes: copied_bytes(&entry.stats),
        uplink,
        forwards: entry.vm.forwards.iter().map(ToString::to_string).collect(),
        forward_errors: entry.forward_errors.clone(),
        egress: rules.iter().map(egress).collect(),
        denied_otherwise: counters(entry.stats.egress.all()),
        limits: limits(entry),
        last_error: entry.last_error.clone(),
        tcp: counters(entry.stats.tcp.all()),
        icmp: counters(entry.stats.icmp.all()),
        udp: counters(entry.stats.udp.all()),
        hints,
        guest: entry.guest.report().map(|report| agents::detail(report, entry.vm.mac)),
    }
}

/// A rule with what it has decided.
fn egress((rule, decided): &Counted) -> EgressRow {
    EgressRow { rule: rule.to_string(), decided: decided.get() }
}

/// The limits with how often each was reached.
pub(super) fn limits(entry: &Entry) -> Vec<LimitRow> {
    let config::Limits { connections, pending, pending_per_destination, udp_flows, new_per_second } = entry.vm.limits;
    let most = |limit| match limit {
        Limit::Connections => Some(connections),
        Limit::Pending => Some(pending),
        Limit::PendingPerDestination => Some(pending_per_destination),
        Limit::UdpFlows => Some(udp_flows),
        Limit::NewPerSecond => Some(new_per_second),
        Limit::Service | Limit::Host => None,
    };
    let row =
        |limit: Limit| LimitRow { name: limit.name().into(), most: most(limit), reached: entry.stats.reached(limit) };
    Limit::ALL.into_iter().map(row).collect()
}

fn vm_stats(entry: &Entry) -> VmStats {
    let stats = &entry.stats;
    VmStats {
        guest_to_host: traffic(stats, Way::GuestToHost),
        host_to_guest: traffic(stats, Way::HostToGuest),
        drops_by_reason: drops(stats),
        copied_bytes: copied_bytes(stats),
        connections: stats.tcp.open.get(),
        tcp: counters(stats.tcp.all()),
        icmp: counters(stats.icmp.all()),
        limits: Limit::ALL.iter().map(|limit| (limit.name().to_string(), stats.reached(*limit))).collect(),
        udp: counters(stats.udp.all()),
        engine_deaths: entry.blame.deaths,
        forwards_failed: entry.forward_errors.len(),
    }
}
