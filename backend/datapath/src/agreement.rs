//! What threads agree on by atomic words alone. Each of these is small enough for every order of their steps to be tried
//! (`tests/agreement.rs`, where `crate::sync` is loom's).
use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};

/// Whether somebody sleeps, who is woken by whoever has something for it.
#[derive(Debug)]
pub(crate) struct Asleep(AtomicBool);

impl Asleep {
    /// Of somebody awake.
    pub(crate) fn new() -> Asleep {
        Asleep(AtomicBool::new(false))
    }

    /// It is about to sleep: it looks once more whether there is something, behind this.
    pub(crate) fn begins(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// It is awake by itself.
    pub(crate) fn ends(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether the caller is to wake it. What it is to find was done before.
    pub(crate) fn is_to_be_woken(&self) -> bool {
        // Either this finds it asleep, or it finds what was done: both look behind a fence that follows what they did.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// How far one worker's share of a parcel is.
#[derive(Debug)]
pub(crate) struct Stage(AtomicU8);

/// There is nothing in it for this worker.
const NOTHING: u8 = 0;
/// It lies in the worker's ring.
const SENT: u8 = 1;
/// The worker is at it: what it copies is in guest memory of the sender's.
const TAKEN: u8 = 2;
/// Everything that it became has been published.
const BACK: u8 = 3;
/// The sender wants it no more: the worker touches nothing of it.
const REVOKED: u8 = 4;

impl Stage {
    /// Of a share that is sent now, or of none.
    pub(crate) fn new(sent: bool) -> Stage {
        Stage(AtomicU8::new(if sent { SENT } else { NOTHING }))
    }

    /// Whether it was neither taken nor revoked.
    pub(crate) fn is_sent(&self) -> bool {
        self.get() == SENT
    }

    /// Whether the worker reads it no more, and never will.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.get(), SENT | TAKEN)
    }

    /// Whether the sender has revoked it.
    pub(crate) fn is_revoked(&self) -> bool {
        self.get() == REVOKED
    }

    /// The worker begins with it. False: it must leave it alone.
    pub(crate) fn take(&self) -> bool {
        self.go(SENT, TAKEN)
    }

    /// What the worker has taken is done, and published.
    pub(crate) fn give_back(&self) {
        self.go(TAKEN, BACK);
    }

    /// The sender wants it no more. False: there is none, or the worker is at it already.
    pub(crate) fn revoke(&self) -> bool {
        self.go(SENT, REVOKED)
    }

    fn get(&self) -> u8 {
        // What the worker has done is done before it says so.
        self.0.load(Ordering::Acquire)
    }

    fn go(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Nobody waits for this number.
const NEVER: u64 = u64::MAX;

/// A number that one side raises, and that the other side waits for.
#[derive(Debug)]
pub(crate) struct Count {
    last: AtomicU64,
    /// The number at which the other side is to be woken.
    wake_at: AtomicU64,
}

impl Count {
    /// At 0, for which nobody waits.
    pub(crate) fn new() -> Count {
        Count { last: AtomicU64::new(0), wake_at: AtomicU64::new(NEVER) }
    }

    /// The last number.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Raises it. True: the other side waits for this one, and the caller is to wake it.
    pub(crate) fn raise(&self, to: u64) -> bool {
        self.last.store(to, Ordering::Release);
        // Whoever waits writes what it waits for and then reads this, in the opposite order: one of the two sees the other.
        fence(Ordering::SeqCst);
        let waited_for = to >= self.wake_at.load(Ordering::Relaxed);
        if waited_for {
            self.wake_at.store(NEVER, Ordering::Relaxed);
        }
        waited_for
    }

    /// Asks to be woken at this number, or at a lower one that was asked for since the last time; true if it has been reached already.
    pub(crate) fn wait_for(&self, number: u64) -> bool {
        self.wake_at.fetch_min(number, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.last() >= number
    }
}
