//! A driver on another thread: neither a kick nor an interrupt may get lost between "nothing there" and "going to sleep".
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};
use vonic_queue::{Burst, Direction, SplitRing};

use crate::guest::{BUFFERS, Guest};

const ROUNDS: u16 = 20_000;
const LOST: Duration = Duration::from_secs(10);

/// Serves until the driver hangs up; sleeps only when `arm` says so. Returns how often it slept.
fn device(mut ring: SplitRing, kicks: Receiver<()>, call: SyncSender<()>) -> u64 {
    let mut burst = Burst::with_capacity(8, 8);
    let (mut slept, mut served) = (0, 0u16);
    loop {
        ring.disarm();
        burst.clear();
        while ring.fetch(&mut burst, 8).unwrap() > 0 {
            for (i, chain) in burst.chains().iter().enumerate() {
                let mut number = [0; 2];
                assert_eq!(burst.read(i, 0, &mut number), 2);
                assert_eq!(u16::from_le_bytes(number), served, "the buffer's contents are published with its index");
                served = served.wrapping_add(1);
                ring.push_used(chain.head, 2);
            }
            burst.clear();
            ring.publish();
            if ring.call_needed() {
                let _ = call.try_send(());
            }
        }
        if !ring.arm() {
            slept += 1;
            if kicks.recv().is_err() {
                return slept;
            }
        }
    }
}

fn run(event_idx: bool) {
    let mut guest = Guest::new(4, 65000, event_idx);
    let ring = guest.ring(Direction::GuestToHost);
    let (kick, kicks) = sync_channel(1);
    let (call, calls) = sync_channel(1);
    let device = thread::spawn(move || device(ring, kicks, call));
    let sent = AtomicU64::new(0);
    let posted = AtomicU16::new(0);
    for head in 0..4 {
        guest.chain(head, &[(BUFFERS + 64 * u64::from(head), 2)], 0);
    }
    let mut used = guest.used_index();
    for _ in 0..ROUNDS {
        let number = posted.fetch_add(1, Ordering::Relaxed);
        let (old, head) = (guest.index, guest.index % 4);
        guest.memory.write_obj(number.to_le(), GuestAddress(BUFFERS + 64 * u64::from(head))).unwrap();
        guest.post(head);
        fence(Ordering::SeqCst);
        let wanted = if event_idx { guest.available_event() == old } else { guest.used_flags() == 0 };
        if wanted {
            sent.fetch_add(1, Ordering::Relaxed);
            let _ = kick.try_send(());
        }
        // Wait for room, asking for the interrupt of the oldest chain first.
        while guest.index.wrapping_sub(used) == 4 {
            guest.set_used_event(used);
            guest.set_no_interrupt(false);
            fence(Ordering::SeqCst);
            if guest.used_index() == used {
                assert!(calls.recv_timeout(LOST).is_ok(), "an interrupt or a kick was lost");
            }
            guest.set_no_interrupt(true);
            used = guest.used_index();
        }
    }
    drop(kick);
    let slept = device.join().unwrap();
    assert_eq!(guest.used_index(), guest.index, "all were served");
    assert!(slept > 0 && sent.into_inner() > 0, "the device slept and was woken");
}

#[test]
fn no_wake_up_is_lost_with_event_idx() {
    run(true);
}

#[test]
fn no_wake_up_is_lost_with_flags() {
    run(false);
}

/// Lets two threads start at the same moment: a barrier that sleeps is too coarse to make their accesses meet.
struct Start(AtomicU32);

impl Start {
    fn wait(&self, round: u32) {
        self.0.fetch_add(1, Ordering::AcqRel);
        for spins in 0u32.. {
            if self.0.load(Ordering::Acquire) >= 2 * round {
                return;
            }
            if spins > 2000 { thread::yield_now() } else { spin_loop() }
        }
    }
}

/// Each side writes its own word, then reads the other's: without a fence between, both may read what was before. Many
/// rounds of "post" against "arm" and of "want an interrupt" against "publish", started together. A missing fence shows in
/// optimised builds, nearly every time; unoptimised code keeps the two accesses too far apart.
#[test]
fn neither_side_overlooks_the_other() {
    let mut guest = Guest::new(4, 65000, true);
    let setup = guest.setup;
    let mut ring = guest.ring(Direction::GuestToHost);
    let mut burst = Burst::with_capacity(4, 4);
    let memory = guest.memory.clone();
    // Looked up beforehand: the way through the map would keep the two accesses apart.
    let words = [setup.available + 2, setup.available + 12, setup.used + 2, setup.used + 36]
        .map(|at| memory.get_slice(GuestAddress(at), 2).unwrap());
    let [index, used_event, used_index, available_event] =
        words.each_ref().map(|word| word.get_atomic_ref::<AtomicU16>(0).unwrap());
    let start = Start(AtomicU32::new(0));
    let (armed, called, stop) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    // From here on the wish for a kick stands one behind, as after a round without sleep.
    guest.post(0);
    assert_eq!(ring.fetch(&mut burst, 1), Ok(1));
    ring.push_used(0, 0);
    ring.publish();
    ring.call_needed();
    let (mut missed_kicks, mut missed_calls) = (0, 0);
    thread::scope(|scope| {
        let (start, armed, called, stop) = (&start, &armed, &called, &stop);
        scope.spawn(move || {
            for round in (0..).step_by(4) {
                // Neither side's way to its store is known: try distances.
                let delay = || (0..round / 4 % 128).for_each(|step| _ = black_box(step));
                start.wait(round + 1);
                delay();
                armed.store(ring.arm(), Ordering::Relaxed);
                start.wait(round + 2);
                burst.clear();
                assert_eq!(ring.fetch(&mut burst, 1), Ok(1));
                start.wait(round + 3);
                delay();
                ring.push_used(0, 0);
                ring.publish();
                called.store(ring.call_needed(), Ordering::Relaxed);
                start.wait(round + 4);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        for round in (0..80_000).step_by(4) {
            // All heads are 0: the index is all that there is to post.
            let old = index.load(Ordering::Relaxed);
            start.wait(round + 1);
            index.store(old.wrapping_add(1), Ordering::Release);
            fence(Ordering::SeqCst);
            let kicked = available_event.load(Ordering::Relaxed) == old;
            start.wait(round + 2);
            missed_kicks += u32::from(!kicked && !armed.load(Ordering::Relaxed));
            start.wait(round + 3);
            used_event.store(old, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let seen = used_index.load(Ordering::Acquire) != old;
            stop.store(round + 4 == 80_000 || Instant::now() > end, Ordering::Relaxed);
            start.wait(round + 4);
            missed_calls += u32::from(!seen && !called.load(Ordering::Relaxed));
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    });
    assert_eq!((missed_kicks, missed_calls), (0, 0));
}
