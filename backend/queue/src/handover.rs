//! How a session waits until the worker let go of something, without a lock in the worker.
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The worker's end: says that it let go, when told so or when dropped on whatever path.
#[derive(Debug)]
pub struct Done {
    gone: Arc<AtomicBool>,
    waiter: Thread,
}

/// The waiting end. It stays on the thread that called [`handover`], which is the one that gets woken.
#[derive(Debug)]
pub struct Waiter {
    gone: Arc<AtomicBool>,
    this_thread_only: PhantomData<*const ()>,
}

/// A pair of ends; the calling thread is the one that will wait.
pub fn handover() -> (Done, Waiter) {
    let gone = Arc::new(AtomicBool::new(false));
    let done = Done { gone: Arc::clone(&gone), waiter: thread::current() };
    (done, Waiter { gone, this_thread_only: PhantomData })
}

impl Done {
    /// Wakes the waiter. Everything done before is visible to it.
    pub fn done(self) {}
}

impl Drop for Done {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
        self.waiter.unpark();
    }
}

impl Waiter {
    /// Waits until the other end is done; false if `limit` passed first.
    pub fn wait(self, limit: Duration) -> bool {
        let start = Instant::now();
        loop {
            if self.gone.load(Ordering::Acquire) {
                return true;
            }
            // park_timeout may return early, and tokens of other handovers may be pending: the flag decides.
            match limit.checked_sub(start.elapsed()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return false,
            }
        }
    }
}
