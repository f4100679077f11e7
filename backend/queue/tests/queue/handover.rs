//! Waiting until the worker let go.
use std::thread;
use std::time::{Duration, Instant};

use vonic_queue::handover;

const LONG: Duration = Duration::from_secs(20);

#[test]
fn done_wakes_the_waiter() {
    let (done, waiter) = handover();
    let start = Instant::now();
    let worker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        done.done();
    });
    assert!(waiter.wait(LONG));
    assert!((Duration::from_millis(20)..LONG).contains(&start.elapsed()));
    worker.join().unwrap();
}

#[test]
fn a_dropped_end_counts_as_done() {
    let (done, waiter) = handover();
    let worker = thread::spawn(move || drop(done));
    assert!(waiter.wait(LONG));
    worker.join().unwrap();
}

#[test]
fn done_before_the_wait_needs_no_wait() {
    let (done, waiter) = handover();
    done.done();
    assert!(waiter.wait(Duration::ZERO));
}

#[test]
fn a_worker_that_holds_on_is_reported() {
    let (_done, waiter) = handover();
    let start = Instant::now();
    assert!(!waiter.wait(Duration::from_millis(30)));
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_wake_up_meant_for_something_else_ends_no_wait() {
    let (_done, waiter) = handover();
    thread::current().unpark();
    let start = Instant::now();
    assert!(!waiter.wait(Duration::from_millis(30)));
    assert!(start.elapsed() >= Duration::from_millis(30));
}
