//! Somebody in a guest listens to news of its connections: the worker tells them as long as that is so, and not a moment for nobody.
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{self, timeout_at};
use vonic_datapath::{Batch, Notifications, notifications};

use super::question::Question;
use super::{Guest, Host};
use crate::api::ApiError;

/// Events that one guest's ring has room for: more than its connections, most of them twice. Two megabytes of memory, once it was full.
const ROOM: usize = 16 * 1024;
/// How long nobody may ask before the worker is told to tell no more: longer than an agent takes to come back.
const LINGER: Duration = Duration::from_secs(30);
/// What a batch is answered earlier than it has to be: timers go by milliseconds, and come late rather than early.
const TIMER: Duration = Duration::from_millis(2);
/// How long the worker may take to begin, or to end.
const WORKER_LIMIT: Duration = Duration::from_secs(2);

/// When a batch is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The most events.
    pub batch: u32,
    /// The longest that its first event waits for others.
    pub delay: Duration,
    /// The longest that an answer waits for a first event.
    pub wait: Duration,
}

/// The listening of one guest, all of whose readers share it.
#[derive(Debug)]
pub(super) struct Listening {
    /// Sets the numbers of this listening apart from those of any other.
    pub epoch: String,
    reader: Mutex<Notifications>,
    woken: Notify,
    users: Mutex<Users>,
}

#[derive(Debug)]
struct Users {
    now: usize,
    /// When the last one came or went.
    changed: Instant,
}

/// One reader.
#[derive(Debug)]
pub(super) struct Listener(Arc<Listening>);

impl std::ops::Deref for Listener {
    type Target = Listening;

    fn deref(&self) -> &Listening {
        &self.0
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut users = lock(&self.0.users);
        *users = Users { now: users.now - 1, changed: Instant::now() };
    }
}

/// Listens with whoever does so already, or begins.
///
/// # Errors
/// 503.
pub(super) async fn listen(guest: &Arc<Guest>, host: &Arc<Host>) -> Result<Listener, ApiError> {
    let mut place = guest.listening.lock().await;
    if let Some(listening) = place.as_ref().filter(|listening| !lock(&listening.reader).is_over()) {
        return Ok(enter(listening));
    }
    let failed = |_| ApiError::unavailable("vonic has no descriptor left").mend("try again later");
    let (notifier, reader, sign) = notifications(ROOM).map_err(failed)?;
    let sign = UnixStream::from_std(sign).map_err(failed)?;
    host.asker.tell(guest, Question::Notify(Some(notifier)));
    let begun = time::timeout(WORKER_LIMIT, sign.readable()).await;
    if begun.is_err() || !reader.is_open() {
        return Err(ApiError::unavailable("vonic did not answer in time").mend("try again"));
    }
    let listening = Arc::new(Listening {
        epoch: format!("{:016x}", RandomState::new().hash_one(host.elapsed())),
        reader: Mutex::new(reader),
        woken: Notify::new(),
        users: Mutex::new(Users { now: 0, changed: Instant::now() }),
    });
    *place = Some(Arc::clone(&listening));
    let listener = enter(&listening);
    tokio::spawn(keep(listening, sign, Arc::clone(guest), Arc::clone(host)));
    Ok(listener)
}

fn enter(listening: &Arc<Listening>) -> Listener {
    let mut users = lock(&listening.users);
    *users = Users { now: users.now + 1, changed: Instant::now() };
    Listener(Arc::clone(listening))
}

/// Hands on the worker's signs until nobody has listened for a while, or the worker has let go of it.
async fn keep(listening: Arc<Listening>, sign: UnixStream, guest: Arc<Guest>, host: Arc<Host>) {
    loop {
        let waited = timeout_at(listening.idle_at().into(), sign.readable()).await;
        let ended = waited.is_ok() && matches!(sign.try_read(&mut [0; 64]), Ok(0));
        listening.woken.notify_waiters();
        let mut place = guest.listening.lock().await;
        if ended || listening.idle_at() <= Instant::now() {
            let ours = place.as_ref().is_some_and(|at| Arc::ptr_eq(at, &listening));
            if ours && place.take().is_some() && !ended {
                host.asker.tell(&guest, Question::Notify(None));
            }
            break;
        }
    }
    // Memory is given back by whoever lets go of it last, and that is not to be the worker.
    time::sleep(WORKER_LIMIT).await;
}

impl Listening {
    /// The last number that was given.
    pub fn last(&self) -> u64 {
        lock(&self.reader).last()
    }

    /// The next batch behind the number `after`, when the terms say so. `elapsed` is the worker's clock.
    pub async fn next(&self, after: u64, terms: &Terms, elapsed: impl Fn() -> Duration) -> Batch {
        if self.wait(after + 1, Instant::now() + terms.wait).await {
            let first = lock(&self.reader).first(after).map(Duration::from_micros);
            let waited = first.map_or(terms.delay, |at| elapsed().saturating_sub(at));
            let left = terms.delay.saturating_sub(waited + TIMER);
            self.wait(after + u64::from(terms.batch), Instant::now() + left).await;
        }
        lock(&self.reader).read(after, terms.batch as usize)
    }

    /// Waits until this number has been given; false if it was not by then.
    async fn wait(&self, number: u64, until: Instant) -> bool {
        loop {
            // Made before the question: a sign that comes in between is seen.
            let woken = self.woken.notified();
            if lock(&self.reader).wait_for(number) {
                return true;
            }
            if timeout_at(until.into(), woken).await.is_err() {
                return self.last() >= number;
            }
        }
    }

    /// When nobody will have listened for too long.
    fn idle_at(&self) -> Instant {
        let users = lock(&self.users);
        // Whoever listens now is looked for again.
        (if users.now > 0 { Instant::now() } else { users.changed }) + LINGER
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
