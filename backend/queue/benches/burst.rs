//! What one 64-byte packet costs in the ring: fetch, read its bytes, used entry, one publish per burst of 32. virtio-queue
//! is measured beside it on the same memory. `cargo bench -p vonic-queue`
#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
#![allow(clippy::unwrap_used, reason = "a benchmark whose set-up fails has to stop")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vonic_queue::{Burst, Direction, MemoryMap, RingSetup, SplitRing};

const SIZE: u16 = 256;
const BURST: u16 = 32;
const LEN: usize = 64;
const NEXT: u16 = 1;
const INDIRECT: u16 = 4;

/// Four regions with holes between them; ring and buffers are in the third.
const REGION: u64 = 16 << 20;
const BASE: u64 = 2 * (REGION + (1 << 20));
const SETUP: RingSetup = RingSetup {
    size: SIZE,
    descriptors: BASE + 0x10000,
    available: BASE + 0x20000,
    used: BASE + 0x30000,
    event_idx: false,
};
const TABLES: u64 = BASE + 0x40000;
const BUFFERS: u64 = BASE + 0x100000;

fn memory() -> GuestMemoryMmap<()> {
    let ranges: Vec<_> = (0..4).map(|i| (GuestAddress(i * (REGION + (1 << 20))), REGION as usize)).collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn descriptor(memory: &GuestMemoryMmap<()>, at: u64, address: u64, len: usize, flags: u16, next: u16) {
    let words = [address, len as u64 | u64::from(flags) << 32 | u64::from(next) << 48];
    memory.write_slice(&words.map(u64::to_le_bytes).concat(), GuestAddress(at)).unwrap();
}

/// Every head is available once, for ever: each turn only moves the index on.
fn post(memory: &GuestMemoryMmap<()>, indirect: bool) {
    for i in 0..SIZE {
        let (at, buffer) = (SETUP.descriptors + 16 * u64::from(i), BUFFERS + 2048 * u64::from(i));
        if indirect {
            let table = TABLES + 64 * u64::from(i);
            descriptor(memory, table, buffer, 12, NEXT, 1);
            descriptor(memory, table + 16, buffer + 12, LEN - 12, 0, 0);
            descriptor(memory, at, table, 32, INDIRECT, 0);
        } else {
            descriptor(memory, at, buffer, LEN, 0, 0);
        }
        memory.write_obj(i, GuestAddress(SETUP.available + 4 + 2 * u64::from(i))).unwrap();
    }
}

/// Best of five windows, in ns per packet.
fn measure(name: &str, memory: &GuestMemoryMmap<()>, mut round: impl FnMut() -> usize) {
    let index = GuestAddress(SETUP.available + 2);
    let mut best = f64::MAX;
    for _ in 0..5 {
        let (start, mut packets) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(150) {
            for _ in 0..64 {
                let now: u16 = memory.load(index, Ordering::Relaxed).unwrap();
                memory.store(now.wrapping_add(BURST), index, Ordering::Release).unwrap();
                packets += round();
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / packets as f64);
    }
    println!("{name:<60} {best:6.2} ns/packet");
}

fn ours(name: &str, indirect: bool) {
    let memory = memory();
    post(&memory, indirect);
    let map = Arc::new(MemoryMap::new(memory.clone()));
    let mut ring = SplitRing::new(&map, &SETUP, Direction::GuestToHost).unwrap();
    let mut burst = Burst::with_capacity(64, 1024);
    let mut header = [0u8; LEN];
    measure(name, &memory, || {
        burst.clear();
        let fetched = ring.fetch(&mut burst, BURST.into()).unwrap();
        for i in 0..fetched {
            burst.read(i, 0, &mut header);
            black_box(&header);
            ring.push_used(burst.chain(i).head, 0);
        }
        ring.publish();
        black_box(ring.call_needed());
        fetched
    });
}

fn reference(name: &str, indirect: bool) {
    let memory = memory();
    post(&memory, indirect);
    let mut queue = Queue::new(SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(SETUP.descriptors)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(SETUP.available)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(SETUP.used)).unwrap();
    queue.set_ready(true);
    let mut header = [0u8; LEN];
    measure(name, &memory, || {
        let mut heads = [0u16; BURST as usize];
        let mut fetched = 0;
        for chain in queue.iter(&memory).unwrap() {
            heads[fetched] = chain.head_index();
            let mut at = 0;
            for descriptor in chain {
                let end = at + descriptor.len() as usize;
                memory.read_slice(&mut header[at..end], descriptor.addr()).unwrap();
                at = end;
            }
            black_box(&header);
            fetched += 1;
        }
        for head in &heads[..fetched] {
            queue.add_used(&memory, *head, 0).unwrap();
        }
        black_box(queue.needs_notification(&memory).unwrap());
        fetched
    });
}

fn main() {
    println!("queue size {SIZE}, burst {BURST}, {LEN} bytes");
    ours("vonic-queue, one descriptor", false);
    reference("virtio-queue, one descriptor", false);
    ours("vonic-queue, indirect table of two", true);
    reference("virtio-queue, indirect table of two", true);
}
