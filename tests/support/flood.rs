//! Seven ports that send each other frames, and an eighth that floods, or burns as much processor time without a frame.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::bed::Bed;
use crate::frames::{self, Mac, ip4, mac};
use crate::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader};
use crate::vonicd::TestConfig;
use crate::{sys, usage};

/// How many neighbours there are.
const NEIGHBOURS: usize = 7;
/// Frames that each of them has on the way to the next one.
const WINDOW: usize = 16;
/// The flooder's pause between two bursts.
const PAUSE: Duration = Duration::from_micros(500);
/// Nobody has it.
const NOBODY: Mac = [0x52, 0x54, 0, 0, 1, 0];

/// What the eighth does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Nothing.
    None,
    /// So many frames a second, for nobody.
    Frames(u64),
    /// So much of a processor, its NIC untouched.
    Burnt(f64),
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Frames a second that the neighbours received, all together.
    pub rate: f64,
    /// Frames a second that the flooder's device took.
    pub sent: f64,
    /// How much of a processor the flooder took itself.
    pub share: f64,
}

/// The ports and their service.
pub struct Neighbours {
    flooder: MockFrontend,
    others: Vec<MockFrontend>,
    /// Frames that each may send.
    credits: Vec<usize>,
    bed: Bed,
}

fn number(place: usize) -> u8 {
    3 + place as u8
}

fn name(place: usize) -> String {
    format!("n{place}")
}

impl Neighbours {
    /// Starts all of them.
    ///
    /// # Errors
    /// If a part is missing or does not start.
    pub fn start() -> Result<Neighbours> {
        let config = TestConfig::default().vm("flooder", 2, "");
        let places = 0..NEIGHBOURS;
        let bed = Bed::start(&places.clone().fold(config, |config, at| config.vm(&name(at), number(at), "")))?;
        let flooder = bed.mock("flooder", MockConfig::default())?;
        let others = places.map(|at| bed.mock(&name(at), MockConfig::default())).collect::<Result<_>>()?;
        Ok(Neighbours { flooder, others, credits: vec![WINDOW; NEIGHBOURS], bed })
    }

    /// The service.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The neighbours go on for `time`, and the eighth does what it is told to.
    ///
    /// # Errors
    /// If a frame of theirs does not arrive.
    pub fn beside(&mut self, load: Load, time: Duration) -> Result<Run> {
        let stop = AtomicBool::new(false);
        let Neighbours { flooder, others, credits, .. } = self;
        let mut ring = Ring { others, credits, received: 0, newest: Instant::now() };
        thread::scope(|scope| {
            let eighth = scope.spawn(|| work(flooder, load, &stop));
            let began = Instant::now();
            let result = ring.run(began + time);
            let rate = ring.received as f64 / began.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            let (sent, share) = eighth.join().map_err(|_| anyhow!("the flooder's thread"))??;
            result.map(|()| Run { rate, sent, share })
        })
    }
}

/// Each sends to the next one, and sends another frame for each that has arrived there.
struct Ring<'a> {
    others: &'a mut [MockFrontend],
    credits: &'a mut [usize],
    received: u64,
    newest: Instant,
}

impl Ring<'_> {
    fn run(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            let before = self.received;
            (0..NEIGHBOURS).try_for_each(|at| self.turn(at))?;
            if self.received > before {
                self.newest = Instant::now();
                continue;
            }
            ensure!(self.newest.elapsed() < Duration::from_secs(5), "nothing arrives: {:?} may be sent", self.credits);
            let calls: Vec<_> = self.others.iter_mut().map(|mock| mock.ring(HOST_TO_GUEST).call.as_raw_fd()).collect();
            sys::wait_any_readable(&calls, Duration::from_millis(10))?;
            for mock in self.others.iter_mut() {
                drop(mock.ring(HOST_TO_GUEST).call.read());
            }
        }
        Ok(())
    }

    fn turn(&mut self, at: usize) -> Result<()> {
        let next = (at + 1) % NEIGHBOURS;
        let before = (at + NEIGHBOURS - 1) % NEIGHBOURS;
        let mock = &mut self.others[at];
        while mock.take_used(GUEST_TO_HOST)?.is_some() {}
        while mock.take_used(HOST_TO_GUEST)?.is_some() {
            self.received += 1;
            self.credits[before] += 1;
        }
        mock.post_buffers()?;
        let (from, to) = (number(at), number(next));
        let frame = frames::ping((mac(from), mac(to)), ip4(from), ip4(to), 1, &[0; 22]);
        for _ in 0..std::mem::take(&mut self.credits[at]) {
            mock.queue_frame_on(0, &VnetHeader::default(), &frame)?;
        }
        mock.notify_on(0)
    }
}

/// Frames a second, and the share of a processor that it took.
fn work(mock: &mut MockFrontend, load: Load, stop: &AtomicBool) -> Result<(f64, f64)> {
    let frame = frames::ping((mac(2), NOBODY), ip4(2), ip4(200), 1, &[0; 22]);
    let (began, before) = (Instant::now(), usage::thread_time()?);
    let (mut due, mut sent) = (0, 0u64);
    while !stop.load(Ordering::Relaxed) {
        let passed = began.elapsed().as_secs_f64();
        match load {
            Load::None => {}
            Load::Frames(rate) => {
                while mock.take_used(GUEST_TO_HOST)?.is_some() {}
                let ring = mock.ring(GUEST_TO_HOST);
                let room = u64::from(ring.size - ring.outstanding());
                // What finds no room is given up: the rate does not grow later for it.
                let all = (passed * rate as f64) as u64;
                let now = (all - due).min(room);
                (0..now).try_for_each(|_| mock.queue_frame_on(0, &VnetHeader::default(), &frame).map(drop))?;
                mock.notify_on(0)?;
                (due, sent) = (all, sent + now);
            }
            Load::Burnt(share) => while (usage::thread_time()? - before).as_secs_f64() < passed * share {},
        }
        thread::sleep(PAUSE);
    }
    let passed = began.elapsed().as_secs_f64();
    Ok((sent as f64 / passed, (usage::thread_time()? - before).as_secs_f64() / passed))
}
