//! What the control side tells a worker about networks and ports: plain data, already checked.
use crate::{CallPolicy, Coalesce, Counter, PortStats};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use vonic_frame::{MacAddr, PROTOCOL_TCP, PROTOCOL_UDP, Subnet};
use vonic_record::Shared;
use vonic_tcp::AckPolicy;
use vonic_uplink::{Cable, Listener, UdpListener};

/// A port's number: its index in every table of the worker.
pub type PortId = u32;
/// A network's number.
pub type NetworkId = u32;

/// How a network's guests reach the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// Not at all.
    None,
    /// TCP, UDP and pings are terminated on host sockets.
    Sockets,
    /// Each guest has a cable to a network of the host's: a tap at a bridge, or a packet socket at an interface. vonic plays no gateway:
    /// that network has its own.
    Tap,
}

/// One network of guests.
#[derive(Clone, Debug)]
pub struct NetworkSpec {
    /// Its number.
    pub network: NetworkId,
    /// The gateway's MAC address, which vonic answers for.
    pub gateway_mac: MacAddr,
    /// Its IPv4 addresses.
    pub v4: Family,
    /// Its IPv6 addresses.
    pub v6: Family,
    /// Whether guests may reach the host's own addresses.
    pub reach_host: bool,
    /// Whether guests reach only the gateway and the uplink.
    pub isolated: bool,
    /// How its guests reach the world.
    pub uplink: Uplink,
    /// Names.
    pub names: Names,
    /// Whether guests without an address of their files make their own of the IPv6 subnet (RFC 4862).
    pub slaac: bool,
    /// Whether segments that its guests receive by the uplink are put together.
    pub coalesce: Coalesce,
}

/// Who answers a network's guests when they ask for names, and what else they are told of names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The resolvers that the gateway asks, in this order; `None`: it answers nobody.
    pub resolvers: Option<Arc<[SocketAddr]>>,
    /// The domain that guests are in, as text; empty: none.
    pub domain: String,
    /// Domains that guests look names up in, as [`encode_domains`](vonic_frame::encode_domains) writes them; at most 255 bytes.
    pub search: Vec<u8>,
}

/// A network's addresses of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// The guests' subnet.
    pub subnet: Option<Subnet>,
    /// The gateway's address, if the network has one.
    pub gateway: Option<IpAddr>,
    /// The address by which guests reach the host's loopback.
    pub host_loopback: Option<IpAddr>,
}

impl NetworkSpec {
    /// Whether the gateway, at this address, answers guests that ask for names.
    pub fn serves_names(&self, address: IpAddr) -> bool {
        let gateway = self.family(address).gateway;
        self.uplink == Uplink::Sockets && self.names.resolvers.is_some() && gateway == Some(address)
    }

    /// The resolvers that the gateway asks.
    pub fn resolvers(&self) -> &[SocketAddr] {
        self.names.resolvers.as_deref().unwrap_or_default()
    }

    /// The addresses of the family of `like`.
    pub fn family(&self, like: IpAddr) -> &Family {
        if like.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    /// The gateway's link-local address, which a network has whatever its other addresses are (RFC 4291 §2.5.1).
    pub fn gateway_link_local(&self) -> Ipv6Addr {
        self.gateway_mac.link_local()
    }
}

/// A port as the workers know it that have it not.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub port: PortId,
    /// The worker that has it.
    pub worker: usize,
    /// The network that it belongs to.
    pub network: NetworkId,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// The guest's addresses.
    pub addresses: [Option<IpAddr>; 2],
    /// Where its forwards listen, with the IP protocol's number.
    pub listens: Vec<(u8, SocketAddr)>,
    /// The descriptors of what listens for it, and of its tap, each with what is in its record as the cookie.
    pub places: Vec<(RawFd, u64)>,
}

impl PortSpec {
    /// What other workers than `worker`, whose port it is, are to know.
    pub fn member(&self, worker: usize) -> Member {
        let sockets = self.forwards.iter().map(|forward| &forward.socket);
        let listeners = sockets.clone().filter_map(|socket| Some((socket.as_raw_fd(), socket.cookie().ok()?)));
        let tap = self.tap.iter().map(|tap| (tap.as_raw_fd(), tap.cookie()));
        Member {
            port: self.port,
            worker,
            network: self.network,
            mac: self.mac,
            addresses: self.addresses(),
            listens: sockets.filter_map(ForwardSocket::local).collect(),
            places: listeners.chain(tap).collect(),
        }
    }

    /// The guest's addresses, as its file has them.
    pub fn addresses(&self) -> [Option<IpAddr>; 2] {
        [self.address4.map(IpAddr::V4), self.address6.map(IpAddr::V6)]
    }

    /// The guest's address of the family of `like`, if it has one.
    pub fn address(&self, like: IpAddr) -> Option<IpAddr> {
        if like.is_ipv4() { self.address4.map(IpAddr::V4) } else { self.address6.map(IpAddr::V6) }
    }
}

/// What egress says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Refuse it.
    Deny,
}

/// One egress rule; the first that matches decides.
#[derive(Clone, Debug)]
pub struct EgressRule {
    /// What it says.
    pub action: Action,
    /// Destinations, of one family.
    pub to: Subnet,
    /// IP protocol number; `None`: all.
    pub protocol: Option<u8>,
    /// Destination ports, inclusive; `None`: all.
    pub ports: Option<(u16, u16)>,
    /// How often it has decided about a new connection or flow, or about a datagram that has none. Whoever makes the rule keeps
    /// the counter over changes of other rules.
    pub decided: Shared<Counter>,
}

/// How much one guest may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: u32,
    /// Connects in progress.
    pub pending: u32,
    /// Connects in progress to one address and port.
    pub pending_per_destination: u32,
    /// Flows of UDP at once.
    pub udp_flows: u32,
    /// New connections, and flows of datagrams, in a second.
    pub new_per_second: u32,
    /// Frames to groups, each of which every other guest gets, in a second.
    pub groups_per_second: u32,
}

/// The socket of a forward.
#[derive(Clone, Debug)]
pub enum ForwardSocket {
    /// For connections.
    Tcp(Arc<Listener>),
    /// For datagrams.
    Udp(Arc<UdpListener>),
}

impl ForwardSocket {
    /// Where it listens, with the IP protocol's number; `None` if the system does not say.
    pub fn local(&self) -> Option<(u8, SocketAddr)> {
        match self {
            ForwardSocket::Tcp(listener) => Some((PROTOCOL_TCP, listener.local().ok()?)),
            ForwardSocket::Udp(listener) => Some((PROTOCOL_UDP, listener.local())),
        }
    }
}

impl ForwardSocket {
    /// What tells the socket from every other one of this host's, ever (SO_COOKIE).
    ///
    /// # Errors
    /// The system's.
    pub fn cookie(&self) -> std::io::Result<u64> {
        match self {
            ForwardSocket::Tcp(listener) => listener.cookie(),
            ForwardSocket::Udp(listener) => listener.cookie(),
        }
    }
}

impl AsRawFd for ForwardSocket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            ForwardSocket::Tcp(listener) => listener.as_raw_fd(),
            ForwardSocket::Udp(listener) => listener.as_raw_fd(),
        }
    }
}

/// One forward: what comes to `socket` goes to the guest's `guest_port`.
#[derive(Debug)]
pub struct ForwardSpec {
    /// The socket.
    pub socket: ForwardSocket,
    /// The guest's port.
    pub guest_port: u16,
    /// Whether its connections outlive an engine.
    pub failover: bool,
}

/// One port, i.e. one VM's NIC.
#[derive(Debug)]
pub struct PortSpec {
    /// Its number.
    pub port: PortId,
    /// Tells the VM from every other one, over engines: its records have it.
    pub vm: u64,
    /// Whether connections that the guest opens outlive an engine.
    pub failover: bool,
    /// Engines have died of what its guest sends: what those have left of its connections is reset.
    pub quarantined: bool,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// The network that it belongs to.
    pub network: NetworkId,
    /// The guest's address; `None`: filtered by MAC alone.
    pub address4: Option<Ipv4Addr>,
    /// The guest's IPv6 address; `None`: those that it claims by duplicate address detection.
    pub address6: Option<Ipv6Addr>,
    /// The name that the guest is told to be its own.
    pub hostname: Option<String>,
    /// Pairs of queues offered, up to [`QUEUE_PAIRS_MAX`](crate::QUEUE_PAIRS_MAX).
    pub queue_pairs: u16,
    /// Bytes of an IP packet to and from the guest.
    pub mtu: u16,
    /// When what the guest sends is acknowledged to it; for connections that begin from now on.
    pub ack: AckPolicy,
    /// Whether segments that it receives by the uplink are put together; `None`: as its network says.
    pub coalesce: Option<bool>,
    /// How calls to its driver are held back.
    pub calls: CallPolicy,
    /// Limits.
    pub limits: Limits,
    /// Egress rules; none: everything is allowed.
    pub egress: Vec<EgressRule>,
    /// Forwards.
    pub forwards: Vec<ForwardSpec>,
    /// Its cable, on a network with cables; `None`: there is none now. The control side keeps a reference for longer: closing a
    /// cable takes the kernel its time.
    pub tap: Option<Arc<Cable>>,
    /// Counters, which outlive the port's sessions.
    pub stats: Shared<PortStats>,
}

/// Addresses that no guest may reach, since they are this host's or vonic's own.
#[derive(Clone, Debug, Default)]
pub struct HostView {
    /// The host's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Where vonic tells its metrics by TCP: no guest's destination, even where guests may reach the host.
    pub metrics: Option<SocketAddr>,
}

impl HostView {
    /// Whether a TCP connection to `end`, an end on the host, would come to the metrics.
    pub fn is_metrics(&self, end: SocketAddr) -> bool {
        let here = |at: SocketAddr| at.port() == end.port() && (at.ip() == end.ip() || at.ip().is_unspecified());
        self.metrics.is_some_and(here)
    }

    /// Whether this is an end on the host itself.
    pub fn is_own(&self, end: SocketAddr) -> bool {
        let address = end.ip().to_canonical();
        address.is_loopback() || self.addresses.contains(&address)
    }
}
