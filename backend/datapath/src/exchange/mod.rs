//! What workers hand to each other (ADR 0020): frames of a guest's for guests whose ports another worker has, and what each worker has to
//! know of the others' ports.
//!
//! A port belongs to one worker, a network to all of them. A burst in which there is a frame for somebody elsewhere becomes a [`Parcel`],
//! which every worker concerned gets by a ring of its own; the port's next burst waits until they have all given it back. They do so when
//! what they copied is published, so that completion is in order here as it is within a worker. What a worker does not take in time, or
//! has no room for, is dropped, and so is what would stand in the way of a ring that is stopped.
//!
//! In the same rings goes what is [new](News) of a port, in front of whatever follows from it.
mod delivery;
mod parcel;
mod peer;

use crate::crash::crash_point;
use crate::offload::Inbound;
use crate::queues::PAIRS;
use crate::spec::{Member, NetworkId, PortId};
use crate::switch::claims::Claims;
use crate::worker::BURST;
pub use delivery::complete;
pub use parcel::Recipient;
use parcel::{Letter, Parcel, Workers, bit};
pub use peer::{Line, Seat, seats};
use peer::{Message, Peer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vonic_queue::Burst;
use vonic_tcp::Instant;

/// How long a worker may leave a parcel in its ring before it counts as stuck: its scheduler may have had others to run.
const PATIENCE: Duration = Duration::from_millis(50);
/// Frames of one burst.
const LETTERS: usize = PAIRS * BURST;

/// Bursts of one port, one for each transmit queue.
pub type Bursts = Box<[Burst; PAIRS]>;

/// What is new of a port, for the workers that have it not. It says how it is, not what has changed: of two the later holds.
#[derive(Clone, Copy)]
pub struct News {
    port: PortId,
    /// Whether its guest takes frames.
    live: bool,
    /// What its guest has claimed.
    claims: Claims,
}

/// A port of another worker's.
struct Elsewhere {
    worker: usize,
    network: NetworkId,
    live: bool,
    listens: Vec<(u8, SocketAddr)>,
}

/// A parcel under way, at the port whose burst it is.
pub struct Sent {
    parcel: Arc<Parcel>,
    until: Instant,
}

/// A worker's part in it. Alone, a worker has nothing of all this to do.
pub struct Exchange {
    own: usize,
    line: Arc<Line>,
    /// By worker; `None` at its own place, and nothing where it is alone.
    peers: Vec<Option<Peer>>,
    elsewhere: Vec<Option<Elsewhere>>,
    /// Frames of the burst whose turn it is.
    letters: Vec<Letter>,
    /// Ports with parcels under way, in the order in which those were sent.
    sent: Vec<PortId>,
    /// Parcels of which nobody needs anything any more, but that somebody may still have in the ring.
    left: Vec<Arc<Parcel>>,
    /// Empty parcels, and empty bursts.
    empty: Vec<Arc<Parcel>>,
    spare: Vec<Bursts>,
    /// Others' parcels that this worker has taken, and from whom.
    taken: Vec<(usize, Arc<Parcel>)>,
    /// Ports of which there is news, and the workers that have not heard it.
    news: Vec<(PortId, Workers)>,
}

impl Exchange {
    /// Of the worker that sits here.
    pub fn new(seat: Seat) -> Exchange {
        let Seat { own, line, peers } = seat;
        let letters = if peers.is_empty() { 0 } else { LETTERS };
        Exchange {
            own,
            line,
            peers,
            elsewhere: Vec::new(),
            letters: Vec::with_capacity(letters),
            sent: Vec::new(),
            left: Vec::new(),
            empty: Vec::new(),
            spare: Vec::new(),
            taken: Vec::new(),
            news: Vec::new(),
        }
    }

    /// The worker's own number.
    pub fn own(&self) -> usize {
        self.own
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.peers.len().max(1)
    }

    /// Whether there are others.
    pub fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    fn peers(&mut self) -> impl Iterator<Item = (usize, &mut Peer)> {
        self.peers.iter_mut().enumerate().filter_map(|(worker, peer)| Some((worker, peer.as_mut()?)))
    }

    fn others(&self) -> Workers {
        let others = self.peers.iter().enumerate().filter(|(_, peer)| peer.is_some());
        others.fold(0, |all, (worker, _)| all | bit(worker))
    }

    fn port(&self, id: PortId) -> Option<&Elsewhere> {
        self.elsewhere.get(id as usize)?.as_ref()
    }

    /// Another worker has a port, or its forwards have changed. True: it is new.
    pub fn learn(&mut self, member: Member) -> bool {
        let Member { port, network, worker, listens, .. } = member;
        let place = port as usize;
        if self.elsewhere.len() <= place {
            self.elsewhere.resize_with(place + 1, || None);
        }
        let known = self.elsewhere[place].as_mut().filter(|known| (known.worker, known.network) == (worker, network));
        if let Some(known) = known {
            known.listens = listens;
            return false;
        }
        self.elsewhere[place] = Some(Elsewhere { worker, network, live: false, listens });
        true
    }

    /// Another worker's port is gone; the network that it was in.
    pub fn forget(&mut self, port: PortId) -> Option<NetworkId> {
        let place = self.elsewhere.get_mut(port as usize)?;
        place.take().map(|port| port.network)
    }

    /// Where forwards of others' ports listen.
    pub fn listens(&self) -> impl Iterator<Item = (u8, SocketAddr)> {
        self.elsewhere.iter().flatten().flat_map(|port| port.listens.iter().copied())
    }

    /// How many ports others have.
    pub fn ports_elsewhere(&self) -> usize {
        self.elsewhere.iter().flatten().count()
    }

    /// Says how many sockets this worker has, and returns how many the others have said they have.
    pub fn sockets_elsewhere(&self, own: usize) -> usize {
        self.line.sockets.store(own, Ordering::Relaxed);
        self.peers.iter().flatten().map(|peer| peer.line.sockets.load(Ordering::Relaxed)).sum()
    }

    /// Whether another worker's port has a guest that takes frames.
    pub fn is_live(&self, id: PortId) -> bool {
        self.port(id).is_some_and(|port| port.live)
    }

    /// The bit of the worker that has a port, if another one has it.
    pub fn worker_of(&self, id: PortId) -> Workers {
        self.port(id).map_or(0, |port| bit(port.worker))
    }

    /// Notes a frame of the burst whose turn it is, of its transmit queue `pair`, for these workers.
    pub fn post(&mut self, to: (Recipient, Workers), pair: usize, inbound: &Inbound<'_, '_>) {
        if to.1 != 0 && self.letters.len() < self.letters.capacity() {
            self.letters.push(Letter::new(to, pair, inbound));
        }
    }

    /// Whether frames of the burst whose turn it is are for others.
    pub fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    /// Forgets the letters noted.
    fn discard(&mut self) {
        self.letters.clear();
    }

    /// Whether parcels of this worker's are under way.
    pub fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Bursts in the place of those that have gone with a parcel.
    fn spare_bursts(&mut self) -> Bursts {
        self.spare.pop().unwrap_or_else(new_bursts)
    }

    /// Sends a VM's burst with the letters noted. What cannot go is revoked.
    fn send(&mut self, of: (u64, NetworkId), bursts: Bursts, until: Instant) -> Sent {
        let workers = self.workers();
        let new = || Arc::new(Parcel::new(LETTERS, workers));
        let mut parcel = self.empty.pop().unwrap_or_else(new);
        if Arc::get_mut(&mut parcel).is_none() {
            parcel = new();
        }
        if let Some(empty) = Arc::get_mut(&mut parcel) {
            empty.fill(of, bursts, &mut self.letters);
        }
        // Whoever has not taken what was given up already gets nothing more until then.
        let stuck = self.left.iter().fold(0, |all, parcel| all | parcel.revoked());
        let news = self.news.iter().fold(0, |all, (_, workers)| all | workers);
        for (worker, peer) in self.peers().filter(|(worker, _)| parcel.is_for(*worker)) {
            let takes = (stuck | news) & bit(worker) == 0;
            if !(takes && peer.push(Message::Parcel(Arc::clone(&parcel)))) {
                parcel.revoke(worker);
            }
        }
        Sent { parcel, until }
    }

    /// Has every other worker hear how a port is, soon.
    pub fn note(&mut self, id: PortId) {
        let others = self.others();
        if others == 0 {
            return;
        }
        match self.news.iter_mut().find(|(port, _)| *port == id) {
            Some((_, workers)) => *workers = others,
            None => self.news.push((id, others)),
        }
    }

    /// Whether there is news that somebody has not heard.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Whether somebody has had no room for news, or holds what was given up already: guest memory with it.
    fn is_to_look_again(&self) -> bool {
        !self.news.is_empty() || !self.left.is_empty()
    }

    /// Tells what is new, as far as there is room.
    fn tell(&mut self, read: impl Fn(PortId) -> News) {
        let peers = &mut self.peers;
        self.news.retain_mut(|(port, workers)| {
            let news = read(*port);
            for (worker, peer) in peers.iter_mut().enumerate() {
                if let Some(peer) = peer.as_mut().filter(|_| *workers & bit(worker) != 0)
                    && peer.push(Message::News(news))
                {
                    *workers &= !bit(worker);
                }
            }
            *workers != 0
        });
    }

    /// Gives others' parcels back: what they have become is published.
    pub fn give_back(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let mut workers = 0;
        for (worker, parcel) in self.taken.drain(..) {
            crash_point!("parcel-back");
            parcel.give_back(self.own);
            workers |= bit(worker);
        }
        self.peers().filter(|(worker, _)| workers & bit(*worker) != 0).for_each(|(_, peer)| peer.line.wake());
    }

    /// Keeps what is of use of a parcel that is settled.
    fn put_away(&mut self, mut parcel: Arc<Parcel>) {
        match Arc::get_mut(&mut parcel) {
            Some(own) => {
                let bursts = own.empty();
                self.empty.push(parcel);
                if let Some(mut bursts) = bursts {
                    bursts.iter_mut().for_each(Burst::clear);
                    self.spare.push(bursts);
                }
            }
            None => self.left.push(parcel),
        }
    }

    /// Looks again at parcels that others may have had.
    fn tidy(&mut self) {
        for parcel in std::mem::take(&mut self.left) {
            self.put_away(parcel);
        }
    }

    /// About to sleep: from here on it is woken. False: there is something to do already.
    pub fn may_sleep(&mut self, is_back: impl Fn(PortId) -> bool) -> bool {
        self.line.asleep.begins();
        let none = self.peers().all(|(_, peer)| peer.is_empty());
        none && !self.sent.iter().any(|port| is_back(*port))
    }

    /// It has slept.
    pub fn is_awake(&self) {
        self.line.asleep.ends();
    }
}

impl Sent {
    /// Whether nobody reads the burst any more.
    pub fn is_settled(&self) -> bool {
        self.parcel.is_settled()
    }

    /// Revokes what nobody has begun with.
    fn revoke(&self, workers: usize) {
        (0..workers).for_each(|worker| _ = self.parcel.revoke(worker));
    }
}

/// Room for a burst of each transmit queue.
pub fn new_bursts() -> Bursts {
    Box::new([(); PAIRS].map(|()| Burst::with_capacity(BURST, 4096)))
}

#[cfg(test)]
mod tests;
