//! Connections to the gateway's DNS port: they lead to one of the network's resolvers, and to the next if that one cannot be reached. The
//! guest sees none of it but a handshake that takes longer.
use crate::flow::open::first_timestamp;
use crate::flow::table::{FlowId, FlowKey};
use crate::service::resolver::{PATIENCE, Resolver};
use crate::worker::Worker;
use crate::worker::events::Token;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use vonic_tcp::Instant;
use vonic_uplink::{Connecting, HostSocket, PeekMode};

/// What is left to try when a resolver cannot be reached.
#[derive(Clone, Copy, Debug)]
pub struct Tries {
    /// So many resolvers.
    left: usize,
    /// When the one that is tried now was asked first.
    since: Instant,
}

/// A connect to a resolver that has begun, or ended well at once.
pub struct Asked {
    /// The host's socket.
    pub socket: HostSocket,
    /// Whether it is connected; `None`: its connect has not begun.
    pub state: Option<Connecting>,
    /// Which resolver.
    pub to: SocketAddr,
    /// What else there is.
    pub tries: Option<Tries>,
}

/// Connects to the guest's resolver, or to the next one that the host does not refuse at once; to one of `most`.
///
/// # Errors
/// What the host said of the last one.
pub fn connect(
    resolver: &mut Resolver,
    all: &[SocketAddr],
    most: usize,
    modes: [PeekMode; 2],
    now: Instant,
) -> io::Result<Asked> {
    let mut failure = io::ErrorKind::ConnectionRefused.into();
    for left in (0..most).rev() {
        let Some(to) = resolver.current(all, now) else { break };
        match HostSocket::connect(to, modes[usize::from(to.is_ipv6())]) {
            Ok((socket, state)) => {
                return Ok(Asked { socket, state: Some(state), to, tries: Some(Tries { left, since: now }) });
            }
            Err(error) => failure = error,
        }
        resolver.failed(to, all, now);
    }
    Err(failure)
}

impl Worker {
    /// The connect of a connection to a resolver has failed: the next one is tried. False: there is none, or it is no such connection.
    pub(crate) fn next_resolver(&mut self, id: FlowId) -> bool {
        let (now, modes) = (self.now, self.peek_modes());
        let Some(flow) = self.flows.get_mut(id) else { return false };
        let timestamps = first_timestamp(&self.secret, &flow.key);
        let Some(tries) = flow.tries else { return false };
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return false };
        let network = self.networks.get(port.spec.network as usize).and_then(|n| n.as_deref());
        let all = network.map_or(&[][..], |network| network.spec.resolvers());
        port.resolver.failed(flow.host, all, now);
        let Ok(asked) = connect(&mut port.resolver, all, tries.left, modes, now) else { return false };
        if flow.connecting {
            port.usage.end(flow.destination());
        }
        flow.host = asked.to;
        flow.tries = asked.tries;
        flow.connecting = true;
        port.usage.begin(flow.destination());
        let fd = asked.socket.as_raw_fd();
        // The old socket is closed by this, and leaves the poller with that.
        flow.socket = Some(asked.socket);
        self.records.end(flow);
        self.records.begin(flow, (port.session, timestamps));
        let token = Token::Flow { id, generation: self.flows.generation(id) };
        if self.poller.watch_socket(fd, token).is_err() {
            self.abort(id);
        } else if asked.state == Some(Connecting::Done) {
            self.connect_ended(id);
        }
        true
    }

    /// A guest that asks for a handshake again has waited: a resolver that has not answered it by now makes room for the next.
    pub(crate) fn asks_again(&mut self, key: &FlowKey) {
        let now = self.now;
        let Some(id) = self.flows.find(key) else { return };
        let waited = |tries: Tries| now.0.saturating_sub(tries.since.0) >= PATIENCE.as_micros() as u64;
        if self.flows.get_mut(id).is_some_and(|flow| flow.connecting && flow.tries.is_some_and(waited)) {
            self.next_resolver(id);
        }
    }
}
