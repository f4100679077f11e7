//! A line with delay between two namespaces: a TUN interface at each end, and a thread that carries packets from one to the other.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::{Netns, ip};
use crate::sys;

/// How often a silent line looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// The line. Its interfaces, both called `slow`, go with it.
#[derive(Debug)]
pub struct Relay {
    over: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Lays it between the calling thread's namespace and `far`, with an address for each end ("198.51.100.1/24"); every packet takes
    /// `delay`, either way.
    ///
    /// # Errors
    /// If there are no TUN interfaces.
    pub fn new(far: &Netns, here: &str, there: &str, delay: Duration) -> Result<Relay> {
        let ends = [end(here)?, far.run(|| end(there))?];
        let over = Arc::new(AtomicBool::new(false));
        let [a, b] = &ends;
        let pairs = [(a.try_clone()?, b.try_clone()?), (b.try_clone()?, a.try_clone()?)];
        let carriers = pairs.into_iter().map(|(from, to)| {
            let over = Arc::clone(&over);
            thread::spawn(move || carry(from, to, delay, &over))
        });
        Ok(Relay { carriers: carriers.collect(), over })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            drop(carrier.join());
        }
    }
}

/// An interface of the calling thread's namespace.
fn end(address: &str) -> Result<File> {
    let file = sys::open_tun(c"slow").context("a TUN interface")?;
    ip(&format!("addr add {address} dev slow"))?;
    ip("link set slow mtu 1500 txqueuelen 10000 up")?;
    Ok(file)
}

fn carry(mut from: File, mut to: File, delay: Duration, over: &AtomicBool) {
    use std::os::fd::AsRawFd;
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut packet = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        let now = Instant::now();
        while waiting.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, packet)) = waiting.pop_front() {
                // A packet that finds no room is lost, as on any line.
                let _ = to.write(&packet);
            }
        }
        let wait = waiting.front().map_or(LOOK, |(due, _)| due.saturating_duration_since(now).min(LOOK));
        if sys::wait_readable(from.as_raw_fd(), wait).unwrap_or(false)
            && let Ok(len) = from.read(&mut packet)
        {
            waiting.push_back((Instant::now() + delay, packet[..len].to_vec()));
        }
    }
}
