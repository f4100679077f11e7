//! The far ends of a crowd's connections, which send in rounds.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{seconds, wire};

/// Bytes that each sends in a round.
const SAID: usize = 16;
/// How long the guest may take to open the next one.
const OPENED: Duration = seconds(600);
/// How often it is looked whether somebody still wants it.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of a flood that are written at once.
const BLOCK: usize = 1 << 20;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| wire::ramp(BLOCK + 251));

/// The bytes of every stream from a place on, a mebibyte at most; a lost or repeated block shows.
pub(super) fn pattern(from: u64, length: usize) -> &'static [u8] {
    let start = (from % 251) as usize;
    &PATTERN[start..start + length.min(BLOCK)]
}

enum Order {
    /// Rounds of so many of them, with such a pause between.
    Speak(usize, Duration),
    /// One more round; says when it is over.
    Round(Sender<()>),
    /// So many bytes of the first.
    Flood(usize, Sender<()>),
}

/// The thread that has them.
pub(super) struct Far {
    orders: Option<Sender<Order>>,
    /// Nobody waits for further connections.
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Far {
    /// Accepts so many.
    pub(super) fn start(listener: TcpListener, count: usize) -> Result<Far> {
        let (orders, taken) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let ends_over = Arc::clone(&over);
        let thread = thread::Builder::new().name("far".into()).spawn(move || {
            let ends: Result<Vec<_>> = (0..count).map(|_| accept(&listener, &ends_over)).collect();
            speak(&mut ends?, &taken)
        })?;
        Ok(Far { orders: Some(orders), over, thread: Some(thread) })
    }

    /// Has so many begin, the others keep silent, or speak at another pace.
    pub(super) fn speak(&mut self, count: usize, pause: Duration) -> Result<()> {
        self.order(Order::Speak(count, pause))
    }

    /// One round of all; the receiver hears when it is over.
    pub(super) fn begin_round(&mut self) -> Result<Receiver<()>> {
        let (over, wait) = channel();
        self.order(Order::Round(over))?;
        Ok(wait)
    }

    /// One round of all, which is over when this returns.
    pub(super) fn round(&mut self) -> Result<()> {
        let wait = self.begin_round()?;
        wait.recv_timeout(seconds(10)).or_else(|_| self.why())
    }

    /// Many bytes of the first; the receiver hears when they are sent.
    pub(super) fn flood(&mut self, bytes: usize) -> Result<Receiver<()>> {
        let (over, wait) = channel();
        self.order(Order::Flood(bytes, over))?;
        Ok(wait)
    }

    fn order(&mut self, order: Order) -> Result<()> {
        match self.orders.as_ref().map(|orders| orders.send(order)) {
            Some(Ok(())) => Ok(()),
            _ => self.why(),
        }
    }

    /// Why they no longer speak.
    pub(super) fn why<T>(&mut self) -> Result<T> {
        self.orders = None;
        self.over.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(error.context("the far ends")),
            _ => bail!("the far ends are gone"),
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.orders = None;
        self.over.store(true, Ordering::Relaxed);
        // What went wrong is told to whoever gives an order.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The next connection, which the guest opens when it likes, as long as somebody wants it.
fn accept(listener: &TcpListener, over: &AtomicBool) -> Result<(TcpStream, u64)> {
    let began = Instant::now();
    let stream = loop {
        match wire::accept_within(listener, LOOK) {
            Ok(stream) => break stream,
            Err(error) if over.load(Ordering::Relaxed) || began.elapsed() > OPENED => return Err(error),
            Err(_) => {}
        }
    };
    stream.set_nodelay(true)?;
    Ok((stream, 0))
}

/// Until nobody gives orders any more.
fn speak(ends: &mut [(TcpStream, u64)], orders: &Receiver<Order>) -> Result<()> {
    let (mut speakers, mut pause) = (0, None);
    loop {
        let order = match pause {
            None => orders.recv().map_err(RecvTimeoutError::from),
            Some(pause) => orders.recv_timeout(pause),
        };
        match order {
            Ok(Order::Speak(count, time)) => (speakers, pause) = (count.min(ends.len()), Some(time)),
            Ok(Order::Round(over)) => {
                round(ends)?;
                // Whoever asked may have given up.
                let _ = over.send(());
            }
            Ok(Order::Flood(bytes, over)) => {
                if let Some(first) = ends.first_mut() {
                    (0..bytes.div_ceil(BLOCK)).try_for_each(|_| say(first, BLOCK))?;
                }
                let _ = over.send(());
            }
            Err(RecvTimeoutError::Timeout) => round(&mut ends[..speakers])?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn round(ends: &mut [(TcpStream, u64)]) -> Result<()> {
    ends.iter_mut().try_for_each(|end| say(end, SAID))
}

fn say((stream, said): &mut (TcpStream, u64), length: usize) -> Result<()> {
    stream.write_all(pattern(*said, length)).with_context(|| format!("a far end after {said} bytes"))?;
    *said += length as u64;
    Ok(())
}
