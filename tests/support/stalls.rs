//! How long the machine has stood still: other tests, or its own host, may have had its processors. Kernels and peers whose timers run on then do what
//! they do after a pause.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(1);

/// Microseconds by which a thread that wakes every millisecond was late at most, since the last question.
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// The longest pause since this was asked last; at first, since it watches.
pub fn longest_stall() -> Duration {
    static WATCHES: Once = Once::new();
    WATCHES.call_once(|| {
        thread::spawn(|| {
            loop {
                let before = Instant::now();
                thread::sleep(LOOK);
                let late = before.elapsed().saturating_sub(LOOK).as_micros() as u64;
                LONGEST.fetch_max(late, Ordering::Relaxed);
            }
        });
    });
    Duration::from_micros(LONGEST.swap(0, Ordering::Relaxed))
}
