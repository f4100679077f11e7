//! netperf in a guest.
use std::time::{Duration, Instant};

use crate::{Guest, Result, ensure, seconds};

/// How often a test of connections may be begun.
const TRIES: usize = 3;

/// One of netperf's tests, for so many seconds, with more arguments; what it says. It has to succeed within `margin` more.
///
/// A test of connections (TCP_CRR) is begun again if it ended in a reset when its time was over: netperf gives up a connect that it is in the middle of
/// then. By that time whoever relays TCP has opened the connection at the server, and has to reset it, which the server takes for a failure.
///
/// # Errors
/// If it does not; with what it says.
pub fn netperf(guest: &mut Guest, test: &str, host: &str, time: u64, more: &str, margin: Duration) -> Result<String> {
    let (command, limit) = (format!("netperf -P 0 -H {host} -t {test} -l {time} {more}"), seconds(time) + margin);
    let mut tries = 0;
    loop {
        tries += 1;
        let begin = Instant::now();
        let output = guest.run(&command, limit)?;
        if output.status == 0 {
            return Ok(output.stdout);
        }
        let given_up =
            test == "TCP_CRR" && begin.elapsed() >= seconds(time) && output.stdout.contains("remote error 104");
        ensure!(given_up && tries < TRIES, "`{command}` ended with status {}:\n{}", output.status, output.stdout);
    }
}
