//! Flows of datagrams that go along when their guest moves to another host (ADR 0016). Nothing of them stands still: what comes meanwhile
//! is lost, as on any way. On the other host each has a socket of the same address and port, so that its peer sees the guest where it was.
use super::{Datagram, Far, Key, Kind};
use crate::datagram::resume::last;
use crate::datagram::table::DatagramId;
use crate::spec::{ForwardSocket, PortId, PortSpec};
use crate::worker::Worker;
use crate::worker::events::Token;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vonic_tcp::Instant;
use vonic_uplink::{DatagramSocket, Local};

/// A flow as it travels: everything but its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traveller {
    /// ICMP echo; else UDP.
    pub echo: bool,
    /// Both sides have spoken.
    pub is_stream: bool,
    /// It leads through a forward.
    pub forwarded: bool,
    /// The guest's end; an echo's identifier is in place of the port.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// Where the host's socket leads.
    pub host: SocketAddr,
    /// The host's end.
    pub local: SocketAddr,
    /// When it began, in microseconds of this host's clock.
    pub opened: u64,
    /// When it was last used, by the same clock.
    pub used: u64,
}

/// One that has come to this host.
#[derive(Debug)]
pub struct ArrivingDatagrams {
    /// By this host's clock.
    pub flow: Traveller,
    /// Its socket; `None`: a forward's.
    pub socket: Option<DatagramSocket>,
}

impl Worker {
    /// The flows of a port that can go along: all but those that lead to this host itself, to a resolver, or to a peer that is known on this host's
    /// link only.
    pub(crate) fn travellers(&self, port: PortId) -> Vec<Traveller> {
        let own = self.datagrams.iter().filter(|(_, flow)| flow.key.port == port);
        own.filter_map(|(id, flow)| self.traveller(id, flow)).collect()
    }

    fn traveller(&self, id: DatagramId, flow: &Datagram) -> Option<Traveller> {
        if self.host.is_own(flow.host) || self.is_resolver(&flow.key, flow.host) {
            return None;
        }
        let (local, forwarded) = match &flow.far {
            Far::Own(socket) => (socket.local().ok()?, false),
            Far::Forward { local: Local { interface: 1.., .. }, .. } => return None,
            Far::Forward { listener, local } => (SocketAddr::new(local.address, listener.local().port()), true),
        };
        let Key { kind, port: _, guest, remote } = flow.key;
        let (is_stream, host) = (flow.was_stream, flow.host);
        let (echo, opened, used) = (kind == Kind::Echo, flow.opened.0, self.datagrams.used(id).0);
        Some(Traveller { echo, is_stream, forwarded, guest, remote, host, local, opened, used })
    }

    /// Flows have come with a port's guest.
    pub(crate) fn arrive_datagrams(&mut self, port: PortId, mut flows: Vec<ArrivingDatagrams>) {
        // The table's lists are in the order of use.
        flows.sort_by_key(|arriving| arriving.flow.used);
        flows.into_iter().for_each(|arriving| self.arrive_one(port, arriving));
        // This host's rules may be others.
        self.check_datagrams();
    }

    fn arrive_one(&mut self, port_id: PortId, ArrivingDatagrams { flow, socket }: ArrivingDatagrams) {
        let kind = if flow.echo { Kind::Echo } else { Kind::Udp };
        let key = Key { kind, port: port_id, guest: flow.guest, remote: flow.remote };
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        let full = self.datagrams.count(port_id, kind) >= kind.most(&port.spec.limits);
        if full || self.datagrams.find(&key).is_some() {
            return;
        }
        let Some(far) = socket.map(Far::Own).or_else(|| forward(&port.spec, &flow)) else { return };
        kind.resumed(&port.spec.stats);
        let mut datagram = Datagram::new(key, far, flow.host, Instant(flow.opened));
        (datagram.was_stream, datagram.last) = (flow.is_stream, last(&key));
        let (class, fd) = (datagram.class(), datagram.far.own().map(AsRawFd::as_raw_fd));
        let id = self.datagrams.insert(key, class, datagram, Instant(flow.used));
        self.record_datagrams(id);
        self.datagrams.make_ready(id);
        let token = Token::Datagrams { id, generation: self.datagrams.generation(id) };
        if fd.is_some_and(|fd| self.poller.watch_input(fd, token).is_err()) {
            self.close_datagrams(id);
        }
    }
}

/// The forward of this host's by which a flow goes on.
fn forward(spec: &PortSpec, flow: &Traveller) -> Option<Far> {
    if !flow.forwarded {
        return None;
    }
    let is_same = |listens: SocketAddr| {
        listens.port() == flow.local.port() && (listens.ip().is_unspecified() || listens.ip() == flow.local.ip())
    };
    spec.forwards.iter().find_map(|forward| match &forward.socket {
        ForwardSocket::Udp(listener)
            if forward.guest_port == flow.guest.port()
                && listener.local().is_ipv4() == flow.local.is_ipv4()
                && is_same(listener.local()) =>
        {
            let local = Local { address: flow.local.ip(), interface: 0 };
            Some(Far::Forward { listener: Arc::clone(listener), local })
        }
        _ => None,
    })
}
