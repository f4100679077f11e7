//! A guest with as many connections as one likes, whose far ends keep sending, and what it notices of an engine's death: when each of the
//! connections has had a new byte again.

mod end;
mod far;
mod takeover;

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bed::Bed;
use crate::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, VnetHeader, feature};
use crate::wire::{self, HOST, HandGuest};
use crate::{frames::Tcp, seconds, sys};

use end::End;
use far::Far;
pub use takeover::{Blow, Takeover};

/// The guest's port of its first connection.
const FIRST_PORT: u16 = 20_000;
/// Handshakes that are under way at once: fewer than a VM may have pending.
const OPENING: usize = 64;
/// Frames taken before buffers are posted and acknowledgments sent.
const TURN: usize = 64;

/// The guest, its connections and their far ends.
pub struct Crowd {
    /// Dropped before the guest, with which the connections end.
    far: Far,
    guest: HandGuest,
    ends: Vec<End>,
    /// Connections that owe the host a segment; each stands here once.
    owing: VecDeque<usize>,
    /// Connections that have had a new byte since [`Crowd::forget`].
    heard: usize,
    /// When the last new byte came.
    newest: Option<Instant>,
}

impl Crowd {
    /// The limits that a VM with so many connections needs, for its file.
    pub const LIMITS: &str =
        "limits = { connections = 100000, pending = 512, pending_per_destination = 512, new_per_second = 1000000 }";

    /// VM `name`, which [`crate::TestConfig::vm`] gave `number`, opens `count` connections, and their far ends begin to send. Receive buffers
    /// roam over `memory` bytes if that is not 0.
    ///
    /// # Errors
    /// If the service refuses it, or a connection does not open within half a minute.
    pub fn gather(bed: &Bed, name: &str, number: u8, count: usize, memory: u64) -> Result<Crowd> {
        let mut crowd = Crowd::assemble(bed, (name, number), count, memory)?;
        crowd.open(count)?;
        crowd.far.speak(count, crowd.pause())?;
        crowd.serve_until("a byte on every connection", seconds(30), |crowd| Ok(crowd.heard == count))?;
        Ok(crowd)
    }

    /// As [`Crowd::gather`], of so many connections at most, none of which is open yet; their far ends keep silent.
    ///
    /// # Errors
    /// If the service refuses it.
    pub fn silent(bed: &Bed, name: &str, number: u8, most: usize) -> Result<Crowd> {
        Crowd::assemble(bed, (name, number), most, 0)
    }

    fn assemble(bed: &Bed, (name, number): (&str, u8), count: usize, memory: u64) -> Result<Crowd> {
        sys::raise_descriptor_limit(0).context("descriptors for the far ends")?;
        let config = MockConfig { features: feature::ALL, posted: 256, roam: memory, ..MockConfig::default() };
        let guest = HandGuest::start_configured(bed, name, number, config)?;
        let (listener, port) = wire::listen()?;
        let ends = (0..count).map(|i| End::new(FIRST_PORT + i as u16, port)).collect();
        let far = Far::start(listener, count)?;
        Ok(Crowd { guest, ends, owing: VecDeque::new(), far, heard: 0, newest: None })
    }

    /// The far ends' pause between two rounds.
    fn pause(&self) -> Duration {
        FAR_PAUSE * self.len() as u32
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Opens the first `count` connections, as far as they are not open.
    ///
    /// # Errors
    /// If one does not open within half a minute.
    pub fn open(&mut self, count: usize) -> Result<()> {
        let mut begun = self.ends.iter().take_while(|end| end.is_open()).count();
        self.serve_until("every handshake", seconds(30), |crowd| {
            let open = crowd.ends[..begun].iter().filter(|end| end.is_open()).count();
            while begun < count && begun - open < OPENING {
                crowd.owe(begun);
                begun += 1;
            }
            // Those of the last handshakes, too, have been acknowledged.
            Ok(open == count && crowd.owing.is_empty())
        })
    }

    /// Serves the guest's side for a while.
    ///
    /// # Errors
    /// If a connection is reset, or its bytes are not those that were sent.
    pub fn serve(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    /// The far end of the first connection sends so many bytes on top, and the guest takes them.
    ///
    /// # Errors
    /// If it does not within a minute, and as [`Crowd::serve`].
    pub fn flood(&mut self, bytes: usize) -> Result<()> {
        let sent = self.far.flood(bytes)?;
        self.serve_until("the flood's end", seconds(60), |crowd| match sent.try_recv() {
            Ok(()) => Ok(true),
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Disconnected) => crowd.far.why(),
        })
    }

    fn serve_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Crowd) -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while !done(self)? {
            if Instant::now() > end {
                bail!("no {what} within {limit:?}: {} of {} connections were heard", self.heard, self.ends.len());
            }
            self.turn(Instant::now() + Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// Nobody has been heard from.
    fn forget(&mut self) {
        self.heard = 0;
        self.ends.iter_mut().for_each(|end| end.heard = None);
    }

    /// Takes frames and answers them; waits until `end` at most if there are none.
    fn turn(&mut self, end: Instant) -> Result<()> {
        let mut taken = 0;
        while taken < TURN
            && let Some((_, content)) = self.guest.mock.take_used(HOST_TO_GUEST)?
        {
            let segment = content.get(VnetHeader::LENGTH..).and_then(Tcp::parse);
            segment.map_or(Ok(()), |segment| self.hear(&segment))?;
            taken += 1;
        }
        if taken > 0 {
            self.guest.mock.post_buffers()?;
        }
        self.answer()?;
        let left = end.saturating_duration_since(Instant::now());
        if taken == 0 && !left.is_zero() {
            let mock = &mut self.guest.mock;
            let calls = [HOST_TO_GUEST, GUEST_TO_HOST].map(|index| mock.ring(index).call.as_raw_fd());
            // Room in the transmit ring is of interest only to those that owe.
            let calls = if self.owing.is_empty() { &calls[..1] } else { &calls[..] };
            sys::wait_any_readable(calls, left)?;
            for index in [HOST_TO_GUEST, GUEST_TO_HOST] {
                drop(self.guest.mock.ring(index).call.read());
            }
        }
        Ok(())
    }

    fn hear(&mut self, segment: &Tcp) -> Result<()> {
        let index = usize::from(segment.ports.1.wrapping_sub(FIRST_PORT));
        let Some(end) = self.ends.get_mut(index) else { return Ok(()) };
        let before = end.heard;
        let owes = end.hear(segment).with_context(|| format!("connection {index}"))?;
        if !segment.text.is_empty() {
            self.newest = Some(Instant::now());
        }
        self.heard += usize::from(before.is_none() && end.heard.is_some());
        if owes {
            self.owe(index);
        }
        Ok(())
    }

    fn owe(&mut self, index: usize) {
        if !std::mem::replace(&mut self.ends[index].owes, true) {
            self.owing.push_back(index);
        }
    }

    /// Sends what is owed, as far as the transmit ring has room.
    fn answer(&mut self) -> Result<()> {
        let mock = &mut self.guest.mock;
        while !self.owing.is_empty() && mock.take_used(GUEST_TO_HOST)?.is_some() {}
        let ring = mock.ring(GUEST_TO_HOST);
        let room = ring.size - ring.outstanding();
        if room == 0 || self.owing.is_empty() {
            return Ok(());
        }
        for _ in 0..room {
            let Some(index) = self.owing.pop_front() else { break };
            let segment = self.ends[index].answer();
            let frame = self.guest.frame(HOST, &segment);
            self.guest.mock.queue_frame_on(0, &VnetHeader::default(), &frame)?;
        }
        self.guest.mock.notify_on(0)
    }
}

/// Pause of the far ends for each connection, between two rounds of theirs.
const FAR_PAUSE: Duration = Duration::from_micros(50);
