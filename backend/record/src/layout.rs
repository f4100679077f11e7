//! Where what lies, in words of 64 bits. A change here is a change of [`crate::VERSION`].

/// Words of the header: one page.
pub(crate) const HEADER: usize = 512;
/// Words of a record.
pub(crate) const RECORD: usize = 16;

/// The header's words.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    /// Version in the low half, bytes of a record in the high one.
    pub(crate) const VERSION: usize = 1;
    pub(crate) const CAPACITY: usize = 2;
    pub(crate) const EPOCH: usize = 3;
    /// Four words.
    pub(crate) const SECRETS: usize = 4;
    pub(crate) const CLOCK: usize = 8;
    /// How many of the first records have ever been used: behind them all is free, and no memory.
    pub(crate) const USED: usize = 64;
    /// A descriptor's number and one; 0: none. The first worker's.
    pub(crate) const ACCEPTING: usize = 9;
    /// The same.
    pub(crate) const ADOPTED: usize = 10;
    /// Words of counters behind the records.
    pub(crate) const COUNTERS: usize = 11;
    /// For whom the thread was at work that died of its own fault; 0: the worker's word says so.
    pub(crate) const CULPRIT: usize = 12;
    /// How many workers there are; 0: one, of an engine that knew of no more.
    pub(crate) const COUNT: usize = 13;
    /// The number that workers are to answer with, on a cache line that they only read.
    pub(crate) const ASKED: usize = 255;
    /// [`WORKER_WORDS`] for each of [`crate::WORKERS_MAX`] workers.
    pub(crate) const WORKERS: usize = 256;
    /// A cache line: no worker writes to another one's.
    pub(crate) const WORKER_WORDS: usize = 8;
    /// In a worker's words: the number that it last answered with.
    pub(crate) const ANSWERED: usize = 0;
    /// In a worker's words: the VM whose port it is at; 0: none.
    pub(crate) const VM: usize = 1;
    /// In a worker's words, but for the first worker, whose word is [`ACCEPTING`]: the same.
    pub(crate) const WORKERS_ACCEPTING: usize = 2;
    /// In a worker's words, but for the first worker, whose word is [`ADOPTED`]: the same.
    pub(crate) const WORKERS_ADOPTED: usize = 3;
}

/// Words of counters that a new checkpoint has room for: 32 MiB, of which what is used takes memory.
pub(crate) const COUNTERS: usize = 1 << 22;

/// A block of counters: these words, then a name for each counter, then the counters.
pub(crate) mod block {
    /// 1 while somebody counts there; the last word to be written.
    pub(crate) const STATE: usize = 0;
    /// How many counters there is room for. It never changes; 0: here the blocks end.
    pub(crate) const LENGTH: usize = 1;
    /// Whose.
    pub(crate) const OWNER: usize = 2;
    /// Which of the owner's.
    pub(crate) const WHICH: usize = 3;
    pub(crate) const NAMES: usize = 4;
}

/// A record's words.
pub(crate) mod record {
    /// 0: free. Else the kind in the low byte; the last word to be written.
    pub(crate) const STATE: usize = 0;
    /// What happened since, a bit each; the only word that changes while the record is live, besides [`PEER`].
    pub(crate) const BITS: usize = 1;
    /// The descriptor's number in the low half; options of the connection in the high one.
    pub(crate) const DESCRIPTOR: usize = 2;
    pub(crate) const COOKIE: usize = 3;
    pub(crate) const SESSION: usize = 4;
    /// Two words each.
    pub(crate) const GUEST: usize = 5;
    pub(crate) const REMOTE: usize = 7;
    pub(crate) const HOST: usize = 9;
    /// Ports: guest, remote, host; then 4 or 6.
    pub(crate) const PORTS: usize = 11;
    /// ISS in the low half, start of our timestamps in the high one.
    pub(crate) const OURS: usize = 12;
    /// IRS in the low half, what the guest's SYN agreed to in the high one: complete before [`BITS`] says so.
    pub(crate) const PEER: usize = 13;
    /// When the connection began, in the checkpoint's microseconds.
    pub(crate) const OPENED: usize = 14;
    /// Where the socket's counters began: taken in the low half, dropped in the high one. Of datagrams by a forward: the interface; the
    /// forward's own address stands in [`OURS`] and [`PEER`].
    pub(crate) const BASE: usize = 15;
}
