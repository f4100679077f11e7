//! A port's state on its way to another host, or from one (vhost-user specification, "Migrating back-end state").
//!
//! The VMM passes the end of a pipe, and asks by CHECK_DEVICE_STATE how it went. The bytes go through a thread of their own: neither the
//! control side nor the session waits for a VMM that does not read or write.
use crate::sys::{set_non_blocking, wait_ready};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use vonic_record::{Whom, work_for};

/// The longest state, in bytes: what legs and their queues can make is below.
pub const STATE_MAX: usize = 1 << 30;
/// Bytes of states that VMMs are sending now. All of them together have the room of one: else each VMM could have so much of the host's memory.
static COMING: Room = Room { most: STATE_MAX, taken: AtomicUsize::new(0) };
/// How long a VMM may leave the pipe as it is. A source's bytes come by its network.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long the control side may take to put the state together, or to take it in.
const WORK_LIMIT: Duration = Duration::from_secs(5);
/// How long CHECK_DEVICE_STATE waits for a transfer that is not over; less than the front waits for the answer.
const CHECK_LIMIT: Duration = Duration::from_secs(8);
/// Between two looks whether the transfer is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// Read and written at once.
const CHUNK: usize = 256 * 1024;

/// A question for the port's state. Dropped, the answer is that there is none.
#[derive(Debug)]
pub struct SaveRequest(Sender<Result<Vec<u8>, String>>);

impl SaveRequest {
    /// Answers: at most [`STATE_MAX`] bytes, or why there are none, for the log.
    pub fn answer(self, state: Result<Vec<u8>, String>) {
        // Nobody waits any more: fine.
        let _ = self.0.send(state);
    }
}

/// A state to be taken in. Dropped, the answer is that it was not.
#[derive(Debug)]
pub struct LoadRequest {
    /// At most [`STATE_MAX`] bytes, from a host that is not to be trusted more than the guest.
    pub state: Vec<u8>,
    reply: Sender<Result<(), String>>,
}

impl LoadRequest {
    /// The state, and what is owed for it.
    pub fn take(self) -> (Vec<u8>, impl FnOnce(Result<(), String>) + Send + 'static) {
        let reply = self.reply;
        // Nobody waits any more: fine.
        (self.state, move |outcome| drop(reply.send(outcome)))
    }
}

/// A transfer that runs, or has run.
#[derive(Debug)]
pub struct Transfer {
    outcome: Receiver<Result<(), String>>,
    cancelled: Arc<AtomicBool>,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Transfer {
    /// Writes the state to a VM's `pipe` and closes it, once the request that is passed to `ask` is answered.
    ///
    /// # Errors
    /// The system's.
    pub fn save(pipe: (u64, File), ask: impl FnOnce(SaveRequest)) -> io::Result<Transfer> {
        let (reply, state) = channel();
        let transfer = Transfer::start(pipe, move |pipe| {
            let state: Vec<u8> = state.recv_timeout(WORK_LIMIT).map_err(|_| NO_ANSWER)??;
            if state.len() > STATE_MAX {
                return Err(format!("it has {} bytes: {STATE_MAX} are allowed", state.len()));
            }
            pipe.write(&state)
        })?;
        ask(SaveRequest(reply));
        Ok(transfer)
    }

    /// Reads a state from a VM's `pipe` to its end, and passes it to `tell`.
    ///
    /// # Errors
    /// The system's.
    pub fn load(pipe: (u64, File), tell: impl FnOnce(LoadRequest) + Send + 'static) -> io::Result<Transfer> {
        Transfer::start(pipe, move |pipe| {
            // Given back when the state has been taken in.
            let mut place = Place { room: &COMING, taken: 0 };
            let state = pipe.read(&mut place)?;
            let (reply, outcome) = channel();
            tell(LoadRequest { state, reply });
            outcome.recv_timeout(WORK_LIMIT).map_err(|_| NO_ANSWER)?
        })
    }

    fn start(
        (vm, file): (u64, File),
        work: impl FnOnce(&mut Pipe) -> Result<(), String> + Send + 'static,
    ) -> io::Result<Transfer> {
        set_non_blocking(file.as_fd())?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut pipe = Pipe { file, cancelled: Arc::clone(&cancelled) };
        let (reply, outcome) = channel();
        thread::Builder::new().name("vu-state".into()).spawn(move || {
            work_for(Whom::Vm(vm));
            let result = work(&mut pipe);
            // The VMM reads to the pipe's end, and asks then.
            drop(pipe);
            let _ = reply.send(result);
        })?;
        Ok(Transfer { outcome, cancelled })
    }

    /// How it went. Waits for the end.
    ///
    /// # Errors
    /// Why the state was not transferred.
    pub fn check(self) -> Result<(), String> {
        self.outcome.recv_timeout(CHECK_LIMIT).map_err(|_| "the transfer has not come to an end".to_string())?
    }
}

const NO_ANSWER: &str = "no answer about it";

/// Room for bytes that several take.
#[derive(Debug)]
struct Room {
    most: usize,
    taken: AtomicUsize,
}

/// What one of them has taken; given back when it is dropped.
#[derive(Debug)]
struct Place<'a> {
    room: &'a Room,
    taken: usize,
}

impl Place<'_> {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        let most = self.room.most;
        self.taken += bytes;
        if self.room.taken.fetch_add(bytes, Ordering::Relaxed) + bytes <= most {
            return Ok(());
        }
        match self.taken > most {
            true => Err(format!("it has more than {most} bytes")),
            false => Err(format!("it and others that come now have more than {most} bytes; try again later")),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// The VMM's pipe, non-blocking.
struct Pipe {
    file: File,
    cancelled: Arc<AtomicBool>,
}

impl Pipe {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let most = bytes.len().min(CHUNK);
            let n = self.when_ready(libc::POLLOUT, |file| file.write(&bytes[..most]))?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn read(&mut self, place: &mut Place<'_>) -> Result<Vec<u8>, String> {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; CHUNK]);
        loop {
            let n = self.when_ready(libc::POLLIN, |file| file.read(&mut chunk))?;
            if n == 0 {
                return Ok(bytes);
            }
            place.take(n)?;
            bytes.extend_from_slice(&chunk[..n]);
        }
    }

    /// Tries until it works, fails, is not wanted any more, or the other end has done nothing for too long.
    fn when_ready(
        &mut self,
        events: libc::c_short,
        mut attempt: impl FnMut(&mut File) -> io::Result<usize>,
    ) -> Result<usize, String> {
        let end = Instant::now() + IDLE_LIMIT;
        loop {
            match attempt(&mut self.file) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                result => return result.map_err(|error| format!("the VMM's pipe: {error}")),
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Err("it was given up".into());
            }
            if Instant::now() > end {
                return Err(format!("the VMM's pipe has not moved for {IDLE_LIMIT:?}"));
            }
            wait_ready(self.file.as_fd(), events, LOOK);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn states_that_come_at_once_share_their_room() {
        let room = Room { most: 100, taken: AtomicUsize::new(0) };
        let place = || Place { room: &room, taken: 0 };
        let (mut one, mut other) = (place(), place());
        assert_eq!((one.take(60), other.take(40)), (Ok(()), Ok(())));
        assert!(other.take(1).unwrap_err().contains("others"));
        drop(other);
        assert_eq!(one.take(40), Ok(()), "what the other had is free again");
        assert!(one.take(1).unwrap_err().contains("it has more than 100 bytes"));
        drop(one);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }
}
