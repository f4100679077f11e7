//! Sessions of every kind, one after the other on each of many threads, until somebody says that it is enough: what a service under
//! test goes through while something is done to it.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::stream::{Operation, Session, Summary, client};

/// Lengths of streams: nothing, less than a segment, a prime, more than one large segment, more than a window, more than both kernels'
/// buffers.
const LENGTHS: [u64; 6] = [0, 1, 251, 65_537, 1_000_003, 6_000_011];
/// Hundredths of a second for which a receiver sleeps before it reads, by which its window closes.
const PAUSES: [u8; 4] = [0, 0, 0, 30];

/// xorshift64*: a seed's sequence is the same everywhere.
struct Random(u64);

impl Random {
    fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        choice[(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % choice.len()]
    }
}

/// Goes on on `threads` threads until `enough`, and ends the sessions that have begun; a thread ends at its first failure, which says
/// what its session was.
pub fn churn(
    address: SocketAddr,
    (threads, seed): (u64, u64),
    timeout: Duration,
    enough: impl Fn() -> bool + Sync,
) -> Summary {
    let began = Instant::now();
    let all: Vec<(u64, u64, io::Result<()>)> = thread::scope(|scope| {
        let run = |index| {
            let enough = &enough;
            scope.spawn(move || one(address, seed.wrapping_add(index), timeout, enough))
        };
        let threads: Vec<_> = (1..=threads).map(run).collect();
        let died = || (0, 0, Err(io::Error::other("a thread died")));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    });
    Summary {
        bytes: all.iter().map(|(bytes, ..)| bytes).sum(),
        connections: all.iter().map(|(_, count, _)| count).sum(),
        elapsed: began.elapsed(),
        failures: all.into_iter().filter_map(|(.., result)| result.err()).collect(),
    }
}

/// One thread's: bytes, sessions that ended well, and how it ended.
fn one(address: SocketAddr, seed: u64, timeout: Duration, enough: &impl Fn() -> bool) -> (u64, u64, io::Result<()>) {
    // Small neighbours begin alike.
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut bytes, mut count) = (0, 0);
    while !enough() {
        let operation = random.of(&Operation::ALL);
        let session = Session {
            operation,
            bytes: random.of(if operation == Operation::Echo { &LENGTHS[..4] } else { &LENGTHS }),
            seed: seed.wrapping_add(count),
            pause: random.of(&PAUSES),
        };
        let began = Instant::now();
        if let Err(error) = client(address, &session, timeout) {
            let seconds = began.elapsed().as_secs_f32();
            let told = format!("session {count}, {session:?}, after {seconds:.1} s: {error}");
            return (bytes, count, Err(io::Error::new(error.kind(), told)));
        }
        bytes += session.bytes;
        count += 1;
    }
    (bytes, count, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::serve;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn sessions_of_every_kind_end_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener, Duration::from_secs(10), |served| served.result.unwrap()));
        let asked = AtomicU32::new(0);
        let enough = || asked.fetch_add(1, Ordering::Relaxed) >= 60;
        let done = churn(address, (4, 1), Duration::from_secs(10), enough);
        assert!(done.failures.is_empty() && done.connections == 60, "{done:?}");
    }

    #[test]
    fn a_failure_is_told_with_its_session() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let done = churn(address, (2, 1), Duration::from_secs(1), || false);
        assert_eq!(done.failures.len(), 2);
        assert!(done.failures[0].to_string().contains("session 0, Session"), "{:?}", done.failures);
    }
}
