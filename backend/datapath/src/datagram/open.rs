//! How flows of datagrams begin and end.
use super::table::DatagramId;
use super::{Datagram, Far, Key, Kind};
use crate::command::Notice;
use crate::flow::policy::{self, Decision, Route, World};
use crate::limit::Limit;
use crate::queues::Waiter;
use crate::spec::{ForwardSocket, PortId};
use crate::worker::Worker;
use crate::worker::events::Token;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vonic_frame::DropReason;
use vonic_uplink::{DatagramSocket, Local, OpenError, UdpListener};

/// Why a guest's datagram has no flow.
pub enum Unopened {
    /// It goes no further, and the guest hears nothing.
    Dropped(DropReason),
    /// Nobody is there: the gateway has no such service.
    Refused,
    /// The host lets vonic have no such socket.
    NotPermitted,
    /// What the host said of the destination.
    Failed(io::Error),
}

impl From<DropReason> for Unopened {
    fn from(reason: DropReason) -> Self {
        Unopened::Dropped(reason)
    }
}

impl Worker {
    /// The flow of a guest's datagram: the one that there is, or a new one.
    pub(crate) fn datagram_flow(&mut self, key: Key) -> Result<DatagramId, Unopened> {
        let resolver = self.ask_resolver(&key);
        self.datagrams.find(&key).map_or_else(|| self.open_datagrams(key, resolver), Ok)
    }

    /// `resolver` is the one that answers, where the guest asks the gateway for names.
    fn open_datagrams(&mut self, key: Key, resolver: Option<SocketAddr>) -> Result<DatagramId, Unopened> {
        let host = match (self.decide_datagrams(&key)?.counted()?, resolver) {
            (Route::To(host), _) | (Route::Names, Some(host)) => host,
            _ if key.kind == Kind::Udp => return Err(Unopened::Refused),
            _ => return Err(DropReason::Denied.into()),
        };
        self.admit_datagrams(&key, true)?;
        let (socket, host) = match key.kind {
            Kind::Echo => (self.ping_socket(host)?, host),
            Kind::Udp if resolver.is_some() => self.resolver_socket(&key, host)?,
            Kind::Udp => (DatagramSocket::udp(host).map_err(Unopened::Failed)?, host),
        };
        let fd = socket.as_raw_fd();
        let id = self.begin_datagrams(Datagram::new(key, Far::Own(socket), host, self.now), true);
        let token = Token::Datagrams { id, generation: self.datagrams.generation(id) };
        self.poller.watch_input(fd, token).map_err(|error| {
            self.close_datagrams(id);
            Unopened::Failed(error)
        })?;
        Ok(id)
    }

    /// The flow of a datagram that has come from `peer` by a forward: the one that there is, or a new one. Answers go to where
    /// the peer has spoken to last.
    ///
    /// # Errors
    /// `Limit`; `Denied` where another peer is known to the guest by this name.
    pub(crate) fn flow_from_world(
        &mut self,
        key: Key,
        peer: SocketAddr,
        listener: &Arc<UdpListener>,
        local: Local,
    ) -> Result<DatagramId, DropReason> {
        let far = || Far::Forward { listener: Arc::clone(listener), local };
        if let Some(id) = self.datagrams.find(&key) {
            let Some(flow) = self.datagrams.get_mut(id) else { return Err(DropReason::NoConnection) };
            if flow.host != peer {
                return Err(DropReason::Denied);
            }
            match &mut flow.far {
                Far::Forward { listener: same, local: last } if Arc::ptr_eq(same, listener) && *last == local => {}
                other => {
                    *other = far();
                    self.record_datagrams(id);
                }
            }
            return Ok(id);
        }
        self.admit_datagrams(&key, false)?;
        Ok(self.begin_datagrams(Datagram::new(key, far(), peer, self.now), false))
    }

    /// Whether a flow may begin; others make room for it.
    fn admit_datagrams(&mut self, key: &Key, by_guest: bool) -> Result<(), DropReason> {
        let now = self.now;
        let port = Worker::port_mut(&mut self.ports, key.port).ok_or(DropReason::PortDown)?;
        let admitted = port.usage.admit_datagrams(&port.spec.limits, by_guest, now);
        admitted.map_err(|limit| port.spec.stats.limited(limit))?;
        let most = key.kind.most(&port.spec.limits);
        while self.datagrams.count(key.port, key.kind) >= most {
            let Some(id) = self.datagrams.oldest(key.port, key.kind) else { break };
            self.close_datagrams(id);
            if let Some(port) = Worker::port_mut(&mut self.ports, key.port) {
                key.kind.evicted(&port.spec.stats);
            }
        }
        if self.has_room(key.port) {
            return Ok(());
        }
        let port = Worker::port_mut(&mut self.ports, key.port).ok_or(DropReason::PortDown)?;
        Err(port.spec.stats.limited(Limit::Host))
    }

    fn begin_datagrams(&mut self, flow: Datagram, by_guest: bool) -> DatagramId {
        let key = flow.key;
        if let Some(port) = Worker::port_mut(&mut self.ports, key.port) {
            key.kind.opened(&port.spec.stats, by_guest);
        }
        let class = flow.class();
        let id = self.datagrams.insert(key, class, flow, self.now);
        // Before anything of it leaves the host: its port is the flow's name there.
        self.record_datagrams(id);
        id
    }

    fn ping_socket(&mut self, host: SocketAddr) -> Result<DatagramSocket, Unopened> {
        let opened = DatagramSocket::echo(host.ip());
        self.tell_permission(!matches!(opened, Err(OpenError::NotPermitted(_))));
        opened.map_err(|error| match error {
            OpenError::NotPermitted(_) => Unopened::NotPermitted,
            OpenError::Failed(error) => Unopened::Failed(error),
        })
    }

    /// What the worker knows about addresses.
    pub(crate) fn world(&self) -> World<'_> {
        World { host: &self.host, networks: &self.networks, listeners: &self.listen_addresses }
    }

    /// What the rules say of a flow of the guest's now.
    fn decide_datagrams(&self, key: &Key) -> Result<Decision<'_>, DropReason> {
        let port = self.ports.get(key.port as usize).and_then(Option::as_ref).ok_or(DropReason::PortDown)?;
        let network = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref());
        let network = network.ok_or(DropReason::PortDown)?;
        Ok(policy::decide(&self.world(), network, &port.spec, key.kind.protocol(), key.remote))
    }

    /// What the guest of a port knows a peer in the world as.
    pub(crate) fn seen_by_guest(&self, port: PortId, peer: SocketAddr) -> Option<SocketAddr> {
        let port = self.ports.get(port as usize)?.as_ref()?;
        let network = self.networks.get(port.spec.network as usize)?.as_ref()?;
        policy::seen_by_guest(network, &port.spec, peer)
    }

    /// Tells the control side whenever the host's mind about ping sockets has changed.
    fn tell_permission(&mut self, permitted: bool) {
        if std::mem::replace(&mut self.ping_permitted, permitted) != permitted {
            (self.notify)(Notice::PingSockets { permitted });
        }
    }

    /// Ends a flow.
    pub(crate) fn close_datagrams(&mut self, id: DatagramId) {
        let Some(flow) = self.datagrams.remove(id) else { return };
        let Datagram { key, starved, record, .. } = flow;
        drop(flow.far);
        // Its socket is closed.
        if let Some(record) = record {
            self.records.free(record);
        }
        let Some(port) = Worker::port_mut(&mut self.ports, key.port) else { return };
        if starved {
            port.queues.unlist(Waiter::Datagrams(id));
        }
        key.kind.closed(&port.spec.stats);
    }

    /// Ends a flow of this name: its guest says that nobody is there any more. To whom the host's socket was connected, the host
    /// will say the same.
    pub(crate) fn close_refused(&mut self, key: &Key) {
        if let Some(id) = self.datagrams.find(key) {
            self.close_datagrams(id);
        }
    }

    /// Ends a port's flows.
    pub(crate) fn close_datagrams_of(&mut self, port: PortId) {
        for kind in Kind::ALL {
            while let Some(id) = self.datagrams.oldest(port, kind) {
                self.close_datagrams(id);
            }
        }
    }

    /// Ends the flows that have been silent for too long.
    pub(crate) fn expire_datagrams(&mut self) {
        while let Some(id) = self.datagrams.expired(self.now) {
            self.close_datagrams(id);
        }
    }

    /// Ends the flows that could not be opened any more as they are: rules, forwards or the host's addresses have changed.
    pub(crate) fn check_datagrams(&mut self) {
        let leads = |key: &Key| self.decide_datagrams(key)?.again();
        let stale = |flow: &Datagram| match &flow.far {
            Far::Own(_) => match leads(&flow.key) {
                Ok(Route::Names) => !self.is_resolver(&flow.key, flow.host),
                route => route != Ok(Route::To(flow.host)),
            },
            Far::Forward { listener, .. } => {
                let port = self.ports.get(flow.key.port as usize).and_then(Option::as_ref);
                let leads = port.is_some_and(|port| {
                    port.spec.forwards.iter().any(|forward| {
                        let same = matches!(&forward.socket, ForwardSocket::Udp(s) if Arc::ptr_eq(s, listener));
                        same && forward.guest_port == flow.key.guest.port()
                    })
                });
                !leads || self.seen_by_guest(flow.key.port, flow.host) != Some(flow.key.remote)
            }
        };
        let stale: Vec<DatagramId> = self.datagrams.iter().filter(|(_, flow)| stale(flow)).map(|(id, _)| id).collect();
        stale.into_iter().for_each(|id| self.close_datagrams(id));
    }

    /// The guest has got a datagram of a flow.
    pub(crate) fn datagram_received(&mut self, id: DatagramId, bytes: u32) {
        let now = self.now;
        let Some(flow) = self.datagrams.get_mut(id) else { return };
        flow.received.count(bytes);
        let (key, host) = (flow.key, flow.host);
        let (class, lives) = (flow.class(), flow.lives_by_the_world());
        self.records.speaks(flow);
        if lives {
            self.datagrams.touch(id, class, now);
        }
        self.resolver_answered(&key, host);
    }
}
