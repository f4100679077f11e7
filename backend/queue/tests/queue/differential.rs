//! A random driver, and the same ring served twice: by this crate and by virtio-queue, each on its own copy of the memory.
use std::collections::VecDeque;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;
use vonic_queue::{Burst, Direction, SplitRing};

use crate::guest::{BUFFERS, Guest, INDIRECT, NEXT, REGIONS, Span, TABLES, flag};
use crate::wrap::index;

#[derive(Clone, Debug)]
enum Step {
    /// Post a chain; with Some(n) all behind the first n buffers are in an indirect table.
    Post(Vec<Span>, Option<usize>),
    Fetch(usize),
    /// Complete so many chains with this length each.
    Complete(usize, u32),
    /// Want the interrupt that far from the used index.
    UsedEvent(i16),
    NoInterrupt(bool),
    Arm,
    Disarm,
}

fn buffer() -> impl Strategy<Value = Span> {
    let base = prop::sample::select(vec![BUFFERS, REGIONS[1].0, REGIONS[2].0]);
    (base, 0u64..0x1f000, prop_oneof![8 => 1u32..=0x1000, 1 => Just(0)]).prop_map(|(base, at, len)| (base + at, len))
}

fn step() -> impl Strategy<Value = Step> {
    let chain = (prop::collection::vec(buffer(), 1..7), prop::option::of(0usize..6));
    prop_oneof![
        6 => chain.prop_map(|(buffers, from)| Step::Post(buffers, from)),
        3 => (0usize..5).prop_map(Step::Fetch),
        3 => (0usize..5, any::<u32>()).prop_map(|(n, len)| Step::Complete(n, len)),
        2 => (-6i16..6).prop_map(Step::UsedEvent),
        1 => any::<bool>().prop_map(Step::NoInterrupt),
        1 => Just(Step::Arm),
        1 => Just(Step::Disarm),
    ]
}

/// Both sides, and what the driver knows.
struct Pair {
    guests: [Guest; 2],
    ring: SplitRing,
    burst: Burst,
    queue: Queue,
    direction: Direction,
    no_interrupt: bool,
    /// Descriptors that no chain uses, and those of each chain outstanding.
    free: VecDeque<u16>,
    outstanding: VecDeque<Vec<u16>>,
    in_flight: VecDeque<u16>,
}

impl Pair {
    fn new(size: u16, start: u16, event_idx: bool, direction: Direction) -> Pair {
        let guests = [Guest::new(size, start, event_idx), Guest::new(size, start, event_idx)];
        let setup = guests[0].setup;
        let mut queue = Queue::new(size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(setup.descriptors)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(setup.available)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(setup.used)).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_next_avail(start);
        queue.set_next_used(start);
        queue.set_ready(true);
        assert!(queue.is_valid(&guests[1].memory));
        queue.enable_notification(&guests[1].memory).unwrap();
        Pair {
            ring: guests[0].ring(direction),
            burst: Burst::with_capacity(64, 1024),
            guests,
            queue,
            direction,
            no_interrupt: false,
            free: (0..size).rev().collect(),
            outstanding: VecDeque::new(),
            in_flight: VecDeque::new(),
        }
    }

    fn post(&mut self, buffers: &[Span], indirect_from: Option<usize>) {
        let buffers = &buffers[..buffers.len().min(self.guests[0].setup.size.into())];
        let direct = indirect_from.map_or(buffers.len(), |from| from.min(buffers.len() - 1));
        let in_table = &buffers[direct..];
        let needed = direct + usize::from(!in_table.is_empty());
        if self.free.len() < needed {
            return;
        }
        let taken: Vec<u16> = self.free.drain(..needed).collect();
        let flag = flag(self.direction);
        let table = TABLES + 256 * u64::from(taken[0]);
        for guest in &mut self.guests {
            for (i, (address, len)) in buffers[..direct].iter().enumerate() {
                let next = taken.get(i + 1).copied();
                guest.descriptor(taken[i], *address, *len, flag | next.map_or(0, |_| NEXT), next.unwrap_or(0xffff));
            }
            for (i, (address, len)) in in_table.iter().enumerate() {
                let more = if i + 1 < in_table.len() { NEXT } else { 0 };
                guest.descriptor_at(table + 16 * i as u64, *address, *len, flag | more, i as u16 + 1);
            }
            if !in_table.is_empty() {
                guest.descriptor(taken[direct], table, 16 * in_table.len() as u32, INDIRECT, 0);
            }
            guest.post(taken[0]);
        }
        self.outstanding.push_back(taken);
    }

    fn fetch(&mut self, max: usize) {
        self.burst.clear();
        let count = self.ring.fetch(&mut self.burst, max).unwrap();
        let expected: Vec<_> = self.queue.iter(&self.guests[1].memory).unwrap().take(max).collect();
        assert_eq!(count, expected.len());
        for (i, chain) in expected.into_iter().enumerate() {
            let ours = *self.burst.chain(i);
            assert_eq!((ours.head, ours.fault), (chain.head_index(), None));
            self.in_flight.push_back(ours.head);
            let writes = self.direction == Direction::HostToGuest;
            let buffers: Vec<Span> = chain
                .inspect(|descriptor| assert_eq!(descriptor.is_write_only(), writes))
                .map(|descriptor| (descriptor.addr().0, descriptor.len()))
                .filter(|(_, len)| *len > 0)
                .collect();
            assert_eq!(ours.len, buffers.iter().map(|(_, len)| len).sum::<u32>());
            assert_eq!(self.guests[0].spans(&self.burst.iovecs(i..i + 1, 0, u32::MAX)), buffers);
        }
    }

    fn complete(&mut self, len: u32) {
        let Some(head) = self.in_flight.pop_front() else { return };
        self.ring.push_used(head, len);
        self.ring.publish();
        self.queue.add_used(&self.guests[1].memory, head, len).unwrap();
        let wanted = self.queue.needs_notification(&self.guests[1].memory).unwrap();
        // virtio-queue knows no NO_INTERRUPT flag, which counts without EVENT_IDX only.
        let wanted = wanted && (self.guests[0].setup.event_idx || !self.no_interrupt);
        assert_eq!(self.ring.call_needed(), wanted);
        self.free.extend(self.outstanding.pop_front().unwrap());
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Post(buffers, from) => self.post(&buffers, from),
            Step::Fetch(max) => self.fetch(max),
            Step::Complete(count, len) => (0..count).for_each(|_| self.complete(len)),
            Step::UsedEvent(distance) => {
                let position = self.queue.next_used().wrapping_add(distance as u16);
                self.guests.iter().for_each(|guest| guest.set_used_event(position));
            }
            Step::NoInterrupt(on) => {
                self.no_interrupt = on;
                self.guests.iter().for_each(|guest| guest.set_no_interrupt(on));
            }
            Step::Arm => assert_eq!(self.ring.arm(), self.queue.enable_notification(&self.guests[1].memory).unwrap()),
            Step::Disarm => {
                self.ring.disarm();
                self.queue.disable_notification(&self.guests[1].memory).unwrap();
            }
        }
        assert_eq!(self.ring.next_used(), self.queue.next_used());
        let waiting = self.guests[1].index.wrapping_sub(self.queue.next_avail());
        assert_eq!(self.ring.available(), waiting);
        assert_eq!(self.guests[0].used_area(), self.guests[1].used_area());
    }
}

proptest! {
    #[test]
    fn both_engines_see_the_same_ring(
        size in 0u32..7,
        start in index(),
        event_idx: bool,
        host_to_guest: bool,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let direction = if host_to_guest { Direction::HostToGuest } else { Direction::GuestToHost };
        let mut pair = Pair::new(1 << size, start, event_idx, direction);
        for step in steps {
            pair.step(step);
        }
        // And once around: what is left is served to the end.
        pair.step(Step::Fetch(64));
        pair.step(Step::Complete(64, 1));
        prop_assert!(pair.outstanding.is_empty());
        prop_assert_eq!(pair.guests[0].used_index(), pair.guests[0].index);
    }
}
