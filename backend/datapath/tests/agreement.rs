//! What threads agree on by atomic words alone, in every order that their steps can have, and with every value that the memory model
//! lets them see (loom). The source is the one that runs.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
}

#[path = "../src/agreement.rs"]
mod agreement;

use agreement::{Asleep, Count, Stage};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

/// So many wake one who sleeps only once it has found nothing: of whatever was done, it has seen it or was woken.
fn nobody_sleeps_over_what_was_done(wakers: u32) {
    let mut builder = loom::model::Builder::new();
    // Of three threads every order would take minutes: each is interrupted at most so often.
    builder.preemption_bound = (wakers > 1).then_some(3);
    builder.check(move || {
        let shared = Arc::new((Asleep::new(), AtomicU32::new(0), AtomicU32::new(0)));
        let wake = |shared: Arc<(Asleep, AtomicU32, AtomicU32)>| {
            move || {
                let (asleep, work, signs) = &*shared;
                work.fetch_add(1, Ordering::Relaxed);
                if asleep.is_to_be_woken() {
                    signs.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let wakers: Vec<_> = (0..wakers).map(|_| thread::spawn(wake(Arc::clone(&shared)))).collect();
        let count = wakers.len() as u32;
        let (asleep, work, signs) = &*shared;
        asleep.begins();
        let seen = work.load(Ordering::Relaxed);
        if seen == count {
            asleep.ends();
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        let signs = signs.load(Ordering::Relaxed);
        assert!(seen == count || signs == 1, "{seen} of {count} were seen, and there were {signs} signs");
    });
}

#[test]
fn nobody_sleeps_over_what_one_has_done() {
    nobody_sleeps_over_what_was_done(1);
}

#[test]
fn nobody_sleeps_over_what_two_have_done() {
    nobody_sleeps_over_what_was_done(2);
}

/// A share that may be revoked while a worker takes it: the sender writes over it only when nobody reads it, and either the worker has
/// had it or the sender knows that it has not.
#[test]
fn nobody_reads_what_is_settled() {
    loom::model(|| {
        let shared = Arc::new((Stage::new(true), UnsafeCell::new(1)));
        let worker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (stage, parcel) = &*shared;
                let taken = stage.take();
                if taken {
                    parcel.with_mut(read);
                    stage.give_back();
                }
                taken
            })
        };
        let (stage, parcel) = &*shared;
        let revoked = stage.revoke();
        let settled = stage.is_settled();
        if settled {
            parcel.with_mut(read);
        }
        let taken = worker.join().unwrap();
        assert!(taken != revoked && stage.is_revoked() == revoked && stage.is_settled() && !stage.is_sent());
        assert!(settled || taken);
        assert!(!stage.take() && !stage.revoke(), "it is over");
    });
}

/// loom tells when two are at it: nothing has to be done there.
fn read(_parcel: *mut i32) {}

/// Whoever waits for a number sees it reached, or is woken at it or behind it, also where it waited for another one before.
#[test]
fn nobody_waits_for_a_number_that_has_come() {
    loom::model(|| {
        let shared = Arc::new((Count::new(), AtomicU32::new(0)));
        let raiser = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for number in 1..=2 {
                    if shared.0.raise(number) {
                        shared.1.fetch_add(1, Ordering::Release);
                    }
                }
            })
        };
        let (count, signs) = &*shared;
        let first = count.wait_for(1);
        let before = signs.load(Ordering::Acquire);
        let second = first && count.wait_for(2);
        raiser.join().unwrap();
        assert_eq!(count.last(), 2);
        let signs = signs.load(Ordering::Acquire);
        assert!(first || signs > 0, "the first number was slept over");
        // A sign that came before was for the first.
        assert!(!first || second || signs > before, "the second number was slept over");
    });
}
