//! Starting master and engine, and what is left when they end.
use crate::channel::{EngineLink, MasterLink};
use crate::master::Master;
use crate::sys::{self, Cloned, Signals};
use event_manager::{EventManager, SubscriberOps};
use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// What the master needs to know.
#[derive(Clone, Debug, Default)]
pub struct MasterConfig {
    /// Where the running engine's process number is written, if anywhere.
    pub engine_pid_file: Option<PathBuf>,
}

/// Why the master ended.
#[derive(Debug)]
pub enum MasterError {
    /// The engine was ended by a signal that the master did not ask it to obey.
    EngineDied {
        /// Its number.
        signal: i32,
    },
    /// The process has other threads already, which a copy of it would lack while their locks stay locked.
    Threads(usize),
    /// Something that the master cannot do without.
    System(&'static str, io::Error),
    /// The event loop.
    Events(event_manager::Error),
    /// The master's thread ended badly (standalone only).
    Thread,
}

impl fmt::Display for MasterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterError::EngineDied { signal } => write!(f, "the engine died by signal {signal}"),
            MasterError::Threads(count) => {
                write!(f, "the process has {count} threads; the engine can only be started from a single one")
            }
            MasterError::System(what, e) => write!(f, "{what}: {e}"),
            MasterError::Events(e) => write!(f, "the master's event loop failed: {e}"),
            MasterError::Thread => write!(f, "the master's thread ended badly"),
        }
    }
}

impl Error for MasterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            MasterError::System(_, e) => Some(e),
            MasterError::Events(e) => Some(e),
            _ => None,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> MasterError {
    move |e| MasterError::System(what, e)
}

/// Runs the master until the engine ends: by itself, or after SIGTERM or SIGINT (SIGHUP is passed on as Reload).
///
/// The engine is a child of this process that shares its descriptor table. `engine` runs in it and never returns here: the
/// child ends with the code that it gives, and without running a destructor. Returns that code; all sockets are gone then.
///
/// # Errors
/// [`MasterError::EngineDied`] if the engine was killed; [`MasterError::Threads`] if this process is not single-threaded
/// at the call.
pub fn run(config: MasterConfig, engine: impl FnOnce(EngineLink) -> i32) -> Result<i32, MasterError> {
    let threads = fs::read_dir("/proc/self/task").map_err(system("threads cannot be counted"))?.count();
    if threads != 1 {
        return Err(MasterError::Threads(threads));
    }
    sys::raise_descriptor_limit().map_err(system("the limit of descriptors cannot be raised"))?;
    let (signals, _) = Signals::new().map_err(system("signals cannot be received"))?;
    let (ours, theirs) = sys::seqpacket_pair().map_err(system("no control channel"))?;
    let parent = std::process::id() as i32;
    let theirs = EngineLink::new(theirs);
    let pid = match sys::clone_sharing_files().map_err(system("the engine cannot be created"))? {
        Cloned::Child => sys::exit_now(be_engine(parent, theirs, engine)),
        Cloned::Parent(pid) => pid,
    };
    theirs.leak(); // The table is shared: closed here, it would be closed there.
    let pidfd = sys::pidfd_open(pid).map_err(system("the engine cannot be watched"))?;
    let pid_file = config.engine_pid_file.as_deref().map(|path| PidFile::write(path, pid)).transpose();
    let pid_file = pid_file.map_err(system("the engine's pid file cannot be written"));
    let link = MasterLink::new(ours).map_err(system("no control channel"));
    let (_pid_file, link) = match (pid_file, link) {
        (Ok(pid_file), Ok(link)) => (pid_file, link),
        (Err(e), _) | (_, Err(e)) => {
            end_engine(&pidfd);
            return Err(e);
        }
    };
    serve(signals, link, Some(pidfd))
}

/// The engine's first steps. Nothing of the master's may be dropped in this process.
fn be_engine(parent: i32, link: EngineLink, engine: impl FnOnce(EngineLink) -> i32) -> i32 {
    sys::leave_to_master();
    // A master that is gone must not leave a VMM hanging on an engine.
    if let Err(e) = sys::die_with_parent(parent).and_then(|()| sys::no_core_dump()) {
        log::error!("the engine cannot be bound to the master: {e}");
        return 1;
    }
    engine(link)
}

fn end_engine(pidfd: &OwnedFd) {
    use std::os::fd::AsFd;
    let _ = sys::kill(pidfd.as_fd());
    while let Ok(None) = sys::reap(pidfd.as_fd()) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// As [`run`], for debugging: the engine runs on the calling thread of this same process, the master on one of its own.
///
/// # Errors
/// As [`run`].
pub fn run_standalone(config: MasterConfig, engine: impl FnOnce(EngineLink) -> i32) -> Result<i32, MasterError> {
    let (signals, mask) = Signals::new().map_err(system("signals cannot be received"))?;
    let (ours, theirs) = sys::seqpacket_pair().map_err(system("no control channel"))?;
    let theirs = EngineLink::new(theirs);
    let hook = theirs.try_clone().map_err(system("no control channel"))?;
    let pid = std::process::id() as i32;
    let pid_file = config.engine_pid_file.as_deref().map(|path| PidFile::write(path, pid)).transpose();
    let _pid_file = pid_file.map_err(system("the engine's pid file cannot be written"))?;
    let master = move || {
        let link = MasterLink::new(ours).map_err(system("no control channel"))?;
        serve(signals, link, None)
    };
    let master = thread::Builder::new().name("master".into()).spawn(master);
    let master = master.map_err(system("the master cannot be started"))?;
    let code = engine(theirs);
    hook.shutdown(); // The engine may have left a thread that reads the channel.
    mask.restore();
    match master.join() {
        Ok(outcome) => outcome.map(|_| code),
        Err(_) => Err(MasterError::Thread),
    }
}

fn serve(signals: Signals, link: MasterLink, engine: Option<OwnedFd>) -> Result<i32, MasterError> {
    let master = Rc::new(RefCell::new(Master::new(signals, link, engine)));
    let mut manager = EventManager::new().map_err(MasterError::Events)?;
    let id = manager.add_subscriber(Rc::clone(&master));
    loop {
        let due = master.borrow().next_due();
        manager.run_with_timeout(due.map_or(-1, milliseconds_until)).map_err(MasterError::Events)?;
        if let Some(outcome) = master.borrow_mut().outcome() {
            return outcome;
        }
        let mut ops = manager.event_ops(id).map_err(MasterError::Events)?;
        master.borrow_mut().tick(Instant::now(), &mut ops);
    }
}

/// Rounded up, so that what is due is due on waking.
fn milliseconds_until(due: Instant) -> i32 {
    let left = due.saturating_duration_since(Instant::now());
    i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}

/// A file with the engine's process number, removed when this is dropped.
struct PidFile(PathBuf);

impl PidFile {
    /// Readers see the old file or the new one, never half of it.
    fn write(path: &Path, pid: i32) -> io::Result<PidFile> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, format!("{pid}\n"))?;
        fs::rename(&new, path)?;
        Ok(PidFile(path.to_path_buf()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
