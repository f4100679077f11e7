//! What a ring has written, for its VMM's log: kept from the fetch of a chain to its publication, since the log may only tell of
//! a page once it is written, and the driver may only see a buffer once the log tells of it.
use std::collections::VecDeque;
use std::sync::Arc;

use crate::sys::{DirtyLog, MemoryMap};

/// Room made at first: for a frame in the smallest buffers.
const CHAINS: usize = 256;

/// The buffers of one chain.
struct Fetched {
    /// How many ranges it has.
    ranges: usize,
    /// Bytes in front of what the device writes.
    readable: u64,
    /// Bytes that the device has written behind them, once there is a used entry.
    written: u64,
}

/// The memory of one ring for one log. Allocates when it begins, and when a frame needs more buffers than any before.
pub(crate) struct Dirty {
    log: Arc<DirtyLog>,
    /// Where the used ring is in the log besides where it lies.
    alias: Option<u64>,
    /// Chains fetched before there was a log, and not yet published: of these nothing is known.
    unknown: u16,
    /// Chains fetched since and not yet published, in that order.
    chains: VecDeque<Fetched>,
    /// Their buffers: guest-physical address and bytes.
    ranges: VecDeque<(u64, u64)>,
}

impl Dirty {
    /// `unpublished` chains have been fetched already.
    pub(crate) fn new(log: Arc<DirtyLog>, alias: Option<u64>, unpublished: u16) -> Dirty {
        let (chains, ranges) = (VecDeque::with_capacity(CHAINS), VecDeque::with_capacity(2 * CHAINS));
        Dirty { log, alias, unknown: unpublished, chains, ranges }
    }

    /// A chain was fetched, with these buffers.
    pub(crate) fn fetched(&mut self, buffers: impl Iterator<Item = (u64, u64)>) {
        let before = self.ranges.len();
        self.ranges.extend(buffers);
        self.chains.push_back(Fetched { ranges: self.ranges.len() - before, readable: 0, written: 0 });
    }

    /// The last chain's first bytes are the driver's.
    pub(crate) fn begins_behind(&mut self, readable: u32) {
        if let Some(last) = self.chains.back_mut() {
            last.readable = readable.into();
        }
    }

    /// The last chains were given back. What was written into them is nobody's.
    pub(crate) fn given_back(&mut self, chains: u16) {
        for _ in 0..chains {
            match self.chains.pop_back() {
                Some(last) => self.ranges.truncate(self.ranges.len() - last.ranges),
                None => self.unknown = self.unknown.saturating_sub(1),
            }
        }
    }

    /// There is a used entry for the chain that is so many behind the first unpublished one.
    pub(crate) fn used(&mut self, behind: u16, written: u32) {
        let known = behind.checked_sub(self.unknown);
        if let Some(chain) = known.and_then(|at| self.chains.get_mut(usize::from(at))) {
            chain.written = written.into();
        }
    }

    /// The next chains are about to be shown to the driver: logs what is in their buffers.
    pub(crate) fn published(&mut self, chains: u16, map: &MemoryMap) {
        for _ in 0..chains {
            if self.unknown > 0 {
                self.unknown -= 1;
                map.spans().for_each(|(start, len)| self.log.mark(start, len));
                continue;
            }
            let Some(Fetched { ranges, readable, written }) = self.chains.pop_front() else { return };
            let (mut skip, mut left) = (readable, written);
            for (start, len) in self.ranges.drain(..ranges) {
                let first = skip.min(len);
                let here = left.min(len - first);
                self.log.mark(start + first, here);
                skip -= first;
                left -= here;
            }
        }
    }

    /// `len` bytes of the used ring were written, `offset` behind its start at `used`.
    pub(crate) fn used_ring(&self, used: u64, offset: u64, len: u64) {
        self.log.mark(used + offset, len);
        if let Some(alias) = self.alias {
            self.log.mark(alias.saturating_add(offset), len);
        }
    }
}
