//! Frames of a port, copied for somebody who watches it (ADR 0023).
//!
//! Who is not watched pays one branch for each burst. Of a port that is, the worker copies each frame that passes the filter into a page
//! of memory that was there before, and hands pages over: full ones, and what there is as soon as the other side has nothing to do. It
//! waits for nobody: without an empty page a frame is lost to the capture, and counted.
mod page;
mod port;

use crate::agreement::Asleep;
use crate::port::FRAME_MAX;
use crate::queues::PAIRS;
use crate::stats::{Counter, Way};
use crate::worker::BURST;
pub use page::Captured;
use page::Page;
pub(crate) use port::Captures;
use rtrb::{Consumer, Producer, RingBuffer};
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vonic_frame::DropReason;
use vonic_queue::{Burst, keep_payload};

/// Pages of one capture: 8 MiB.
const PAGES: usize = 64;
/// Bytes of a frame that a filter sees: all headers that vonic itself would look at.
const HEAD: usize = 256;

/// Says by a frame's first bytes, of which there may be few, whether somebody wants to see it. Called on the worker's thread: it neither
/// waits nor allocates, whatever the bytes are.
pub type Filter = Box<dyn Fn(&[u8]) -> bool + Send>;

/// What is captured of a port's frames.
pub struct CaptureSpec {
    /// Tells this capture from every other one.
    pub number: u64,
    /// Which ways, in the order of [`Way::ALL`].
    pub ways: [bool; 2],
    /// The most bytes of each frame.
    pub snaplen: u32,
    /// Which of them; `None`: all.
    pub filter: Option<Filter>,
}

/// What both sides see.
#[derive(Debug)]
struct Between {
    /// The reader's.
    asleep: Asleep,
    seen: Counter,
    accepted: Counter,
    lost: Counter,
}

/// How many frames there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureCounts {
    /// That went one of the wanted ways.
    pub seen: u64,
    /// That the filter let pass.
    pub accepted: u64,
    /// Of those, the ones that found no room.
    pub lost: u64,
}

/// The worker's end.
pub struct Capturer {
    spec: CaptureSpec,
    full: Producer<Page>,
    empty: Consumer<Page>,
    /// Pages with frames that were not handed over; the last one has room.
    open: Vec<Page>,
    /// Where the frames of the burst at hand are: in which open page, and where in it.
    marks: Box<[Option<(usize, usize)>; PAIRS * BURST]>,
    /// Frames lost since the last one that found room.
    lost: u64,
    between: Arc<Between>,
    wake: UnixStream,
}

/// The reader's end.
pub struct CaptureReader {
    full: Consumer<Page>,
    empty: Producer<Page>,
    between: Arc<Between>,
}

/// A frame where it lies.
struct Shown<'a> {
    burst: &'a Burst,
    chains: Range<usize>,
    /// Where it begins, behind the virtio-net header.
    offset: u32,
    what: Captured,
    copied: &'a Counter,
}

/// Both ends of a capture, and what wakes the reader: a non-blocking stream that brings a byte when there is something behind
/// [`CaptureReader::rests`], and ends with the worker's end. All the memory that it ever has is there when this returns.
///
/// # Errors
/// The system's: there is no descriptor left.
pub fn capture(spec: CaptureSpec) -> io::Result<(Capturer, CaptureReader, UnixStream)> {
    let (wake, sign) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    sign.set_nonblocking(true)?;
    let (to_reader, full) = RingBuffer::new(PAGES);
    let (mut to_worker, empty) = RingBuffer::new(PAGES);
    for _ in 0..PAGES {
        // There is room for as many.
        let _ = to_worker.push(Page::new());
    }
    let between = Arc::new(Between {
        asleep: Asleep::new(),
        seen: Counter::default(),
        accepted: Counter::default(),
        lost: Counter::default(),
    });
    let spec = CaptureSpec { snaplen: spec.snaplen.min(FRAME_MAX), ..spec };
    let reader = CaptureReader { full, empty: to_worker, between: Arc::clone(&between) };
    let capturer = Capturer {
        spec,
        full: to_reader,
        empty,
        open: Vec::with_capacity(PAGES),
        marks: Box::new([None; PAIRS * BURST]),
        lost: 0,
        between,
        wake,
    };
    Ok((capturer, reader, sign))
}

impl Capturer {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.spec.number
    }

    /// Whether frames that go this way are wanted.
    fn wants(&self, way: Way) -> bool {
        self.spec.ways[way as usize]
    }

    /// Takes a frame that goes a wanted way: in which open page it is now, and where in it.
    fn take(&mut self, frame: &Shown<'_>) -> Option<(usize, usize)> {
        self.between.seen.add(1);
        let Shown { burst, ref chains, offset, what, copied } = *frame;
        if let Some(filter) = &self.spec.filter {
            let mut head = [0; HEAD];
            let got = burst.read_over(chains.clone(), offset, &mut head[..HEAD.min(what.len as usize)]);
            if !filter(&head[..got]) {
                return None;
            }
        }
        self.between.accepted.add(1);
        let captured = what.len.min(self.spec.snaplen) as usize;
        if !self.open.last().is_some_and(|page| page.has_room(captured)) {
            match self.empty.pop() {
                Ok(page) => self.open.push(page),
                Err(_) => {
                    self.lost += 1;
                    self.between.lost.add(1);
                    return None;
                }
            }
        }
        let lost = std::mem::take(&mut self.lost);
        let fill = |to: &mut [u8]| keep_payload(burst, chains.clone(), offset, to, copied.atomic()) as usize;
        let start = self.open.last_mut()?.append(&Captured { lost, ..what }, captured, fill)?;
        Some((self.open.len() - 1, start))
    }

    /// Says why a frame of the burst at hand went no further.
    fn refuse(&mut self, mark: usize, reason: DropReason) {
        if let Some((page, start)) = self.marks.get(mark).copied().flatten()
            && let Some(page) = self.open.get_mut(page)
        {
            page.refuse(start, reason);
        }
    }

    /// Hands over what is full, and everything if the reader has nothing, or there may be nothing more for a while.
    fn publish(&mut self, all: bool) {
        let Some(full) = self.open.len().checked_sub(1) else { return };
        let count = if all || self.full.slots() == PAGES { full + 1 } else { full };
        if count == 0 {
            return;
        }
        self.marks.fill(None);
        for page in self.open.drain(..count) {
            // There is room for as many pages as there are.
            let _ = self.full.push(page);
        }
        if self.between.asleep.is_to_be_woken() {
            // Fails only if there is no room: it is awake then.
            let _ = (&self.wake).write(&[0]);
        }
    }
}

impl Drop for Capturer {
    /// What was captured is the reader's; the end of the stream wakes it.
    fn drop(&mut self) {
        self.publish(true);
    }
}

impl fmt::Debug for Capturer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capturer({})", self.spec.number)
    }
}

impl CaptureReader {
    /// Reads one page: its frames, in their order, with the bytes of each that were captured. False: there is none.
    pub fn read(&mut self, mut each: impl FnMut(&Captured, &[u8])) -> bool {
        let Ok(mut page) = self.full.pop() else { return false };
        page.frames().for_each(|(frame, bytes)| each(&frame, bytes));
        page.clear();
        // There is room for as many pages as there are.
        let _ = self.empty.push(page);
        true
    }

    /// The reader goes to rest: from now on it is woken. False: there is something already, or the worker has ended it.
    pub fn rests(&self) -> bool {
        self.between.asleep.begins();
        self.full.is_empty() && !self.full.is_abandoned()
    }

    /// Whether the worker has let go of it: behind what is there nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.full.is_abandoned()
    }

    /// How many frames there were until now.
    pub fn counts(&self) -> CaptureCounts {
        let Between { asleep: _, seen, accepted, lost } = &*self.between;
        CaptureCounts { seen: seen.get(), accepted: accepted.get(), lost: lost.get() }
    }
}

#[cfg(test)]
mod tests;
