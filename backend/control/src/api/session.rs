//! One client's connection: who it is, how long it may last, and what goes on beside its answer.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::Method;
use tokio::net::unix::UCred;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;

use super::ApiError;

/// How long a connection may last: head, body, the handler's answer, and the response's way to the client.
const LIMIT: Duration = Duration::from_secs(20);
/// A stream ends with its client, or with the engine.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Of a path the log has so much: the longest is a VM's name in it.
const PATH_MAX: usize = 100;

/// How many clients have asked for a change, and have not got the whole answer.
static CHANGING: AtomicUsize = AtomicUsize::new(0);
/// Between two looks at that.
const LOOK: Duration = Duration::from_micros(500);

/// Waits until whoever has asked for a change has the answer, but no longer than this.
pub fn wait_for_answers(limit: Duration) {
    let end = Instant::now() + limit;
    while CHANGING.load(Ordering::Acquire) > 0 && Instant::now() < end {
        std::thread::sleep(LOOK);
    }
}

/// A stream's place, until it is dropped; of clients that may only look, one of theirs, too.
pub(super) type Place = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// A connection, while it lasts.
#[derive(Debug)]
pub(super) struct Session {
    /// Who is at its other end (SO_PEERCRED, unix(7)); by TCP nobody knows.
    peer: Option<UCred>,
    until: watch::Sender<Instant>,
    tasks: Mutex<JoinSet<()>>,
    /// It is one of [`CHANGING`].
    changing: AtomicBool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if *self.changing.get_mut() {
            CHANGING.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Session {
    pub fn new(peer: Option<UCred>) -> Session {
        Session {
            peer,
            until: watch::Sender::new(Instant::now() + LIMIT),
            tasks: Mutex::default(),
            changing: AtomicBool::new(false),
        }
    }

    /// When it ends, if it has not by itself; the moment may be moved meanwhile.
    pub fn ends(&self) -> watch::Receiver<Instant> {
        self.until.subscribe()
    }

    /// Its answer may take so long.
    pub fn allow(&self, time: Duration) {
        self.until.send_replace(Instant::now() + time + LIMIT);
    }

    /// It ends now.
    pub fn end_at_once(&self) {
        self.until.send_replace(Instant::now());
    }

    /// Its answer goes on for as long as both sides like, by what `task` does.
    pub fn go_on(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.until.send_replace(Instant::now() + FOR_EVER);
        self.tasks().spawn(task);
    }

    /// Ends what goes on beside it.
    pub fn is_over(&self) {
        self.tasks().abort_all();
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is root, or the user that vonicd runs as.
    pub fn is_operator(&self) -> bool {
        self.peer.is_some_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw())
    }

    /// Whether this client may do that. The socket's permissions say who may ask at all; who is neither root nor the user that
    /// vonicd runs as may look, and change nothing. What changes something is noted with its author.
    ///
    /// # Errors
    /// 403.
    pub fn may(&self, method: &Method, path: &str) -> Result<(), ApiError> {
        if *method == Method::GET {
            return Ok(());
        }
        let Some(peer) = self.peer else { return Err(forbidden("whoever asks over a network")) };
        if !self.is_operator() {
            return Err(forbidden(&format!("user {}", peer.uid())));
        }
        if !self.changing.swap(true, Ordering::Relaxed) {
            CHANGING.fetch_add(1, Ordering::Relaxed);
        }
        let by = peer.pid().map(|pid| format!(", process {pid}")).unwrap_or_default();
        let path: String = path.chars().take(PATH_MAX).collect();
        log::info!("user {}{by}: {method} {path}", peer.uid());
        Ok(())
    }
}

fn forbidden(who: &str) -> ApiError {
    let error = ApiError::new(403, format!("{who} may look, and change nothing")).field("method");
    error.mend("ask as root, or as the user that vonicd runs as")
}
