//! Established and ended connections of one port, told to whoever listens: by a bounded ring that only listening makes.
//!
//! The worker numbers what happens and puts it there; it wakes the other side only when the number that it waits for is reached, so that a
//! burst of thousands costs two system calls and not one each. What finds no room is lost, and shows as a gap in the numbers. The reader
//! leaves in the ring what it has read until the room is needed: whoever lost an answer asks for the same numbers again.
use crate::agreement::Count;
use crate::flow::table::Flow;
use crate::keyed::Secret;
use crate::port::Port;
use crate::service::address;
use rtrb::chunks::ReadChunk;
use rtrb::{Consumer, Producer, RingBuffer};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vonic_tcp::Instant;

/// Sets the secret of what connections are called apart from the one of their sequence numbers.
const NAMES: &str = "names of connections";

/// What has happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Both sides have it.
    Established,
    /// It has ended by FIN both ways.
    Closed,
    /// It has ended by a reset, or by giving up.
    Reset,
}

/// One thing that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its place among all of this listening, from 1 on.
    pub number: u64,
    /// What the connection is called; see [`ConnectionView::id`](crate::ConnectionView).
    pub id: u64,
    /// What has happened.
    pub what: What,
    /// Whether the guest opened it.
    pub guest_opens: bool,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other one, as the guest sees it.
    pub remote: SocketAddr,
    /// When, in microseconds of the worker's clock ([`Header::elapsed`](vonic_record::Header::elapsed)).
    pub at: u64,
    /// When it was opened, by the same clock.
    pub opened: u64,
    /// Bytes that the host's socket took, and bytes that the guest acknowledged, until then.
    pub bytes: [u64; 2],
}

/// What both sides see.
#[derive(Debug)]
struct Between {
    /// The last number that was given.
    count: Count,
    /// The worker knows of the listening: from here on nothing is missed unsaid.
    open: AtomicBool,
}

/// The worker's end.
#[derive(Debug)]
pub struct Notifier {
    ring: Producer<Notification>,
    last: u64,
    between: Arc<Between>,
    wake: UnixStream,
}

/// The reader's end.
#[derive(Debug)]
pub struct Notifications {
    ring: Consumer<Notification>,
    between: Arc<Between>,
}

/// What was read at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order of their numbers.
    pub notifications: Vec<Notification>,
    /// How many there were besides, in front of or among these, for which there was no room.
    pub missed: u64,
    /// Behind which number to go on.
    pub next: u64,
}

/// Both ends of a ring for so many notifications, and what wakes the reader: a non-blocking stream that brings a byte when a number that
/// was waited for is reached, and when the worker begins; its end is the worker's.
///
/// # Errors
/// The system's: there is no descriptor left.
pub fn notifications(room: usize) -> io::Result<(Notifier, Notifications, UnixStream)> {
    let (producer, consumer) = RingBuffer::new(room);
    let between = Arc::new(Between { count: Count::new(), open: AtomicBool::new(false) });
    let (wake, sign) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    sign.set_nonblocking(true)?;
    let notifier = Notifier { ring: producer, last: 0, between: Arc::clone(&between), wake };
    Ok((notifier, Notifications { ring: consumer, between }, sign))
}

impl Notifier {
    /// The worker has it.
    pub(crate) fn open(&self) {
        self.between.open.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        // Fails only if there is no room: then the reader has many of them to read.
        let _ = (&self.wake).write(&[0]);
    }

    fn tell(&mut self, notification: Notification) {
        self.last += 1;
        // Without room it is lost, and its number missing.
        let _ = self.ring.push(Notification { number: self.last, ..notification });
        if self.between.count.raise(self.last) {
            self.wake();
        }
    }
}

impl Notifications {
    /// Whether the worker knows of it.
    pub fn is_open(&self) -> bool {
        self.between.open.load(Ordering::SeqCst)
    }

    /// Whether the worker has let go of it: nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.ring.is_abandoned()
    }

    /// The last number that was given; 0: none yet.
    pub fn last(&self) -> u64 {
        self.between.count.last()
    }

    /// Asks to be woken at this number, or at a lower one that was asked for since the last sign; true if it has been reached already.
    pub fn wait_for(&self, number: u64) -> bool {
        self.between.count.wait_for(number)
    }

    /// When the first one behind `after` happened; `None` if it is not there.
    pub fn first(&mut self, after: u64) -> Option<u64> {
        let chunk = self.chunk()?;
        let (front, back) = chunk.as_slices();
        let mut behind = front.iter().chain(back).skip(place(&chunk, after));
        behind.next().map(|notification| notification.at)
    }

    /// At most so many behind the number `after`. Older ones than that are given up where the ring is half full.
    pub fn read(&mut self, after: u64, most: usize) -> Batch {
        // What had been given before the ring was looked at is in it, or lost.
        let last = self.last();
        let half = self.ring.buffer().capacity() / 2;
        let Some(chunk) = self.chunk() else {
            return Batch { missed: last.saturating_sub(after), next: last, ..Batch::default() };
        };
        let (begin, there) = (place(&chunk, after), chunk.len());
        let (front, back) = chunk.as_slices();
        let taken: Vec<Notification> = front.iter().chain(back).skip(begin).take(most).copied().collect();
        chunk.commit(begin.min(there.saturating_sub(half)));
        let whole = begin + taken.len() == there;
        let end = taken.last().map_or(after, |notification| notification.number);
        let next = if whole { end.max(last) } else { end };
        let missed = next.saturating_sub(after).saturating_sub(taken.len() as u64);
        Batch { notifications: taken, missed, next }
    }

    fn chunk(&mut self) -> Option<ReadChunk<'_, Notification>> {
        let there = self.ring.slots();
        // So many are there: it cannot fail.
        self.ring.read_chunk(there).ok()
    }
}

/// How many of those in the ring have no higher number than `after`.
fn place(chunk: &ReadChunk<'_, Notification>, after: u64) -> usize {
    let (front, back) = chunk.as_slices();
    let up_to = |part: &[Notification]| part.partition_point(|notification| notification.number <= after);
    up_to(front) + up_to(back)
}

/// What a connection, or a flow of datagrams, is called towards its guest. It stays over engines, as what it is made of does.
pub(crate) fn id(secret: &Secret, (guest, remote): (SocketAddr, SocketAddr), opened: Instant) -> u64 {
    secret.hash_one((NAMES, guest, remote, opened.0))
}

impl Port {
    /// Tells whoever listens of a connection. What leads to vonic's own service is nobody's news: whoever listens does so by it.
    pub(crate) fn tell(&mut self, flow: &Flow, what: What, secret: &Secret, now: Instant) {
        let Some(notifier) = &mut self.notifier else { return };
        if address::is_ours(flow.key.remote.ip()) {
            return;
        }
        notifier.tell(Notification {
            number: 0,
            id: id(secret, (flow.key.guest, flow.key.remote), flow.opened),
            what,
            guest_opens: flow.guest_opens,
            guest: flow.key.guest,
            remote: flow.key.remote,
            at: now.0,
            opened: flow.opened.0,
            bytes: [flow.bytes_guest_to_host, flow.bytes_host_to_guest],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn notification(id: u64) -> Notification {
        let end = SocketAddr::from(([192, 0, 2, 2], 80));
        Notification {
            number: 0,
            id,
            what: What::Established,
            guest_opens: true,
            guest: end,
            remote: end,
            at: id,
            opened: 0,
            bytes: [0; 2],
        }
    }

    fn ids(batch: &Batch) -> Vec<u64> {
        batch.notifications.iter().map(|notification| notification.id).collect()
    }

    #[test]
    fn batches_go_on_where_the_last_one_ended_and_can_be_asked_for_again() {
        let (mut notifier, mut reader, _sign) = notifications(16).unwrap();
        assert_eq!(reader.read(0, 5), Batch::default());
        (0..8).for_each(|n| notifier.tell(notification(n)));
        let first = reader.read(0, 5);
        assert_eq!((ids(&first), first.missed, first.next), ((0..5).collect(), 0, 5));
        assert_eq!(reader.read(0, 5), first, "the answer was lost");
        let rest = reader.read(first.next, 5);
        assert_eq!((ids(&rest), rest.missed, rest.next), ((5..8).collect(), 0, 8));
        assert_eq!((reader.read(8, 5).notifications.len(), reader.first(8), reader.first(7)), (0, None, Some(7)));
    }

    #[test]
    fn nothing_is_lost_or_doubled_over_many_rounds_of_the_ring() {
        let (mut notifier, mut reader, _sign) = notifications(16).unwrap();
        let (mut told, mut next) = (0, 0);
        let mut got = Vec::new();
        for round in 0..1000 {
            for _ in 0..round % 9 {
                notifier.tell(notification(told));
                told += 1;
            }
            let batch = reader.read(next, 20);
            assert_eq!(batch.missed, 0, "round {round}");
            next = batch.next;
            got.extend(ids(&batch));
        }
        assert_eq!(got, (0..told).collect::<Vec<_>>());
    }

    #[test]
    fn what_found_no_room_is_counted_wherever_it_was() {
        let (mut notifier, mut reader, _sign) = notifications(4).unwrap();
        (0..6).for_each(|n| notifier.tell(notification(n)));
        let batch = reader.read(0, 3);
        assert_eq!((ids(&batch), batch.missed, batch.next), (vec![0, 1, 2], 0, 3));
        // The last of them is followed by nothing, and yet missed.
        let batch = reader.read(3, 10);
        assert_eq!((ids(&batch), batch.missed, batch.next), (vec![3], 2, 6));
        (6..8).for_each(|n| notifier.tell(notification(n)));
        let batch = reader.read(6, 10);
        assert_eq!((ids(&batch), batch.missed, batch.next), (vec![6, 7], 0, 8));
        let old = reader.read(0, 10);
        assert_eq!((old.missed + old.notifications.len() as u64, old.next), (8, 8));
    }

    #[test]
    fn the_reader_is_woken_once_at_the_number_that_it_waits_for() {
        let (mut notifier, reader, mut sign) = notifications(8).unwrap();
        let mut signs = || sign.read(&mut [0; 8]).unwrap_or(0);
        assert!(!reader.is_open());
        notifier.open();
        assert_eq!((reader.is_open(), signs()), (true, 1));
        notifier.tell(notification(0));
        assert_eq!(signs(), 0, "nobody waits");
        assert!(reader.wait_for(1), "it is there");
        assert!(!reader.wait_for(5) && !reader.wait_for(3));
        notifier.tell(notification(1));
        assert_eq!(signs(), 1, "the earlier question was for the first");
        assert!(!reader.wait_for(5) && !reader.wait_for(3));
        notifier.tell(notification(2));
        notifier.tell(notification(3));
        assert_eq!(signs(), 1, "at three, and not again");
        drop(notifier);
        assert!(reader.is_over());
    }
}
