//! A burst of a guest's frames on its way to the workers of other ports.
use crate::agreement::Stage;
use crate::offload::Inbound;
use crate::queues::PAIRS;
use crate::spec::{NetworkId, PortId};
use crate::stats::Counter;
use vonic_frame::{Frame, HeaderBytes, VnetHeader};
use vonic_queue::Burst;

/// A bit for each worker.
pub type Workers = u16;

/// What one worker has of a parcel, and how far it is.
struct Share {
    stage: Stage,
    /// Bytes that the worker has copied; nobody else writes there.
    copied: Counter,
}

impl Share {
    fn new(sent: bool) -> Share {
        Share { stage: Stage::new(sent), copied: Counter::default() }
    }
}

/// For whom a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// One port.
    Port(PortId),
    /// Every member of the network that the worker has.
    Members,
}

/// One frame of a burst: what was read of it, once, and where its chain is.
pub struct Letter {
    to: Recipient,
    workers: Workers,
    pair: usize,
    chain: usize,
    start: u32,
    vnet: VnetHeader,
    head: HeaderBytes,
    frame: Frame,
}

impl Letter {
    /// A frame of the transmit queue `pair`, for ports of these workers.
    pub fn new((to, workers): (Recipient, Workers), pair: usize, inbound: &Inbound<'_, '_>) -> Letter {
        let Inbound { burst: _, chain, start, vnet, head, frame } = *inbound;
        Letter { to, workers, pair, chain, start, vnet, head: HeaderBytes::new(head), frame }
    }

    /// For whom it is.
    pub fn to(&self) -> Recipient {
        self.to
    }
}

/// A burst with frames for ports of other workers. While any of those has it, nobody changes it, and the chains of its frames are the
/// workers' to read from: they keep the memory map in which they were found, and their descriptors are not completed.
pub struct Parcel {
    vm: u64,
    network: NetworkId,
    bursts: Option<Box<[Burst; PAIRS]>>,
    letters: Vec<Letter>,
    shares: Box<[Share]>,
}

impl Parcel {
    /// An empty one, with room for so many letters to so many workers.
    pub fn new(letters: usize, workers: usize) -> Parcel {
        let shares = (0..workers).map(|_| Share::new(false)).collect();
        Parcel { vm: 0, network: 0, bursts: None, letters: Vec::with_capacity(letters), shares }
    }

    /// Fills it with a VM's burst, of this network, and with letters, in whose place it leaves as many as it had: none.
    pub fn fill(&mut self, (vm, network): (u64, NetworkId), bursts: Box<[Burst; PAIRS]>, letters: &mut Vec<Letter>) {
        (self.vm, self.network, self.bursts) = (vm, network, Some(bursts));
        std::mem::swap(&mut self.letters, letters);
        let workers = self.letters.iter().fold(0, |all, letter| all | letter.workers);
        for (worker, share) in self.shares.iter_mut().enumerate() {
            share.stage = Stage::new(workers & bit(worker) != 0);
        }
    }

    /// Empties it.
    pub fn empty(&mut self) -> Option<Box<[Burst; PAIRS]>> {
        self.letters.clear();
        self.shares.iter_mut().for_each(|share| *share = Share::new(false));
        self.bursts.take()
    }

    /// The VM whose frames these are.
    pub fn vm(&self) -> u64 {
        self.vm
    }

    /// The network that they are on.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The bursts, one for each transmit queue.
    pub fn bursts(&self) -> &[Burst] {
        self.bursts.as_deref().map_or(&[], |bursts| bursts.as_slice())
    }

    /// Whether there is something in it for this worker that was neither taken nor revoked.
    pub fn is_for(&self, worker: usize) -> bool {
        self.stage(worker).is_some_and(Stage::is_sent)
    }

    /// A worker begins with its share. False: it must leave it alone.
    pub fn take(&self, worker: usize) -> bool {
        self.stage(worker).is_some_and(Stage::take)
    }

    /// What a worker has taken is done, and published.
    pub fn give_back(&self, worker: usize) {
        self.stage(worker).into_iter().for_each(Stage::give_back);
    }

    /// The sender wants a worker's share no more. False: there is none, or the worker is at it already.
    pub fn revoke(&self, worker: usize) -> bool {
        self.stage(worker).is_some_and(Stage::revoke)
    }

    /// Whether no worker reads what it holds any more.
    pub fn is_settled(&self) -> bool {
        self.shares.iter().all(|share| share.stage.is_settled())
    }

    /// The workers whose shares were revoked.
    pub fn revoked(&self) -> Workers {
        let revoked = self.shares.iter().enumerate().filter(|(_, share)| share.stage.is_revoked());
        revoked.fold(0, |all, (worker, _)| all | bit(worker))
    }

    /// How many of its frames did not reach everybody, since shares were revoked.
    pub fn lost(&self) -> u64 {
        let revoked = self.revoked();
        self.letters.iter().filter(|letter| letter.workers & revoked != 0).count() as u64
    }

    /// A worker's counter of what it has copied.
    pub fn copied(&self, worker: usize) -> Option<&Counter> {
        self.shares.get(worker).map(|share| &share.copied)
    }

    /// Bytes that all of them have copied.
    pub fn copied_by_all(&self) -> u64 {
        self.shares.iter().map(|share| share.copied.get()).sum()
    }

    /// What there is for a worker, in the order in which it was sent.
    pub fn letters(&self, worker: usize) -> impl Iterator<Item = (&Letter, Inbound<'_, '_>)> {
        let own = self.letters.iter().filter(move |letter| letter.workers & bit(worker) != 0);
        own.filter_map(|letter| Some((letter, self.open(letter)?)))
    }

    fn open<'a>(&'a self, letter: &'a Letter) -> Option<Inbound<'a, 'a>> {
        let Letter { to: _, workers: _, pair, chain, start, vnet, ref head, frame } = *letter;
        Some(Inbound { burst: self.bursts().get(pair)?, chain, start, vnet, head: head.as_slice(), frame })
    }

    fn stage(&self, worker: usize) -> Option<&Stage> {
        self.shares.get(worker).map(|share| &share.stage)
    }
}

/// A worker's bit.
pub fn bit(worker: usize) -> Workers {
    1 << worker
}
