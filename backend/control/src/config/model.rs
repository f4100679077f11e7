//! The configuration as checked, plain data. What stands here was read from good files only.
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};
use vonic_frame::MacAddr;

use super::{Family, Features, Sources, Subnet};

/// Everything the operator's files say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// The service itself.
    pub service: Service,
    /// The networks by name.
    pub networks: BTreeMap<String, Network>,
    /// The VMs by name.
    pub vms: BTreeMap<String, Vm>,
    /// The texts that say so.
    #[serde(skip)]
    pub sources: Sources,
}

/// The service's own settings, from the top of `vonic.toml`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    /// Where the sockets and the engine's pid file lie; absolute.
    pub runtime_dir: PathBuf,
    /// Whom vonicd becomes when it starts; absent: it stays who has started it.
    pub user: Option<String>,
    /// How many data-path workers run, 1 to [`WORKERS_MAX`](vonic_record::WORKERS_MAX).
    pub workers: u16,
    /// What an idle worker does.
    pub poll: Poll,
    /// Where Prometheus reads the metrics; absent: by the API's socket only.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether the configuration is read again whenever its files change.
    pub reload_on_change: bool,
    /// The file that names the host's resolvers (resolv.conf(5)); absolute.
    pub resolv_conf: PathBuf,
    /// How long a worker may take to give a sign of life before the engine is held for dead; absent: for ever.
    pub heartbeat: Option<Duration>,
    /// Whether a VM that engines die of is left alone.
    pub quarantine: bool,
    /// What becomes of a system call that the engine has no use for.
    pub seccomp: Seccomp,
    /// Whether the engine sees no other files than it needs, where the kernel can see to that.
    pub landlock: bool,
    /// What is run when a guest leaves this host, or comes.
    pub migration: Hooks,
}

/// What becomes of a system call that is not on the engine's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// It is told, and fails.
    #[default]
    Refuse,
    /// It is told, and the engine ends; another one takes over.
    Kill,
    /// There is no list.
    Off,
}

impl Seccomp {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Seccomp::Refuse => "refuse",
            Seccomp::Kill => "kill",
            Seccomp::Off => "off",
        }
    }
}

/// Commands that move a guest's addresses between hosts: a program with its arguments each, none if empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// A guest stands still and is about to run elsewhere.
    pub depart: Vec<String>,
    /// A guest is about to run here, come from elsewhere, or since it has not left.
    pub arrive: Vec<String>,
    /// How long each may take; it is killed then.
    pub limit: Duration,
}

impl Hooks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.depart.is_empty() && self.arrive.is_empty()
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Hooks { depart: Vec::new(), arrive: Vec::new(), limit: Duration::from_secs(3) }
    }
}

impl Service {
    /// What of `later` is taken over while this runs, and the rest of this: it holds until vonicd is restarted.
    #[must_use]
    pub fn changed_to(&self, later: &Service) -> Service {
        let Service { metrics_listen, reload_on_change, resolv_conf, seccomp, landlock, migration, .. } = later.clone();
        Service { metrics_listen, reload_on_change, resolv_conf, seccomp, landlock, migration, ..self.clone() }
    }

    /// The path of a VM's vhost-user socket.
    pub fn vm_socket(&self, vm: &str) -> PathBuf {
        self.runtime_dir.join(format!("{vm}.sock"))
    }

    /// The path of the API's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.runtime_dir.join("api.sock")
    }

    /// The path of the file that names the running engine's process.
    pub fn engine_pid(&self) -> PathBuf {
        self.runtime_dir.join("engine.pid")
    }
}

/// How long an idle worker polls before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Poll {
    /// Sleep at once.
    Never,
    /// Poll for so long after the last work.
    For(Duration),
    /// Never sleep.
    Always,
}

/// One network: the guests that see each other, and how they reach the world.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Network {
    /// The network's name; the gateway's MAC derives from it.
    pub name: String,
    /// The guests' IPv4 subnet.
    #[serde(serialize_with = "as_optional_text")]
    pub subnet4: Option<Subnet>,
    /// vonic's own IPv4 address in the subnet.
    pub gateway4: Option<Ipv4Addr>,
    /// The guests' IPv6 subnet; its prefix has 64 bits.
    #[serde(serialize_with = "as_optional_text")]
    pub subnet6: Option<Subnet>,
    /// vonic's own IPv6 address in the subnet.
    pub gateway6: Option<Ipv6Addr>,
    /// Where frames for the world go.
    #[serde(serialize_with = "as_text")]
    pub uplink: Uplink,
    /// The IPv4 address by which guests reach the host's own loopback.
    pub host_loopback4: Option<Ipv4Addr>,
    /// The IPv6 address by which guests reach the host's own loopback.
    pub host_loopback6: Option<Ipv6Addr>,
    /// Whether guests may reach the host's own addresses.
    pub reach_host: bool,
    /// Whether guests are kept from each other.
    pub isolated: bool,
    /// The resolvers that the gateway asks for guests; absent: the host's. Empty: it asks none.
    pub dns: Option<Vec<IpAddr>>,
    /// Domains that guests look names up in.
    pub search: Vec<String>,
    /// Whether guests without an address of their files make their own of `subnet6`.
    pub slaac: bool,
    /// Whether TCP segments from the uplink are put together for guests that take large frames.
    pub coalesce: bool,
    /// Microseconds that such a frame may wait for its next segment.
    pub coalesce_us: u64,
}

impl Network {
    /// Its addresses of one family.
    pub fn addresses(&self, family: Family) -> vonic_datapath::Family {
        let v4 = |address: Option<Ipv4Addr>| address.map(IpAddr::V4);
        let v6 = |address: Option<Ipv6Addr>| address.map(IpAddr::V6);
        let (subnet, gateway, host_loopback) = match family {
            Family::V4 => (self.subnet4, v4(self.gateway4), v4(self.host_loopback4)),
            Family::V6 => (self.subnet6, v6(self.gateway6), v6(self.host_loopback6)),
        };
        vonic_datapath::Family { subnet, gateway, host_loopback }
    }
}

/// Where a network's traffic for the world goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// Nowhere: guests reach each other and the gateway only.
    None,
    /// Terminated: into sockets of the host.
    Sockets,
    /// To a bridge of the host, by a tap for each guest: the bridge's name.
    Tap(String),
    /// To an interface of the host, by a packet socket for each guest: the interface's name.
    Packet(String),
}

impl Uplink {
    /// Whether guests are on a network of the host's, which has its own router.
    pub fn is_bridged(&self) -> bool {
        matches!(self, Uplink::Tap(_) | Uplink::Packet(_))
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uplink::None => f.write_str("none"),
            Uplink::Sockets => f.write_str("sockets"),
            Uplink::Tap(bridge) => write!(f, "tap:{bridge}"),
            Uplink::Packet(interface) => write!(f, "packet:{interface}"),
        }
    }
}

/// One VM's port, from one file in `vms.d`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vm {
    /// The file's name without `.toml`.
    pub name: String,
    /// The guest's only source MAC; unicast, nonzero.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// The name of the VM's network, which exists.
    pub network: String,
    /// The guest's only IPv4 address; absent: filtered by MAC alone.
    pub address4: Option<Ipv4Addr>,
    /// The guest's only IPv6 address besides link-local ones; absent: it has those that it claims.
    pub address6: Option<Ipv6Addr>,
    /// The guest's own name, if it is told one.
    pub hostname: Option<String>,
    /// The number of the worker that is to have its port, from 0 on; absent: the one that has the fewest.
    pub worker: Option<u16>,
    /// Queue pairs offered, 1 to [`QUEUE_PAIRS_MAX`](vonic_datapath::QUEUE_PAIRS_MAX).
    pub queue_pairs: u16,
    /// The largest IP packet in bytes, 576 to 65520.
    pub mtu: u16,
    /// Who listens on the VM's socket.
    pub socket_mode: SocketMode,
    /// Whether the guest's connections outlive an engine.
    pub failover: bool,
    /// When what the guest sends is acknowledged to it.
    pub ack: Acknowledge,
    /// Whether TCP segments from the uplink are put together; absent: as its network says.
    pub coalesce: Option<bool>,
    /// Microseconds that the guest may be called later for bulk.
    pub call_us: u64,
    /// Frames of bulk after which it is called however early.
    pub call_frames: u32,
    /// The operator's own labels.
    pub labels: BTreeMap<String, String>,
    /// The virtio features offered.
    pub features: Features,
    /// How much of vonic this VM may use.
    pub limits: Limits,
    /// Listeners on the host whose connections go to the guest.
    pub forwards: Vec<Forward>,
    /// What the guest may reach: the first match wins; with rules and no match: deny; without rules: allow.
    pub egress: Vec<EgressRule>,
}

impl Vm {
    /// Its address of one family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.address4.map(IpAddr::V4),
            Family::V6 => self.address6.map(IpAddr::V6),
        }
    }

    /// Whether a VMM that is connected may stay so when this becomes that: the NIC itself is the same, at the same place.
    pub fn is_same_nic(&self, other: &Vm) -> bool {
        let nic = |vm: &Vm| (vm.mac, vm.network.clone(), vm.mtu, vm.queue_pairs, vm.features, vm.worker);
        let place = |vm: &Vm| (vm.address4, vm.address6, vm.socket_mode);
        nic(self) == nic(other) && place(self) == place(other)
    }

    /// The feature bits to offer: those of its features, and MQ with more than one pair.
    pub fn virtio_bits(&self) -> u64 {
        self.features.virtio_bits() | if self.queue_pairs > 1 { vonic_datapath::feature::MQ } else { 0 }
    }
}

/// Whose taking stands behind an acknowledgment to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledge {
    /// The host's kernel has the bytes.
    #[default]
    Kernel,
    /// The remote peer has acknowledged them.
    Peer,
}

impl Acknowledge {
    /// As the file says it.
    pub fn name(self) -> &'static str {
        match self {
            Acknowledge::Kernel => "kernel",
            Acknowledge::Peer => "peer",
        }
    }
}

/// Who listens on a VM's socket and who connects to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketMode {
    /// vonic listens.
    Server,
    /// The VMM listens; vonic connects as soon as it is there, and again after its end.
    Client,
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SocketMode::Server => "server",
            SocketMode::Client => "client",
        })
    }
}

/// Bounds on what one VM may hold. All are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Open TCP connections.
    pub connections: u32,
    /// Guest SYNs that wait for the host's `connect`.
    pub pending: u32,
    /// The same towards one destination address and port.
    pub pending_per_destination: u32,
    /// Flows of UDP, whoever opened them.
    pub udp_flows: u32,
    /// New connections, and flows of datagrams, per second.
    pub new_per_second: u32,
    /// Frames to groups, broadcast and multicast, per second.
    pub groups_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 16384,
            pending: 512,
            pending_per_destination: 64,
            udp_flows: 4096,
            new_per_second: 2000,
            groups_per_second: 1000,
        }
    }
}

/// A transport or control protocol over IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
    /// ICMP, RFC 792, and ICMPv6, RFC 4443.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        })
    }
}

/// A listener on the host. The `n`th port of `listen` goes to the guest's `port + n`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// The protocol: TCP or UDP.
    pub proto: Protocol,
    /// Where the host listens.
    #[serde(serialize_with = "as_text")]
    pub listen: Listen,
    /// The guest's port for the first port of `listen`; the last one is at most 65535 too.
    pub port: u16,
    /// Whether its connections outlive an engine.
    pub failover: bool,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mortal = if self.failover { "" } else { " (without failover)" };
        write!(f, "{} {} -> {}{mortal}", self.proto, self.listen, self.port)
    }
}

/// Addresses and ports of the host to listen on. Displays as it is written in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The host's side.
    pub host: ListenHost,
    /// The ports, none of them 0.
    pub ports: RangeInclusive<u16>,
}

/// Which of the host's addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenHost {
    /// One address; the unspecified one stands for every address of its family.
    Address(IpAddr),
    /// The addresses of one interface, by its name, of every family that the guest has an address of.
    Interface(String),
    /// Every address, of every family that the guest has an address of.
    Any,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ListenHost::Address(IpAddr::V4(address)) => write!(f, "{address}:")?,
            ListenHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            ListenHost::Interface(name) => write!(f, "{name}:")?,
            ListenHost::Any => f.write_str("*:")?,
        }
        f.write_str(&ports_text(&self.ports))
    }
}

impl ListenHost {
    /// Whether it listens for a family, if the guest has an address of that.
    pub fn is_of(&self, family: Family) -> bool {
        match self {
            ListenHost::Address(address) => Family::of(*address) == family,
            ListenHost::Interface(_) | ListenHost::Any => true,
        }
    }
}

/// What an egress rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let the guest connect.
    Allow,
    /// Refuse it.
    Deny,
}

/// One line of what a guest may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EgressRule {
    /// What happens on a match.
    pub action: Action,
    /// The destination.
    #[serde(serialize_with = "as_text")]
    pub to: Subnet,
    /// Only this protocol.
    pub proto: Option<Protocol>,
    /// Only these destination ports, of TCP and UDP.
    #[serde(serialize_with = "as_ports")]
    pub ports: Option<RangeInclusive<u16>>,
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        write!(f, "{action} {}", self.to)?;
        if let Some(proto) = self.proto {
            write!(f, " {proto}")?;
        }
        match &self.ports {
            Some(ports) => write!(f, " ports {}", ports_text(ports)),
            None => Ok(()),
        }
    }
}

/// A port, or `FIRST-LAST`.
pub(crate) fn ports_text(ports: &RangeInclusive<u16>) -> String {
    if ports.start() == ports.end() { ports.start().to_string() } else { format!("{}-{}", ports.start(), ports.end()) }
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_optional_text<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn as_ports<S: Serializer>(ports: &Option<RangeInclusive<u16>>, serializer: S) -> Result<S::Ok, S::Error> {
    match ports {
        Some(ports) => serializer.serialize_some(&ports_text(ports)),
        None => serializer.serialize_none(),
    }
}
