//! The whole of it: header and records.
use crate::header::{CheckpointError, Header, Secrets};
use crate::layout::{COUNTERS, HEADER, RECORD, header as word};
use crate::record::{Bits, Local, Options, Record, Words};
use crate::sys::{self, Mapping};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A record's number.
pub type RecordId = u32;

/// Numbers of records that were never used, of which several threads take their own by the handful.
#[derive(Debug)]
pub struct FreshNumbers {
    next: AtomicU32,
    end: RecordId,
}

impl FreshNumbers {
    /// So many are taken at once: two pages of records.
    const HANDFUL: RecordId = 64;

    fn take(&self) -> Range<RecordId> {
        // Far from the type's end, where it would wrap: whoever finds none asks again only for another record.
        let start = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (next < self.end).then(|| (next + Self::HANDFUL).min(self.end))
        });
        start.map_or(0..0, |start| start..(start + Self::HANDFUL).min(self.end))
    }
}

/// Numbers of records that are free. Those that were used before come first: so many pages are in memory as are needed.
#[derive(Debug)]
pub struct FreeNumbers {
    freed: Vec<RecordId>,
    fresh: Range<RecordId>,
    /// Where more come from.
    more: Arc<FreshNumbers>,
}

impl FreeNumbers {
    /// Takes one; `None` if every record is in use.
    pub fn pop(&mut self) -> Option<RecordId> {
        self.freed.pop().or_else(|| self.fresh.next()).or_else(|| {
            self.fresh = self.more.take();
            self.fresh.next()
        })
    }

    /// One more is free.
    pub fn push(&mut self, id: RecordId) {
        self.freed.push(id);
    }
}

impl Iterator for FreeNumbers {
    type Item = RecordId;

    fn next(&mut self) -> Option<RecordId> {
        self.pop()
    }
}

/// A mapped checkpoint. It stays as long as its descriptor is open anywhere.
#[derive(Debug)]
pub struct Checkpoint {
    fd: OwnedFd,
    memory: Mapping,
    capacity: usize,
}

impl Checkpoint {
    /// A new one with room for so many records. Its memory is taken by records that are used, not before.
    ///
    /// # Errors
    /// The system's.
    pub fn create(capacity: usize) -> io::Result<Checkpoint> {
        let words = HEADER + capacity * RECORD + COUNTERS;
        let fd = sys::sealed_memory(words * 8)?;
        let memory = Mapping::new(fd.as_fd(), words)?;
        let checkpoint = Checkpoint { fd, memory, capacity };
        checkpoint.header().write(capacity, Secrets(sys::random()?), sys::monotonic());
        Ok(checkpoint)
    }

    /// Has this process write down at its end, if that is its own fault, for whom it was at work ([`crate::work_for`]). This mapping stays
    /// for as long as the process does.
    ///
    /// # Errors
    /// The system's.
    pub fn note_faults(self: &Arc<Checkpoint>) -> io::Result<()> {
        let kept: &'static Checkpoint = Box::leak(Box::new(Arc::clone(self)));
        sys::note_faults(&kept.memory.words()[word::CULPRIT])
    }

    /// One that another process made.
    ///
    /// # Errors
    /// `InvalidData` with a [`CheckpointError`] for what is none, or of another version; the system's.
    pub fn open(fd: OwnedFd) -> io::Result<Checkpoint> {
        let invalid = |error: CheckpointError| io::Error::new(io::ErrorKind::InvalidData, error);
        if !sys::is_sealed(fd.as_fd()) {
            return Err(invalid(CheckpointError::Foreign));
        }
        let file = File::from(fd);
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        let fd = OwnedFd::from(file);
        let words = bytes / 8;
        if words < HEADER {
            return Err(invalid(CheckpointError::Foreign));
        }
        let memory = Mapping::new(fd.as_fd(), words)?;
        let capacity = Header(&memory.words()[..HEADER]).check(words - HEADER).map_err(invalid)?;
        Ok(Checkpoint { fd, memory, capacity })
    }

    /// The header.
    pub fn header(&self) -> Header<'_> {
        Header(&self.memory.words()[..HEADER])
    }

    /// How many records there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Every record that is not free, in the order of their numbers. What was never used is not looked at: a look would take memory.
    pub fn records(&self) -> impl Iterator<Item = (RecordId, Record)> {
        self.used().filter_map(|(id, words)| Some((id, words.read()?)))
    }

    /// The numbers that are free.
    pub fn free_numbers(&self) -> FreeNumbers {
        self.share_of_free_numbers((0, 1), &self.fresh_numbers())
    }

    /// The numbers that were never used.
    pub fn fresh_numbers(&self) -> Arc<FreshNumbers> {
        Arc::new(FreshNumbers { next: AtomicU32::new(self.mark() as RecordId), end: self.capacity as RecordId })
    }

    /// The share of one of several threads, by its number and how many they are, of the numbers that are free; to be asked for before
    /// any of them makes a record. Of those that were never used each takes what it needs.
    pub fn share_of_free_numbers(&self, (own, shares): (usize, usize), more: &Arc<FreshNumbers>) -> FreeNumbers {
        let is_own = |id: RecordId| id as usize % shares == own;
        let free = self.used().filter(|(id, words)| is_own(*id) && words.is_free());
        let freed: Vec<RecordId> = free.map(|(id, _)| id).collect();
        FreeNumbers { freed: freed.into_iter().rev().collect(), fresh: 0..0, more: Arc::clone(more) }
    }

    fn mark(&self) -> usize {
        self.header().used().min(self.capacity)
    }

    fn used(&self) -> impl Iterator<Item = (RecordId, Words<'_>)> {
        self.all().take(self.mark()).enumerate().map(|(id, words)| (id as RecordId, Words(words)))
    }

    /// What stands under a number; `None` if nothing does.
    pub fn read(&self, id: RecordId) -> Option<Record> {
        self.words(id)?.read()
    }

    /// Writes a record. Its number is free, and nobody else's.
    pub fn write(&self, id: RecordId, record: &Record) {
        if let Some(words) = self.words(id) {
            words.write(record);
        }
    }

    /// As [`Checkpoint::write`], of a flow of datagrams that leads through a forward ([`Bits::FORWARDED`]).
    pub fn write_forwarded(&self, id: RecordId, record: &Record, local: Local) {
        if let Some(words) = self.words(id) {
            words.write_forwarded(record, local);
        }
    }

    /// What was written beside a record that [`Checkpoint::write_forwarded`] wrote.
    pub fn local(&self, id: RecordId) -> Option<Local> {
        self.words(id).map(|words| words.local())
    }

    /// The guest's SYN has come to a connection that the world opened.
    pub fn synchronize(&self, id: RecordId, irs: u32, options: Options) {
        if let Some(words) = self.words(id) {
            words.synchronize(irs, options);
        }
    }

    /// Something has happened, or is about to.
    pub fn add(&self, id: RecordId, bits: Bits) {
        if let Some(words) = self.words(id) {
            words.add(bits);
        }
    }

    /// What may have been about to happen has not.
    pub fn remove(&self, id: RecordId, bits: Bits) {
        if let Some(words) = self.words(id) {
            words.remove(bits);
        }
    }

    /// The connection is over, its descriptor closed.
    pub fn free(&self, id: RecordId) {
        if let Some(words) = self.words(id) {
            words.free();
        }
    }

    /// What lies behind the records.
    pub(crate) fn counters(&self) -> &[AtomicU64] {
        &self.memory.words()[HEADER + self.capacity * RECORD..]
    }

    fn all(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.memory.words()[HEADER..HEADER + self.capacity * RECORD].chunks_exact(RECORD)
    }

    /// The words of a record, which counts as used from now on.
    fn words(&self, id: RecordId) -> Option<Words<'_>> {
        let (header, used) = (self.header(), id as usize + 1);
        if used > header.used() && used <= self.capacity {
            header.raise_used(used);
        }
        self.all().nth(id as usize).map(Words)
    }
}

impl AsFd for Checkpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
