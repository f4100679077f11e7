//! A driver on another thread: neither a kick nor an interrupt may get lost between "nothing there" and "going to sleep".
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
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
