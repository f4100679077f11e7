//! Each part of a message is read the more rarely the longer that takes: in guests with many sockets, and in slow ones.
use crate::sys;
use std::time::{Duration, Instant};

/// The share of a processor that each part may take is one in so many: all of them together a thousandth.
const SHARE: u32 = 10_000;
/// But it is read after so long at the latest.
const LATEST: Duration = Duration::from_secs(60);
/// A failure, such as what the kernel lacks, is tried again after so long.
const AGAIN: Duration = Duration::from_secs(60);

/// The last value of something that may take long to read.
pub struct Paced<T> {
    value: Option<T>,
    due: Option<Instant>,
}

impl<T> Default for Paced<T> {
    fn default() -> Paced<T> {
        Paced { value: None, due: None }
    }
}

impl<T: Clone> Paced<T> {
    /// The value: read now, if that is due.
    pub fn get(&mut self, read: impl FnOnce() -> Option<T>) -> Option<T> {
        let now = Instant::now();
        if self.due.is_none_or(|due| due <= now) {
            let before = sys::processor_time();
            self.value = read();
            let took = sys::processor_time().saturating_sub(before);
            let pause = took.saturating_mul(SHARE).min(LATEST);
            self.due = now.checked_add(if self.value.is_none() { pause.max(AGAIN) } else { pause });
        }
        self.value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn what_takes_long_is_read_rarely_and_what_fails_more_rarely() {
        let (mut slow, mut failing) = (Paced::default(), Paced::<u32>::default());
        let (mut reads, mut failures) = (0, 0);
        for _ in 0..100 {
            let value = slow.get(|| {
                reads += 1;
                let end = sys::processor_time() + Duration::from_millis(5);
                while sys::processor_time() < end {
                    black_box(0);
                }
                Some(reads)
            });
            assert_eq!(value, Some(1), "five milliseconds are not spent twice in five seconds");
            assert_eq!(
                failing.get(|| {
                    failures += 1;
                    None
                }),
                None
            );
        }
        assert_eq!((reads, failures), (1, 1));
        slow.due = Some(Instant::now());
        assert_eq!(slow.get(|| Some(7)), Some(7));
    }
}
