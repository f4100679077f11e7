//! Starting master and engine, and what is left when they end.
use crate::channel::{Begin, EngineLink, MasterLink};
use crate::engine::{Maker, PidFile, Start, checkpoint};
use crate::master::Master;
use crate::runner::{Permitted, Runner};
use crate::service::ServiceManager;
use crate::sys::{self, Signals};
use crate::upgrade::Upgrade;
use event_manager::{EventManager, SubscriberOps};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};
use vonic_confinement::Capabilities;

/// How long master and control side work at a stretch before others have their turn: what they do is short, and guests wait for it.
pub(crate) const SHORT_TURN: Duration = Duration::from_micros(100);

/// What could not be done where a process cannot be confined.
pub(crate) const CONFINED: &str = "this process cannot be confined";

/// What the master needs to know.
#[derive(Clone, Debug, Default)]
pub struct MasterConfig {
    /// Where the running engine's process number is written, if anywhere.
    pub engine_pid_file: Option<PathBuf>,
    /// How a newer vonicd takes over from this one.
    pub upgrade: Upgrade,
    /// How long a worker may take to give a sign of life before the engine is held for dead; `None`: for ever.
    pub heartbeat: Option<Duration>,
    /// Whether a VM at whose port two engines died within ten minutes is left alone by the next.
    pub quarantine: bool,
    /// Which programs the engine may have run.
    pub hooks: Permitted,
    /// Which capabilities this process and all that it starts keep, of those that it has; `None`: all.
    pub capabilities: Option<Capabilities>,
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
    /// This vonicd could not take over from an older one, which goes on.
    TakeOver(String),
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
            MasterError::TakeOver(why) => write!(f, "not taking over: {why}"),
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

pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> MasterError {
    move |e| MasterError::System(what, e)
}

/// Runs the master until the engine ends after SIGTERM or SIGINT (SIGHUP is passed on as Reload), or before it has ever served.
/// An engine that ends later is followed by another one; the VMMs' connections stay.
///
/// The engine is a child of this process that shares its descriptor table. `engine` runs in it and never returns here: the
/// child ends with the code that it gives, and without running a destructor. Returns that code; all sockets are gone then.
///
/// # Errors
/// [`MasterError::EngineDied`] if the last engine was killed; [`MasterError::Threads`] if this process is not single-threaded
/// at the call.
pub fn run(config: MasterConfig, engine: impl Fn(EngineLink, Start) -> i32) -> Result<i32, MasterError> {
    alone()?;
    let runner = confine(&config, false)?;
    sys::take_turns_of(Some(SHORT_TURN));
    sys::map_large_blocks();
    sys::raise_descriptor_limit().map_err(system("the limit of descriptors cannot be raised"))?;
    let (signals, _) = Signals::new().map_err(system("signals cannot be received"))?;
    let manager = EventManager::new().map_err(MasterError::Events)?;
    let service = ServiceManager::find(false);
    let maker = Maker::new(Box::new(engine), config.engine_pid_file.as_deref(), runner, service.descriptors());
    let maker = maker.map_err(system("its own descriptors cannot be listed"))?;
    let engine = maker.start(None, &Begin::default())?;
    serve(manager, Master::new(signals, engine, maker, &config, service))
}

/// Gives up what this process will never need, and makes the one that runs hooks. `inherited`: it was started by an older vonicd.
pub(crate) fn confine(config: &MasterConfig, inherited: bool) -> Result<Runner, MasterError> {
    sys::no_new_privileges().map_err(system(CONFINED))?;
    // Without the list everything works as well: nothing of it was ever asked for.
    if let Err(e) = vonic_confinement::refuse_dangerous(inherited) {
        log::warn!("dangerous system calls are not refused: {e}");
    }
    if let Some(kept) = config.capabilities {
        let lost = vonic_confinement::keep_capabilities(kept).map_err(system(CONFINED))?;
        if !lost.is_empty() {
            log::info!("capabilities that a network card has no use for are given up");
        }
    }
    Runner::start(&config.hooks).map_err(system("there is no process for hooks"))
}

/// Whether this process can be cloned: it has one thread.
pub(crate) fn alone() -> Result<(), MasterError> {
    let threads = fs::read_dir("/proc/self/task").map_err(system("threads cannot be counted"))?.count();
    if threads == 1 { Ok(()) } else { Err(MasterError::Threads(threads)) }
}

/// As [`run`], for debugging: the engine runs on the calling thread of this same process, the master on one of its own.
///
/// # Errors
/// As [`run`].
pub fn run_standalone(config: MasterConfig, engine: impl FnOnce(EngineLink, Start) -> i32) -> Result<i32, MasterError> {
    let runner = confine(&config, false)?;
    let checkpoint = checkpoint().map_err(system("no checkpoint"))?;
    let (kept, blamed) = (BTreeMap::new(), BTreeMap::new());
    let start = Start { takes_over: false, checkpoint, kept, is_standalone: true, runner, blamed };
    let (signals, mask) = Signals::new().map_err(system("signals cannot be received"))?;
    let (ours, theirs) = sys::seqpacket_pair().map_err(system("no control channel"))?;
    let theirs = EngineLink::new(theirs);
    let hook = theirs.try_clone().map_err(system("no control channel"))?;
    let pid = std::process::id() as i32;
    let pid_file = config.engine_pid_file.map(PidFile);
    if let Some(Err(e)) = pid_file.as_ref().map(|file| file.write(pid)) {
        return Err(MasterError::System("the engine's pid file cannot be written", e));
    }
    let master = move || {
        let link = MasterLink::new(ours).map_err(system("no control channel"))?;
        serve(EventManager::new().map_err(MasterError::Events)?, Master::standalone(signals, link))
    };
    let master = thread::Builder::new().name("master".into()).spawn(master);
    let master = master.map_err(system("the master cannot be started"))?;
    let code = engine(theirs, start);
    hook.shutdown(); // The engine may have left a thread that reads the channel.
    mask.restore();
    match master.join() {
        Ok(outcome) => outcome.map(|_| code),
        Err(_) => Err(MasterError::Thread),
    }
}

pub(crate) fn serve<'a>(
    mut manager: EventManager<Rc<RefCell<Master<'a>>>>,
    master: Master<'a>,
) -> Result<i32, MasterError> {
    let master = Rc::new(RefCell::new(master));
    let id = manager.add_subscriber(Rc::clone(&master));
    loop {
        let due = master.borrow().next_due();
        manager.run_with_timeout(due.map_or(-1, milliseconds_until)).map_err(MasterError::Events)?;
        if !master.borrow().is_over() {
            let mut ops = manager.event_ops(id).map_err(MasterError::Events)?;
            master.borrow_mut().tick(Instant::now(), &mut ops);
        }
        if let Some(outcome) = master.borrow_mut().outcome() {
            return outcome;
        }
    }
}

/// Rounded up, so that what is due is due on waking.
fn milliseconds_until(due: Instant) -> i32 {
    let left = due.saturating_duration_since(Instant::now());
    i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}
