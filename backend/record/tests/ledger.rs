//! Counters over engines: do they go on, also with an engine that knows others, and is their room used again?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use vonic_record::{Checkpoint, Counters, Ledger, Shared, name};
use zerocopy::{FromBytes, IntoBytes};

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct Old {
    first: AtomicU64,
    dropped: AtomicU64,
    gauge: AtomicU64,
}

impl Counters for Old {
    fn names() -> Vec<u64> {
        ["first", "dropped", "gauge"].map(name).to_vec()
    }

    fn resume(&self) {
        self.gauge.store(0, Ordering::Relaxed);
    }
}

/// A later build's: one more, one less, another order.
#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct New {
    added: AtomicU64,
    gauge: AtomicU64,
    first: AtomicU64,
    also_added: AtomicU64,
}

impl Counters for New {
    fn names() -> Vec<u64> {
        ["added", "gauge", "first", "also added"].map(name).to_vec()
    }
}

fn checkpoint() -> Arc<Checkpoint> {
    Arc::new(Checkpoint::create(1).unwrap())
}

/// The ledger of one more engine.
fn ledger(checkpoint: &Arc<Checkpoint>) -> Ledger {
    Ledger::new(Arc::clone(checkpoint))
}

/// What dead engines had, which nobody gives up: not dropped, and no leak either.
static DEAD: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());

/// Its engine dies.
fn die_with(counters: impl Any + Send) {
    DEAD.lock().unwrap().push(Box::new(counters));
}

/// Counts, and dies: nothing is given up.
fn count(ledger: &mut Ledger, owner: u64, which: u64, numbers: [u64; 3]) {
    let counters: Shared<Old> = ledger.open(owner, which);
    for (counter, n) in [&counters.first, &counters.dropped, &counters.gauge].into_iter().zip(numbers) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
    die_with(counters);
}

fn read(counters: &Old) -> [u64; 3] {
    [&counters.first, &counters.dropped, &counters.gauge].map(|counter| counter.load(Ordering::Relaxed))
}

#[test]
fn each_owner_finds_its_own_counters_again() {
    let checkpoint = checkpoint();
    let mut first = ledger(&checkpoint);
    count(&mut first, 1, 1, [1, 2, 3]);
    count(&mut first, 1, 2, [4, 5, 6]);
    count(&mut first, 2, 1, [7, 8, 9]);
    // Two of the same name keep their order.
    count(&mut first, 2, 1, [10, 11, 12]);
    let mut second = ledger(&checkpoint);
    let found = [(2, 1), (1, 2), (2, 1), (1, 1), (2, 1), (3, 1)].map(|(owner, which)| second.open::<Old>(owner, which));
    let values = found.each_ref().map(|counters| read(counters));
    assert_eq!(values, [[7, 8, 0], [4, 5, 0], [10, 11, 0], [1, 2, 0], [0; 3], [0; 3]]);
    assert!(found[0].is(&found[0].clone()) && !found[0].is(&found[1]));
}

#[test]
fn another_build_finds_what_it_knows() {
    let checkpoint = checkpoint();
    count(&mut ledger(&checkpoint), 1, 1, [1, 2, 3]);
    let mut second = ledger(&checkpoint);
    let new: Shared<New> = second.open(1, 1);
    let values = [&new.added, &new.gauge, &new.first, &new.also_added].map(|c| c.load(Ordering::Relaxed));
    assert_eq!(values, [0, 3, 1, 0]);
    new.first.fetch_add(1, Ordering::Relaxed);
    die_with(new);
    // And back: the old block is not found a second time.
    let mut third = ledger(&checkpoint);
    assert_eq!(read(&third.open::<Old>(1, 1)), [2, 0, 0]);
    assert_eq!(read(&third.open::<Old>(1, 1)), [0, 0, 0]);
}

#[test]
fn what_nobody_has_any_more_makes_room() {
    let checkpoint = checkpoint();
    let mut first = ledger(&checkpoint);
    count(&mut first, 1, 1, [1, 1, 1]);
    let mut second = ledger(&checkpoint);
    second.end_inheritance();
    // Far more than there is room for at once.
    for n in 0..450_000 {
        let counters: Shared<Old> = second.open(n, 1);
        assert_eq!(read(&counters), [0; 3]);
        counters.first.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(read(&ledger(&checkpoint).open::<Old>(449_999, 1)), [0; 3]);
}

#[test]
fn without_room_counters_end_with_their_engine() {
    /// As many as half of the room.
    const MANY: usize = 1 << 20;
    #[derive(FromBytes, IntoBytes)]
    #[repr(transparent)]
    struct Many([AtomicU64; MANY]);
    impl Default for Many {
        fn default() -> Many {
            Many(std::array::from_fn(|_| AtomicU64::new(0)))
        }
    }
    impl Counters for Many {
        fn names() -> Vec<u64> {
            (0..MANY as u64).collect()
        }
    }
    let grow = std::thread::Builder::new().stack_size(64 << 20);
    let test = grow.spawn(|| {
        let checkpoint = checkpoint();
        let mut first = ledger(&checkpoint);
        let all: Vec<Shared<Many>> = (0..3).map(|owner| first.open(owner, 1)).collect();
        all.iter().for_each(|many| many.0[MANY - 1].store(1, Ordering::Relaxed));
        all.into_iter().for_each(die_with);
        let mut second = ledger(&checkpoint);
        let values = [0, 1, 2].map(|owner| second.open::<Many>(owner, 1).0[MANY - 1].load(Ordering::Relaxed));
        assert_eq!(values, [1, 0, 0]);
    });
    test.unwrap().join().unwrap();
}
