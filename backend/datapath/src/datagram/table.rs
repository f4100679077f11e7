//! All datagram flows of one worker: by number, by name, and for each guest and class by the time of its last datagram.
//!
//! The silence that a flow may keep depends on its class alone, so of one class the flow that speaks last is the one that
//! expires last: a list in the order of use tells both who expires next and who makes room.
use super::class::Class;
use super::{Key, Kind};
use crate::flow::table::GENERATION_MASK;
use crate::keyed::KeyedMap;
use crate::spec::PortId;
use std::collections::VecDeque;
use std::ops::Range;
use vonic_tcp::Instant;

/// A flow's number: its place in the table.
pub type DatagramId = u32;

struct Slot<F> {
    generation: u32,
    entry: Option<Entry<F>>,
}

struct Entry<F> {
    key: Key,
    class: Class,
    flow: F,
    used: Instant,
    older: Option<DatagramId>,
    newer: Option<DatagramId>,
    queued: bool,
}

/// The flows of one guest and class.
#[derive(Clone, Copy, Default)]
struct List {
    oldest: Option<DatagramId>,
    newest: Option<DatagramId>,
    len: u32,
}

/// The table. Slots, index and queue grow with the number of flows and never shrink: no allocation per frame.
pub struct DatagramTable<F> {
    slots: Vec<Slot<F>>,
    free: Vec<DatagramId>,
    index: KeyedMap<Key, DatagramId>,
    lists: Vec<[List; Class::ALL.len()]>,
    ready: VecDeque<DatagramId>,
}

impl<F> Default for DatagramTable<F> {
    fn default() -> Self {
        DatagramTable {
            slots: Vec::new(),
            free: Vec::new(),
            index: KeyedMap::default(),
            lists: Vec::new(),
            ready: VecDeque::new(),
        }
    }
}

impl<F> DatagramTable<F> {
    /// Adds a flow that begins now.
    pub fn insert(&mut self, key: Key, class: Class, flow: F, now: Instant) -> DatagramId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            self.slots.len() as DatagramId - 1
        });
        self.index.insert(key, id);
        let entry = Entry { key, class, flow, used: now, older: None, newer: None, queued: false };
        self.slots[id as usize].entry = Some(entry);
        self.link(id);
        id
    }

    /// Takes a flow out. Its number will be used again, with another generation.
    pub fn remove(&mut self, id: DatagramId) -> Option<F> {
        self.unlink(id);
        let slot = self.slots.get_mut(id as usize)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        self.index.remove(&entry.key);
        self.free.push(id);
        Some(entry.flow)
    }

    /// The flow with this number.
    pub fn get_mut(&mut self, id: DatagramId) -> Option<&mut F> {
        self.entry(id).map(|entry| &mut entry.flow)
    }

    /// The number of a flow.
    pub fn find(&self, key: &Key) -> Option<DatagramId> {
        self.index.get(key).copied()
    }

    /// Distinguishes the users of a number over time, in 24 bits.
    pub fn generation(&self, id: DatagramId) -> u32 {
        self.slots.get(id as usize).map_or(0, |s| s.generation)
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// How many flows of a kind a guest has.
    pub fn count(&self, port: PortId, kind: Kind) -> u32 {
        Class::of(kind).iter().map(|class| self.list(port, *class).len).sum()
    }

    /// The flow of a kind that makes room first: of the least worthy class, the one that was used last longest ago.
    pub fn oldest(&self, port: PortId, kind: Kind) -> Option<DatagramId> {
        Class::of(kind).iter().find_map(|class| self.list(port, *class).oldest)
    }

    /// Every flow with its number.
    pub fn iter(&self) -> impl Iterator<Item = (DatagramId, &F)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((i as DatagramId, &s.entry.as_ref()?.flow)))
    }

    /// The flows in these places of the table.
    pub fn some(&self, places: Range<u32>) -> impl Iterator<Item = &F> {
        let places = (places.start as usize).min(self.slots.len())..(places.end as usize).min(self.slots.len());
        self.slots[places].iter().filter_map(|slot| Some(&slot.entry.as_ref()?.flow))
    }

    /// How many places the table has.
    pub fn places(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The flow was used, and is of this class now.
    pub fn touch(&mut self, id: DatagramId, class: Class, now: Instant) {
        let Some(entry) = self.entry(id) else { return };
        entry.used = now;
        if entry.newer.is_none() && entry.class == class {
            // It was its list's last before.
            return;
        }
        self.unlink(id);
        if let Some(entry) = self.entry(id) {
            entry.class = class;
        }
        self.link(id);
    }

    /// When a flow was last used.
    pub fn used(&self, id: DatagramId) -> Instant {
        self.slots.get(id as usize).and_then(|slot| slot.entry.as_ref()).map_or(Instant(0), |entry| entry.used)
    }

    /// A flow that has been silent for too long.
    pub fn expired(&mut self, now: Instant) -> Option<DatagramId> {
        self.ends().find(|(at, _)| *at <= now).map(|(_, id)| id)
    }

    /// When [`DatagramTable::expired`] may have something next.
    pub fn next_due(&self) -> Option<Instant> {
        self.ends().map(|(at, _)| at).min()
    }

    /// Has the flow pumped this round.
    pub fn make_ready(&mut self, id: DatagramId) {
        if let Some(entry) = self.entry(id)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// How many flows are ready.
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The next ready flow.
    pub fn pop_ready(&mut self) -> Option<DatagramId> {
        while let Some(id) = self.ready.pop_front() {
            // A number may stand here whose flow has ended since.
            if let Some(entry) = self.entry(id)
                && std::mem::take(&mut entry.queued)
            {
                return Some(id);
            }
        }
        None
    }

    fn entry(&mut self, id: DatagramId) -> Option<&mut Entry<F>> {
        self.slots.get_mut(id as usize)?.entry.as_mut()
    }

    fn list(&self, port: PortId, class: Class) -> List {
        self.lists.get(port as usize).map_or(List::default(), |lists| lists[class as usize])
    }

    /// The next flow to expire of each guest and class, and when.
    fn ends(&self) -> impl Iterator<Item = (Instant, DatagramId)> {
        let oldest = |(list, class): (&List, Class)| {
            let id = list.oldest?;
            let used = self.slots.get(id as usize)?.entry.as_ref()?.used;
            Some((used + class.idle(), id))
        };
        self.lists.iter().flat_map(move |lists| lists.iter().zip(Class::ALL).filter_map(oldest))
    }

    /// Appends a flow to the list of its guest and class.
    fn link(&mut self, id: DatagramId) {
        let Some((key, class)) = self.entry(id).map(|entry| (entry.key, entry.class)) else { return };
        let port = key.port as usize;
        if self.lists.len() <= port {
            self.lists.resize(port + 1, Default::default());
        }
        let list = &mut self.lists[port][class as usize];
        list.len += 1;
        let before = list.newest.replace(id);
        match before {
            Some(before) => {
                if let Some(entry) = self.entry(before) {
                    entry.newer = Some(id);
                }
            }
            None => list.oldest = Some(id),
        }
        if let Some(entry) = self.entry(id) {
            (entry.older, entry.newer) = (before, None);
        }
    }

    /// Takes a flow out of its list.
    fn unlink(&mut self, id: DatagramId) {
        let Some(entry) = self.entry(id) else { return };
        let (older, newer, port, class) = (entry.older, entry.newer, entry.key.port, entry.class);
        if let Some(entry) = older.and_then(|older| self.entry(older)) {
            entry.newer = newer;
        }
        if let Some(entry) = newer.and_then(|newer| self.entry(newer)) {
            entry.older = older;
        }
        let list = &mut self.lists[port as usize][class as usize];
        list.len -= 1;
        if older.is_none() {
            list.oldest = newer;
        }
        if newer.is_none() {
            list.newest = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn key(port: PortId, id: u16) -> Key {
        let guest = ([192, 0, 2, 2], id).into();
        Key { kind: Kind::Echo, port, guest, remote: ([198, 51, 100, 2], 0).into() }
    }

    /// Flows `0..count` of port 1, each a second younger than the one before.
    fn table(count: u16) -> DatagramTable<u16> {
        let mut table = DatagramTable::default();
        for id in 0..count {
            table.insert(key(1, id), Class::Echo, id, Instant(u64::from(id) * SECOND));
        }
        table
    }

    #[test]
    fn the_longest_silent_flow_is_the_oldest_and_expires_first() {
        let mut table = table(3);
        assert_eq!((table.len(), table.count(1, Kind::Echo), table.count(2, Kind::Echo)), (3, 3, 0));
        table.touch(0, Class::Echo, Instant(5 * SECOND));
        assert_eq!(table.oldest(1, Kind::Echo), Some(1));
        assert_eq!(table.next_due(), Some(Instant(31 * SECOND)));
        assert_eq!(table.expired(Instant(31 * SECOND - 1)), None);
        let mut gone = Vec::new();
        while let Some(id) = table.expired(Instant(34 * SECOND)) {
            gone.extend(table.remove(id));
        }
        assert_eq!(gone, [1, 2]);
        assert_eq!((table.find(&key(1, 0)), table.find(&key(1, 1))), (Some(0), None));
        table.insert(key(7, 9), Class::Echo, 9, Instant(0));
        assert_eq!(table.expired(Instant(34 * SECOND)), table.find(&key(7, 9)), "every guest has its own list");
    }

    #[test]
    fn a_flow_can_leave_from_the_middle_and_either_end() {
        for order in [[1, 0, 2], [0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut table = table(3);
            for id in order {
                assert_eq!(table.remove(id), Some(id as u16));
                assert_eq!(table.remove(id), None);
                let left = table.iter().map(|(id, _)| id).min();
                assert_eq!(table.oldest(1, Kind::Echo), left, "{order:?}");
            }
            assert_eq!((table.len(), table.count(1, Kind::Echo), table.next_due()), (0, 0, None));
            table.insert(key(1, 5), Class::Echo, 5, Instant(0));
            assert_eq!(table.count(1, Kind::Echo), 1);
        }
    }

    #[test]
    fn a_flow_is_ready_once_and_a_freed_number_is_not() {
        let mut table = table(2);
        [0, 1, 0].into_iter().for_each(|id| table.make_ready(id));
        let generation = table.generation(0);
        table.remove(0);
        table.insert(key(1, 8), Class::Echo, 8, Instant(0));
        assert_ne!(table.generation(0), generation);
        assert_eq!((table.ready_len(), table.pop_ready(), table.pop_ready()), (2, Some(1), None));
    }

    /// Flows of UDP, by guest port, each of the class `classes` says.
    fn of_classes(classes: &[Class]) -> DatagramTable<usize> {
        let mut table = DatagramTable::default();
        for (i, class) in classes.iter().enumerate() {
            let key = Key { kind: Kind::Udp, ..key(1, i as u16) };
            table.insert(key, *class, i, Instant(i as u64 * SECOND));
        }
        table
    }

    #[test]
    fn each_class_has_its_own_silence() {
        use Class::{OneShot, Query, Stream, Unanswered};
        let mut table = of_classes(&[Stream, OneShot, Query, Unanswered, OneShot]);
        assert_eq!((table.count(1, Kind::Udp), table.count(1, Kind::Echo)), (5, 0));
        // The last one has become a stream, and the first was used again.
        table.touch(4, Stream, Instant(20 * SECOND));
        table.touch(0, Stream, Instant(21 * SECOND));
        let mut ends = Vec::new();
        while let Some(due) = table.next_due() {
            assert_eq!(table.expired(Instant(due.0 - 1)), None);
            let id = table.expired(due).unwrap();
            ends.extend(table.remove(id).map(|flow| (due.0 / SECOND, flow)));
        }
        assert_eq!(ends, [(12, 2), (31, 1), (33, 3), (200, 4), (201, 0)]);
    }

    #[test]
    fn what_nobody_has_answered_makes_room_first_and_a_stream_last() {
        use Class::{OneShot, Query, Stream, Unanswered};
        let mut table = of_classes(&[Stream, OneShot, Query, Unanswered, Stream, Unanswered, OneShot]);
        let mut order = Vec::new();
        while let Some(id) = table.oldest(1, Kind::Udp) {
            order.extend(table.remove(id));
        }
        assert_eq!(order, [3, 5, 2, 1, 6, 0, 4]);
    }
}
