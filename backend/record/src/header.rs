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

    /// At least so many have been used from now on.
    pub(crate) fn raise_used(&self, used: usize) {
        self.0[word::USED].fetch_max(used as u64, Ordering::AcqRel);
    }

    /// So many workers answer from now on, at most [`WORKERS_MAX`].
    pub fn set_workers(&self, workers: usize) {
        self.set(word::COUNT, workers as u64);
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        usize::try_from(self.get(word::COUNT)).unwrap_or(1).clamp(1, WORKERS_MAX)
    }

    /// The worker that is furthest behind with its answers, and what it last answered with.
    pub fn latest(&self) -> (usize, u64) {
        let answers = (0..self.workers()).map(|worker| (worker, self.answered(worker)));
        answers.min_by_key(|&(_, number)| number).unwrap_or_default()
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

    /// Lays the death that is about to come at somebody's door, whoever the worker is at work for.
    pub fn lay_at(&self, whom: Whom) {
        self.0[word::CULPRIT].store(whom.word(), Ordering::Release);
    }

    /// What a thread that died of its own fault was at, and forgets it.
    pub fn take_culprit(&self) -> Whom {
        Whom::of_word(self.0[word::CULPRIT].swap(0, Ordering::AcqRel))
    }

    /// A word of one worker; of those that share a place, if there should be more than [`WORKERS_MAX`].
    fn worker(&self, worker: usize, word: usize) -> &AtomicU64 {
        &self.0[word::WORKERS + worker % WORKERS_MAX * word::WORKER_WORDS + word]
    }

    /// From now on a worker accepts a listener's connections; `None`: of each there is a record by now.
    pub fn set_accepting(&self, worker: usize, listener: Option<i32>) {
        self.accepting_word(worker).store(descriptor_word(listener), Ordering::Release);
    }

    /// The listener at which a worker may have accepted a connection that has no record.
    pub fn accepting(&self, worker: usize) -> Option<i32> {
        descriptor(self.accepting_word(worker).load(Ordering::Acquire))
    }

    /// The next engine is to find the connection that a worker accepted there.
    pub fn leave_accepted(&self, worker: usize, connection: Option<i32>) {
        self.set_accepting(worker, None);
        self.adopted_word(worker).store(descriptor_word(connection), Ordering::Release);
    }

    /// What was left of a worker's is on record by now, or closed. The worker itself may be accepting meanwhile.
    pub fn clear_accepted(&self, worker: usize) {
        self.adopted_word(worker).store(descriptor_word(None), Ordering::Release);
    }

    /// What was left of a worker's, until an engine has put it on record or closed it, and left nothing.
    pub fn accepted(&self, worker: usize) -> Option<i32> {
        descriptor(self.adopted_word(worker).load(Ordering::Acquire))
    }

    /// The first worker's stands where it stood when there was one only: an older engine finds it.
    fn accepting_word(&self, worker: usize) -> &AtomicU64 {
        if worker == 0 { &self.0[word::ACCEPTING] } else { self.worker(worker, word::WORKERS_ACCEPTING) }
    }

    fn adopted_word(&self, worker: usize) -> &AtomicU64 {
        if worker == 0 { &self.0[word::ADOPTED] } else { self.worker(worker, word::WORKERS_ADOPTED) }
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
