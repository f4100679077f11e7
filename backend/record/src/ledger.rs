//! Counters that go on when the engine has died: blocks of words, each with an owner and with a name for each counter, so that an engine
//! of another build finds what it knows.
use crate::checkpoint::Checkpoint;
use crate::layout::block;
use crate::sys::Shared;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use zerocopy::{FromBytes, IntoBytes};

/// Counters that can lie in a checkpoint: all of it is words that are counted in by atomic operations.
pub trait Counters: FromBytes + IntoBytes + Default + Send + Sync + 'static {
    /// The name of each word, in their order, as [`name`] makes them. They are never given to anything else.
    fn names() -> Vec<u64>;

    /// They were another engine's: what tells how many there are now begins anew.
    fn resume(&self) {}
}

/// A name as a number: FNV-1a, which every version computes alike.
pub fn name(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Whose counters, and which of its.
type Key = (u64, u64);

/// All counters of a checkpoint. One engine at a time has it.
#[derive(Debug)]
pub struct Ledger {
    checkpoint: Arc<Checkpoint>,
    /// Blocks that an engine before has left, by their owners, those that stand first last.
    inherited: HashMap<Key, Vec<usize>>,
    /// Blocks without owners, by length.
    free: HashMap<usize, Vec<usize>>,
    /// Blocks given up since those were looked for.
    given_up: Arc<AtomicUsize>,
    /// Where the blocks end.
    end: usize,
}

/// A block in use.
struct Lease {
    checkpoint: Arc<Checkpoint>,
    start: usize,
    given_up: Arc<AtomicUsize>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        Block(&self.checkpoint.counters()[self.start..]).set(block::STATE, 0);
        self.given_up.fetch_add(1, Ordering::Release);
    }
}

impl Ledger {
    /// With all that stands there.
    pub fn new(checkpoint: Arc<Checkpoint>) -> Ledger {
        let mut ledger =
            Ledger { checkpoint, inherited: HashMap::new(), free: HashMap::new(), given_up: Arc::default(), end: 0 };
        let (used, end) = ledger.look();
        ledger.end = end;
        for (start, key) in used.into_iter().rev() {
            ledger.inherited.entry(key).or_default().push(start);
        }
        ledger
    }

    /// An owner's counters: those that an engine before had under these names, or new ones. Without room they end with this engine.
    pub fn open<T: Counters>(&mut self, owner: u64, which: u64) -> Shared<T> {
        let names = T::names();
        let before = self.inherited.get_mut(&(owner, which)).and_then(Vec::pop);
        if let Some(start) = before
            && self.block(start).is_some_and(|block| block.has(&names))
        {
            let counters = self.lease(start).unwrap_or_default();
            T::resume(&counters);
            return counters;
        }
        let new = self.allocate(names.len()).and_then(|start| {
            let old = before.and_then(|start| self.block(start));
            self.block(start)?.begin((owner, which), &names, |name| old.and_then(|old| old.value(name)).unwrap_or(0));
            self.lease(start)
        });
        // Where it stood before nobody counts any more.
        if let Some(old) = before.and_then(|start| self.block(start)) {
            old.set(block::STATE, 0);
            self.given_up.fetch_add(1, Ordering::Release);
        }
        let counters: Shared<T> = new.unwrap_or_default();
        T::resume(&counters);
        counters
    }

    /// Gives up what an engine before has left and nobody has asked for.
    pub fn end_inheritance(&mut self) {
        for start in std::mem::take(&mut self.inherited).into_values().flatten() {
            if let Some(old) = self.block(start) {
                old.set(block::STATE, 0);
                self.given_up.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn block(&self, start: usize) -> Option<Block<'_>> {
        let words = self.checkpoint.counters().get(start..)?;
        let length = usize::try_from(words.get(block::LENGTH)?.load(Ordering::Relaxed)).ok()?;
        let size = length.checked_mul(2)?.checked_add(block::NAMES)?;
        (length > 0).then_some(())?;
        words.get(..size).map(Block)
    }

    fn lease<T: Counters>(&self, start: usize) -> Option<Shared<T>> {
        let (checkpoint, given_up) = (Arc::clone(&self.checkpoint), Arc::clone(&self.given_up));
        let values = self.block(start)?.values();
        Shared::of_words(values, Arc::new(Lease { checkpoint, start, given_up }))
    }

    /// A place for so many counters.
    fn allocate(&mut self, length: usize) -> Option<usize> {
        if self.given_up.swap(0, Ordering::Acquire) > 0 {
            self.look();
        }
        if let Some(start) = self.free.get_mut(&length).and_then(Vec::pop) {
            return Some(start);
        }
        let (start, size) = (self.end, block::NAMES + 2 * length);
        let words = self.checkpoint.counters().get(start..start + size)?;
        words[block::LENGTH].store(length as u64, Ordering::Release);
        self.end += size;
        Some(start)
    }

    /// Looks which blocks have no owner; returns those that have, and where all end.
    fn look(&mut self) -> (Vec<(usize, Key)>, usize) {
        let (mut start, mut used, mut free) = (0, Vec::new(), HashMap::<usize, Vec<usize>>::new());
        while let Some(block) = self.block(start) {
            if block.get(block::STATE) == 0 {
                free.entry(block.length()).or_default().push(start);
            } else {
                used.push((start, (block.get(block::OWNER), block.get(block::WHICH))));
            }
            start += block.0.len();
        }
        self.free = free;
        (used, start)
    }
}

/// The words of one block.
#[derive(Clone, Copy)]
struct Block<'a>(&'a [AtomicU64]);

impl<'a> Block<'a> {
    fn length(self) -> usize {
        (self.0.len() - block::NAMES) / 2
    }

    fn names(self) -> &'a [AtomicU64] {
        &self.0[block::NAMES..block::NAMES + self.length()]
    }

    fn values(self) -> &'a [AtomicU64] {
        &self.0[block::NAMES + self.length()..]
    }

    /// Whether its counters are these, in this order.
    fn has(self, names: &[u64]) -> bool {
        self.length() == names.len()
            && self.names().iter().zip(names).all(|(own, name)| own.load(Ordering::Relaxed) == *name)
    }

    /// What the counter of this name says.
    fn value(self, name: u64) -> Option<u64> {
        let place = self.names().iter().position(|own| own.load(Ordering::Relaxed) == name)?;
        Some(self.values()[place].load(Ordering::Relaxed))
    }

    /// Has it belong to somebody; the last store makes it visible.
    fn begin(self, (owner, which): Key, names: &[u64], value: impl Fn(u64) -> u64) {
        self.set(block::OWNER, owner);
        self.set(block::WHICH, which);
        for ((own, counter), name) in self.names().iter().zip(self.values()).zip(names) {
            own.store(*name, Ordering::Relaxed);
            counter.store(value(*name), Ordering::Relaxed);
        }
        self.set(block::STATE, 1);
    }

    fn get(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Acquire)
    }

    fn set(self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Release);
    }
}
