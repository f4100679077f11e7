//! The service's thread: takes connections from the worker and serves them, each within its deadlines.
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{Channel, Either, Full};
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time;
use vonic_record::Checkpoint;

use super::question::Asker;
use super::{Guest, routes};

/// The most bytes of a request's head.
const HEAD_LIMIT: usize = 16 * 1024;
/// How long a connection may go without a whole request: it is idle, or it is slow at reading or writing.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// How long the rest of what a guest sends is thrown away before its connection is closed, so that it reads the last answer.
const LINGER_LIMIT: Duration = Duration::from_secs(1);

/// One connection of a guest.
struct Arrival {
    guest: Arc<Guest>,
    end: OwnedFd,
    /// Held until the connection is over.
    place: Box<dyn Send>,
}

/// The body of an answer: whole, or in parts as they come.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, Infallible>>;

/// What the service knows of the engine.
#[derive(Debug)]
pub struct Host {
    /// Asks it.
    pub(super) asker: Asker,
    checkpoint: Arc<Checkpoint>,
}

impl Host {
    /// An engine that is asked by `asker`, and whose clock stands in `checkpoint`.
    pub fn new(asker: Asker, checkpoint: Arc<Checkpoint>) -> Host {
        Host { asker, checkpoint }
    }

    /// The worker's clock.
    pub(super) fn elapsed(&self) -> Duration {
        self.checkpoint.header().elapsed()
    }
}

/// One connection, while it lasts.
#[derive(Debug)]
pub(super) struct Session {
    /// When it last went on: an answer was made, or a part of one has gone.
    last: Mutex<Instant>,
    /// What goes on beside its answers; it ends with it.
    tasks: Mutex<JoinSet<()>>,
}

impl Session {
    fn new() -> Arc<Session> {
        Arc::new(Session { last: Mutex::new(Instant::now()), tasks: Mutex::default() })
    }

    /// It goes on.
    pub fn touch(&self) {
        *lock(&self.last) = Instant::now();
    }

    /// Does something beside its answers, for as long as it lasts.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        // Those that are over are forgotten here.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn end(&self) {
        lock(&self.tasks).abort_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to the service.
#[derive(Debug)]
pub struct Service(UnboundedSender<Arrival>);

impl Service {
    /// Starts the thread, which lives as long as this.
    ///
    /// # Errors
    /// The system's.
    pub fn start(host: Host) -> io::Result<Service> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        // What waits here holds its guest's places, of which there are few.
        let (sender, arrivals) = unbounded_channel();
        let body = move || runtime.block_on(receive(arrivals, Arc::new(host)));
        thread::Builder::new().name("guests".into()).spawn(body)?;
        Ok(Service(sender))
    }

    /// Serves a connection that `guest` has opened. `end` is non-blocking; `place` is held until it is over.
    pub fn serve(&self, guest: Arc<Guest>, end: OwnedFd, place: impl Send + 'static) {
        // Without the thread the connection ends here.
        drop(self.0.send(Arrival { guest, end, place: Box::new(place) }));
    }
}

async fn receive(mut arrivals: UnboundedReceiver<Arrival>, host: Arc<Host>) {
    while let Some(Arrival { guest, end, place }) = arrivals.recv().await {
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let session = Session::new();
            if let Err(e) = connection(&guest, &host, &session, end).await {
                log::debug!("{}: service: {e}", guest.name());
            }
            session.end();
            drop(place);
        });
    }
}

/// Serves one connection until it ends, or goes quiet.
async fn connection(guest: &Arc<Guest>, host: &Arc<Host>, session: &Arc<Session>, end: OwnedFd) -> io::Result<()> {
    let end = StdStream::from(end);
    let rest = UnixStream::from_std(end.try_clone()?)?;
    let stream = UnixStream::from_std(end)?;
    time::sleep(guest.turn(Instant::now())).await;
    session.touch();
    let service = service_fn(|request| {
        let (guest, host, session) = (Arc::clone(guest), Arc::clone(host), Arc::clone(session));
        async move {
            // The request has come whole, up to its body: how long the answer takes is not the guest's doing.
            session.touch();
            time::sleep(guest.turn(Instant::now())).await;
            let answer = routes::respond(request, &guest, &host, &session).await;
            session.touch();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut served = pin!(http().serve_connection(TokioIo::new(stream), service));
    let result = loop {
        let since = *lock(&session.last);
        let end = since + QUIET_LIMIT;
        if end <= Instant::now() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let Ok(result) = time::timeout_at(end.into(), &mut served).await {
            break result;
        }
    };
    linger(&rest).await;
    result.map_err(io::Error::other)
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // A client that has said all and only listens is still answered.
    http.half_close(true).max_buf_size(HEAD_LIMIT);
    http
}

/// Reads what still comes: closing over unread bytes would be a reset, and the guest would lose the answer.
async fn linger(rest: &UnixStream) {
    let drained = async {
        let mut thrown = [0; 4096];
        while rest.readable().await.is_ok() {
            match rest.try_read(&mut thrown) {
                Ok(0) => return,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    };
    drop(time::timeout(LINGER_LIMIT, drained).await);
}
