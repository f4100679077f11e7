//! The guest's console: a stream of bytes on which a shell takes commands and answers between markers (guest/init.sh).

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Heard>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both directions of a console; everything heard is kept.
pub(crate) struct Console {
    input: ChildStdin,
    shared: Arc<Shared>,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 137 if it ran longer than allowed and was killed.
    pub status: i32,
    /// Standard output and standard error, without the last line's end.
    pub stdout: String,
}

impl Console {
    pub(crate) fn new(input: ChildStdin, mut output: ChildStdout) -> Console {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let got = output.read(&mut buffer).unwrap_or(0);
                let mut heard = writer.lock();
                heard.bytes.extend_from_slice(&buffer[..got]);
                heard.closed = got == 0;
                writer.more.notify_all();
                if got == 0 {
                    return;
                }
            }
        });
        Console { input, shared }
    }

    /// Everything heard so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }

    /// How many bytes were heard so far.
    pub(crate) fn position(&self) -> usize {
        self.shared.lock().bytes.len()
    }

    /// Waits until `find` sees in the text from `from` on what it looks for.
    pub(crate) fn expect<T>(&self, from: usize, limit: Duration, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        let end = Instant::now() + limit;
        let mut heard = self.shared.lock();
        loop {
            if let Some(found) = find(&String::from_utf8_lossy(&heard.bytes[from..])) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if heard.closed {
                bail!("the guest has ended");
            }
            if left.is_zero() {
                bail!("no answer on the console within {limit:?}");
            }
            heard = self.shared.more.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes one request line and waits for its answer.
    pub(crate) fn ask(&mut self, id: u32, mode: &str, command: &str, limit: Duration) -> Result<Output> {
        if command.contains('\n') || command.len() > 3000 {
            bail!("a command is one line of at most 3000 bytes: {command:?}");
        }
        let from = self.position();
        self.input.write_all(format!("{id} {mode} {command}\n").as_bytes())?;
        self.input.flush()?;
        let begin = format!("@@BEGIN {id}\n");
        let end = format!("\n@@END {id} ");
        self.expect(from, limit, |text| {
            let (_, text) = text.split_once(&begin)?;
            // The marker's own line end comes first, so that output which ends without one keeps its last line.
            let at = text.find(&end)?;
            let status = text[at + end.len()..].split_once('\n')?.0.trim().parse().ok()?;
            Some(Output { status, stdout: text[..at].trim_end_matches('\n').to_string() })
        })
    }
}
