//! What is true of the whole checkpoint.
use crate::layout::{COUNTERS, RECORD, header as word};
use crate::sys;
use crate::whom::Whom;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The version of the layout that this one writes. Tests build a variant that writes the next one.
pub const VERSION: u32 = if cfg!(feature = "next-format") { 2 } else { 1 };
/// The oldest layout that it goes on with. A checkpoint of any other is refused by name.
pub const OLDEST: u32 = 1;
/// Workers that the header has room for.
pub const WORKERS_MAX: usize = 16;
const MAGIC: u64 = u64::from_le_bytes(*b"vonicrec");

/// Why a checkpoint cannot be used. Displayed to the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// It is none.
    Foreign,
    /// It is of another version of vonic.
    Version(u32),
    /// Its sizes contradict each other.
    Damaged,
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Foreign => write!(f, "this is no checkpoint of vonic's"),
            CheckpointError::Version(version) => {
                let age = if *version > VERSION { "a newer" } else { "an older" };
                write!(f, "this checkpoint is of {age} vonic (format {version}; this one knows {OLDEST} to {VERSION})")
            }
            CheckpointError::Damaged => write!(f, "this checkpoint is damaged: its sizes contradict each other"),
        }
    }
}

impl std::error::Error for CheckpointError {}

/// What all engines share, so that none gives itself away as another: the keys of sequence numbers and of whatever else is hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secrets(pub [u64; 4]);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// The header of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(pub(crate) &'a [AtomicU64]);

impl Header<'_> {
    pub(crate) fn write(&self, capacity: usize, secrets: Secrets, clock: u64) {
        self.set(word::VERSION, u64::from(VERSION) | (RECORD as u64 * 8) << 32);
        self.set(word::CAPACITY, capacity as u64);
        secrets.0.iter().enumerate().for_each(|(i, secret)| self.set(word::SECRETS + i, *secret));
        self.set(word::CLOCK, clock);
        self.set(word::COUNTERS, COUNTERS as u64);
        self.set(word::MAGIC, MAGIC);
    }

    /// How many records there are, of a memory of `words` behind the header.
    pub(crate) fn check(&self, words: usize) -> Result<usize, CheckpointError> {
        if self.get(word::MAGIC) != MAGIC {
            return Err(CheckpointError::Foreign);
        }
        let version = self.get(word::VERSION) as u32;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(CheckpointError::Version(version));
        }
        let capacity = usize::try_from(self.get(word::CAPACITY)).unwrap_or(usize::MAX);
        let counters = usize::try_from(self.get(word::COUNTERS)).unwrap_or(usize::MAX);
        let fits = capacity.checked_mul(RECORD).and_then(|records| records.checked_add(counters)) == Some(words);
        let size = self.get(word::VERSION) >> 32;
        if fits && size == RECORD as u64 * 8 { Ok(capacity) } else { Err(CheckpointError::Damaged) }
    }

    /// One more engine uses it; which one that is, counted from 1.
    pub fn begin_epoch(&self) -> u64 {
        self.0[word::EPOCH].fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The keys.
    pub fn secrets(&self) -> Secrets {
        Secrets(std::array::from_fn(|i| self.get(word::SECRETS + i)))
    }

    /// How long ago the instant 0 of all engines was: timestamps and initial sequence numbers never go back.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(sys::monotonic().saturating_sub(self.get(word::CLOCK)))
    }

    /// How many of the first records have ever been used.
    pub(crate) fn used(&self) -> usize {
        usize::try_from(self.get(word::USED)).unwrap_or(usize::MAX)
    }

    /// So many have been used from now on. One thread makes records at a time.
    pub(crate) fn raise_used(&self, used: usize) {
        self.set(word::USED, used as u64);
    }

    /// Asks every worker for a sign of life: each is to [answer](Header::answer) with this number.
    pub fn ask(&self, number: u64) {
        self.set(word::ASKED, number);
    }

    /// The number that is asked for.
    pub fn asked(&self) -> u64 {
        self.0[word::ASKED].load(Ordering::Relaxed)
    }

    /// A worker has come so far.
    pub fn answer(&self, worker: usize, number: u64) {
        self.worker(worker, word::ANSWERED).store(number, Ordering::Relaxed);
    }

    /// What a worker last answered with.
    pub fn answered(&self, worker: usize) -> u64 {
        self.worker(worker, word::ANSWERED).load(Ordering::Relaxed)
    }

    /// A worker begins with something of this VM's; 0: of nobody's. One store, which outlives whoever does it.
    pub fn work_on(&self, worker: usize, vm: u64) {
        self.worker(worker, word::VM).store(vm, Ordering::Relaxed);
    }

    /// The VM that a worker is, or was when it died, at work on.
    pub fn working_on(&self, worker: usize) -> Option<u64> {
        Some(self.worker(worker, word::VM).load(Ordering::Acquire)).filter(|&vm| vm != 0)
    }

    /// What a thread that died of its own fault was at, and forgets it.
    pub fn take_culprit(&self) -> Whom {
        Whom::of_word(self.0[word::CULPRIT].swap(0, Ordering::AcqRel))
    }

    /// A word of one worker; of those that share a place, if there should be more than [`WORKERS_MAX`].
    fn worker(&self, worker: usize, word: usize) -> &AtomicU64 {
        &self.0[word::WORKERS + worker % WORKERS_MAX * word::WORKER_WORDS + word]
    }

    /// From now on a listener's connections are accepted; `None`: of each there is a record by now.
    pub fn set_accepting(&self, listener: Option<i32>) {
        self.set(word::ACCEPTING, descriptor_word(listener));
    }

    /// The listener at which a connection may have been accepted that has no record.
    pub fn accepting(&self) -> Option<i32> {
        descriptor(self.get(word::ACCEPTING))
    }

    /// The next engine is to find the connection that was accepted there.
    pub fn leave_accepted(&self, connection: Option<i32>) {
        self.set(word::ACCEPTING, 0);
        self.set(word::ADOPTED, descriptor_word(connection));
    }

    /// What was left, until an engine has put it on record or closed it, and left nothing.
    pub fn accepted(&self) -> Option<i32> {
        descriptor(self.get(word::ADOPTED))
    }

    fn get(&self, word: usize) -> u64 {
        self.0[word].load(Ordering::Acquire)
    }

    fn set(&self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Release);
    }
}

fn descriptor_word(descriptor: Option<i32>) -> u64 {
    descriptor.map_or(0, |number| u64::from(number as u32) + 1)
}

fn descriptor(word: u64) -> Option<i32> {
    word.checked_sub(1).map(|number| number as i32)
}
