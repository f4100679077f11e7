//! What the API's bodies say. The server writes them and `vonic` reads them.
//!
//! Fields are added, never renamed or removed; a reader ignores fields that it does not know.
pub use super::events::{Event, Happening, Move};
pub use super::histogram::{Bucket, Histogram};
pub use super::rates::{Rate, Rates, VmRates};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use vonic_agent::connection::Opener;
pub use vonic_agent::message::{
    Conntrack, Counters, Cpu, Device, Interface, Listening, Memory, Pressure, Sockets, Stall, Tcp,
};

/// Frames and bytes that went one way. Bytes are frame bytes without the virtio-net header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One VM in the list of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmRow {
    /// The VM's name.
    pub name: String,
    /// Its MAC, as `52:54:00:00:00:02`.
    pub mac: String,
    /// Its network's name.
    pub network: String,
    /// Its IPv4 address, if it was given one.
    pub address4: Option<String>,
    /// Its IPv6 address, if it was given one.
    #[serde(default)]
    pub address6: Option<String>,
    /// Engines have died of what its guest sends: its rings are left alone.
    #[serde(default)]
    pub quarantined: bool,
    /// Whether a VMM is connected to the VM's socket.
    pub connected: bool,
    /// Whether the guest's driver has started its rings.
    pub driver_ready: bool,
    /// What the guest sent.
    pub guest_to_host: Traffic,
    /// What the guest was sent.
    pub host_to_guest: Traffic,
    /// Frames dropped in both directions, for any reason.
    pub drops: u64,
    /// Open TCP connections.
    pub connections: u64,
    /// The agent in the guest, if it has ever spoken.
    #[serde(default)]
    pub agent: Option<AgentRow>,
}

/// The agent in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentRow {
    /// Its version, by its own word.
    pub version: String,
    /// Seconds since its last message.
    pub seen_seconds: u64,
    /// Whether that is longer than an agent should be quiet.
    pub silent: bool,
}

/// What the guest's agent last said, and what the host had counted at that moment. What is absent, the guest's kernel does not tell, or
/// its agent is too old for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GuestReport {
    /// Whose word all this is, but for the host's half of `nic`: `guest`.
    #[serde(default)]
    pub source: String,
    /// The version of the agent's message.
    #[serde(default)]
    pub message_version: u32,
    /// The guest's host name.
    pub hostname: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Seconds since it booted.
    pub uptime_seconds: u64,
    /// The interface with the VM's MAC, beside the host's counters.
    pub nic: Option<NicCounters>,
    /// All its interfaces but the loopback.
    pub interfaces: Vec<Interface>,
    /// Its TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// Its processors, and what its network costs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The connections that its firewall tracks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
    /// Where its programs listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<Listening>,
}

/// The VM's NIC, counted on both sides. They differ by what was under way, and where the guest or vonic began to count later: without
/// traffic they are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NicCounters {
    /// The interface's name in the guest.
    pub interface: String,
    /// What the guest sent.
    pub guest_to_host: BothCounts,
    /// What the guest was sent.
    pub host_to_guest: BothCounts,
}

/// One direction, counted on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BothCounts {
    /// By the host, when the guest's message began to come; the frames that brought it are not among them, as they were not yet when
    /// the guest looked.
    pub host: Traffic,
    /// By the guest.
    pub guest: Traffic,
}

/// Drops by reason, and for each reason by direction: `guest_to_host` or `host_to_guest`.
pub type Drops = BTreeMap<String, BTreeMap<String, u64>>;

/// Everything about one VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmDetail {
    /// What the list says.
    #[serde(flatten)]
    pub row: VmRow,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// The name that the guest is told to be its own.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The resolvers that its gateway asks for it, the first first; none where the gateway answers no questions for names.
    #[serde(default)]
    pub resolvers: Vec<String>,
    /// The path of its vhost-user socket.
    pub socket: String,
    /// Seconds since a VMM connected there, or since the last one left; at least so many where that was before this engine.
    #[serde(default)]
    pub session_seconds: Option<u64>,
    /// Who listens there: `server`, that is vonic, or `client`: the VMM, to which vonic connects.
    pub socket_mode: String,
    /// The number of the worker that has its port.
    #[serde(default)]
    pub worker: usize,
    /// Pairs of virtqueues offered.
    #[serde(default)]
    pub queue_pairs: u16,
    /// Whether the connections that the guest opens outlive an engine.
    #[serde(default)]
    pub failover: bool,
    /// When what the guest sends is acknowledged to it: `kernel` or `peer`.
    #[serde(default)]
    pub ack: String,
    /// Whether TCP segments from the uplink are put together for the guest.
    #[serde(default)]
    pub coalesce: bool,
    /// Microseconds that such a frame may wait for its next segment.
    #[serde(default)]
    pub coalesce_us: u64,
    /// Microseconds that the guest may be called later for bulk.
    #[serde(default)]
    pub call_us: u64,
    /// Frames of bulk after which it is called however early.
    #[serde(default)]
    pub call_frames: u32,
    /// The operator's labels.
    pub labels: BTreeMap<String, String>,
    /// Names of the virtio features offered.
    pub features_offered: Vec<String>,
    /// Names of those that the driver took; empty before it did.
    pub features_negotiated: Vec<String>,
    /// What the driver has agreed to that frames need not have done: guest to host what it leaves to vonic, host to guest what
    /// it takes.
    #[serde(default)]
    pub offloads: OffloadsRow,
    /// The virtqueues.
    pub rings: Vec<RingRow>,
    /// Dropped frames by reason and direction.
    pub drops_by_reason: Drops,
    /// Bytes that vonic itself copied for this VM, by path.
    pub copied_bytes: BTreeMap<String, u64>,
    /// How it reaches the world.
    #[serde(default)]
    pub uplink: UplinkRow,
    /// The listeners whose connections go to this VM, as text.
    pub forwards: Vec<String>,
    /// Ports of these listeners that could not be opened, and what to do; they are tried again by themselves.
    #[serde(default)]
    pub forward_errors: Vec<String>,
    /// The egress rules in their order.
    #[serde(default)]
    pub egress: Vec<EgressRow>,
    /// What was denied without a rule that says so, by name: `no_rule` matched, or the destination is `never` one.
    #[serde(default)]
    pub denied_otherwise: BTreeMap<String, u64>,
    /// What the VM may hold at most.
    #[serde(default)]
    pub limits: Vec<LimitRow>,
    /// The last thing that went wrong with this VM's session, rings or forwards.
    pub last_error: Option<String>,
    /// TCP counters by name.
    pub tcp: BTreeMap<String, u64>,
    /// Counters of ICMP echo to the world, by name.
    #[serde(default)]
    pub icmp: BTreeMap<String, u64>,
    /// Counters of UDP beyond the network, by name.
    #[serde(default)]
    pub udp: BTreeMap<String, u64>,
    /// Counters of received segments that were put together, by name.
    #[serde(default)]
    pub coalesced: BTreeMap<String, u64>,
    /// How large the large frames were that they became: bytes of payload.
    #[serde(default)]
    pub coalesced_bytes: Histogram,
    /// As in the counters: how long vonic had what the guest sent.
    #[serde(default)]
    pub latency_us: Histogram,
    /// What the operator should change on this host, for all its VMs.
    #[serde(default)]
    pub hints: Vec<String>,
    /// What the guest says of itself: nothing in it is certain.
    #[serde(default)]
    pub guest: Option<GuestReport>,
}

/// Offloads both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OffloadsRow {
    /// Of what the guest sends.
    pub guest_to_host: OffloadRow,
    /// Of what the guest is sent.
    pub host_to_guest: OffloadRow,
}

/// Offloads one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OffloadRow {
    /// Checksums may be left open.
    pub checksum: bool,
    /// TCP over IPv4 may come in large frames.
    pub tso4: bool,
    /// TCP over IPv6 may come in large frames.
    pub tso6: bool,
}

/// One egress rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EgressRow {
    /// The rule, as `deny 198.51.100.0/24 tcp ports 1-1023`.
    pub rule: String,
    /// How often it has decided: for each new connection or flow, and for each frame of one that there is not.
    pub decided: u64,
}

/// One limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LimitRow {
    /// The key under `limits` in the VM's file; or `service`, connections to vonic's own service, or `host`, the sockets that all
    /// VMs share.
    pub name: String,
    /// The limit; absent where the VM's file sets none.
    pub most: Option<u32>,
    /// How often it has refused something or put it off.
    pub reached: u64,
}

/// How a VM reaches the world.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UplinkRow {
    /// What the network's configuration says: `none`, `sockets`, `tap:BRIDGE` or `packet:INTERFACE`.
    pub kind: String,
    /// The name of the VM's tap on the host, or of the interface that its packet socket is at.
    pub interface: Option<String>,
    /// Why the bridge or the interface cannot be reached, if it cannot.
    pub error: Option<String>,
    /// What else the operator should know of it.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One virtqueue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RingRow {
    /// Its index: pairs of host to guest and guest to host, then the control queue (virtio 1.3 §5.1.2).
    pub index: u16,
    /// `guest_to_host`, `host_to_guest`, `control`, or `none` of a queue that the driver's features do not have.
    pub direction: String,
    /// Its size in descriptors; 0 before it is set up.
    pub size: u16,
    /// Whether the VMM has enabled it.
    pub enabled: bool,
    /// What it does: `stopped`, `running`, or why it was stopped.
    pub state: String,
}

/// One TCP connection, or one flow of datagrams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConnectionRow {
    /// The VM's name.
    pub vm: String,
    /// `tcp`, `udp` or `icmp`.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Who opened it.
    pub direction: Opener,
    /// The guest's address and port; of a ping, its identifier in the port's place.
    pub guest: String,
    /// The other side's address and port; of a ping, no port.
    pub remote: String,
    /// The guest leg's state, by its name in RFC 9293 §3.3.2; of datagrams what the flow is like: `unanswered`, `query`, `one-shot`
    /// or `stream`, of pings `echo`.
    pub state: String,
    /// Payload that the guest sent and the host's socket took.
    pub bytes_guest_to_host: u64,
    /// Payload that the guest acknowledged, or of datagrams was sent.
    pub bytes_host_to_guest: u64,
    /// Seconds since the first segment or datagram.
    pub age_seconds: u64,
}

/// What there was before other protocols.
fn tcp() -> String {
    "tcp".to_string()
}

/// One VM's counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmStats {
    /// What the guest sent.
    pub guest_to_host: Traffic,
    /// What the guest was sent.
    pub host_to_guest: Traffic,
    /// Dropped frames by reason and direction.
    pub drops_by_reason: Drops,
    /// Bytes that vonic itself copied for this VM, by path.
    pub copied_bytes: BTreeMap<String, u64>,
    /// Open TCP connections.
    pub connections: u64,
    /// TCP counters by name.
    pub tcp: BTreeMap<String, u64>,
    /// Counters of ICMP echo to the world, by name.
    #[serde(default)]
    pub icmp: BTreeMap<String, u64>,
    /// How often each limit was reached.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// Counters of UDP beyond the network, by name.
    #[serde(default)]
    pub udp: BTreeMap<String, u64>,
    /// Counters of received segments that were put together, by name.
    #[serde(default)]
    pub coalesced: BTreeMap<String, u64>,
    /// How large the large frames were that received segments became: bytes of payload.
    #[serde(default)]
    pub coalesced_bytes: Histogram,
    /// How long vonic had what the guest sent, from when it saw the guest's signal until the guest could see that it was done:
    /// microseconds for each buffer.
    #[serde(default)]
    pub latency_us: Histogram,
    /// Engines that died of what its guest sends.
    #[serde(default)]
    pub engine_deaths: u64,
    /// Ports of the VM's forwards that could not be opened (a gauge).
    #[serde(default)]
    pub forwards_failed: usize,
}

/// Everybody's counters. They never go back while the service runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stats {
    /// Seconds since the service started.
    pub uptime_seconds: u64,
    /// Bytes that vonic itself copied, by path.
    pub copied_bytes: BTreeMap<String, u64>,
    /// By VM.
    pub vms: BTreeMap<String, VmStats>,
}

/// What a reload did. Where a file had errors, nothing of what it describes was changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReloadReport {
    /// VMs that are new.
    pub added: Vec<String>,
    /// VMs whose settings changed.
    pub changed: Vec<String>,
    /// VMs that are gone.
    pub removed: Vec<String>,
    /// How many VMs stayed as they were.
    pub unchanged: usize,
    /// What is wrong with the files.
    pub errors: Vec<FileError>,
    /// Whether this only tells what a reload would do.
    #[serde(default)]
    pub dry_run: bool,
    /// What differs, key by key, in what changed.
    #[serde(default)]
    pub differences: Vec<Difference>,
    /// Of the VMs that changed those whose VMMs have to connect again: their NICs are others now.
    #[serde(default)]
    pub reconnects: Vec<String>,
}

/// One key of the configuration that is another now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Difference {
    /// What it belongs to: `service`, `network NAME` or `vm NAME`.
    pub of: String,
    /// The key.
    pub key: String,
    /// What held before, as JSON; absent: nothing.
    pub before: Option<String>,
    /// What holds now, as JSON; absent: nothing.
    pub after: Option<String>,
}

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FileError {
    /// The file's path.
    pub file: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl From<&crate::config::ConfigError> for FileError {
    fn from(error: &crate::config::ConfigError) -> Self {
        FileError { file: error.file.display().to_string(), line: error.line, message: error.message.clone() }
    }
}

/// How the last upgrade ended, and who serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UpgradeReport {
    /// How many upgrades there were since vonicd was started, those that failed too.
    pub number: u64,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// The version that runs.
    pub version: String,
    /// vonicd's process number.
    pub process: u32,
}

/// What has come with a guest from another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LoadReport {
    /// The VM's name there.
    pub from: String,
    /// Its connections, those that could not come along too.
    pub connections: usize,
    /// Its rings were waiting for it: its guest runs now.
    pub runs: bool,
}

/// Which of a VM's frames are to be captured, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CaptureTerms {
    /// `guest_to_host` or `host_to_guest`; absent: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// An expression as `tcp port 80 and host 192.0.2.2`; absent: every frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The most bytes of each frame; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
    /// Frames after which the capture ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// Bytes of the file before which it ends; statistics come on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds after which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// Whether the service works.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Health {
    /// `ok`, or `degraded`: see `problems`.
    pub status: String,
    /// What does not work as it is configured, and why.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The engine's version.
    pub version: String,
    /// Seconds since the service started.
    pub uptime_seconds: u64,
    /// How many VMs are configured.
    pub vms: usize,
    /// How many of them have a VMM connected.
    pub vms_connected: usize,
    /// What the operator should change on this host.
    #[serde(default)]
    pub hints: Vec<String>,
}

/// The engine, and what became of those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EngineStatus {
    /// Its process number.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Seconds since it began.
    pub uptime_seconds: u64,
    /// Which engine it is that uses the checkpoint memory, counted from 1.
    #[serde(default)]
    pub generation: u64,
    /// The memory by which the next engine goes on.
    #[serde(default)]
    pub checkpoint: CheckpointRow,
    /// Whether another process stands ready to be the next engine.
    pub standby: bool,
    /// Engines that died since vonicd was started.
    pub deaths: u64,
    /// Engines that the operator had replaced.
    pub replaced: u64,
    /// The last that died.
    pub last_death: Option<DeathRow>,
    /// When an engine last took over.
    pub last_takeover: Option<TakeoverRow>,
    /// At the last death: how many there had been within half a minute, of engines that had not lived for a second.
    pub deaths_in_short_succession: u64,
    /// How many milliseconds the next one was made to wait for that.
    pub next_was_delayed_ms: u64,
    /// The VMs whose rings are left alone, since engines died of what their guests send.
    pub quarantined: Vec<String>,
}

/// Checkpoint memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckpointRow {
    /// The version of its format.
    pub version: u32,
    /// Records in use: connections, flows, listeners, uplinks.
    pub records: usize,
    /// How many there is room for.
    pub capacity: usize,
}

/// The end of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeathRow {
    /// Of what it died.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// One engine following another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TakeoverRow {
    /// When it was done, in seconds since 1970.
    pub at: u64,
    /// How long it took: from when the end of the one before was known, until every VMM's connection stood again.
    pub microseconds: u64,
    /// Whether the operator had asked for it.
    pub planned: bool,
}
