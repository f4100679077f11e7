//! One VM's vhost-user session in the engine.
//!
//! `vhost-user-backend`'s daemon keeps the protocol and the memory map; it starts no workers of its own. Its ring objects
//! are `ring::Ring`s, which turn each message about a ring into a [`PortEvent`]. Where the VMM must not go on before the
//! data path has let go of something, the daemon's thread waits for the event's [`Done`].
#![deny(unsafe_code)]

mod backend;
mod carried;
mod connect;
mod logging;
mod ring;
mod state;
mod sys;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vonic_queue::{DirtyLog, Done, MemoryMap, RingSetup, Waiter, handover};

pub use state::{LoadRequest, STATE_MAX, SaveRequest};

/// Guest memory as the daemon holds it.
pub(crate) type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

/// How long the data path may take to let go of a ring or a memory map. A round takes microseconds.
const HANDOVER_LIMIT: Duration = Duration::from_secs(5);

/// What a session offers.
#[derive(Clone, Debug)]
pub struct SessionSpec {
    /// The port's number, for events.
    pub port: u32,
    /// The session's number, for events.
    pub session: u64,
    /// The VM's name, for the thread's.
    pub name: String,
    /// Virtio features offered, with VHOST_USER_F_PROTOCOL_FEATURES (bit 30).
    pub features: u64,
    /// Pairs of queues.
    pub queue_pairs: u16,
    /// The guest's MAC address.
    pub mac: [u8; 6],
    /// The guest's MTU in bytes.
    pub mtu: u16,
}

/// An event of one session.
#[derive(Debug)]
pub struct SessionEvent {
    /// The port's number.
    pub port: u32,
    /// The session's number.
    pub session: u64,
    /// What happened.
    pub event: PortEvent,
}

/// Everything that vhost-user messages can do to a port.
#[derive(Debug)]
pub enum PortEvent {
    /// SET_FEATURES: the virtio bits that the driver acknowledged.
    Features(u64),
    /// A new memory map. The VMM is answered when the data path uses it.
    Memory(Arc<MemoryMap>, Done),
    /// Where what is written for the guest is to be logged, if it is. The VMM is answered when it is in force.
    Log {
        /// The log; none: nothing is logged.
        log: Option<Arc<DirtyLog>>,
        /// By queue index: where the VMM wants the used ring logged, a guest-physical address (VHOST_VRING_F_LOG).
        used: Vec<Option<u64>>,
        /// When it is in force.
        done: Done,
    },
    /// SEND_RARP: the guest has come from another host, and its driver does not announce it.
    Announce,
    /// The VMM wants the port's state, for another host (SET_DEVICE_STATE_FD). Every ring is stopped.
    Save(SaveRequest),
    /// The port's state, as it was saved on another host. There may be neither memory nor rings yet.
    Load(LoadRequest),
    /// A ring was started, or its descriptors or its enabled flag changed while it runs: its complete state.
    Ring {
        /// Queue index.
        index: u16,
        /// Where it lies, in guest-physical addresses.
        setup: RingSetup,
        /// Signalled by the driver; a duplicate, non-blocking.
        kick: Option<OwnedFd>,
        /// To be signalled; a duplicate, non-blocking.
        call: Option<OwnedFd>,
        /// Whether frames may pass.
        enabled: bool,
        /// If it was disabled: when the data path lets go of it. The VMM is answered then, since its driver may take the
        /// memory back; user-mode Linux stops rings in no other way.
        done: Option<Done>,
    },
    /// A ring was stopped (GET_VRING_BASE), or is being set up anew without that. The VMM is answered when the data path has let go of it.
    RingStopped {
        /// Queue index.
        index: u16,
        /// When it has.
        done: Done,
    },
    /// RESET_DEVICE. The front has stopped every ring before.
    Reset,
    /// The session is over; nothing follows.
    Closed,
}

/// Where a session's events go. Called on the session's thread.
pub trait EventSink: Clone + Send + Sync + 'static {
    /// Takes an event.
    fn event(&self, event: SessionEvent);
}

/// Why a session could not start. Only that VM's connection is affected.
#[derive(Debug)]
pub enum SessionError {
    /// The private connection between front and daemon failed.
    Connect(io::Error),
    /// Somebody else listens at the private path.
    Stranger,
    /// The daemon did not start.
    Daemon(String),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::Connect(e) => write!(f, "the connection between front and session failed: {e}"),
            SessionError::Stranger => f.write_str("another process answered at the session's private socket: who else can write to the runtime directory?"),
            SessionError::Daemon(e) => write!(f, "the vhost-user daemon did not start: {e}"),
        }
    }
}

impl std::error::Error for SessionError {}

/// What events are made of: who, and where to. Shared by the backend and its rings.
pub(crate) struct Port<S> {
    pub spec: SessionSpec,
    pub sink: S,
    /// The rings that run, by index: bits.
    running: AtomicU64,
}

impl<S: EventSink> Port<S> {
    pub fn emit(&self, event: PortEvent) {
        self.sink.event(SessionEvent { port: self.spec.port, session: self.spec.session, event });
    }

    /// Writes a warning that begins with the VM's name. All are of this one place, by which the log is limited.
    pub fn warn(&self, text: &str) {
        log::warn!("{}: {text}", self.spec.name);
    }

    /// A ring was started.
    pub fn started(&self, index: u16) {
        self.running.fetch_or(1 << (index % 64), Ordering::Relaxed);
    }

    /// A ring was stopped.
    pub fn stopped(&self, index: u16) {
        self.running.fetch_and(!(1 << (index % 64)), Ordering::Relaxed);
    }

    /// All of them were.
    pub fn reset(&self) {
        self.running.store(0, Ordering::Relaxed);
    }

    /// Whether any runs.
    pub fn runs(&self) -> bool {
        self.running.load(Ordering::Relaxed) != 0
    }

    /// Emits an event and waits until the data path is done with it.
    ///
    /// # Errors
    /// It took too long.
    pub fn emit_and_wait(&self, event: impl FnOnce(Done) -> PortEvent) -> io::Result<()> {
        let (done, waiter): (Done, Waiter) = handover();
        self.emit(event(done));
        if waiter.wait(HANDOVER_LIMIT) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// A running session. Dropping it ends the connection and joins its thread.
pub struct Session {
    shutdown: Option<ShutdownHandle>,
    watcher: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(shutdown) = &self.shutdown {
            shutdown.shutdown();
        }
        if let Some(watcher) = self.watcher.take() {
            // A panic of that thread would have ended the process (panic = abort).
            let _ = watcher.join();
        }
    }
}

/// Starts a session; returns it and the front's end of its connection.
///
/// # Errors
/// See [`SessionError`].
pub fn start<S: EventSink>(spec: SessionSpec, scratch_dir: &Path, sink: S) -> Result<(Session, OwnedFd), SessionError> {
    let name = format!("vu-{}", spec.name);
    let port = Arc::new(Port { spec, sink, running: AtomicU64::new(0) });
    let memory = Memory::new(GuestMemoryMmap::new());
    let backend = Arc::new(backend::Backend::new(Arc::clone(&port)));
    // `Ring::new` gets no context: it finds its port here while the daemon is made.
    let made = ring::with_port(Arc::clone(&port), || VhostUserDaemon::new(name, backend, memory));
    let mut daemon = made.map_err(|e| SessionError::Daemon(e.to_string()))?;
    let (mut listener, front_end) = connect::pair(scratch_dir)?;
    daemon.start(&mut listener).map_err(|e| SessionError::Daemon(e.to_string()))?;
    let shutdown = daemon.shutdown_handle();
    let watcher = std::thread::Builder::new().name("vu-watch".into()).spawn(move || {
        // The front has logged what mattered; an end of the connection is no error here.
        if let Err(error) = daemon.wait() {
            log::debug!("{}: session ended: {error}", port.spec.name);
        }
        drop(daemon);
        port.emit(PortEvent::Closed);
    });
    match watcher {
        Ok(watcher) => Ok((Session { shutdown, watcher: Some(watcher) }, front_end)),
        Err(error) => Err(SessionError::Connect(error)),
    }
}
