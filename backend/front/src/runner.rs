//! Hooks are run by a process of their own, which is made before the engine is: the engine's list of system calls lets it run nothing, and
//! whatever it started would inherit that list (ADR 0025).
//!
//! The process waits for errands, has each done by a process that it forks, and ends when nobody can give it errands any more. It shares
//! no descriptor with master and engine but the socket that these come by. An errand is done only if the operator's files name its program.
use crate::sys::{self, Cloned};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Between two looks at a command that runs, and at whether it is still wanted.
const LOOK: Duration = Duration::from_millis(2);
/// How much longer than the command itself the process that looks after it may take.
const GRACE: Duration = Duration::from_secs(2);
/// Of a command's output, so much is told at most.
const OUTPUT_MAX: u64 = 4096;
/// The longest message.
const MAX_MESSAGE: usize = 64 * 1024;

/// A command to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// The program, by its whole path, and its arguments.
    pub command: Vec<String>,
    /// What its environment has besides vonicd's own.
    pub environment: Vec<(String, String)>,
    /// How long it may take; it is killed then.
    pub limit: Duration,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It ended with this status (wait(2)), and has written so.
    Ended(i32, String),
    /// It was killed: its time was up, or nobody wanted it any more. What it had written.
    Killed(String),
    /// It was not started; why.
    NotStarted(String),
}

impl Ending {
    /// The status with which it ended by itself, if it did.
    pub fn status(&self) -> Option<ExitStatus> {
        match self {
            Ending::Ended(status, _) => Some(ExitStatus::from_raw(*status)),
            _ => None,
        }
    }
}

/// Says of a command, program and arguments, whether the operator wants it to be run.
pub type Judge = dyn Fn(&[String]) -> bool;

/// Which commands may be run.
#[derive(Clone)]
pub struct Permitted(pub Arc<Judge>);

impl Default for Permitted {
    /// None is.
    fn default() -> Permitted {
        Permitted(Arc::new(|_| false))
    }
}

impl fmt::Debug for Permitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permitted")
    }
}

/// Gives errands to the process that does them. Clones give them to the same one.
#[derive(Clone, Debug)]
pub struct Runner(Arc<UnixDatagram>);

impl Runner {
    /// Makes the process. The caller has a single thread.
    pub(crate) fn start(permitted: &Permitted) -> io::Result<Runner> {
        let (ours, theirs) = sys::seqpacket_pair()?;
        match sys::fork()? {
            Cloned::Child => {
                // Nobody waits for a grandchild: it is no child of the master's, which kills all that it has where an upgrade fails.
                if let Ok(Cloned::Child) = sys::fork() {
                    sys::close_all_but(theirs.as_raw_fd());
                    std::mem::forget(ours); // It was closed with the others.
                    do_errands(&UnixDatagram::from(theirs), permitted);
                }
                sys::exit_now(0);
            }
            Cloned::Parent(pid) => sys::wait_for(pid)?,
        }
        Ok(Runner(Arc::new(UnixDatagram::from(ours))))
    }

    /// Has a command run, and waits for its end, or until it is `cancelled`.
    ///
    /// # Errors
    /// The process that should do it is gone or does not answer.
    pub fn run(&self, errand: &Errand, cancelled: &AtomicBool) -> io::Result<Ending> {
        let text = serde_json::to_vec(errand)?;
        if text.len() > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (ours, theirs) = sys::seqpacket_pair()?;
        let sent = self.0.send_with_fds(&[&text[..]], &[theirs.as_raw_fd()]);
        sent.map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        drop(theirs);
        let answer = UnixDatagram::from(ours);
        answer.set_read_timeout(Some(LOOK))?;
        let (until, mut told) = (Instant::now() + errand.limit + GRACE, false);
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            match answer.recv(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => return Ok(serde_json::from_slice(&buffer[..length])?),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if !told && cancelled.load(Ordering::Relaxed) {
                told = true;
                // If it has just ended there is an answer, too.
                let _ = answer.send(&[0]);
            }
        }
    }
}

/// The process: reads errands until nobody is left who could give any.
fn do_errands(errands: &UnixDatagram, permitted: &Permitted) {
    sys::forget_children(true);
    let (mut buffer, mut fds) = (vec![0; MAX_MESSAGE], Vec::new());
    loop {
        fds.clear();
        match sys::receive_many(errands.as_fd(), &mut buffer, &mut fds) {
            Ok(0) => return,
            Ok(length) => {
                let Some(answer) = fds.pop() else { continue };
                // Where there is no process for it, the closed socket is the answer.
                if let Ok(Cloned::Child) = sys::fork() {
                    sys::forget_children(false);
                    do_errand(&buffer[..length], &UnixDatagram::from(answer), permitted);
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn do_errand(text: &[u8], answer: &UnixDatagram, permitted: &Permitted) {
    let ending = match serde_json::from_slice::<Errand>(text) {
        Ok(errand) if permitted.0(&errand.command) => run(&errand, answer),
        Ok(_) => Ending::NotStarted("vonic.toml does not name this command".into()),
        Err(e) => Ending::NotStarted(e.to_string()),
    };
    // An engine that is gone needs none.
    let _ = serde_json::to_vec(&ending).map(|text| answer.send(&text));
}

fn run(errand: &Errand, answer: &UnixDatagram) -> Ending {
    let Some((program, arguments)) = errand.command.split_first() else {
        return Ending::NotStarted("there is no command".into());
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(errand.environment.iter().map(|(name, value)| (name, value)));
    sys::close_on_exec(&mut command);
    match command.spawn() {
        Ok(mut child) => match wait(&mut child, Instant::now() + errand.limit, answer) {
            Some(status) => Ending::Ended(status.into_raw(), output(&mut child)),
            None => Ending::Killed(output(&mut child)),
        },
        Err(e) => Ending::NotStarted(e.to_string()),
    }
}

fn wait(child: &mut Child, until: Instant, answer: &UnixDatagram) -> Option<ExitStatus> {
    let no_waiting = answer.set_nonblocking(true);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        // An engine that has died meanwhile says nothing; what it has begun is ended in order.
        let unwanted = no_waiting.is_ok() && answer.recv(&mut [0; 1]).is_ok_and(|length| length > 0);
        if Instant::now() >= until || unwanted {
            // It may have ended just now: fine.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(LOOK);
    }
}

/// What it has written, as far as it is there: somebody that it has left behind may hold the pipes.
fn output(child: &mut Child) -> String {
    let mut text = String::new();
    for pipe in [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)] {
        let Some(pipe) = pipe else { continue };
        if sys::do_not_wait(pipe.as_fd()).is_ok() {
            let mut bytes = Vec::new();
            // Ends with an error where nothing more is there yet.
            let _ = std::fs::File::from(pipe).take(OUTPUT_MAX).read_to_end(&mut bytes);
            text.push_str(String::from_utf8_lossy(&bytes).trim());
        }
    }
    text
}
