//! One request to the API, and its answer.
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
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
    let broken = |e: &dyn std::fmt::Display| {
        let message = format!("no answer from {}: {e}", socket.display());
        Failure::Api(ApiError::unavailable(message).mend("see vonicd's log"))
    };
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
    if status == 200 {
        return Ok(body);
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { error }) => Err(Failure::Api(ApiError { status, ..error })),
        Err(_) => Err(broken(&format_args!("it says {status} without a reason"))),
    }
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
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; its error is the request's too.
    let driver = tokio::spawn(connection);
    let mut request = hyper::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, HeaderValue::from_static("vonic"));
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
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
