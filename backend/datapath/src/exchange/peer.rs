//! Rings between workers, and the way to wake who sleeps.
use super::News;
use super::parcel::Parcel;
use crate::agreement::Asleep;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Messages that may wait from one worker to another.
const MESSAGES: usize = 1024;

/// What goes from worker to worker.
pub enum Message {
    /// Frames.
    Parcel(Arc<Parcel>),
    /// What is new of a port of the sender's.
    News(News),
}

/// What the others see of a worker.
pub struct Line {
    /// It sleeps, or is about to.
    pub(super) asleep: Asleep,
    /// How many sockets it has.
    pub sockets: AtomicUsize,
    /// What wakes it.
    pub event: Arc<EventFd>,
}

impl Line {
    fn new() -> std::io::Result<Line> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        Ok(Line { asleep: Asleep::new(), sockets: AtomicUsize::new(0), event })
    }

    /// Wakes the worker, if it sleeps. What it is to find was done before.
    pub fn wake(&self) {
        if self.asleep.is_to_be_woken() {
            // Fails only if the counter is full: it is awake then.
            let _ = self.event.write(1);
        }
    }
}

/// Another worker, as one has it.
pub struct Peer {
    to: Producer<Message>,
    from: Consumer<Message>,
    pub(super) line: Arc<Line>,
}

impl Peer {
    /// Sends a message; false: there is no room.
    pub fn push(&mut self, message: Message) -> bool {
        let sent = self.to.push(message).is_ok();
        // A full ring may be that of somebody who sleeps all the same.
        self.line.wake();
        sent
    }

    /// How many messages have come.
    pub fn waiting(&self) -> usize {
        self.from.slots()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    /// The next message.
    pub fn pop(&mut self) -> Option<Message> {
        self.from.pop().ok()
    }
}

/// A worker's place among all.
pub struct Seat {
    pub(super) own: usize,
    pub(super) line: Arc<Line>,
    pub(super) peers: Vec<Option<Peer>>,
}

impl Seat {
    /// What wakes the worker.
    pub fn event(&self) -> Arc<EventFd> {
        Arc::clone(&self.line.event)
    }
}

/// Places for so many workers, each connected with every other one.
///
/// # Errors
/// The system's.
pub fn seats(workers: usize) -> std::io::Result<Vec<Seat>> {
    let mut seats = Vec::with_capacity(workers);
    for own in 0..workers {
        let peers = if workers > 1 { (0..workers).map(|_| None).collect() } else { Vec::new() };
        seats.push(Seat { own, line: Arc::new(Line::new()?), peers });
    }
    for one in 0..workers {
        for other in 0..one {
            let (to_other, from_one) = RingBuffer::new(MESSAGES);
            let (to_one, from_other) = RingBuffer::new(MESSAGES);
            let lines = [one, other].map(|seat| Arc::clone(&seats[seat].line));
            let [line_of_one, line_of_other] = lines;
            seats[one].peers[other] = Some(Peer { to: to_other, from: from_other, line: line_of_other });
            seats[other].peers[one] = Some(Peer { to: to_one, from: from_one, line: line_of_one });
        }
    }
    Ok(seats)
}
