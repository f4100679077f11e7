//! A ring as the daemon sees it: `vhost-user-backend`'s own, with an ear on every change.
use crate::sys::set_non_blocking;
use crate::{EventSink, HANDOVER_LIMIT, Memory, Port, PortEvent};
use std::any::Any;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueT};
use vonic_queue::{Done, RingSetup, handover};

thread_local! {
    /// The port whose daemon is being made on this thread, and the index of its next ring.
    static PORT: RefCell<Option<(Arc<dyn Any + Send + Sync>, u16)>> = const { RefCell::new(None) };
}

/// Runs `make`, in which every new ring belongs to `port`.
pub fn with_port<S: EventSink, T>(port: Arc<Port<S>>, make: impl FnOnce() -> T) -> T {
    PORT.set(Some((port, 0)));
    let made = make();
    PORT.set(None);
    made
}

/// The event descriptors of a ring, beside the daemon's own.
#[derive(Default)]
struct Signals {
    kick: Option<File>,
    call: Option<File>,
    /// GET_VRING_BASE is being answered: the daemon forgets the kick descriptor by itself.
    stopping: bool,
}

/// One ring. Clones are the same ring.
pub struct Ring<S> {
    inner: VringMutex<Memory>,
    signals: Arc<Mutex<Signals>>,
    port: Arc<Port<S>>,
    index: u16,
}

impl<S> Clone for Ring<S> {
    fn clone(&self) -> Self {
        Ring {
            inner: self.inner.clone(),
            signals: Arc::clone(&self.signals),
            port: Arc::clone(&self.port),
            index: self.index,
        }
    }
}

impl<S: EventSink> Ring<S> {
    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the data path the ring's complete state, if it is started, and `done` with it.
    fn announce(&self, done: Option<Done>) {
        let state = self.inner.get_ref();
        let queue = state.get_queue();
        if !queue.ready() {
            return;
        }
        let setup = RingSetup {
            size: queue.size(),
            descriptors: queue.desc_table(),
            available: queue.avail_ring(),
            used: queue.used_ring(),
            event_idx: queue.event_idx_enabled(),
        };
        let enabled = state.is_enabled();
        drop(state);
        let signals = self.signals();
        let (kick, call) =
            (keep(&self.port, &signals.kick).map(OwnedFd::from), keep(&self.port, &signals.call).map(OwnedFd::from));
        drop(signals);
        self.port.started(self.index);
        self.port.emit(PortEvent::Ring { index: self.index, setup, kick, call, enabled, done });
    }
}

/// A duplicate for the data path, non-blocking: neither a kick that somebody else has read nor a full call descriptor may
/// hold the worker up. The VMM can clear the flag again; `vonic_queue::call` copes with that.
fn keep<S: EventSink>(port: &Port<S>, file: &Option<File>) -> Option<File> {
    let file = file.as_ref()?;
    let copy = signals(file).and_then(|()| set_non_blocking(file.as_fd())).and_then(|()| file.try_clone());
    let told = |error: &_| port.warn(&format!("an event descriptor cannot be used, its ring does without: {error}"));
    copy.inspect_err(told).ok()
}

/// Whether a descriptor is an eventfd, a pipe or a socket. With any other file a VMM decides how long whoever polls or writes it has to wait:
/// a user's own file system (FUSE) answers when it likes, and no signal ends that.
fn signals(file: &File) -> io::Result<()> {
    // Anonymous files, of which an eventfd is one, have no type.
    const TYPE: u32 = 0o170_000;
    let kind = file.metadata()?;
    let fits = kind.mode() & TYPE == 0 || kind.file_type().is_fifo() || kind.file_type().is_socket();
    if fits { Ok(()) } else { Err(io::Error::other("it is no eventfd, pipe or socket")) }
}

impl<'a, S: 'a> VringStateGuard<'a, Memory> for Ring<S> {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a, S: 'a> VringStateMutGuard<'a, Memory> for Ring<S> {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<S: EventSink> VringT<Memory> for Ring<S> {
    fn new(mem: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        let context = PORT.with_borrow_mut(|context| {
            let (port, next) = context.as_mut()?;
            let index = *next;
            *next += 1;
            Some((Arc::clone(port).downcast::<Port<S>>().ok()?, index))
        });
        // Rings are made only inside `with_port`; the daemon reports this error if that ever changes.
        let (port, index) = context.ok_or(QueueError::InvalidMaxSize)?;
        Ok(Ring { inner: VringMutex::new(mem, max_queue_size)?, signals: Arc::default(), port, index })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.inner.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.inner.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.inner.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.inner.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.inner.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.inner.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
        if enabled {
            return self.announce(None);
        }
        let (done, waiter) = handover();
        self.announce(Some(done));
        if !waiter.wait(HANDOVER_LIMIT) {
            self.port.warn(&format!("the worker did not let go of queue {} in time", self.index));
        }
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), QueueError> {
        self.inner.set_queue_info(desc_table, avail_ring, used_ring)
    }

    /// The answer to GET_VRING_BASE. Completion is in order, so the used index in guest memory is where the next backend
    /// starts; the data path has let go of the ring by now.
    fn queue_next_avail(&self) -> u16 {
        self.signals().stopping = true;
        let unset = self.inner.get_ref().get_queue().used_ring() == 0;
        if unset { 0 } else { self.inner.queue_used_idx().unwrap_or(0) }
    }

    /// SET_VRING_BASE. For a ring that still runs it is the beginning of a new one: user-mode Linux unloads its driver without
    /// GET_VRING_BASE, and the next driver's rings may lie where the last one's did. The kick that follows starts it.
    fn set_queue_next_avail(&self, base: u16) {
        let running = self.inner.get_ref().get_queue().ready();
        if running {
            self.inner.set_queue_ready(false);
            self.port.stopped(self.index);
            let stopped = self.port.emit_and_wait(|done| PortEvent::RingStopped { index: self.index, done });
            if stopped.is_err() {
                self.port.warn(&format!("ring {} is set up anew before it was let go of", self.index));
            }
        }
        self.inner.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.inner.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.inner.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.set_queue_ready(ready);
        // Not ready: the backend's `stop_vring` follows, and waits.
        self.announce(None);
    }

    /// Without a descriptor the ring is to be polled (vhost-user, VHOST_USER_SET_VRING_KICK, bit 8): no kick will start it, and the daemon
    /// starts none without, so it starts now.
    fn set_kick(&self, file: Option<File>) {
        let mut signals = self.signals();
        signals.kick = keep(&self.port, &file);
        let stopping = std::mem::take(&mut signals.stopping);
        drop(signals);
        if file.is_none() && !stopping {
            self.inner.set_queue_ready(true);
        }
        self.inner.set_kick(file);
        self.announce(None);
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.inner.read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        self.signals().call = keep(&self.port, &file);
        self.inner.set_call(file);
        self.announce(None);
    }

    fn set_err(&self, file: Option<File>) {
        self.inner.set_err(file);
    }
}
