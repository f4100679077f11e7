//! Everything that the control side can ask of a worker, and everything that a worker tells of its own accord.
use crate::PortStats;
use crate::capture::Capturer;
use crate::datagram::travel::ArrivingDatagrams;
use crate::flow::travel::{Arriving, Departure, Leaving};
use crate::flow::usage::ServicePlace;
use crate::notification::Notifier;
use crate::spec::{HostView, Member, NetworkId, NetworkSpec, PortId, PortSpec};
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use vonic_queue::{DirtyLog, Done, MemoryMap, QueueError, RingSetup};
use vonic_record::RecordId;
use vonic_record::Shared;

/// One order to a worker, applied between two bursts.
#[derive(Debug)]
pub enum Command {
    /// Creates or replaces a network.
    Network(Box<NetworkSpec>),
    /// Forgets a network, in which no port is any more: its addresses are the world's again.
    RemoveNetwork(NetworkId),
    /// Creates a port without a session.
    Attach(Box<PortSpec>),
    /// Another worker is about to get this port, or its forwards are others now. Known before that worker says anything of it.
    Member(Box<Member>),
    /// Another worker's port is gone.
    Leave {
        /// Which.
        port: PortId,
    },
    /// Replaces a port's policy: forwards, egress, limits. Its session and its connections go on.
    Reconfigure {
        /// The new policy.
        spec: Box<PortSpec>,
        /// When the listeners that nobody has any more are closed.
        done: Done,
    },
    /// Removes a port: its connections are reset.
    Detach {
        /// Which.
        port: PortId,
        /// When nothing of it is left.
        done: Done,
    },
    /// The driver's acknowledged features.
    Features {
        /// Which port.
        port: PortId,
        /// Virtio feature bits.
        bits: u64,
    },
    /// A new memory map; all rings are resolved again.
    Memory {
        /// Which port.
        port: PortId,
        /// The map.
        map: Arc<MemoryMap>,
        /// When the old map is used no more.
        done: Done,
    },
    /// The VMM's log of what is written for the guest; without one nothing is logged.
    Log {
        /// Which port.
        port: PortId,
        /// The log.
        log: Option<GuestLog>,
        /// When it is in force, and the last one is used no more.
        done: Done,
    },
    /// The guest has come from another host: tells the network where it is now.
    Announce {
        /// Which port.
        port: PortId,
    },
    /// A ring was started, or its descriptors or its enabled flag changed.
    Ring(Box<RingCommand>),
    /// A ring is to be touched no more.
    StopRing {
        /// Which port.
        port: PortId,
        /// Queue index.
        index: u16,
        /// When it is done.
        done: Done,
    },
    /// The session is over: rings and memory go, connections are reset towards the world.
    Disconnect {
        /// Which port.
        port: PortId,
        /// When it is done.
        done: Done,
    },
    /// A VMM has connected: what an engine before has left of this connection goes on.
    Session {
        /// Which port.
        port: PortId,
        /// The master's number of the connection.
        session: u64,
    },
    /// What an engine before has left of this VMM connection goes on at another worker.
    Elsewhere {
        /// The master's number of the connection.
        session: u64,
    },
    /// Every VMM that was connected at the start is known: what an engine before has left of other connections is reset.
    Inherited,
    /// The guest leaves for another host, and its rings are stopped: asks for a part of its connections, which stand still from then on.
    Depart {
        /// Which port.
        port: PortId,
        /// Where to go on; 0: at the beginning.
        from: u32,
        /// Where the answer goes.
        reply: Sender<Departure>,
    },
    /// It stays: its connections go on when its rings start again.
    Stay {
        /// Which port.
        port: PortId,
        /// All that was taken out.
        leaving: Vec<Leaving>,
    },
    /// It has left: the sockets of its connections are closed.
    Gone {
        /// What [`Leaving::close`] has left.
        records: Vec<RecordId>,
    },
    /// A guest has come from another host, and its rings are about to start.
    Arrive {
        /// Which port.
        port: PortId,
        /// Connections of its own.
        connections: Vec<Arriving>,
        /// Flows of datagrams of its own.
        datagrams: Vec<ArrivingDatagrams>,
        /// IPv6 addresses that it has claimed, the one used last first.
        claims: Vec<Ipv6Addr>,
        /// When they have begun to go on.
        done: Done,
    },
    /// Nothing but an answer, when everything before it is in force.
    Barrier {
        /// When it is.
        done: Done,
    },
    /// The host's addresses changed.
    Host(Box<HostView>),
    /// Asks for a part of the list of connections and datagram flows: the whole of it would stop everybody's frames.
    Connections {
        /// Of which port; `None`: of all.
        port: Option<PortId>,
        /// Where to go on.
        from: ListPlace,
        /// Where the answer goes.
        reply: Reply<ListPart>,
    },
    /// From now on somebody is told of a port's connections, or nobody any more.
    Notify {
        /// Which port.
        port: PortId,
        /// Where to.
        notifier: Option<Notifier>,
    },
    /// From now on somebody watches a port's frames.
    Capture {
        /// Which port.
        port: PortId,
        /// Where they go.
        capturer: Box<Capturer>,
    },
    /// And no more.
    EndCapture {
        /// Which port.
        port: PortId,
        /// Which capture.
        number: u64,
        /// Where its end goes, if the port still had it: to give so much memory back is not the worker's business.
        reply: Reply<Capturer>,
    },
    /// Fetches no more of what guests send, since every worker is about to rest.
    Pause {
        /// When no other worker has anything of this one's.
        done: Done,
    },
    /// Ends the worker between two rounds, and leaves everything as it is for another engine.
    Rest {
        /// When nothing will be touched any more.
        done: Done,
    },
    /// Resets every connection both ways and ends the worker.
    Stop {
        /// When the resets are in the guests' rings.
        done: Done,
    },
}

/// Where an answer goes, whatever kind of thread waits for it.
pub struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Reply<T> {
    /// `taker` is called on the worker's thread, so it must not block.
    pub fn new(taker: impl FnOnce(T) + Send + 'static) -> Reply<T> {
        Reply(Box::new(taker))
    }

    pub(crate) fn send(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

impl Command {
    /// The port that it is about, whose worker gets it; `None`: it is about everything, or nothing.
    pub fn port(&self) -> Option<PortId> {
        match self {
            Command::Attach(spec) | Command::Reconfigure { spec, .. } => Some(spec.port),
            Command::Detach { port, .. }
            | Command::Disconnect { port, .. }
            | Command::Session { port, .. }
            | Command::Stay { port, .. }
            | Command::Capture { port, .. }
            | Command::EndCapture { port, .. }
            | Command::Notify { port, .. } => Some(*port),
            Command::Connections { port, .. } => *port,
            Command::Features { .. }
            | Command::Memory { .. }
            | Command::Log { .. }
            | Command::Announce { .. }
            | Command::StopRing { .. }
            | Command::Depart { .. }
            | Command::Arrive { .. }
            | Command::Ring(_) => self.of_message(),
            Command::Network(_)
            | Command::RemoveNetwork(_)
            | Command::Member(_)
            | Command::Leave { .. }
            | Command::Elsewhere { .. }
            | Command::Inherited
            | Command::Gone { .. }
            | Command::Barrier { .. }
            | Command::Host(_)
            | Command::Pause { .. }
            | Command::Rest { .. }
            | Command::Stop { .. } => None,
        }
    }

    /// The port of whose VMM's message it comes, where it comes of one.
    pub(crate) fn of_message(&self) -> Option<PortId> {
        match self {
            Command::Features { port, .. }
            | Command::Memory { port, .. }
            | Command::Log { port, .. }
            | Command::Announce { port }
            | Command::StopRing { port, .. }
            | Command::Depart { port, .. }
            | Command::Arrive { port, .. } => Some(*port),
            Command::Ring(ring) => Some(ring.port),
            _ => None,
        }
    }
}

/// Where what is written for a guest is logged.
#[derive(Clone, Debug)]
pub struct GuestLog {
    /// The log.
    pub log: Arc<DirtyLog>,
    /// By queue index: where the VMM wants the used ring logged, a guest-physical address.
    pub used: Vec<Option<u64>>,
}

/// A ring's complete state.
#[derive(Debug)]
pub struct RingCommand {
    /// Which port.
    pub port: PortId,
    /// Queue index: even is host to guest, odd is guest to host (virtio 1.3 §5.1.2).
    pub index: u16,
    /// Where it lies.
    pub setup: RingSetup,
    /// Signalled by the driver.
    pub kick: Option<OwnedFd>,
    /// Signalled by the worker.
    pub call: Option<OwnedFd>,
    /// Whether frames may pass.
    pub enabled: bool,
    /// When it is in force.
    pub done: Option<Done>,
}

/// A place in the list of connections and datagram flows; the default is its beginning. What begins or ends while the list is
/// read may be missing in it; everything else is in it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListPlace {
    /// Past the connections, among the datagram flows.
    pub(crate) datagrams: bool,
    pub(crate) slot: u32,
}

impl ListPlace {
    /// Whether it is past the connections, and how far it is: what it is made of again elsewhere.
    pub fn parts(self) -> (bool, u32) {
        (self.datagrams, self.slot)
    }

    /// The place of these parts, wherever it comes from: behind the end there is nothing.
    pub fn from_parts(datagrams: bool, slot: u32) -> ListPlace {
        ListPlace { datagrams, slot }
    }
}

/// A part of the list.
#[derive(Debug)]
pub struct ListPart {
    /// What is there.
    pub views: Vec<ConnectionView>,
    /// Where it goes on; `None`: this was the last part.
    pub next: Option<ListPlace>,
}

/// One connection, or one flow of datagrams, as `vonic conns` shows it.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// What it is called towards its guest; it stays over engines.
    pub id: u64,
    /// Which port.
    pub port: PortId,
    /// The protocol's name.
    pub protocol: &'static str,
    /// Whether the guest opened it.
    pub guest_opens: bool,
    /// The guest's address and port; an echo's identifier is in the place of the port.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it; an echo's has port 0.
    pub remote: SocketAddr,
    /// The leg's state, by its RFC 9293 name; of datagrams what the flow is like: unanswered, query, one-shot, stream, echo.
    pub state: &'static str,
    /// Bytes that the host's socket took.
    pub bytes_guest_to_host: u64,
    /// Bytes that the guest acknowledged, or of datagrams was sent.
    pub bytes_host_to_guest: u64,
    /// Seconds since it was opened.
    pub age_seconds: u64,
}

/// What a worker tells of its own accord; all of it is rare.
#[derive(Debug)]
pub enum Notice {
    /// A ring lies about its indices, or left guest memory: it stands still until the driver resets it.
    RingBroken {
        /// Which port.
        port: PortId,
        /// Queue index.
        index: u16,
        /// Why.
        error: QueueError,
    },
    /// The VMM has truncated the memory that it shared: the port is out of service until its VMM connects again.
    MemoryLost {
        /// Which port.
        port: PortId,
    },
    /// The host has begun, or ceased, to refuse ping sockets: net.ipv4.ping_group_range.
    PingSockets {
        /// Whether it permits them now.
        permitted: bool,
    },
    /// A descriptor cannot be watched: what comes by it goes unseen.
    WatchFailed {
        /// Which port.
        port: PortId,
        /// Why.
        error: std::io::Error,
    },
    /// Connections of a port were taken out for another host when an engine died: the guest has left, or will turn out to stay.
    Left {
        /// Which port.
        port: PortId,
    },
    /// A guest has connected to vonic's own service.
    Service {
        /// Counters of the port by which it came, which are its VM's for good: a port's number may have changed hands meanwhile.
        from: Shared<PortStats>,
        /// The service's end: a non-blocking Unix stream.
        end: OwnedFd,
        /// Held as long as the connection is.
        place: ServicePlace,
    },
    /// A forward's listener cannot accept.
    AcceptFailed {
        /// Which port.
        port: PortId,
        /// Why.
        error: std::io::Error,
    },
}
