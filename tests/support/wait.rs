//! Waiting, always with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `ready` every few milliseconds until it has an answer.
///
/// # Errors
/// If it has none after `limit`; the message names `what` was waited for. Errors of `ready` end the wait.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ready()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// [`wait_for`] a condition.
///
/// # Errors
/// If it does not hold within `limit`.
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(ready().then_some(())))
}
