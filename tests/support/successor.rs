//! A vonicd that has taken over from the one that a test has started: no child of the test's, until its parent has ended.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys;
use crate::wait::wait_for;

/// Such a vonicd. Killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Successor {
    pid: u32,
    ended: bool,
}

impl Successor {
    /// Of a process whose parent is about to end or has ended. [`adopt_orphans`] was called before.
    pub(crate) fn new(pid: u32) -> Successor {
        Successor { pid, ended: false }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        sys::kill(self.pid, signal).with_context(|| format!("signal {signal} to process {}", self.pid))
    }

    /// Waits for its end; the code with which it ended, or the signal's number below zero.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<i32> {
        let code = wait_for("the end of the newer vonicd", limit, || Ok(sys::reap(self.pid)?))?;
        self.ended = true;
        Ok(code)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.signal(libc::SIGKILL));
            drop(self.wait(Duration::from_secs(5)));
        }
    }
}

/// From here on processes whose parents have ended are this one's children.
pub(crate) fn adopt_orphans() -> Result<()> {
    sys::adopt_orphans().context("becoming a subreaper")
}
