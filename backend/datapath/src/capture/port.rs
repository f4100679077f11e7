//! Where a port's frames are seen: as its guest's burst is fetched, before anything becomes of it, and as a frame to the guest is complete.
use super::{Captured, Capturer, Shown};
use crate::offload::Inbound;
use crate::port::Port;
use crate::stats::{CopyPath, Way};
use crate::worker::BURST;
use std::ops::Range;
use vonic_frame::{DropReason, VNET_HEADER_LEN};
use vonic_queue::Burst;
use vonic_tcp::Instant;

/// Whoever watches a port.
#[derive(Default)]
pub(crate) struct Captures {
    list: Vec<Capturer>,
    /// When the round at hand began, in microseconds.
    now: u64,
}

impl Captures {
    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A round begins.
    pub fn stamp(&mut self, now: Instant) {
        self.now = now.0;
    }

    /// Hands over what was captured; `all`: there may be nothing more for a while.
    pub fn publish(&mut self, all: bool) {
        self.list.iter_mut().for_each(|capturer| capturer.publish(all));
    }

    /// Says why a frame of the burst at hand went no further.
    #[cold]
    pub fn refuse(&mut self, (pair, chain): (usize, usize), reason: DropReason) {
        self.list.iter_mut().for_each(|capturer| capturer.refuse(pair * BURST + chain, reason));
    }

    fn wanted(&mut self, way: Way) -> impl Iterator<Item = &mut Capturer> {
        self.list.iter_mut().filter(move |capturer| capturer.wants(way))
    }
}

impl Port {
    /// Whether somebody watches it.
    #[inline(always)]
    pub(crate) fn is_captured(&self) -> bool {
        !self.captures.is_empty()
    }

    /// Somebody watches it from now on.
    pub(crate) fn begin_capture(&mut self, capturer: Capturer, now: Instant) {
        self.captures.list.push(capturer);
        self.captures.stamp(now);
        self.settle_inspection();
    }

    /// The capture of this number is over.
    pub(crate) fn end_capture(&mut self, number: u64) -> Option<Capturer> {
        let place = self.captures.list.iter().position(|capturer| capturer.number() == number)?;
        let capturer = self.captures.list.remove(place);
        self.settle_inspection();
        Some(capturer)
    }

    /// Captures what its guest has sent by one of its queues.
    #[cold]
    pub(crate) fn capture_burst(&mut self, pair: usize, burst: &Burst) {
        let (offset, at) = (self.negotiated.header_len, self.captures.now);
        let copied = self.spec.stats.copied(CopyPath::Capture);
        for capturer in self.captures.wanted(Way::GuestToHost) {
            for (i, chain) in burst.chains().iter().enumerate() {
                let len = chain.len.saturating_sub(offset);
                let mut vnet = [0; VNET_HEADER_LEN];
                burst.read(i, 0, &mut vnet[..offset as usize]);
                let way = Way::GuestToHost;
                let what = Captured { at, lost: 0, len, vnet, way, pair: pair as u8, dropped: chain.fault };
                // Of a chain that is none there is nothing to be seen.
                let frame = Shown { burst, chains: i..i + 1, offset, what, copied };
                let mark = if len > 0 { capturer.take(&frame) } else { None };
                if let Some(place) = capturer.marks.get_mut(pair * BURST + i) {
                    *place = mark;
                }
            }
        }
    }

    /// Captures a frame of `len` bytes that has been written to these reserved chains for the guest.
    #[cold]
    pub(crate) fn capture_given(&mut self, chains: Range<usize>, len: u32, vnet: [u8; VNET_HEADER_LEN]) {
        let pair = self.queues.aimed() as u8;
        let way = Way::HostToGuest;
        let what = Captured { at: self.captures.now, lost: 0, len, vnet, way, pair, dropped: None };
        let copied = self.spec.stats.copied(CopyPath::Capture);
        for capturer in self.captures.wanted(way) {
            let (chains, offset) = (chains.clone(), self.negotiated.header_len);
            capturer.take(&Shown { burst: &self.rx_burst, chains, offset, what, copied });
        }
    }

    /// Captures another guest's frame that this one was to get, and did not.
    #[cold]
    pub(crate) fn capture_missed(&mut self, inbound: &Inbound<'_, '_>, reason: DropReason) {
        let (pair, way) = (self.queues.aimed() as u8, Way::HostToGuest);
        let Inbound { burst, chain, start: offset, vnet, .. } = *inbound;
        let (vnet, len) = (vnet.emit(0, 0), inbound.frame.len);
        let what = Captured { at: self.captures.now, lost: 0, len, vnet, way, pair, dropped: Some(reason) };
        let copied = self.spec.stats.copied(CopyPath::Capture);
        for capturer in self.captures.wanted(way) {
            capturer.take(&Shown { burst, chains: chain..chain + 1, offset, what, copied });
        }
    }
}
