//! Orders from the control side, applied between two bursts.
use crate::bridged;
use crate::command::{Command, RingCommand};
use crate::crash::crash_point;
use crate::flow::table::{FlowId, FlowKey};
use crate::notification::Notifier;
use crate::port::Port;
use crate::queues::Queues;
use crate::service::resolver::Resolver;
use crate::spec::{NetworkId, PortId, PortSpec};
use crate::switch::Network;
use crate::worker::Worker;
use crate::worker::events::Token;
use crate::worker::listing::Asked;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use vonic_queue::{Direction, Done, MemoryMap};
use vonic_uplink::Cable;

/// Places `value` at `index`, with room made for it.
fn place<T>(table: &mut Vec<Option<T>>, index: u32, value: T) {
    let index = index as usize;
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    table[index] = Some(value);
}

impl Worker {
    /// Applies everything that waits; false once the worker is to end.
    pub(crate) fn apply_commands(&mut self) -> bool {
        while let Ok(command) = self.commands.pop() {
            let of = command.of_message().and_then(|id| Worker::port_mut(&mut self.ports, id));
            self.signs.at_command(of.map(|port| port.spec.vm));
            self.settle_landings();
            match command {
                Command::Network(spec) => {
                    self.set_network(*spec);
                    self.check_datagrams();
                    self.check_connections(None);
                }
                Command::RemoveNetwork(id) => {
                    if let Some(place) = self.networks.get_mut(id as usize) {
                        *place = None;
                    }
                }
                Command::Attach(spec) => self.attach(*spec),
                Command::Member(member) => self.learn(*member),
                Command::Leave { port } => self.unlearn(port),
                Command::Reconfigure { spec, done } => {
                    let port = spec.port;
                    self.reconfigure(*spec);
                    self.check_datagrams();
                    self.check_connections(Some(port));
                    done.done();
                }
                Command::Detach { port, done } => {
                    self.detach(port);
                    done.done();
                }
                Command::Features { port, bits } => {
                    if let Some(port) = Worker::port_mut(&mut self.ports, port) {
                        port.set_features(bits);
                    }
                }
                Command::Memory { port, map, done } => {
                    self.set_memory(port, map);
                    done.done();
                }
                Command::Log { port, log, done } => {
                    if let Some(port) = Worker::port_mut(&mut self.ports, port) {
                        port.queues.set_log(log.as_ref());
                        port.log = log.map(|log| log.log);
                    }
                    done.done();
                }
                Command::Announce { port } => self.announce(port),
                Command::Ring(ring) => self.set_ring(*ring),
                Command::StopRing { port, index, done } => {
                    self.stop_ring(port, index);
                    self.hold_doors(port);
                    done.done();
                }
                Command::Disconnect { port, done } => {
                    self.disconnect(port);
                    done.done();
                }
                Command::Session { port, session } => self.begin_session(port, session),
                Command::Elsewhere { session } => self.records.leave_session_to_others(session),
                Command::Inherited => {
                    self.abandon_custody();
                    self.abandon_connections();
                }
                Command::Depart { port, from, reply } => {
                    let departure = self.depart(port, from);
                    // Nobody waits any more: what was taken out goes on if the rings start.
                    if let Err(back) = reply.send(departure) {
                        self.stay(port, back.0.leaving);
                    }
                }
                Command::Stay { port, leaving } => self.stay(port, leaving),
                Command::Gone { records } => self.gone(records),
                Command::Arrive { port, connections, datagrams, claims, done } => {
                    self.arrive(port, connections, &claims);
                    self.arrive_datagrams(port, datagrams);
                    done.done();
                }
                Command::Barrier { done } => done.done(),
                Command::Host(view) => {
                    self.host = *view;
                    self.check_datagrams();
                    self.check_connections(None);
                }
                Command::Connections { port, from, reply } => self.asked.push(Asked { port, from, reply }),
                Command::Notify { port, notifier } => {
                    if let Some(port) = Worker::port_mut(&mut self.ports, port) {
                        notifier.iter().for_each(Notifier::open);
                        port.notifier = notifier;
                    }
                }
                Command::Capture { port, capturer } => self.begin_capture(port, *capturer),
                Command::EndCapture { port, number, reply } => {
                    if let Some(capturer) = self.end_capture(port, number) {
                        reply.send(capturer);
                    }
                }
                Command::Pause { done } => {
                    self.pauses = Some(Some(done));
                    self.woken = true;
                }
                Command::Rest { done } => {
                    self.recall_all();
                    self.flush();
                    self.call_senders(true);
                    self.rests = true;
                    done.done();
                    return false;
                }
                Command::Stop { done } => {
                    self.stop();
                    done.done();
                    return false;
                }
            }
            crash_point!("command-applied");
        }
        self.signs.at_frames();
        true
    }

    fn set_network(&mut self, spec: crate::spec::NetworkSpec) {
        let id: NetworkId = spec.network;
        let asked_of = spec.resolvers().to_vec();
        let before = match self.networks.get_mut(id as usize).and_then(Option::as_mut) {
            Some(network) => Some(std::mem::replace(&mut network.spec, spec)),
            None => {
                place(&mut self.networks, id, Box::new(Network::new(spec)));
                None
            }
        };
        let others = before.is_none_or(|before| before.resolvers() != asked_of);
        let members = self.network_mut(id).map_or_else(Vec::new, |network| network.members().to_vec());
        for member in members {
            self.advertise_soon(member);
            if let Some(port) = Worker::port_mut(&mut self.ports, member).filter(|_| others) {
                port.resolver = Resolver::default();
            }
        }
    }

    fn network_mut(&mut self, id: NetworkId) -> Option<&mut Network> {
        self.networks.get_mut(id as usize).and_then(Option::as_deref_mut)
    }

    fn attach(&mut self, spec: PortSpec) {
        if let Some(network) = self.network_mut(spec.network) {
            network.join(&spec);
        }
        let (id, resumes) = (spec.port, !spec.quarantined);
        place(&mut self.ports, id, Box::new(Port::new(spec)));
        self.exchange.note(id);
        self.resume_places(id);
        self.watch_forwards(id);
        self.record_tap(id);
        self.served.make_room(self.ports.len());
        if self.taking_over && resumes {
            self.await_port(id);
        }
    }

    fn reconfigure(&mut self, spec: PortSpec) {
        let id = spec.port;
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        let same =
            |a: &Option<Arc<Cable>>, b: &Option<Arc<Cable>>| a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr);
        if !same(&port.spec.tap, &spec.tap) {
            bridged::forget(&self.poller, port);
        }
        let before = std::mem::replace(&mut port.spec, spec);
        port.settle_inspection();
        port.queues.forgive();
        self.forget_forwards(&before);
        self.watch_forwards(id);
        self.watch_tap(id);
    }

    /// Watches the listeners of a port, and keeps the list of addresses that guests must not reach through the host.
    fn watch_forwards(&mut self, id: PortId) {
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            let Port { custody, spec, .. } = port;
            custody.set_listeners(spec.forwards.iter().map(|forward| &forward.socket), &mut self.records);
            for (i, forward) in spec.forwards.iter().enumerate() {
                let token = Token::Listener { port: id, index: i as u16 };
                if let Err(error) = self.poller.watch_input(forward.socket.as_raw_fd(), token) {
                    (self.notify)(crate::Notice::WatchFailed { port: id, error });
                }
            }
        }
        self.list_listeners();
    }

    /// Watches no more what a port had and no port of this worker's has now: another worker may have it.
    fn forget_forwards(&self, before: &PortSpec) {
        let listens = |fd: RawFd| {
            let now = self.ports.iter().flatten().flat_map(|port| &port.spec.forwards);
            now.map(|forward| forward.socket.as_raw_fd()).any(|now| now == fd)
        };
        let gone = before.forwards.iter().map(|forward| forward.socket.as_raw_fd()).filter(|fd| !listens(*fd));
        gone.for_each(|fd| self.poller.forget(fd));
    }

    /// Lists the addresses that guests must not reach through the host, whichever worker has their ports.
    pub(crate) fn list_listeners(&mut self) {
        let forwards = self.ports.iter().flatten().flat_map(|p| &p.spec.forwards);
        let own = forwards.filter_map(|f| f.socket.local());
        self.listen_addresses = own.chain(self.exchange.listens()).collect();
    }

    fn detach(&mut self, id: PortId) {
        self.disconnect(id);
        if let Some(mut port) = self.ports.get_mut(id as usize).and_then(Option::take) {
            port.custody.end(&mut self.records);
            self.forget_forwards(&port.spec);
            if let Some(network) = self.network_mut(port.spec.network) {
                network.leave(id);
            }
            self.watch_forwards(id);
        }
    }

    fn set_memory(&mut self, id: PortId, map: Arc<MemoryMap>) {
        self.recall(id);
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        self.signs.at(port.spec.vm);
        port.queues.remap(&map);
        port.rx_burst.clear();
        port.forget_landing();
        port.map = Some(map);
        self.report_broken(id);
    }

    fn set_ring(&mut self, mut command: RingCommand) {
        let done = command.done.take();
        self.start_ring(command);
        done.into_iter().for_each(Done::done);
    }

    fn start_ring(&mut self, command: RingCommand) {
        let (id, index) = (command.port, command.index);
        self.recall(id);
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        let Some(map) = port.map.clone() else { return };
        if !port.leaving.is_empty() {
            self.thaw(id);
        }
        self.open_doors(id);
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        self.signs.at(port.spec.vm);
        let direction = port.queues.direction(index);
        let (Some(direction), Some(ring)) = (direction, port.queues.ring(index)) else { return };
        if let Some(fd) = ring.kick_fd() {
            self.poller.forget(fd);
        }
        let another_driver = ring.start(&map, command, direction);
        if let Some(fd) = ring.kick_fd()
            && let Err(error) = self.poller.watch_input(fd, Token::Kick { port: id, index })
        {
            (self.notify)(crate::Notice::WatchFailed { port: id, error });
        }
        // Whatever was kicked before the descriptor was watched is found by looking.
        ring.signal();
        port.queues.settle();
        if another_driver {
            self.forget_driver(id);
        }
        if Worker::port_mut(&mut self.ports, id).is_some_and(|port| port.queues.is_live()) {
            self.settle_adopted(id);
        }
        self.watch_tap(id);
        self.report_broken(id);
        self.feed(id);
        if direction == Direction::HostToGuest {
            self.advertise_soon(id);
        }
        self.woken = true;
    }

    fn stop_ring(&mut self, id: PortId, index: u16) {
        self.recall(id);
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        let Some(ring) = port.queues.ring(index) else { return };
        if let Some(fd) = ring.kick_fd() {
            self.poller.forget(fd);
        }
        ring.stop();
        port.queues.settle();
        port.rx_burst.clear();
        port.forget_landing();
        self.watch_tap(id);
        self.feed(id);
        self.woken = true;
    }

    /// The guest has started anew, or its driver: of the connections that the old one had nobody knows any more, so their
    /// peers get resets.
    fn forget_driver(&mut self, id: PortId) {
        self.reset_connections(id);
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            port.queues.forget();
            let network = port.spec.network;
            if let Some(network) = self.network_mut(network) {
                network.release_claims(id);
            }
        }
    }

    fn reset_connections(&mut self, id: PortId) {
        self.finish_resuming(Some(id));
        for flow in self.flows_of(|key| key.port == id) {
            self.abort(flow);
        }
        self.close_datagrams_of(id);
    }

    /// Takes a port whose memory, or the log of it, has gone out of service.
    pub(crate) fn check_memory(&mut self, id: PortId) {
        let port = Worker::port_mut(&mut self.ports, id);
        let lost = |p: &mut Port| {
            p.map.as_ref().is_some_and(|map| map.is_lost()) || p.log.as_ref().is_some_and(|log| log.is_lost())
        };
        if port.is_some_and(lost) {
            self.disconnect(id);
            (self.notify)(crate::Notice::MemoryLost { port: id });
        }
    }

    /// The VMM is gone: what its guest had open is reset towards the world.
    fn disconnect(&mut self, id: PortId) {
        self.recall(id);
        self.settle_adopted(id);
        self.reset_connections(id);
        self.let_go(id);
        self.open_doors(id);
        self.close_draining(id);
        for index in Queues::indices() {
            self.stop_ring(id, index);
        }
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        port.disconnect();
        bridged::give_up(port);
        port.awaited = None;
        // What waited for the guest's buffers is not for the next one.
        let forwards = port.spec.forwards.len();
        (0..forwards).for_each(|index| self.accept_later(id, index, self.now, false));
        self.woken = true;
    }

    pub(super) fn flows_of(&self, wanted: impl Fn(&FlowKey) -> bool) -> Vec<FlowId> {
        self.flows.iter().filter(|(_, f)| wanted(&f.key)).map(|(id, _)| id).collect()
    }
}
