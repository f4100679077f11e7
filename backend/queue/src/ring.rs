//! The device side of a split virtqueue (virtio 1.3 §2.7).
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::chain::ChainReader;
use crate::dirty::Dirty;
use crate::setup::{ControlChain, Direction, RingSetup};
use crate::slots::Slots;
use crate::sys::{Appender, DirtyLog, Front, MemoryMap, Refusal, RingMemory};
use crate::{Burst, QueueError};

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.3 §2.7.6).
const NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY (virtio 1.3 §2.7.8).
const NO_NOTIFY: u16 = 1;

/// The device side of one split virtqueue.
///
/// A round is: [`fetch`](SplitRing::fetch), one [`push_used`](SplitRing::push_used) per fetched chain (in fetch order, so
/// that the used index alone says where a successor has to start), [`publish`](SplitRing::publish), and an interrupt if
/// [`call_needed`](SplitRing::call_needed). Before sleeping, [`arm`](SplitRing::arm).
pub struct SplitRing {
    memory: RingMemory,
    setup: RingSetup,
    direction: Direction,
    /// The position of the next chain to fetch.
    next_avail: u16,
    /// The position of the next used entry to write.
    next_used: u16,
    /// The used index in guest memory.
    published: u16,
    /// Entries published since the last question whether an interrupt is wanted; saturates.
    uncalled: u32,
    /// What its driver wished when it was called last.
    called_for: Option<u16>,
    /// The region of guest memory that was hit last.
    hint: usize,
    broken: Option<QueueError>,
    /// What the VMM's log has to be told, while it keeps one.
    dirty: Option<Box<Dirty>>,
}

impl SplitRing {
    /// Starts at the used index in guest memory, whatever SET_VRING_BASE said: completion is in order, so this is where a
    /// predecessor stopped, with nothing in flight. Asks the driver for kicks at once, since the predecessor may have
    /// asked for none. Entries that the predecessor published without an interrupt are not known here: the caller
    /// interrupts once after a takeover.
    pub fn new(map: &Arc<MemoryMap>, setup: &RingSetup, direction: Direction) -> Result<SplitRing, QueueError> {
        let memory = RingMemory::new(map, setup)?;
        let start = memory.used_index();
        memory.set_used_flags(0);
        let mut ring = SplitRing {
            memory,
            setup: *setup,
            direction,
            next_avail: start,
            next_used: start,
            published: start,
            uncalled: 0,
            called_for: None,
            hint: 0,
            broken: None,
            dirty: None,
        };
        ring.arm();
        Ok(ring)
    }

    /// Goes on in a new map with the same indices. After an error the ring is broken.
    pub fn remap(&mut self, map: &Arc<MemoryMap>) -> Result<(), QueueError> {
        self.memory = RingMemory::new(map, &self.setup).inspect_err(|error| self.broken = Some(*error))?;
        self.hint = 0;
        Ok(())
    }

    /// Keeps `log`, or none, from now on: what is published is in the log before the driver sees it. The whole used ring is marked,
    /// for what was written to it before, also by a predecessor. `alias`: where the VMM wants the used ring's pages logged besides
    /// where it lies (VHOST_VRING_F_LOG).
    pub fn set_log(&mut self, log: Option<Arc<DirtyLog>>, alias: Option<u64>) {
        let unpublished = self.next_avail.wrapping_sub(self.published);
        let alias = alias.filter(|alias| *alias != self.setup.used);
        self.dirty = log.map(|log| Box::new(Dirty::new(log, alias, unpublished)));
        self.wrote(0, RingMemory::used_len(self.setup.size));
    }

    /// `len` bytes of the used ring were written.
    #[inline(always)]
    fn wrote(&self, offset: u64, len: u64) {
        if let Some(dirty) = &self.dirty {
            dirty.used_ring(self.setup.used, offset, len);
        }
    }

    /// Appends up to `max` chains to the burst, fewer if its room ends; returns how many. A malformed chain is among them,
    /// with its fault and no buffers: the caller returns it with length 0 and counts the reason. A burst that still holds
    /// buffers of another memory map takes none.
    ///
    /// An error says that the ring lies about its indices. It is broken from then on, and every later call says the same;
    /// chains fetched before can still be returned.
    pub fn fetch(&mut self, burst: &mut Burst, max: usize) -> Result<usize, QueueError> {
        self.fetch_by(burst, max, |reader, head, segments| reader.read(head, segments))
    }

    /// Puts one chain of the control queue into the burst, in place of what it held; `None` if none is waiting.
    ///
    /// # Errors
    /// As for [`fetch`](SplitRing::fetch).
    pub fn fetch_control(&mut self, burst: &mut Burst) -> Result<Option<ControlChain>, QueueError> {
        burst.clear();
        let (mut readable, mut writable) = (0, 0);
        let fetched = self.fetch_by(burst, 1, |reader, head, segments| {
            (readable, writable) = reader.read_both(head, segments)?;
            Ok(readable + writable)
        })?;
        if let Some(dirty) = self.dirty.as_mut().filter(|_| fetched == 1) {
            dirty.begins_behind(readable);
        }
        let chain = burst.chains().first().filter(|_| fetched == 1);
        Ok(chain.map(|chain| ControlChain { head: chain.head, readable, writable, fault: chain.fault }))
    }

    #[inline(always)]
    fn fetch_by(
        &mut self,
        burst: &mut Burst,
        max: usize,
        mut read: impl FnMut(&ChainReader<'_>, u16, &mut Appender<'_>) -> Result<u32, Refusal>,
    ) -> Result<usize, QueueError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let waiting = self.waiting()?;
        let Some(mut filler) = burst.filler(self.memory.map(), self.hint) else { return Ok(0) };
        let wanted = max.min(waiting.into()).min(filler.room());
        let size = self.setup.size;
        let reader = ChainReader::new(self.memory.table(), size, self.direction == Direction::HostToGuest);
        let mut next = self.next_avail;
        let end = next.wrapping_add(wanted as u16);
        while next != end {
            if self.direction != Direction::Control {
                let device_writes = self.direction == Direction::HostToGuest;
                let slots = Slots::new(&self.memory, filler.hint(), device_writes);
                next = next.wrapping_add(filler.add_simple(slots, device_writes, next, end));
                if next == end {
                    break;
                }
            }
            let head = self.memory.available_head(next.into());
            if head >= size {
                self.broken = Some(QueueError::BadHead { head, size });
                break;
            }
            if !filler.add(head, |segments| read(&reader, head, segments)) {
                break;
            }
            next = next.wrapping_add(1);
        }
        self.hint = filler.hint();
        let fetched = next.wrapping_sub(self.next_avail);
        self.next_avail = next;
        if let Some(dirty) = &mut self.dirty {
            let written = self.direction != Direction::GuestToHost;
            for i in burst.len() - usize::from(fetched)..burst.len() {
                dirty.fetched(burst.guest_ranges(i).take_while(|_| written));
            }
        }
        match self.broken {
            Some(error) if fetched == 0 => Err(error),
            _ => Ok(fetched.into()),
        }
    }

    /// What is posted in a ring of frames, and from which position to which; `None` while chains are in flight, or with a log. An
    /// index that lies is left for the next fetch to find.
    #[inline]
    pub(crate) fn slots(&self) -> Option<(Slots<'_>, u16, u16)> {
        let simple = self.broken.is_none() && self.dirty.is_none() && self.in_flight() == 0;
        let end = self.memory.available_index();
        let sound = simple && self.direction != Direction::Control;
        let few = end.wrapping_sub(self.next_avail) <= self.setup.size;
        let slots = || Slots::new(&self.memory, self.hint, self.direction == Direction::HostToGuest);
        (sound && few).then(|| (slots(), self.next_avail, end))
    }

    /// Copies the first bytes of the chain that is next in a transmit ring; false where there is none, or it is not one piece of at least
    /// so many. Nothing is fetched. As for [`Burst::read`]: decide by the copy only.
    pub fn front(&self, out: &mut Front) -> bool {
        let Some((mut slots, next, end)) = self.slots().filter(|_| self.direction == Direction::GuestToHost) else {
            return false;
        };
        next != end && slots.at(next.into()).is_some_and(|slot| slot.buffer.front(out))
    }

    /// Every chain in front of `next` has been fetched, and has its used entry.
    #[inline]
    pub(crate) fn completed(&mut self, next: u16) {
        (self.next_avail, self.next_used) = (next, next);
    }

    /// The chains waiting, by one look at the driver's index.
    fn waiting(&mut self) -> Result<u16, QueueError> {
        let index = self.memory.available_index();
        let waiting = index.wrapping_sub(self.next_avail);
        // A driver can have no more chains outstanding than there are descriptors, those being worked on included.
        if u32::from(waiting) + u32::from(self.in_flight()) > u32::from(self.setup.size) {
            let error = QueueError::AvailableIndex { index, last: self.next_avail, size: self.setup.size };
            self.broken = Some(error);
            return Err(error);
        }
        Ok(waiting)
    }

    /// Chains fetched that have no used entry yet.
    fn in_flight(&self) -> u16 {
        self.next_avail.wrapping_sub(self.next_used)
    }

    /// Gives the last `n` fetched chains back, to be fetched again. Only chains without a used entry can go back: more are
    /// not taken.
    pub fn unfetch(&mut self, n: u16) {
        let n = n.min(self.in_flight());
        self.next_avail = self.next_avail.wrapping_sub(n);
        if let Some(dirty) = &mut self.dirty {
            dirty.given_back(n);
        }
    }

    /// Writes the used entry of a fetched chain into whose buffers the device wrote `len` bytes. The driver does not see it
    /// until [`publish`](SplitRing::publish).
    #[inline]
    pub fn push_used(&mut self, head: u16, len: u32) {
        self.memory.set_used(self.next_used.into(), head, len);
        if let Some(dirty) = &mut self.dirty {
            dirty.used(self.next_used.wrapping_sub(self.published), len);
        }
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// As [`push_used`](SplitRing::push_used) for every chain of a burst, into none of which the device wrote anything.
    pub fn push_read(&mut self, burst: &Burst) {
        if self.dirty.is_some() {
            burst.chains().iter().for_each(|chain| self.push_used(chain.head, 0));
            return;
        }
        let mut next = self.next_used;
        for chain in burst.chains() {
            self.memory.set_read(next.into(), chain.head);
            next = next.wrapping_add(1);
        }
        self.next_used = next;
    }

    /// Shows the driver everything pushed, by one store of the used index; nothing if nothing was pushed.
    #[inline]
    pub fn publish(&mut self) {
        self.publish_but(0);
    }

    /// As [`publish`](SplitRing::publish), but for the last `kept` entries; returns how many are not shown. A log has all of them shown.
    #[inline]
    pub fn publish_but(&mut self, kept: u16) -> u16 {
        let pushed = self.next_used.wrapping_sub(self.published);
        let kept = if self.dirty.is_some() { 0 } else { kept.min(pushed) };
        let shown = pushed - kept;
        if shown != 0 {
            if self.dirty.is_some() {
                self.log_entries(shown);
            }
            self.published = self.published.wrapping_add(shown);
            self.memory.set_used_index(self.published);
            self.wrote(0, RingMemory::HEADER);
            self.uncalled = self.uncalled.saturating_add(shown.into());
        }
        kept
    }

    /// Whether the driver wants no interrupts at all, so that it looks by itself (virtio 1.3 §2.7.6; with EVENT_IDX nothing says so).
    pub fn is_looked_at(&self) -> bool {
        !self.setup.event_idx && self.memory.available_flags() & NO_INTERRUPT != 0
    }

    /// Logs what is about to be published: buffers and used entries.
    #[cold]
    fn log_entries(&mut self, pushed: u16) {
        let Some(dirty) = &mut self.dirty else { return };
        dirty.published(pushed, self.memory.map());
        let first = self.published & (self.setup.size - 1);
        let in_front = pushed.min(self.setup.size - first);
        for (slot, count) in [(first, in_front), (0, pushed - in_front)] {
            dirty.used_ring(self.setup.used, RingMemory::used_entry(slot), 8 * u64::from(count));
        }
    }

    /// Whether the driver wants an interrupt for what was published since the last call (virtio 1.3 §2.7.7.2).
    pub fn call_needed(&mut self) -> bool {
        let entries = std::mem::take(&mut self.uncalled);
        if entries == 0 {
            return false;
        }
        // The used index has to be visible before the driver's wish is read: it writes the wish, then looks at the index.
        fence(Ordering::SeqCst);
        if !self.setup.event_idx {
            return !self.is_looked_at();
        }
        // Whether the event is among the entries; if they are a whole turn of the index, it is.
        let event = self.memory.used_event();
        let needed = u32::from(self.published.wrapping_sub(event).wrapping_sub(1)) < entries;
        if needed {
            self.called_for = Some(event);
        }
        needed
    }

    /// Whether the driver has not looked since an interrupt was last needed: when it has, it says for which entry it wants the next one
    /// (virtio 1.3 §2.7.7.1). Without VIRTIO_F_EVENT_IDX that is not known of it.
    pub fn is_unheard(&self) -> bool {
        self.called_for.is_some_and(|event| self.memory.used_event() == event)
    }

    /// Asks for kicks from the next chain on. True if chains are waiting already: then do not sleep.
    pub fn arm(&mut self) -> bool {
        self.arm_behind(0)
    }

    /// Asks for a kick once more than `waiting` chains wait. True if they do already: then do not sleep.
    pub fn arm_behind(&mut self, waiting: u16) -> bool {
        if self.setup.event_idx {
            self.memory.set_available_event(self.next_avail.wrapping_add(waiting));
            self.wrote(RingMemory::used_entry(self.setup.size), RingMemory::EVENT);
        } else {
            self.memory.set_used_flags(0);
            self.wrote(0, RingMemory::HEADER);
        }
        // The wish has to be visible before the driver's index is read: it writes the index, then looks at the wish.
        fence(Ordering::SeqCst);
        self.available() > waiting
    }

    /// Asks for no kicks. With EVENT_IDX there is nothing to do: the event stays behind, and the flag has to stay 0
    /// (virtio 1.3 §2.7.10.2).
    pub fn disarm(&mut self) {
        if !self.setup.event_idx {
            self.memory.set_used_flags(NO_NOTIFY);
            self.wrote(0, RingMemory::HEADER);
        }
    }

    /// The chains waiting to be fetched, at most the queue's size; none once the ring is broken.
    pub fn available(&self) -> u16 {
        if self.broken.is_some() {
            return 0;
        }
        self.memory.available_index().wrapping_sub(self.next_avail).min(self.setup.size)
    }

    /// The driver's available index, as it stands now.
    pub fn posted(&self) -> u16 {
        self.memory.available_index()
    }

    /// The position of the next used entry, counting those pushed but not yet published.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// The queue's size in descriptors.
    pub fn size(&self) -> u16 {
        self.setup.size
    }

    /// Which way the ring's buffers carry frames.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Where the ring lies, as it was set up.
    pub fn setup(&self) -> &RingSetup {
        &self.setup
    }
}
