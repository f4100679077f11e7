//! An engine's death, and how long every connection waits for its next byte.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use super::{Crowd, TURN};
use crate::vonicd::Vonicd;
use crate::{seconds, sys};

/// How long a connection may wait before it is taken for lost.
const LOST: Duration = seconds(20);

/// How an engine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// By SIGKILL, and at that moment each connection has bytes waiting in its socket.
    Kill,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Takeover {
    /// When the dead engine's pidfd became readable, by the clock of the logs.
    pub died: SystemTime,
    /// How long it took to die: it has its memory to unmap.
    pub dying: Duration,
    /// From its death to each connection's first new byte, the shortest first.
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
    pub fn takeover(&mut self, vonicd: &Vonicd, blow: Blow) -> Result<Takeover> {
        let engine = vonicd.engine()?;
        let pidfd = sys::pidfd(engine).context("the engine's pidfd")?;
        match blow {
            Blow::Kill => {
                // It stands still while every far end says something, so that all have bytes for the next one.
                sys::kill(engine, libc::SIGSTOP)?;
                self.far.round()?;
                self.drain()?;
                self.forget();
            }
        }
        let struck = Instant::now();
        sys::kill(engine, libc::SIGKILL)?;
        ensure!(sys::wait_readable(pidfd.as_raw_fd(), LOST)?, "the engine does not die");
        let died = Instant::now();
        let wall = SystemTime::now();
        let count = self.len();
        self.serve_until("new byte on every connection", LOST, |crowd| Ok(crowd.heard == count))?;
        let mut waits: Vec<Duration> =
            self.ends.iter().filter_map(|end| end.heard).map(|at| at.saturating_duration_since(died)).collect();
        waits.sort_unstable();
        Ok(Takeover { died: wall, dying: died - struck, waits })
    }

    /// Takes what the stopped engine has sent already.
    fn drain(&mut self) -> Result<()> {
        // A turn takes at most so many frames, and no more come.
        for _ in 0..=256 / TURN {
            self.turn(Instant::now())?;
        }
        Ok(())
    }
}
