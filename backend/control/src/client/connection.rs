//! One request to the API, and its answer.
use std::fmt;
use std::future::poll_fn;
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time;

use super::command::Failure;
use crate::api::{ApiError, ErrorBody};

/// How long to wait for the whole answer; the service itself gives up before.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Of a body: bytes that are read at once, and how many such pieces wait.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;

/// Asks, and returns the body of the answer.
///
/// # Errors
/// The API's own error, or why there was no answer.
pub(super) fn ask(socket: &Path, method: Method, target: &str) -> Result<Bytes, Failure> {
    ask_for(socket, (method, target), None, TIMEOUT)
}

/// As [`ask`], with a body if there is one, for an answer that may take so long.
pub(super) fn ask_for(
    socket: &Path,
    (method, target): (Method, &str),
    body: Option<Piped>,
    limit: Duration,
) -> Result<Bytes, Failure> {
    let broken = |e: &dyn fmt::Display| no_answer(socket, e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|e| broken(&e))?;
    let target: Uri = target.parse().map_err(|e| broken(&e))?;
    let answer = runtime.block_on(async {
        time::timeout(limit, async {
            let stream = UnixStream::connect(socket).await.map_err(|e| unreachable(socket, &e))?;
            let exchanged = match body {
                Some(body) => exchange(stream, method, target, body).await,
                None => exchange(stream, method, target, Empty::<Bytes>::new()).await,
            };
            exchanged.map_err(|e| broken(&e))
        })
        .await
        .unwrap_or_else(|_| Err(broken(&format_args!("nothing came within {limit:?}"))))
    });
    let (status, body) = answer?;
    if status == 200 { Ok(body) } else { Err(refused(socket, status, &body)) }
}

fn no_answer(socket: &Path, e: &dyn fmt::Display) -> Failure {
    let message = format!("no answer from {}: {e}", socket.display());
    Failure::Api(ApiError::unavailable(message).mend("see vonicd's log"))
}

/// What an answer other than 200 says.
fn refused(socket: &Path, status: u16, body: &[u8]) -> Failure {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) => Failure::Api(ApiError { status, ..error }),
        Err(_) => no_answer(socket, &format_args!("it says {status} without a reason")),
    }
}

/// How an answer ended that goes on for as long as it is read.
pub(super) enum Ended {
    /// By the service.
    Whole,
    /// In the midst of it.
    Broken,
    /// By a signal that asks this process to end.
    Stopped,
}

/// Asks, and gives the answer's parts to `each` as they come, until it ends or this process is asked to.
///
/// # Errors
/// The API's own error, why there was no answer, or what `each` says.
pub(super) fn follow(
    socket: &Path,
    (method, target): (Method, &str),
    body: Vec<u8>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let broken = |e: &dyn fmt::Display| no_answer(socket, e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|e| broken(&e))?;
    let target: Uri = target.parse().map_err(|e| broken(&e))?;
    runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let signals: io::Result<Vec<Signal>> = kinds.into_iter().map(signal).collect();
        let mut signals = signals.map_err(|e| broken(&e))?;
        let stream = UnixStream::connect(socket).await.map_err(|e| unreachable(socket, &e))?;
        let asked = time::timeout(TIMEOUT, request(stream, method, target, Full::new(Bytes::from(body))));
        let asked = asked.await.map_err(|_| broken(&format_args!("nothing came within {TIMEOUT:?}")))?;
        let (status, mut body, _driver) = asked.map_err(|e| broken(&e))?;
        if status != 200 {
            let body = body.collect().await.map_err(|e| broken(&e))?.to_bytes();
            return Err(refused(socket, status, &body));
        }
        loop {
            match next(&mut body, &mut signals).await {
                Next::Part(part) => each(&part)?,
                Next::End(ended) => return Ok(ended),
            }
        }
    })
}

/// What comes next.
enum Next {
    Part(Bytes),
    End(Ended),
}

async fn next(body: &mut Incoming, signals: &mut [Signal]) -> Next {
    poll_fn(|context| {
        if signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            return Poll::Ready(Next::End(Ended::Stopped));
        }
        Pin::new(&mut *body).poll_frame(context).map(|frame| match frame {
            // Trailers, of which there are none, would be nothing to read.
            Some(Ok(frame)) => Next::Part(frame.into_data().unwrap_or_default()),
            Some(Err(_)) => Next::End(Ended::Broken),
            None => Next::End(Ended::Whole),
        })
    })
    .await
}

/// A body that is read on a thread of its own, which nobody waits for.
pub(super) struct Piped(mpsc::Receiver<io::Result<Bytes>>);

impl Piped {
    /// All that `from` gives.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn new(mut from: Box<dyn Read + Send>) -> io::Result<Piped> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let work = move || {
            let mut piece = vec![0; PIECE];
            loop {
                let read = match from.read(&mut piece) {
                    Ok(0) => return,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    read => read.map(|length| Bytes::copy_from_slice(&piece[..length])),
                };
                let failed = read.is_err();
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        };
        thread::Builder::new().name("reader".into()).spawn(work)?;
        Ok(Piped(receiver))
    }
}

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

async fn exchange<B>(stream: UnixStream, method: Method, target: Uri, body: B) -> Result<(u16, Bytes), hyper::Error>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let (status, body, driver) = request(stream, method, target, body).await?;
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
}

/// Asks: the answer's status, its body as it comes, and what drives the connection.
async fn request<B>(
    stream: UnixStream,
    method: Method,
    target: Uri,
    body: B,
) -> Result<(u16, Incoming, JoinHandle<hyper::Result<()>>), hyper::Error>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; its error is the request's too.
    let driver = tokio::spawn(connection);
    let mut request = hyper::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, HeaderValue::from_static("vonic"));
    let response = sender.send_request(request).await?;
    Ok((response.status().as_u16(), response.into_body(), driver))
}

/// Why a socket cannot be connected to, and what to do.
fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let path = socket.display();
    let (message, mend) = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            (format!("vonicd is not running: nothing answers at {path}"), "start it or give --socket")
        }
        io::ErrorKind::PermissionDenied => {
            (format!("{path} is not open to this user"), "use the user that vonicd runs as, or root")
        }
        _ => (format!("cannot connect to {path}: {error}"), "give --socket"),
    };
    Failure::Api(ApiError::unavailable(message).mend(mend))
}
