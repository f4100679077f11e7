//! An engine's death, and how long every connection waits for its next byte.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};

use super::{Crowd, TURN};
use crate::vonicd::Vonicd;
use crate::{seconds, sys};

/// How long a connection may wait before it is taken for lost.
const LOST: Duration = seconds(20);

/// The pause of the one far end that speaks while an engine is replaced.
const RESTLESS: Duration = Duration::from_millis(1);

/// How an engine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// By SIGKILL, and at that moment each connection has bytes waiting in its socket.
    Kill,
    /// By `vonic engine restart`; at the old engine's end every far end says something.
    Restart,
    /// The same by `vonic upgrade`, to a copy of the same program.
    Upgrade,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Takeover {
    /// When it began: the dead engine's pidfd became readable; of one that was to lay everything down, the last byte came. By the clock of the
    /// logs.
    pub since: SystemTime,
    /// How long it took to die before: it has its memory to unmap.
    pub dying: Duration,
    /// From there to each connection's first new byte, the shortest first.
    pub waits: Vec<Duration>,
}

impl Takeover {
    /// Until the first connection had a new byte.
    pub fn first(&self) -> Duration {
        self.waits.first().copied().unwrap_or_default()
    }

    /// Until the last one had.
    pub fn last(&self) -> Duration {
        self.waits.last().copied().unwrap_or_default()
    }
}

impl Crowd {
    /// Ends the engine, and serves until each connection has had a new byte of the next one.
    ///
    /// # Errors
    /// If a connection does not go on, or its bytes are not those that were sent.
    pub fn takeover(&mut self, vonicd: &mut Vonicd, blow: Blow) -> Result<Takeover> {
        let engine = vonicd.engine()?;
        let pidfd = sys::pidfd(engine).context("the engine's pidfd")?;
        let (since, dying) = match blow {
            Blow::Kill => self.kill(engine, &pidfd)?,
            Blow::Restart => {
                (self.replace(|| vonicd.vonic_text(&["engine", "restart"]).map(drop), &pidfd)?, Duration::ZERO)
            }
            Blow::Upgrade => {
                let program = Vonicd::program(false)?;
                (self.replace(|| vonicd.upgrade(&program), &pidfd)?, Duration::ZERO)
            }
        };
        let wall = SystemTime::now() - since.elapsed();
        let count = self.len();
        self.serve_until("new byte on every connection", LOST, |crowd| Ok(crowd.heard == count))?;
        let ends = self.ends.iter().filter_map(|end| end.heard);
        let mut waits: Vec<Duration> = ends.map(|at| at.saturating_duration_since(since)).collect();
        waits.sort_unstable();
        Ok(Takeover { since: wall, dying, waits })
    }

    /// When it was dead, and how long that took.
    fn kill(&mut self, engine: u32, pidfd: &OwnedFd) -> Result<(Instant, Duration)> {
        // It stands still while every far end says something, so that all have bytes for the next one.
        sys::kill(engine, libc::SIGSTOP)?;
        self.far.round()?;
        self.drain()?;
        self.forget();
        let struck = Instant::now();
        sys::kill(engine, libc::SIGKILL)?;
        ensure!(sys::wait_readable(pidfd.as_raw_fd(), LOST)?, "the engine does not die");
        let died = Instant::now();
        Ok((died, died - struck))
    }

    /// When the last byte of the old engine came.
    fn replace(&mut self, ask: impl FnOnce() -> Result<()> + Send, pidfd: &OwnedFd) -> Result<Instant> {
        let (count, pause) = (self.len(), self.pause());
        // One tells how long the old engine serves; the others' rounds would only be in its way.
        self.far.speak(1, RESTLESS)?;
        thread::scope(|scope| {
            let asked = scope.spawn(ask);
            let end = Instant::now() + LOST;
            while !sys::wait_readable(pidfd.as_raw_fd(), Duration::ZERO)? {
                ensure!(Instant::now() < end, "the engine is not replaced");
                self.turn(Instant::now() + Duration::from_millis(1))?;
            }
            let _round = self.far.begin_round()?;
            self.drain()?;
            self.forget();
            let last = self.newest.unwrap_or_else(Instant::now);
            // The rest of the takeover is served before the answer is waited for.
            self.serve_until("new byte on every connection", LOST, |crowd| Ok(crowd.heard == count))?;
            self.far.speak(count, pause)?;
            self.serve(Duration::from_millis(100))?;
            asked.join().map_err(|_| anyhow!("who asked for another engine"))??;
            Ok(last)
        })
    }

    /// Takes what the engine has sent before its end.
    fn drain(&mut self) -> Result<()> {
        // A turn takes at most so many frames, and no more come.
        for _ in 0..=256 / TURN {
            self.turn(Instant::now())?;
        }
        Ok(())
    }
}
