//! How connections begin and end.
use crate::command::Notice;
use crate::crash::crash_point;
use crate::flow::guest_side::envelope;
use crate::flow::mark::Marking;
use crate::flow::names::{self, Asked};
use crate::flow::policy::{self, Route, World};
use crate::flow::table::{Flow, FlowId, FlowKey};
use crate::flow::usage::ServicePlace;
use crate::keyed::Secret;
use crate::limit::Limit;
use crate::notification::What;
use crate::port::Port;
use crate::spec::{ForwardSocket, PortId, PortSpec};
use crate::worker::events::Token;
use crate::worker::{Notify, Worker};
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;
use vonic_frame::{Culprit, DropReason, IcmpError, PROTOCOL_TCP, VnetHeader, icmp_error, ip_header_len};
use vonic_record::Bits;
use vonic_tcp::{AckPolicy, Config, DEFAULT_MSS, DEFAULT_MSS_IPV6, Instant, Keepalive, Leg, Segment, Seq, State};
use vonic_uplink::classify::{ConnectError, connect_error};
use vonic_uplink::{Accepted, Connecting, HostSocket, PeekMode};

/// Shift of the windows that legs advertise: up to 8 MiB.
const WINDOW_SCALE: u8 = 7;
/// Bytes of a TCP header without options.
const TCP_HEADER: u16 = 20;
/// Sets the secret of a connection's timestamps apart from the one of its sequence numbers.
const TIMESTAMPS: &str = "timestamps";
/// How far behind the last sequence number of a connection in TIME-WAIT its successor begins: beyond any unscaled window.
const REUSE_GAP: u32 = 1 << 16;
/// How long a listener that could not accept is left alone.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long connections over the rate of new ones wait at least: some come then, and not one at a time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Connections accepted of one listener in one round.
const ACCEPT_BATCH: usize = 64;

impl Worker {
    /// A guest's SYN that belongs to no connection: the host connects first, the guest is answered then.
    pub(crate) fn open_from_guest(&mut self, key: FlowKey, syn: &Segment<'_>, iss: Seq) -> Result<(), DropReason> {
        let now = self.now;
        let modes = self.peek_modes();
        let port = self.ports.get_mut(key.port as usize).and_then(Option::as_mut).ok_or(DropReason::PortDown)?;
        let network = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref());
        let network = network.ok_or(DropReason::PortDown)?;
        let world = World { host: &self.host, networks: &self.networks, listeners: &self.listen_addresses };
        let route = policy::decide(&world, network, &port.spec, PROTOCOL_TCP, key.remote).counted()?;
        let to = match route {
            Route::To(to) => Some(to),
            Route::Service => Some(key.remote),
            Route::Names => port.resolver.current(network.spec.resolvers(), now),
            Route::Refuse => None,
        };
        let Some(to) = to else {
            self.refuse(key, syn);
            return Ok(());
        };
        if let Err(limit) = self.admit(key.port, Some(to)) {
            return Err(self.limit_syn(key, syn, limit));
        }
        let port = Worker::port_mut(&mut self.ports, key.port).ok_or(DropReason::PortDown)?;
        let network = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref());
        let resolvers = network.map_or(&[][..], |network| network.spec.resolvers());
        let timestamps = first_timestamp(&self.secret, &key);
        let mut config = leg_config(&key, &port.spec, timestamps);
        if route == Route::Service {
            // Behind a Unix socket there is no peer whose acknowledgment could be waited for.
            config.ack = AckPolicy::Kernel;
        }
        let Some(opened) = begin((route, to), port, resolvers, modes, now, &self.notify) else {
            return Err(self.limit_syn(key, syn, Limit::Service));
        };
        match opened {
            Ok(Asked { socket, state, to, tries }) => {
                let mut flow = Flow::new(key, Leg::accept(&config, syn, iss, now), socket, to, now);
                flow.guest_opens = true;
                flow.connecting = true;
                flow.tries = tries;
                flow.marking = (route == Route::Service).then(Marking::default);
                crash_point!("socket-opened");
                // The far end of vonic's own service ends with the engine.
                if route != Route::Service {
                    flow.mortal = !port.spec.failover;
                    self.records.begin(&mut flow, (port.session, timestamps));
                    crash_point!("connect-recorded");
                }
                self.begin_connect(flow, state, syn);
            }
            Err(error) => {
                port.spec.stats.tcp.connect_failed.add(1);
                self.tell_failure(key, syn, &error);
            }
        }
        Ok(())
    }

    /// The connection is on record: from here on the world may hear of it. `state`: it has already.
    fn begin_connect(&mut self, mut flow: Flow, state: Option<Connecting>, syn: &Segment<'_>) {
        let begun = match (state, &flow.socket) {
            (None, Some(socket)) => socket.begin(flow.host),
            (state, _) => Ok(state.unwrap_or(Connecting::InProgress)),
        };
        crash_point!("connect-begun");
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
        match begun {
            Ok(state) => {
                port.usage.begin(Some(flow.host));
                let id = self.register(flow);
                if state == Connecting::Done {
                    self.connect_ended(id);
                }
            }
            Err(error) => {
                port.spec.stats.tcp.connect_failed.add(1);
                drop(flow.socket.take());
                self.records.end(&mut flow);
                self.tell_failure(flow.key, syn, &error);
            }
        }
    }

    fn tell_failure(&mut self, key: FlowKey, syn: &Segment<'_>, error: &std::io::Error) {
        match connect_error(error) {
            ConnectError::Refused => self.refuse(key, syn),
            ConnectError::Unreachable(code) => self.unreachable(key, code, syn.seq),
            // The guest's SYN comes again.
            ConnectError::TimedOut | ConnectError::Exhausted => {}
        }
    }

    /// Tells a guest by ICMP that its SYN cannot be delivered (RFC 792).
    fn unreachable(&mut self, key: FlowKey, code: u8, seq: Seq) {
        let Some(port) = Worker::port_mut(&mut self.ports, key.port) else { return };
        let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
        let mut envelope = envelope(key, network.spec.gateway_mac, port);
        envelope.src = network.spec.family(envelope.src).gateway.unwrap_or(envelope.src);
        let frame = icmp_error(
            &envelope,
            &IcmpError::unreachable(key.remote.ip(), code),
            &Culprit::tcp(key.guest, key.remote, seq.0),
        );
        if let Err(reason) = port.deliver(&VnetHeader::default(), frame.as_slice(), None) {
            port.dropped_to_guest(reason);
        }
    }

    /// The host's connect has ended, well or not.
    pub(crate) fn connect_ended(&mut self, id: FlowId) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(socket) = flow.socket.as_ref().filter(|_| flow.connecting) else { return };
        self.records.add(flow, Bits::ABORTED);
        crash_point!("connect-error-due");
        let result = socket.take_error();
        crash_point!("connect-error-taken");
        if result.is_ok() {
            self.records.remove(flow, Bits::ABORTED);
        }
        flow.connecting = false;
        let key = flow.key;
        let Some(port) = Worker::port_mut(&mut self.ports, key.port) else { return };
        port.usage.end(flow.destination());
        if result.is_err() && self.next_resolver(id) {
            return;
        }
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(port) = Worker::port_mut(&mut self.ports, key.port) else { return };
        match result {
            Ok(()) => {
                crash_point!("after-connect");
                flow.leg.host_connected(now);
                // The event may have told of the peer's first bytes, too, or of its end.
                flow.leg.host_readable();
                flow.window_stale = true;
                self.flows.make_ready(id);
            }
            Err(error) => {
                port.spec.stats.tcp.connect_failed.add(1);
                match connect_error(&error) {
                    ConnectError::Unreachable(code) => {
                        let seq = flow.leg.rcv_nxt() - 1;
                        self.unreachable(key, code, seq);
                        self.finish(id);
                    }
                    _ => {
                        flow.leg.abort();
                        flow.failed = true;
                        self.flows.make_ready(id);
                    }
                }
            }
        }
    }

    /// Takes what waits at a forward's listener. `waited`: it could not be taken before, for want of a turn.
    pub(crate) fn accept_from_world(&mut self, port_id: PortId, index: usize, waited: bool) {
        if self.is_awaited(port_id) || self.is_adopting() {
            return self.accept_later(port_id, index, self.now + ACCEPT_PAUSE, false);
        }
        self.accept_waiting(port_id, index, waited);
        self.records.accepting(None);
    }

    pub(super) fn accept_waiting(&mut self, port_id: PortId, index: usize, mut waited: bool) {
        let now = self.now;
        for _ in 0..ACCEPT_BATCH {
            let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
            let Some(forward) = port.spec.forwards.get(index) else { return };
            self.signs.at(port.spec.vm);
            let (guest_port, failover) = (forward.guest_port, forward.failover);
            let ForwardSocket::Tcp(listener) = &forward.socket else {
                return self.forward_datagrams(port_id, index);
            };
            // The peer is connected already and could only be reset: it waits in the kernel's queue, as at any busy server.
            let wait = port.usage.world_waits(&port.spec.limits, now);
            if !wait.is_zero() {
                return self.accept_later(port_id, index, now + wait.max(ACCEPT_PAUSE), true);
            }
            self.records.accepting(Some(listener.as_raw_fd()));
            match listener.accept() {
                Ok(Some(accepted)) => {
                    crash_point!("after-accept");
                    if std::mem::take(&mut waited) {
                        port.spec.stats.limited(Limit::NewPerSecond);
                    }
                    self.open_from_world((port_id, guest_port), failover, accepted);
                }
                Ok(None) => return,
                Err(error) => {
                    self.accept_later(port_id, index, now + ACCEPT_RETRY, false);
                    (self.notify)(Notice::AcceptFailed { port: port_id, error });
                    return;
                }
            }
        }
        self.accept_later(port_id, index, now, false);
        self.woken = true;
    }

    /// A connection that the kernel has accepted: the guest sees the peer's real address; a loopback peer appears as the
    /// address by which the guest reaches the host.
    pub(crate) fn open_from_world(&mut self, (port_id, guest_port): (PortId, u16), failover: bool, accepted: Accepted) {
        let now = self.now;
        let peer = accepted.peer;
        let Ok(socket) = HostSocket::accepted(accepted, self.peek_mode(peer)) else { return };
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return socket.abort() };
        let network = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref());
        let (Some(network), Some(address)) = (network, port.spec.address(peer.ip())) else { return socket.abort() };
        let Some(remote) = policy::seen_by_guest(network, &port.spec, peer) else { return socket.abort() };
        let key = FlowKey { port: port_id, guest: SocketAddr::new(address, guest_port), remote };
        // Of a guest whose rings are about to come it waits for those.
        if !port.queues.is_live() && port.awaited.is_none() {
            return socket.abort();
        }
        let iss = self.initial_sequence(&key);
        if !self.make_way(&key) {
            return socket.abort();
        }
        let admitted = self.admit(port_id, None);
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return socket.abort() };
        if let Err(limit) = admitted {
            let reason = port.spec.stats.limited(limit);
            port.dropped_to_guest(reason);
            return socket.abort();
        }
        port.usage.begin(None);
        let timestamps = first_timestamp(&self.secret, &key);
        let config = leg_config(&key, &port.spec, timestamps);
        let mut flow = Flow::new(key, Leg::open(&config, iss, now), socket, peer, now);
        flow.connecting = true;
        flow.mortal = !failover;
        self.records.begin(&mut flow, (port.session, timestamps));
        crash_point!("accept-recorded");
        let id = self.register(flow);
        self.flows.make_ready(id);
    }

    /// Whether a connection of this name may begin: one that only waits for old segments gives way, since the peer's kernel
    /// has judged the port to be free (RFC 6191).
    fn make_way(&mut self, key: &FlowKey) -> bool {
        // It may wait to be taken over.
        self.resume_now(key);
        let Some(id) = self.flows.find(key) else { return true };
        let over = self.flows.get_mut(id).is_some_and(|f| f.leg.state() == State::TimeWait);
        if over {
            self.finish(id);
        }
        over
    }

    /// Adds a connection to the table and its socket to epoll.
    pub(crate) fn register(&mut self, flow: Flow) -> FlowId {
        let port = flow.key.port;
        let fd = flow.socket.as_ref().map(AsRawFd::as_raw_fd);
        let id = self.flows.insert(flow);
        let token = Token::Flow { id, generation: self.flows.generation(id) };
        if let Some(port) = Worker::port_mut(&mut self.ports, port) {
            port.usage.connections += 1;
            port.spec.stats.tcp.open.add(1);
        }
        if let Some(fd) = fd
            && self.poller.watch_socket(fd, token).is_err()
        {
            self.abort(id);
        }
        id
    }

    /// Ends a connection by resetting the host's socket.
    pub(crate) fn abort(&mut self, id: FlowId) {
        if let Some(socket) = self.flows.get_mut(id).and_then(|f| f.socket.take()) {
            socket.abort();
        }
        if let Some(port) = self.finish(id) {
            port.spec.stats.tcp.reset.add(1);
        }
    }

    /// Takes a connection out of the table. What its socket has accepted is still delivered by the kernel.
    pub(crate) fn finish(&mut self, id: FlowId) -> Option<&mut crate::port::Port> {
        let mut flow = self.flows.remove(id)?;
        crash_point!("before-close");
        drop(flow.socket.take());
        self.records.end(&mut flow);
        let port = Worker::port_mut(&mut self.ports, flow.key.port)?;
        if flow.established {
            port.tell(&flow, What::Reset, &self.secret, self.now);
        }
        if flow.counted {
            port.usage.connections -= 1;
            port.spec.stats.tcp.one_closed();
        }
        if flow.connecting {
            port.usage.end(flow.destination());
        }
        Some(port)
    }

    /// A connection in TIME-WAIT holds nothing that the guest's limit is about.
    pub(crate) fn uncount(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id).filter(|f| f.counted) else { return };
        flow.counted = false;
        if let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) {
            port.usage.connections -= 1;
            port.spec.stats.tcp.one_closed();
        }
    }

    /// ISN = M + F(addresses, ports, secret), M a clock of 4 µs (RFC 6528 §3). A connection that replaces one in TIME-WAIT begins behind
    /// its last sequence number, which was further than the clock has come if it carried more than 250 kB/s (RFC 9293 §3.6.1).
    pub(crate) fn initial_sequence(&mut self, key: &FlowKey) -> Seq {
        let isn = Seq((self.secret.hash_one(key) as u32).wrapping_add((self.now.0 / 4) as u32));
        let last = self.flows.find(key).and_then(|id| self.flows.get_mut(id)).map(|flow| flow.leg.snd_max());
        last.filter(|last| isn.le(*last)).map_or(isn, |last| last + REUSE_GAP)
    }
}

/// A socket for a route, on which the host's connect has begun where nothing of it outlives an engine; `None`: the guest has no place
/// left at vonic's own service.
fn begin(
    (route, to): (Route, SocketAddr),
    port: &mut Port,
    resolvers: &[SocketAddr],
    modes: [PeekMode; 2],
    now: Instant,
    notify: &Notify,
) -> Option<io::Result<Asked>> {
    let mode = modes[usize::from(to.is_ipv6())];
    let opened = match route {
        Route::Names => return Some(names::connect(&mut port.resolver, resolvers, resolvers.len(), modes, now)),
        Route::Service => connect_service(port, port.usage.service_place()?, mode, notify),
        Route::To(_) | Route::Refuse => HostSocket::open(to, mode).map(|socket| (socket, None)),
    };
    Some(opened.map(|(socket, state)| Asked { socket, state, to, tries: None }))
}

/// Connects a guest to vonic's own service, which knows it by the port on which it came.
fn connect_service(
    port: &Port,
    place: ServicePlace,
    mode: PeekMode,
    notify: &Notify,
) -> io::Result<(HostSocket, Option<Connecting>)> {
    let (socket, end) = HostSocket::service(mode)?;
    notify(Notice::Service { from: port.spec.stats.clone(), end, place });
    Ok((socket, Some(Connecting::Done)))
}

/// Where the timestamps of a connection of this name start (RFC 7323 §5.4).
pub fn first_timestamp(secret: &Secret, key: &FlowKey) -> u32 {
    secret.hash_one((key, TIMESTAMPS)) as u32
}

/// `timestamps` is where this connection's start (RFC 7323 §5.4). Why SACK: see ADR 0010.
pub fn leg_config(key: &FlowKey, spec: &PortSpec, timestamps: u32) -> Config {
    let guest = key.guest.ip();
    // The MSS is the MTU less the fixed headers (RFC 9293 §3.7.1).
    let mss = spec.mtu - ip_header_len(guest) - TCP_HEADER;
    Config {
        timestamps: Some(timestamps),
        sack: true,
        keepalive: Some(Keepalive::DEFAULT),
        ack: spec.ack,
        // An ACK for every second full segment at least (RFC 9293 §3.8.6.3).
        patience: 2 * u32::from(mss),
        default_mss: if guest.is_ipv4() { DEFAULT_MSS } else { DEFAULT_MSS_IPV6 },
        ..Config::new(mss, WINDOW_SCALE)
    }
}
