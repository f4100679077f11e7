//! Where the next frame of an uplink is read to: the chains of a port's burst behind those that are taken.
use super::{Coalesce, End, MISSES_MAX, Open};
use crate::port::{Port, SMALLEST_FRAME};
use std::ops::Range;
use vonic_frame::{ETHERNET_LEN, VNET_HEADER_LEN};
use vonic_tcp::Instant;

/// A place for a frame of which nothing is known yet.
pub struct Place {
    /// Bytes of it, with its virtio-net header, that do not go into the guest's buffers.
    pub front: usize,
    /// The chains of the port's burst into which the rest goes.
    pub chains: Range<usize>,
    /// Where in them it begins.
    pub offset: u32,
    /// How much of it there is room for.
    pub len: u32,
    /// There is less room than the longest frame takes.
    pub is_short: bool,
}

/// How much of a port's reserved chains is taken.
#[derive(Debug, Default)]
pub struct Landing {
    /// The first chain that no frame has.
    pub(super) next: usize,
    /// Bytes of it and those behind.
    pub(super) room: u32,
    /// The frame in the making, whose chains are right before.
    pub(super) open: Option<Open>,
    /// The pair of queues that all this belongs to.
    pair: usize,
    /// Whether anything of the burst is taken or reserved.
    busy: bool,
    /// How often in a row a first segment was followed by something else.
    misses: u8,
    /// How many frames pass unlooked at for that reason.
    passes: u8,
}

impl Landing {
    /// Whether the port's burst holds chains of it.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// What was seen of the last driver's connections says nothing of the next one's.
    pub fn begin_anew(&mut self) {
        (self.misses, self.passes) = (0, 0);
    }

    /// Whether it is worth a look what a frame is.
    pub(super) fn looks(&mut self) -> bool {
        // As `passes -= u8::from(passes != 0)` with what follows, rustc 1.95 with optimization left a 1 for ever.
        match self.passes.checked_sub(1) {
            Some(left) => {
                self.passes = left;
                false
            }
            None => true,
        }
    }

    /// A segment was followed by its next.
    pub(super) fn hit(&mut self) {
        self.begin_anew();
    }

    /// A segment was followed by something else: where that is so again and again, less and less is moved for it.
    pub(super) fn miss(&mut self) {
        self.misses = (self.misses + 1).min(MISSES_MAX);
        self.passes = (1 << self.misses) - 1;
    }
}

impl Port {
    /// A place for the next frame, that may have `longest` bytes with the guest's virtio-net header; `reserve` finds chains where none
    /// are reserved, and returns the bytes that they hold. `None`: there are not enough.
    pub fn place(
        &mut self,
        longest: u32,
        now: Instant,
        reserve: impl FnOnce(&mut Port) -> Option<u32>,
    ) -> Option<Place> {
        if !self.landing.busy || self.landing.pair != self.queues.aimed() || !self.fill(longest) {
            self.settle(now);
            self.landing.pair = self.queues.aimed();
            self.landing.room = reserve(self)?;
            self.landing.busy = true;
        }
        let header = self.negotiated.header_len;
        let Some(open) = &self.landing.open else {
            let offset = header + ETHERNET_LEN as u32;
            let room = self.room_for_next();
            let (chains, front) = (self.landing.next..self.rx_burst.len(), VNET_HEADER_LEN + ETHERNET_LEN);
            return Some(Place { front, chains, offset, len: room.min(longest) - offset, is_short: room < longest });
        };
        let headers = open.aggregate.headers_len();
        let len = open.capacity - open.filled + self.room_for_next().min(longest - header - headers as u32);
        let chains = open.chains.start..self.rx_burst.len();
        let is_short = self.room_for_next() < longest;
        Some(Place { front: VNET_HEADER_LEN + headers, chains, offset: open.filled, len, is_short })
    }

    /// Fetches chains until there is room for a frame of `longest` bytes behind what is taken; false if there are too few.
    fn fill(&mut self, longest: u32) -> bool {
        let (room, mergeable) = (self.landing.room, self.negotiated.mergeable);
        let before = self.rx_burst.len();
        if mergeable && room < longest {
            self.reserve_next(longest - room);
        } else if !mergeable && self.landing.next == before {
            self.reserve_next(longest);
        }
        self.landing.room += self.rx_burst.chains()[before..].iter().map(|chain| chain.len).sum::<u32>();
        if mergeable { self.landing.room >= longest } else { self.room_for_next() >= SMALLEST_FRAME.min(longest) }
    }

    /// Bytes that the next frame may have with the virtio-net header.
    pub(super) fn room_for_next(&self) -> u32 {
        if self.negotiated.mergeable {
            return self.landing.room;
        }
        self.rx_burst.chains().get(self.landing.next).map_or(0, |chain| chain.len)
    }

    /// Whether so many bytes more find room in a frame in the making.
    pub(super) fn has_room(&self, open: &Open, bytes: u32) -> bool {
        let more = if self.negotiated.mergeable { self.landing.room } else { 0 };
        open.filled + bytes <= open.capacity + more
    }

    /// Has a frame in the making take as many chains as so many bytes more need.
    pub(super) fn extend(&mut self, open: &mut Open, bytes: u32) {
        open.filled += bytes;
        let mut taken = 0;
        while open.filled > open.capacity + taken
            && let Some(chain) = self.rx_burst.chains().get(open.chains.end)
        {
            taken += chain.len;
            open.chains.end += 1;
        }
        open.capacity += taken;
        self.landing.next = open.chains.end;
        self.landing.room -= taken;
    }

    /// Since when a large frame waits for its next segment.
    pub(super) fn held_since(&self) -> Option<Instant> {
        self.landing.open.as_ref().map(|open| open.since)
    }

    /// At the end of a burst: keeps a large frame if it may wait, and gives back what is not needed for it. True if one went on.
    pub fn end_burst(&mut self, how: Coalesce, now: Instant) -> bool {
        match &self.landing.open {
            Some(open) if now.0 < open.since.0.saturating_add(how.us) => {
                let (end, all) = (open.chains.end, self.rx_burst.len());
                self.queues.rx().unfetch((all - end) as u16);
                self.rx_burst.truncate(end);
                self.landing.room = 0;
                false
            }
            Some(open) => {
                let end = if open.since == now { End::Drained } else { End::Waited };
                self.settle_by(end, now);
                true
            }
            None => {
                self.settle(now);
                false
            }
        }
    }

    /// Completes what is in the making and gives every other chain back.
    pub fn settle(&mut self, now: Instant) {
        self.settle_by(End::Waited, now);
    }

    fn settle_by(&mut self, end: End, now: Instant) {
        if !self.landing.busy {
            return;
        }
        let aim = self.queues.aim_again(self.landing.pair);
        if let Some(open) = self.landing.open.take() {
            self.close(&open, end, now);
        }
        self.release_behind(self.landing.next);
        self.queues.aim_again(aim);
        self.forget_landing();
    }

    /// The port's burst holds nothing any more.
    pub fn forget_landing(&mut self) {
        let Landing { misses, passes, .. } = self.landing;
        self.landing = Landing { misses, passes, ..Landing::default() };
    }
}
