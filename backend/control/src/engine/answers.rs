//! Answers to the API.
use super::agents;
use super::egress::Counted;
use super::registry::{Entry, Registry};
use super::reload::Asker;
use crate::api::types::{
    ConnectionRow, Drops, EgressRow, Histogram, LimitRow, OffloadRow, OffloadsRow, Opener, RingRow, Stats, Traffic,
    UplinkRow, VmDetail, VmRow, VmStats,
};
use crate::api::{ApiError, Filter, Reply, Request, Response};
use crate::config::{self, feature_names};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;
use vonic_datapath::{
    Command, ConnectionView, CopyPath, Limit, ListPlace, Negotiated, PortId, PortStats, Reply as Sent, Way,
    queue_direction,
};
use vonic_frame::{DropReason, Offloads};
use vonic_queue::Direction;

/// How long the worker may take for one part of the list of its connections: a round, and the part.
const LIST_LIMIT: Duration = Duration::from_secs(2);

/// Requests for the list of connections.
#[derive(Default)]
pub(super) struct Lists {
    /// They wait: VMMs that were connected are still to come back from the engine before.
    pub held: bool,
    waiting: Vec<(Filter, Reply)>,
}

impl Registry {
    /// Answers a request.
    pub(super) fn answer(&mut self, request: Request, reply: Reply) {
        if matches!(request, Request::Vms | Request::Vm(_) | Request::Stats) {
            self.count_overflows();
        }
        let response = match request {
            Request::Vms => Response::Vms(self.vms_listed()),
            Request::Vm(name) => match self.vms.get(&name) {
                Some(entry) => Response::Vm(Box::new(self.detail(entry))),
                None => Response::Error(ApiError::no_such_vm(&name)),
            },
            // The worker would wait for what this thread has not told it yet.
            Request::PutVm { vm, text } => return self.edit(vm, Some(text), reply),
            Request::DeleteVm(vm) => return self.edit(vm, None, reply),
            Request::Connections(filter) if self.lists.held => return self.lists.waiting.push((filter, reply)),
            Request::Connections(filter) => self.connections(&filter),
            Request::Stats => Response::Stats(self.all_stats()),
            Request::Events(_) | Request::OpenApi | Request::Rates(_) => {
                Response::Error(ApiError::internal("this is the API's own to answer"))
            }
            Request::Metrics => Response::Metrics(Box::new(self.snapshot())),
            Request::Reload { dry_run: false } => return self.reload(Asker::Client(reply)),
            Request::Reload { dry_run: true } => Response::Reload(self.foretell()),
            Request::Engine => Response::Engine(Box::new(self.whole_status())),
            Request::RestartEngine => return self.give_way(reply),
            Request::SaveState { vm, limit } => return self.save_by_hand(&vm, limit, reply),
            Request::AwaitState { vm, limit } => return self.await_state(&vm, limit, reply),
            Request::LoadState { vm, number, state } => return self.load_by_hand(&vm, number, state, reply),
            Request::ForgetState { vm, number } => return self.forget_state(&vm, number),
            Request::Capture { vm, capturer } => self.capture(&vm, &capturer),
            Request::EndCapture { vm, number } => return self.end_capture(&vm, number),
            Request::Upgrade(path) => return self.upgrade(path, reply),
            Request::Upgraded => Response::Upgrade(self.upgrade_report()),
            Request::Health => Response::Health(self.health()),
        };
        reply.send(response);
    }

    /// Every VM, by name.
    pub(super) fn vms_listed(&self) -> Vec<VmRow> {
        self.vms.values().map(row).collect()
    }

    fn detail(&self, entry: &Entry) -> VmDetail {
        let cables = self.cables.by_vm.get(&entry.vm.name);
        let uplink = UplinkRow {
            kind: self.config.networks.get(&entry.vm.network).map(|n| n.uplink.to_string()).unwrap_or_default(),
            interface: cables.and_then(|u| Some(u.cable.as_ref()?.name().to_string())),
            error: cables.and_then(|u| u.error.clone()),
            warnings: cables.map(|u| u.warnings.clone()).unwrap_or_default(),
        };
        let rules = self.egress.of(&entry.vm.name);
        let network = self.config.networks.get(&entry.vm.network);
        let resolvers = network.and_then(|network| self.resolvers.of(network));
        let resolvers = resolvers.iter().flat_map(|all| all.iter()).map(|to| to.ip().to_string()).collect();
        let detail = detail(entry, rules, self.config.service.vm_socket(&entry.vm.name), uplink, self.hints.texts());
        let coalesce = entry.vm.coalesce.unwrap_or_else(|| network.is_some_and(|network| network.coalesce));
        let coalesce_us = network.map_or(0, |network| network.coalesce_us);
        VmDetail { resolvers, coalesce, coalesce_us, worker: self.workers.of(entry.port), ..detail }
    }

    /// The worker knows by now whose connections it has to take over.
    pub(super) fn release_lists(&mut self) {
        self.lists.held = false;
        for (filter, reply) in std::mem::take(&mut self.lists.waiting) {
            reply.send(self.connections(&filter));
        }
    }

    fn connections(&mut self, filter: &Filter) -> Response {
        let port = match &filter.vm {
            Some(name) => match self.vms.get(name) {
                Some(entry) => Some(entry.port),
                None => return Response::Error(ApiError::no_such_vm(name)),
            },
            None => None,
        };
        let mut views = Vec::new();
        for worker in self.workers.concerned(port) {
            let Some(part) = self.list(worker, port) else {
                let error = ApiError::unavailable("the worker did not answer in time");
                return Response::Error(error.mend("try again; see vonicd's log if it stays so"));
            };
            let is_meant = |view: &ConnectionView| {
                filter.admits((view.protocol, view.state), [view.guest, view.remote], view.age_seconds)
            };
            views.extend(part.into_iter().filter(is_meant));
        }
        let names: BTreeMap<u32, &str> = self.vms.iter().map(|(name, e)| (e.port, name.as_str())).collect();
        let row = |view: ConnectionView| Some(connection(names.get(&view.port)?, &view));
        Response::Connections(views.into_iter().filter_map(row).collect())
    }

    /// What a worker lists of a port, or of all of its own.
    fn list(&mut self, worker: usize, port: Option<PortId>) -> Option<Vec<ConnectionView>> {
        let mut views = Vec::new();
        let mut place = Some(ListPlace::default());
        while let Some(from) = place {
            let (sender, answer) = channel();
            // Nobody waits any more: fine.
            let reply = Sent::new(move |part| drop(sender.send(part)));
            self.workers.send(worker, Command::Connections { port, from, reply });
            let part = answer.recv_timeout(LIST_LIMIT).ok()?;
            views.extend(part.views);
            place = part.next;
        }
        Some(views)
    }

    /// Everybody's counters.
    pub(super) fn all_stats(&self) -> Stats {
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

fn histogram(of: &vonic_datapath::Histogram) -> Histogram {
    Histogram::new(of.places(), of.sum())
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
        session_seconds: Some(entry.session_since.elapsed().as_secs()),
        worker: 0,
        queue_pairs: entry.vm.queue_pairs,
        failover: entry.vm.failover,
        ack: entry.vm.ack.name().into(),
        coalesce: false,
        coalesce_us: 0,
        call_us: entry.vm.call_us,
        call_frames: entry.vm.call_frames,
        labels: entry.vm.labels.clone(),
        features_offered: feature_names(entry.vm.virtio_bits()),
        features_negotiated: session.and_then(|s| s.features).map(feature_names).unwrap_or_default(),
        offloads: session.and_then(|s| s.features).map(offloads).unwrap_or_default(),
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
        coalesced: counters(entry.stats.coalesce.all()),
        coalesced_bytes: histogram(&entry.stats.aggregates),
        latency_us: histogram(&entry.stats.latency),
        hints,
        guest: entry.guest.report().map(|report| agents::detail(report, entry.vm.mac)),
    }
}

/// What is agreed by these features.
fn offloads(bits: u64) -> OffloadsRow {
    let negotiated = Negotiated::new(bits);
    let row = |of: Offloads| OffloadRow { checksum: of.csum, tso4: of.tso4, tso6: of.tso6 };
    OffloadsRow { guest_to_host: row(negotiated.from_guest), host_to_guest: row(negotiated.to_guest) }
}

/// A rule with what it has decided.
fn egress((rule, decided): &Counted) -> EgressRow {
    EgressRow { rule: rule.to_string(), decided: decided.get() }
}

/// The limits with how often each was reached.
pub(super) fn limits(entry: &Entry) -> Vec<LimitRow> {
    let config::Limits { connections, pending, pending_per_destination, udp_flows, new_per_second, groups_per_second } =
        entry.vm.limits;
    let most = |limit| match limit {
        Limit::Connections => Some(connections),
        Limit::Pending => Some(pending),
        Limit::PendingPerDestination => Some(pending_per_destination),
        Limit::UdpFlows => Some(udp_flows),
        Limit::NewPerSecond => Some(new_per_second),
        Limit::GroupsPerSecond => Some(groups_per_second),
        Limit::Kicks | Limit::Unforwarded | Limit::Service | Limit::Host => None,
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
        coalesced: counters(stats.coalesce.all()),
        coalesced_bytes: histogram(&stats.aggregates),
        latency_us: histogram(&stats.latency),
        engine_deaths: entry.blame.deaths,
        forwards_failed: entry.forward_errors.len(),
    }
}
