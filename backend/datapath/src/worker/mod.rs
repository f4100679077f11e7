//! The worker: one thread that owns its ports, their rings, connections and sockets. Nothing here locks, and nothing
//! allocates or logs per frame.
//!
//! A round: commands, events, then each port's turn, a burst of its frames, then the ready connections, then one flush of every ring.
//! While there is work the rings ask for no notification; before it sleeps the worker asks for them and looks once more.
mod advertise;
mod announce;
mod captures;
mod clock;
mod commands;
mod completion;
mod control_queue;
pub(crate) mod events;
mod faults;
mod feed;
pub(crate) mod ingress;
mod kicks;
mod latency;
mod listing;
mod pace;
mod place;
mod polling;
mod recalls;
mod signs;
mod sleep;
mod stop;
#[cfg(test)]
mod tests;
mod turns;

use crate::command::{Command, Notice};
use crate::crash::crash_point;
use crate::datagram::Datagram;
use crate::datagram::fragmenter::Fragmenter;
use crate::datagram::reassembly::Reassembly;
use crate::datagram::table::DatagramTable;
use crate::exchange::{Bursts, Exchange, Seat, new_bursts, seats};
use crate::flow::admission::AcceptLater;
use crate::flow::adoption::Adopted;
use crate::flow::draining::Draining;
use crate::flow::patience::Patience;
use crate::flow::peer::Questions;
use crate::flow::records::Records;
use crate::flow::resuming::Resuming;
use crate::flow::table::{FlowId, FlowTable};
use crate::keyed::Secret;
use crate::port::Port;
use crate::queues::PAIRS;
use crate::spec::{HostView, PortId};
use crate::switch::Network;
use clock::Clock;
use events::{Poller, Token};
pub(crate) use ingress::BURST;
use ingress::Late;
use kicks::Unheard;
use latency::Served;
use listing::Asked;
use pace::work_done;
use place::Place;
pub use polling::Poll;
use polling::Polling;
use recalls::Recalls;
use rtrb::{Consumer, Producer, RingBuffer};
use signs::Signs;
pub use signs::Waker;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use turns::Turns;
use vmm_sys_util::eventfd::EventFd;
use vonic_queue::{Done, Gather};
use vonic_record::{Checkpoint, FreeNumbers, Secrets};
use vonic_tcp::Instant;
use vonic_uplink::{PeekMode, Scratch};

/// Commands that may wait.
const COMMANDS: usize = 1024;
/// Connections pumped in one round before the guests' rings are looked at again.
const PUMPS_A_ROUND: usize = 32;
/// Descriptors that connections leave to VMM connections, listeners and the API.
const DESCRIPTORS_KEPT: u64 = 512;

/// Microseconds that what epoll has to tell may wait while there is work without it: asking costs as much as some frames.
const DEAF_US: u64 = 20;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// What outlives this engine.
    pub checkpoint: Arc<Checkpoint>,
    /// It takes over from an engine that died, whose VMMs are connected.
    pub takes_over: bool,
    /// Busy polling.
    pub poll: Poll,
    /// How peeks find their place; `None`: what this kernel can do.
    pub peek_mode: Option<PeekMode>,
    /// Microseconds of a port's turn: [`TURN_US`](crate::TURN_US), or more where everything is slowed down to be counted.
    pub turn_us: u64,
}

/// The control side's end of a worker.
pub struct WorkerHandle {
    commands: Producer<Command>,
    wake: Arc<EventFd>,
}

impl WorkerHandle {
    /// What wakes it from elsewhere.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    /// Sends an order.
    ///
    /// # Errors
    /// The order itself, if so many wait already that the worker must be stuck.
    pub fn send(&mut self, command: Command) -> Result<(), Box<Command>> {
        let result = self.commands.push(command);
        // Fails only if the counter is full: it is awake then.
        let _ = self.wake.write(1);
        result.map_err(|rtrb::PushError::Full(command)| Box::new(command))
    }
}

/// How many connections a process with so many descriptors may have: an eighth, and some, are kept for everything else.
pub fn connections_max(descriptors: u64) -> usize {
    let most = (descriptors - descriptors / 8).saturating_sub(DESCRIPTORS_KEPT.min(descriptors / 2));
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Where a worker's notices go; called on its thread, so it must not block.
pub type Notify = Box<dyn Fn(Notice) + Send>;

/// One worker.
pub struct Worker {
    pub(crate) ports: Vec<Option<Box<Port>>>,
    pub(crate) networks: Vec<Option<Box<Network>>>,
    pub(crate) flows: FlowTable,
    pub(crate) records: Records,
    /// What the engine before has accepted last, until its guest's rings run.
    pub(crate) adopted: Vec<Adopted>,
    pub(crate) questions: Questions,
    pub(crate) patience: Patience,
    /// Drivers that were called, until they have looked.
    recalls: Recalls,
    /// Connections of which a guest has acknowledged something in this burst.
    pub(crate) acknowledged: Vec<FlowId>,
    /// Connections that are over for their guests.
    pub(crate) draining: Draining,
    pub(crate) datagrams: DatagramTable<Datagram>,
    /// What the host said when a ping socket was last asked for.
    pub(crate) ping_permitted: bool,
    pub(crate) poller: Poller,
    pub(crate) notify: Notify,
    pub(crate) host: HostView,
    /// Where the forwards of all ports listen, with the IP protocol's number.
    pub(crate) listen_addresses: Vec<(u8, SocketAddr)>,
    /// Listeners at which something may still wait.
    pub(crate) accept_later: Vec<AcceptLater>,
    /// When the first guest is next told of its router.
    pub(crate) advertise_at: Option<Instant>,
    /// Connections and datagram flows of all ports together, as far as they have sockets: descriptors are shared by everybody.
    pub(crate) connections_max: usize,
    pub(crate) now: Instant,
    pub(crate) scratch: Scratch,
    /// How peeks find their place, IPv4 and IPv6: kernels learned it at different times.
    peek_modes: [PeekMode; 2],
    pub(crate) secret: Secret,
    /// Frames of the guest whose turn it is, one burst for each of its transmit queues.
    pub(crate) bursts: Option<Bursts>,
    pub(crate) late: Late,
    /// The fragments among those frames.
    pub(crate) reassembly: Option<Box<Reassembly>>,
    /// Room for the fragments of one datagram to a guest.
    pub(crate) fragmenter: Fragmenter,
    /// Room for the pieces of one large frame to a guest.
    pub(crate) gather: Gather,
    /// An engine has died, and VMMs that were connected may still come back.
    pub(crate) taking_over: bool,
    /// Connections that wait to be taken over.
    pub(crate) resuming: Vec<Resuming>,
    /// Questions for the list, which are answered when none waits.
    asked: Vec<Asked>,
    pub(crate) signs: Signs,
    /// Its part in what workers hand to each other.
    pub(crate) exchange: Exchange,
    /// Ports that somebody watches.
    captured: Vec<PortId>,
    /// Rings whose kicks nobody hears for a while.
    unheard: Vec<Unheard>,
    /// Whose turn it is.
    pub(crate) turns: Turns,
    /// When a driver was seen to signal, whose burst the next round takes.
    pub(crate) heard: Option<Instant>,
    /// Bursts of guests' that were completed since the clock was last read.
    pub(crate) served: Served,
    /// Everything is about to rest: no guest's frames are fetched, and who waits for those that others have hears when they are done.
    pub(crate) pauses: Option<Option<Done>>,
    /// Another engine goes on with what this worker has: nothing of it is closed.
    pub(crate) rests: bool,
    /// Something happened that epoll does not know of.
    pub(crate) woken: bool,
    /// How many frames have gone the short way; `None`: none is to.
    #[cfg(test)]
    pub(crate) short_way: Option<usize>,
    commands: Consumer<Command>,
    wake: Arc<EventFd>,
    clock: Clock,
    pub(crate) polling: Polling,
    /// Since when drivers may be owed calls for what they have sent.
    calls_owed: Option<Instant>,
}

impl Worker {
    /// A worker and the handle to it. [`Worker::run`] belongs on a thread of its own.
    ///
    /// # Errors
    /// The system's.
    pub fn new(config: WorkerConfig, notify: Notify) -> std::io::Result<(Worker, WorkerHandle)> {
        let free = config.checkpoint.free_numbers();
        let mut all = seats(1)?;
        let seat = all.pop().ok_or(std::io::ErrorKind::InvalidInput)?;
        Worker::at(seat, free, config, notify)
    }

    /// So many workers, connected with each other, and the handles to them in their order. Each belongs on a thread of its own, and none
    /// may run before all are made.
    ///
    /// # Errors
    /// The system's.
    pub fn team(
        workers: usize,
        config: &WorkerConfig,
        notify: impl Fn() -> Notify,
    ) -> std::io::Result<Vec<(Worker, WorkerHandle)>> {
        config.checkpoint.header().set_workers(workers);
        let fresh = config.checkpoint.fresh_numbers();
        let member = |(own, seat)| {
            let free = config.checkpoint.share_of_free_numbers((own, workers), &fresh);
            Worker::at(seat, free, config.clone(), notify())
        };
        seats(workers)?.into_iter().enumerate().map(member).collect()
    }

    fn at(
        seat: Seat,
        free: FreeNumbers,
        config: WorkerConfig,
        notify: Notify,
    ) -> std::io::Result<(Worker, WorkerHandle)> {
        #[cfg(feature = "crash-points")]
        crate::crash::watch();
        let wake = seat.event();
        let exchange = Exchange::new(seat);
        let own = exchange.own();
        let (producer, commands) = RingBuffer::new(COMMANDS);
        let poller = Poller::new()?;
        poller.watch_input(wake.as_raw_fd(), Token::Wake)?;
        let families = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let mode = |address| config.peek_mode.unwrap_or_else(|| PeekMode::probe(SocketAddr::new(address, 0)));
        let peek_modes = families.map(mode);
        let clock = Clock::start(config.checkpoint.header().elapsed());
        let now = clock.now();
        let Secrets(secrets) = config.checkpoint.header().secrets();
        let worker = Worker {
            ports: Vec::new(),
            networks: Vec::new(),
            flows: FlowTable::default(),
            records: Records::new(Arc::clone(&config.checkpoint), free, own),
            adopted: Vec::new(),
            questions: Questions::default(),
            patience: Patience::default(),
            recalls: Recalls::default(),
            acknowledged: Vec::with_capacity(PAIRS * BURST),
            draining: Draining::default(),
            datagrams: DatagramTable::default(),
            ping_permitted: true,
            poller,
            notify,
            host: HostView::default(),
            listen_addresses: Vec::new(),
            accept_later: Vec::new(),
            advertise_at: None,
            connections_max: connections_max(vonic_uplink::descriptor_limit()?),
            now,
            scratch: Scratch::new(&peek_modes),
            peek_modes,
            secret: Secret([secrets[0], secrets[1]]),
            bursts: Some(new_bursts()),
            late: Late::new(),
            reassembly: Some(Box::new(Reassembly::new())),
            fragmenter: Fragmenter::new(),
            gather: Gather::default(),
            taking_over: config.takes_over,
            resuming: Vec::new(),
            asked: Vec::new(),
            signs: Signs::new(Arc::clone(&config.checkpoint), own),
            exchange,
            captured: Vec::new(),
            unheard: Vec::new(),
            turns: Turns::new(config.turn_us),
            heard: None,
            served: Served::default(),
            pauses: None,
            rests: false,
            woken: false,
            #[cfg(test)]
            short_way: Some(0),
            commands,
            wake: Arc::clone(&wake),
            clock,
            polling: Polling::new(config.poll, now),
            calls_owed: None,
        };
        Ok((worker, WorkerHandle { commands: producer, wake }))
    }

    /// Works until [`Command::Stop`] or [`Command::Rest`].
    pub fn run(mut self) {
        let mut place = Place::of_this_thread(self.now);
        let mut last_look = Instant(0);
        self.signs.at_frames();
        let mut worked = false;
        loop {
            self.tell_time();
            place.look(self.now, self.polling.prefers_looks(), || work_done(&self.ports));
            if worked {
                self.polling.done(self.now);
            }
            self.signs.answer();
            if !self.commands.is_empty() && !self.apply_commands() {
                if self.rests {
                    // Descriptors are closed by being dropped, and these are the next engine's.
                    std::mem::forget(self);
                }
                return;
            }
            worked = self.round();
            if worked {
                self.polling.found(self.now, || work_done(&self.ports));
            }
            if worked && self.now.0.saturating_sub(last_look.0) < DEAF_US {
                continue;
            }
            last_look = self.now;
            let timeout = self.timeout(worked);
            let events =
                if timeout != 0 && self.exchange.has_peers() { self.sleep(timeout) } else { self.poller.wait(timeout) };
            if events > 0 {
                self.tell_time();
            }
            let mut news = false;
            for i in 0..events {
                if let Some((token, set)) = self.poller.event(i) {
                    news |= self.handle_event(token, set);
                }
            }
            if news {
                self.polling.found(self.now, || work_done(&self.ports));
            }
        }
    }

    /// What the clock says now, not at this round's beginning.
    pub(crate) fn now_exactly(&self) -> Instant {
        self.clock.now()
    }

    /// How peeks at sockets of this address' family find their place.
    pub(crate) fn peek_mode(&self, like: SocketAddr) -> PeekMode {
        self.peek_modes[usize::from(like.is_ipv6())]
    }

    /// The same for IPv4 and IPv6.
    pub(crate) fn peek_modes(&self) -> [PeekMode; 2] {
        self.peek_modes
    }

    /// The port with this number.
    pub(crate) fn port_mut(ports: &mut [Option<Box<Port>>], id: PortId) -> Option<&mut Port> {
        ports.get_mut(id as usize)?.as_deref_mut()
    }

    /// True if it is worth looking for more of it.
    fn handle_event(&mut self, token: Token, set: vmm_sys_util::epoll::EventSet) -> bool {
        match token {
            Token::Wake => drop(self.wake.read()),
            Token::Kick { port, index } => return self.kicked(port, index),
            Token::Flow { id, generation } => {
                if self.flows.generation(id) == generation {
                    self.socket_event(id, set);
                }
            }
            Token::Datagrams { id, generation } => {
                if self.datagrams.generation(id) == generation {
                    self.datagram_event(id, set);
                }
            }
            Token::Listener { port, index } => self.accept_from_world(port, usize::from(index), false),
            Token::Draining { record } => self.draining_event(record, set),
            Token::Tap { port } => self.tap_event(port),
        }
        true
    }

    /// One turn for everybody; true if there was work.
    fn round(&mut self) -> bool {
        let mut worked = std::mem::take(&mut self.woken) | self.receive() | self.resume_some();
        // What was taken over last may be all that somebody waits for, and no command comes for it.
        self.answer_lists();
        self.hear_again();
        let fetches = self.pauses.is_none();
        self.begin_turns(worked);
        for id in 0..self.ports.len() as PortId {
            worked |= fetches && self.take_turn(id);
            worked |= self.answer_control(id);
            if self.uplink_burst(id) {
                self.skip_to_now();
                worked = true;
            }
            self.check_memory(id);
            self.report_broken(id);
            self.feed(id);
        }
        self.make_up_for_turns();
        self.call_again();
        self.run_timers();
        self.ask_peers();
        self.end_patience(false);
        self.expire_datagrams();
        self.expire_draining();
        self.advertise();
        for _ in 0..self.flows.ready_len().min(PUMPS_A_ROUND) {
            let Some(id) = self.flows.pop_ready() else { break };
            self.pump(id);
            worked = true;
        }
        for _ in 0..self.datagrams.ready_len().min(PUMPS_A_ROUND) {
            let Some(id) = self.datagrams.pop_ready() else { break };
            self.pump_datagrams(id);
            worked = true;
        }
        worked |= self.accept_again();
        self.heard = None;
        self.flush();
        if let Some(done) = self.pauses.as_mut().filter(|_| !self.exchange.has_sent()) {
            done.take().into_iter().for_each(Done::done);
        }
        worked
    }

    /// Publishes what every ring has completed: what a frame has become in other guests' rings before the descriptor that it
    /// came by.
    pub(crate) fn flush(&mut self) {
        self.signs.at_none();
        crash_point!("before-publishing");
        self.record_claims();
        let now = self.now;
        self.tell_news();
        for (port, id) in self.ports.iter_mut().zip(0..) {
            let Some(port) = port else { continue };
            self.signs.at(port.spec.vm);
            port.queues.flush_to_guest(port.spec.calls, now, |index| self.recalls.called(id, index, now));
        }
        self.signs.at_none();
        self.exchange.give_back();
        crash_point!("published-to-guest");
        self.close_retired();
        self.flush_from_guests();
        self.publish_captures(false);
    }
}
