//! How flows of datagrams begin and end.
use super::table::DatagramId;
use super::{Datagram, Key, Kind};
use crate::command::Notice;
use crate::flow::policy::{self, Route, World};
use crate::queues::Waiter;
use crate::spec::PortId;
use crate::worker::Worker;
use crate::worker::events::Token;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use vonic_frame::{DropReason, PROTOCOL_ICMP};
use vonic_uplink::{DatagramSocket, OpenError};

/// Why a guest's datagram has no flow.
pub enum Unopened {
    /// It goes no further, and the guest hears nothing.
    Dropped(DropReason),
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
        let Some(id) = self.datagrams.find(&key) else { return self.open_datagrams(key) };
        self.datagrams.touch(id, self.now);
        Ok(id)
    }

    fn open_datagrams(&mut self, key: Key) -> Result<DatagramId, Unopened> {
        let host = self.datagram_route(&key)?;
        let now = self.now;
        let port = Worker::port_mut(&mut self.ports, key.port).ok_or(DropReason::PortDown)?;
        port.usage.admit_datagrams(&port.spec.limits, now)?;
        self.make_room(&key);
        if self.flows.len() + self.datagrams.len() >= self.connections_max {
            return Err(DropReason::Limit.into());
        }
        let opened = match key.kind {
            Kind::Echo => DatagramSocket::echo(host.ip()),
        };
        self.tell_permission(!matches!(opened, Err(OpenError::NotPermitted(_))));
        let socket = opened.map_err(|error| match error {
            OpenError::NotPermitted(_) => Unopened::NotPermitted,
            OpenError::Failed(error) => Unopened::Failed(error),
        })?;
        let fd = socket.as_raw_fd();
        let flow = Datagram { key, socket, host, last_len: 0, largest: 0, failed: false, starved: false, short: None };
        let id = self.datagrams.insert(key, flow, now);
        if let Some(port) = Worker::port_mut(&mut self.ports, key.port) {
            port.spec.stats.icmp.opened.add(1);
            port.spec.stats.icmp.open.add(1);
        }
        let token = Token::Datagrams { id, generation: self.datagrams.generation(id) };
        self.poller.watch_input(fd, token).map_err(|error| {
            self.close_datagrams(id);
            Unopened::Failed(error)
        })?;
        Ok(id)
    }

    /// Where a flow leads now.
    fn datagram_route(&self, key: &Key) -> Result<SocketAddr, DropReason> {
        let port = self.ports.get(key.port as usize).and_then(Option::as_ref).ok_or(DropReason::PortDown)?;
        let network = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref());
        let network = network.ok_or(DropReason::PortDown)?;
        let world = World { host: &self.host, networks: &self.networks, listeners: &self.listen_addresses };
        let protocol = match key.kind {
            Kind::Echo => PROTOCOL_ICMP,
        };
        match policy::route(&world, network, &port.spec, protocol, key.remote)? {
            Route::To(host) => Ok(host),
            Route::Service | Route::Refuse => Err(DropReason::Denied),
        }
    }

    /// The guest's flow that has been silent for the longest time goes, if it has as many as it may.
    fn make_room(&mut self, key: &Key) {
        if self.datagrams.count(key.port, key.kind) < key.kind.most() {
            return;
        }
        if let Some(id) = self.datagrams.oldest(key.port, key.kind) {
            self.close_datagrams(id);
            if let Some(port) = Worker::port_mut(&mut self.ports, key.port) {
                port.spec.stats.icmp.evicted.add(1);
            }
        }
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
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
        if flow.starved || flow.short.is_some() {
            port.queues.unlist(Waiter::Datagrams(id));
        }
        port.spec.stats.icmp.one_closed();
    }

    /// Ends a port's flows.
    pub(crate) fn close_datagrams_of(&mut self, port: PortId) {
        for kind in Kind::ALL {
            while let Some(id) = self.datagrams.oldest(port, kind) {
                self.close_datagrams(id);
            }
        }
    }

    /// Ends the flows whose guests have been silent for too long.
    pub(crate) fn expire_datagrams(&mut self) {
        while let Some(id) = self.datagrams.expired(self.now) {
            self.close_datagrams(id);
        }
    }

    /// Ends the flows that could not be opened any more as they are: rules or the host's addresses have changed.
    pub(crate) fn check_datagrams(&mut self) {
        let stale = |flow: &Datagram| self.datagram_route(&flow.key) != Ok(flow.host);
        let stale: Vec<DatagramId> = self.datagrams.iter().filter(|(_, flow)| stale(flow)).map(|(id, _)| id).collect();
        stale.into_iter().for_each(|id| self.close_datagrams(id));
    }
}
