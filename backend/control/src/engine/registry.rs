//! The VMs that the engine serves, and how a configuration becomes commands.
use super::Input;
use super::answers::Lists;
use super::cables::Cables;
use super::chronicle::Told;
use super::edits::Edits;
use super::egress::Egress;
use super::file_watch::FileWatch;
use super::forwards::{self, Forwards};
use super::hints::{Cause, Hints};
use super::metrics::Metrics;
use super::migration::{ByHand, Departure, Migration};
use super::quarantine;
use super::relisten::{self, Retry};
use super::reload::Reloads;
use super::resolvers::Resolvers;
use super::sessions::SessionState;
use super::succession;
use super::upgrades::Upgrades;
use super::workers::Workers;
use crate::api::{Feed, types::Happening};
use crate::config::{Acknowledge, Config, Family, Network, SocketMode, Uplink, Vm, gateway_mac};
use crate::guest::{Guest, Service};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use vonic_datapath::{
    AckPolicy, CallPolicy, Coalesce, Command, Copied, CopyPath, ForwardSocket, ForwardSpec, Limits, Names, NetworkId,
    NetworkSpec, Notice, PortId, PortSpec, PortStats,
};
use vonic_frame::encode_domains;
use vonic_front::{API, Blame, EngineLink, History, ToMaster};
use vonic_queue::{QueueError, handover};
use vonic_record::{Ledger, Shared, name};

/// Only the owner speaks to vonicd's sockets; who else may is the administrator's decision.
const SOCKET_MODE: u32 = 0o600;
/// How long an order may take that is waited for: a round of the worker's takes microseconds.
pub(super) const ROUND_LIMIT: Duration = Duration::from_secs(2);

/// One VM.
pub(super) struct Entry {
    pub vm: Vm,
    pub port: PortId,
    pub stats: Shared<PortStats>,
    /// What its guest says of itself.
    pub guest: Arc<Guest>,
    pub session: Option<SessionState>,
    /// Since when it is, or is not; of what was before this engine, since that began.
    pub session_since: Instant,
    pub last_error: Option<String>,
    /// Its forwards that could not be opened, one message each; tried again from time to time.
    pub forward_errors: Vec<String>,
    /// Its own socket could not be opened: why.
    pub socket_error: Option<String>,
    /// What is held against it for the deaths of engines.
    pub blame: Blame,
    /// Its guest leaves for another host, or seems to have left.
    pub departure: Option<Departure>,
    /// What the operator has asked for about that.
    pub by_hand: ByHand,
}

/// Everything that the engine knows.
pub struct Registry {
    pub(super) config_dir: PathBuf,
    pub(super) config: Config,
    /// The text of `vonic.toml` that the service's own settings were read from.
    pub(super) first_service: Option<String>,
    pub(super) vms: BTreeMap<String, Entry>,
    networks: Vec<String>,
    pub(super) forwards: Forwards,
    /// When forwards that could not be opened are tried again.
    pub(super) relisten: Retry,
    pub(super) egress: Egress,
    pub(super) cables: Cables,
    pub(super) reloads: Reloads,
    pub(super) edits: Edits,
    /// Where what happens is told, and what the engines have told of each other.
    pub(super) feed: Feed,
    pub(super) told: Option<Told>,
    /// News of the configuration's files.
    pub(super) files: FileWatch,
    pub(super) resolvers: Resolvers,
    pub(super) upgrades: Upgrades,
    pub(super) workers: Workers,
    pub(super) link: EngineLink,
    sender: Sender<Input>,
    guests: Service,
    pub(super) started: Instant,
    /// What is held against VMs, by their numbers.
    pub(super) blamed: BTreeMap<u64, Blame>,
    /// What has become of engines; `None` where no other process can be one.
    pub(super) history: Option<History>,
    /// Another engine is to go on: this one does nothing more.
    pub(super) rests: bool,
    /// What the operator should change on this host.
    pub(super) hints: Hints,
    /// Where metrics are told.
    pub(super) metrics: Metrics,
    /// Every counter, over engines.
    pub(super) ledger: Ledger,
    /// Bytes copied for VMs that are gone.
    pub(super) copied_by_gone: Shared<Copied>,
    /// Guests that leave or come.
    pub(super) migration: Migration,
    pub(super) lists: Lists,
}

impl Registry {
    pub(super) fn new(
        config_dir: PathBuf,
        (config, first_service): (Config, Option<String>),
        workers: Workers,
        (link, sender): (EngineLink, Sender<Input>),
        guests: Service,
        mut ledger: Ledger,
        migration: Migration,
    ) -> Registry {
        Registry {
            config_dir,
            config,
            first_service,
            vms: BTreeMap::new(),
            networks: Vec::new(),
            forwards: Forwards::default(),
            relisten: Retry::default(),
            egress: Egress::default(),
            cables: Cables::default(),
            reloads: Reloads::default(),
            edits: Edits::default(),
            feed: Feed::default(),
            told: None,
            files: FileWatch::default(),
            resolvers: Resolvers::default(),
            upgrades: Upgrades::default(),
            workers,
            link,
            sender,
            guests,
            started: Instant::now(),
            blamed: BTreeMap::new(),
            history: None,
            rests: false,
            metrics: Metrics::default(),
            hints: Hints::default(),
            copied_by_gone: ledger.open(0, name("copied by gone")),
            ledger,
            migration,
            lists: Lists::default(),
        }
    }

    pub(super) fn sender(&self) -> Sender<Input> {
        self.sender.clone()
    }

    /// Makes networks, VMs and sockets of the configuration.
    pub(super) fn open_everything(&mut self) {
        for network in self.config.networks.clone().into_values() {
            self.set_network(&network);
        }
        for vm in self.config.vms.clone().into_values() {
            self.add(vm);
        }
        self.end_inheritance();
        let path = self.config.service.api_socket();
        self.tell(&ToMaster::Listen { name: API.into(), path, mode: SOCKET_MODE });
        self.tell(&ToMaster::Ready);
    }

    /// Gives an order to the worker that it is for, or to all.
    pub(super) fn order(&mut self, command: Command) {
        self.workers.order(command);
    }

    /// Waits until every order given so far is in force: who is told that a reload is done may rely on it.
    pub(super) fn wait_for_worker(&mut self) {
        if !self.workers.each(ROUND_LIMIT, |done| Command::Barrier { done }) {
            log::warn!("the workers have not applied their orders within {ROUND_LIMIT:?}");
        }
    }

    pub(super) fn tell(&self, message: &ToMaster) {
        if let Err(error) = self.link.send(message) {
            log::error!("the master cannot be told {message:?}: {error}");
        }
    }

    fn network_id(&mut self, name: &str) -> NetworkId {
        let place = self.networks.iter().position(|n| n == name).unwrap_or_else(|| {
            self.networks.push(name.into());
            self.networks.len() - 1
        });
        place as NetworkId
    }

    pub(super) fn set_network(&mut self, network: &Network) {
        let spec = NetworkSpec {
            network: self.network_id(&network.name),
            gateway_mac: gateway_mac(&network.name),
            v4: network.addresses(Family::V4),
            v6: network.addresses(Family::V6),
            reach_host: network.reach_host,
            isolated: network.isolated,
            uplink: match network.uplink {
                Uplink::None => vonic_datapath::Uplink::None,
                Uplink::Sockets => vonic_datapath::Uplink::Sockets,
                Uplink::Tap(_) | Uplink::Packet(_) => vonic_datapath::Uplink::Tap,
            },
            names: Names {
                resolvers: self.resolvers.of(network),
                domain: network.search.first().cloned().unwrap_or_default(),
                search: encode_domains(network.search.iter().map(String::as_str)),
            },
            slaac: network.slaac,
            coalesce: Coalesce { on: network.coalesce, us: network.coalesce_us },
        };
        self.order(Command::Network(Box::new(spec)));
    }

    pub(super) fn remove_network(&mut self, name: &str) {
        let id = self.network_id(name);
        self.order(Command::RemoveNetwork(id));
    }

    pub(super) fn add(&mut self, vm: Vm) {
        let stats = self.stats(&vm.name);
        self.add_with(vm, stats);
    }

    fn add_with(&mut self, vm: Vm, stats: Shared<PortStats>) {
        let taken: Vec<PortId> = self.vms.values().map(|e| e.port).collect();
        let port = (0..).find(|p| !taken.contains(p)).unwrap_or_default();
        self.workers.assign(port, vm.worker);
        let (forwards, errors) = self.open_forwards(&vm);
        self.open_uplink(&vm);
        let spec = self.spec(&vm, port, &stats, forwards);
        self.order(Command::Attach(Box::new(spec)));
        self.open_socket(&vm);
        let blame = self.blame(&vm.name);
        let last_error = relisten::report(&vm.name, &[], &errors).or_else(|| quarantine::report(&vm.name, blame));
        let guest = Arc::new(Guest::new(&vm.name, &stats));
        if blame.quarantined {
            self.feed.tell(Happening::VmQuarantined { vm: vm.name.clone() });
        }
        let forward_errors = errors;
        let entry = Entry {
            vm,
            port,
            stats,
            guest,
            session: None,
            session_since: Instant::now(),
            last_error,
            forward_errors,
            socket_error: None,
            blame,
            departure: None,
            by_hand: ByHand::default(),
        };
        self.vms.insert(entry.vm.name.clone(), entry);
    }

    fn open_socket(&self, vm: &Vm) {
        let (name, path) = (vm.name.clone(), self.config.service.vm_socket(&vm.name));
        self.tell(&match vm.socket_mode {
            SocketMode::Server => ToMaster::Listen { name, path, mode: SOCKET_MODE },
            SocketMode::Client => ToMaster::Connect { name, path },
        });
    }

    /// Opens the sockets that could not be opened before: whoever had one may be gone by now.
    pub(super) fn retry_sockets(&self) {
        self.vms.values().filter(|entry| entry.socket_error.is_some()).for_each(|entry| self.open_socket(&entry.vm));
    }

    /// Takes a VM out of service; its counters, which count no further.
    fn take_out(&mut self, name: &str) -> Option<Shared<PortStats>> {
        self.left(name);
        self.count_overflow(name);
        let mut entry = self.vms.remove(name)?;
        self.tell(&ToMaster::Unlisten { name: name.into() });
        if let Some(session) = entry.session.take() {
            session.close();
        }
        let (done, detached) = handover();
        self.order(Command::Detach { port: entry.port, done });
        if !detached.wait(ROUND_LIMIT) {
            log::warn!("{name}: the worker did not let go of it within {ROUND_LIMIT:?}");
        }
        self.workers.release(entry.port);
        self.cables.by_vm.remove(name);
        Some(entry.stats)
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.egress.forget(name);
        if let Some(stats) = self.take_out(name) {
            for path in CopyPath::ALL {
                self.copied_by_gone.on(path).add(stats.copied(path).get());
            }
        }
    }

    /// A changed VM keeps its session if only its policy differs; else its VMM has to connect again. Its counters go on.
    pub(super) fn change(&mut self, vm: Vm) {
        let Some(entry) = self.vms.get(&vm.name) else { return self.add(vm) };
        if !entry.vm.is_same_nic(&vm) {
            return self.replace(vm);
        }
        let (port, stats) = (entry.port, entry.stats.clone());
        let (forwards, errors) = self.open_forwards(&vm);
        let spec = self.spec(&vm, port, &stats, forwards);
        let (done, _) = handover();
        self.order(Command::Reconfigure { spec: Box::new(spec), done });
        if let Some(entry) = self.vms.get_mut(&vm.name) {
            let last_error = relisten::report(&vm.name, &entry.forward_errors, &errors);
            entry.vm = vm;
            entry.forward_errors = errors;
            entry.last_error = last_error;
        }
    }

    /// Takes a VM out and puts it in again; its counters go on.
    pub(super) fn replace(&mut self, vm: Vm) {
        let stats = self.take_out(&vm.name).unwrap_or_else(|| self.stats(&vm.name));
        self.add_with(vm, stats);
    }

    /// Closes listeners that the new configuration has not: one that it has instead may overlap them, as `*:80` does
    /// `127.0.0.1:80`. Returns those that stay, so that none is closed while it changes hands.
    pub(super) fn release_listeners(&mut self, new: &Config) -> Vec<ForwardSocket> {
        let wanted = forwards::places(new.vms.values());
        let held = self.forwards.hold(&wanted);
        let releases = |e: &&Entry| !forwards::places([&e.vm]).is_subset(&wanted);
        let vms: Vec<(Vm, PortId, Shared<PortStats>)> =
            self.vms.values().filter(releases).map(|e| (e.vm.clone(), e.port, e.stats.clone())).collect();
        for (vm, port, stats) in vms {
            let kept = self.forwards.kept(&vm, &wanted);
            let spec = self.spec(&vm, port, &stats, kept);
            let (done, closed) = handover();
            self.order(Command::Reconfigure { spec: Box::new(spec), done });
            if !closed.wait(ROUND_LIMIT) {
                log::warn!("{}: the worker did not close its listeners within {ROUND_LIMIT:?}", vm.name);
            }
        }
        held
    }

    pub(super) fn spec(
        &mut self,
        vm: &Vm,
        port: PortId,
        stats: &Shared<PortStats>,
        forwards: Vec<ForwardSpec>,
    ) -> PortSpec {
        let limits = Limits {
            connections: vm.limits.connections,
            pending: vm.limits.pending,
            pending_per_destination: vm.limits.pending_per_destination,
            udp_flows: vm.limits.udp_flows,
            new_per_second: vm.limits.new_per_second,
            groups_per_second: vm.limits.groups_per_second,
        };
        PortSpec {
            port,
            vm: succession::number(&vm.name),
            failover: vm.failover,
            quarantined: self.blame(&vm.name).quarantined,
            mac: vm.mac,
            network: self.network_id(&vm.network),
            address4: vm.address4,
            address6: vm.address6,
            hostname: vm.hostname.clone(),
            queue_pairs: vm.queue_pairs,
            mtu: vm.mtu,
            ack: match vm.ack {
                Acknowledge::Kernel => AckPolicy::Kernel,
                Acknowledge::Peer => AckPolicy::Peer,
            },
            coalesce: vm.coalesce,
            calls: CallPolicy { us: vm.call_us, frames: vm.call_frames },
            limits,
            egress: self.egress.rules(vm, &mut self.ledger),
            forwards,
            tap: self.cables.cable(&vm.name),
            stats: stats.clone(),
        }
    }

    /// What the worker tells of its own accord.
    pub(super) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::RingBroken { port, index, error } => {
                let why = format!("broken: {error}");
                if let Some(entry) = self.vms.values_mut().find(|e| e.port == port)
                    && let Some(ring) = entry.session.as_mut().and_then(|s| s.rings.get_mut(&index))
                {
                    ring.broken = Some(why.clone());
                }
                let until = match error {
                    QueueError::CallBlocks => "its VM's file changes, or vonic engine restart",
                    _ => "its driver resets it",
                };
                self.complain(port, format!("queue {index} stands still until {until}: {why}"));
            }
            Notice::MemoryLost { port } => {
                let message = "its VMM has truncated the memory that it shared: out of service until it connects again";
                self.complain(port, message.into());
            }
            Notice::Service { from, end, place } => {
                // A VM that has gone meanwhile has nobody to be known as.
                if let Some(entry) = self.vms.values().find(|e| e.stats.is(&from)) {
                    self.guests.serve(Arc::clone(&entry.guest), end, place);
                }
            }
            Notice::AcceptFailed { port, error } => {
                self.complain(port, format!("a forward cannot accept connections: {error}"));
            }
            Notice::Left { port } => self.resume_departure(port),
            Notice::PingSockets { permitted } => self.hints.set(Cause::PingSockets, !permitted),
            Notice::WatchFailed { port, error } => {
                self.complain(port, format!("a descriptor cannot be watched: {error}"));
            }
        }
    }

    /// Logs an error of a VM and keeps it; the same one again is not logged.
    fn complain(&mut self, port: PortId, message: String) {
        if let Some((name, entry)) = self.vms.iter_mut().find(|(_, e)| e.port == port)
            && entry.last_error.as_ref() != Some(&message)
        {
            log::warn!("{name}: {message}");
            entry.last_error = Some(message);
        }
    }

    /// The master's answer about a VM's socket.
    pub(super) fn listening(&mut self, name: &str, error: Option<String>) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        let error = error.map(|error| format!("its socket cannot be opened: {error}"));
        if let Some(error) = &error {
            log::error!("{name}: {error}");
        }
        if entry.socket_error.is_some() || error.is_some() {
            entry.last_error.clone_from(&error);
        }
        entry.socket_error = error;
    }

    /// Resets every connection both ways.
    pub(super) fn stop(&mut self, limit: Duration) {
        if !self.workers.each(limit, |done| Command::Stop { done }) {
            log::warn!("the workers did not finish their resets within {limit:?}");
        }
    }
}
