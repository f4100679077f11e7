//! The API's thread: accepts, reads one request per connection, asks the handler, answers.
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http_body_util::Either;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::UCred;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio::time;

use super::body::Body;
use super::session::{Place, Session};
use super::types::Rates;
use super::{ANSWER_TIMEOUT, ApiError, ErrorBody, Handler, OPENAPI, Reply, Request, Response};
use super::{body, capture, feed, routes, transfer, upload};
use crate::metrics;

/// How many connections are served at once; more wait in the listener's queue.
const CONNECTIONS: usize = 64;
/// How many of them may be those of clients that may only look: an operator is to find a place, whatever they do.
const OF_OTHERS: usize = 48;
/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many of them may be streams, which stay: others are to find a place beside them.
const STREAMS: usize = 16;
/// How many of the streams may be those of clients that may only look.
const STREAMS_OF_OTHERS: usize = 12;
/// How long a client that finds no place may take to read that.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
/// The pause after an accept that failed, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener is for.
#[derive(Clone, Copy)]
enum Face {
    /// Every route.
    Api,
    /// What Prometheus asks for, and nothing else.
    Metrics,
}

/// A listener, open for clients of one face.
enum Door {
    Unix(tokio::net::UnixListener),
    Tcp(tokio::net::TcpListener),
}

/// A client's connection.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Door {
    /// A client, and who it is.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Option<UCred>)> {
        Ok(match self {
            Door::Unix(listener) => {
                let stream = listener.accept().await?.0;
                let peer = stream.peer_cred().ok();
                (Box::new(stream), peer)
            }
            Door::Tcp(listener) => (Box::new(listener.accept().await?.0), None),
        })
    }
}

/// What a listener's connections have in common.
struct Host {
    handler: Arc<dyn Handler>,
    face: Face,
    /// For all clients, and among these for those that may only look.
    streams: [Arc<Semaphore>; 2],
    connections: Arc<Semaphore>,
}

impl Host {
    fn new(handler: Arc<dyn Handler>, face: Face) -> Host {
        let others = match face {
            Face::Api => OF_OTHERS,
            // Nobody is known there, and nobody is an operator.
            Face::Metrics => CONNECTIONS,
        };
        let streams = [STREAMS, STREAMS_OF_OTHERS].map(|places| Arc::new(Semaphore::new(places)));
        Host { handler, face, streams, connections: Arc::new(Semaphore::new(others)) }
    }

    /// Room for one stream more.
    fn place(&self, session: &Session) -> Result<Place, ApiError> {
        let [all, others] = &self.streams;
        let take = |places: &Arc<Semaphore>, count: usize| {
            Arc::clone(places).try_acquire_owned().map_err(|_| {
                let error = ApiError::unavailable(format!("{count} clients read streams already"));
                error.mend("end one of them")
            })
        };
        let of_others = (!session.is_operator()).then(|| take(others, STREAMS_OF_OTHERS)).transpose()?;
        Ok((take(all, STREAMS)?, of_others))
    }
}

/// Serves the API on a listener, on a thread of its own that lives as long as the process.
///
/// # Errors
/// Status 500, if the thread, its event loop or its use of the listener cannot be set up.
pub fn serve(listener: UnixListener, handler: Arc<dyn Handler>) -> Result<JoinHandle<()>, ApiError> {
    start(listener, handler).map_err(|e| ApiError::internal(format!("the API cannot start: {e}")))
}

fn start(listener: UnixListener, handler: Arc<dyn Handler>) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = runtime()?;
    let door = {
        let _context = runtime.enter();
        Door::Unix(tokio::net::UnixListener::from_std(listener)?)
    };
    let body = move || runtime.block_on(accept(door, handler, Face::Api));
    thread::Builder::new().name("vonic-api".into()).spawn(body)
}

/// A thread that tells the metrics; it ends with this.
#[derive(Debug)]
pub struct MetricsListener(#[expect(dead_code, reason = "its end is what counts")] oneshot::Sender<()>);

impl MetricsListener {
    /// Tells the metrics at `/metrics` to whoever connects to `at`.
    ///
    /// # Errors
    /// The system's: the address is not this host's, or taken.
    pub fn open(at: SocketAddr, handler: Arc<dyn Handler>) -> io::Result<MetricsListener> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let runtime = runtime()?;
        let (handle, end) = oneshot::channel();
        let body = move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::spawn(accept(Door::Tcp(listener), handler, Face::Metrics))),
                    Err(e) => log::error!("the metrics cannot be told: {e}"),
                }
                // Never sent: its other end is dropped.
                drop(end.await);
            });
        };
        thread::Builder::new().name("metrics".into()).spawn(body)?;
        Ok(MetricsListener(handle))
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

/// Accepts for ever.
async fn accept(door: Door, handler: Arc<dyn Handler>, face: Face) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let host = Arc::new(Host::new(handler, face));
    let mut failing = false;
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match door.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                let (host, session) = (Arc::clone(&host), Arc::new(Session::new(peer)));
                // An operator has a place wherever there is one.
                let of_others = match session.is_operator() {
                    true => Ok(None),
                    false => Arc::clone(&host.connections).try_acquire_owned().map(Some),
                };
                tokio::spawn(async move {
                    match of_others {
                        Ok(_of_others) => {
                            connection(stream, &host, &session).await;
                            session.is_over();
                        }
                        Err(_) => refuse(stream).await,
                    }
                    drop(place);
                });
            }
            Err(e) => {
                if !failing {
                    log::warn!("the API cannot accept connections: {e}; retrying");
                }
                failing = true;
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells a client that may only look that there is no place for it. What it asks is not read.
async fn refuse(mut stream: Box<dyn Stream>) {
    let error = ApiError::unavailable(format!("{OF_OTHERS} clients that may only look are here already"));
    let body = serde_json::to_string(&ErrorBody { error: error.mend("try again in a moment") }).unwrap_or_default();
    let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let text = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    // A new socket has room for that; and the client may have left.
    let written = poll_fn(|context| Pin::new(&mut stream).poll_write(context, text.as_bytes()));
    drop(time::timeout(REFUSAL_LIMIT, written).await);
}

async fn connection(stream: Box<dyn Stream>, host: &Arc<Host>, session: &Arc<Session>) {
    let service = service_fn(|request| {
        let (host, session) = (Arc::clone(host), Arc::clone(session));
        async move { Ok::<_, Infallible>(respond(request, &host, &session).await) }
    });
    let mut served = pin!(served(stream, service));
    let mut ends = session.ends();
    loop {
        let end = *ends.borrow_and_update();
        let mut moved = pin!(ends.changed());
        let mut ended = pin!(time::timeout_at(end.into(), served.as_mut()));
        let first = poll_fn(|context| match ended.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending => moved.as_mut().poll(context).map(|_| None),
        });
        match first.await {
            Some(Ok(Ok(()))) => return,
            Some(Ok(Err(e))) => return log::debug!("API client: {e}"),
            Some(Err(_)) => return log::debug!("API client: too slow"),
            // The end is another one by now.
            None => {}
        }
    }
}

async fn served<S>(stream: Box<dyn Stream>, service: S) -> hyper::Result<()>
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<Body>, Error = Infallible>,
{
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.max_buf_size(body::BODY_LIMIT).serve_connection(TokioIo::new(stream), service).await
}

async fn respond(request: hyper::Request<Incoming>, host: &Host, session: &Arc<Session>) -> hyper::Response<Body> {
    let path = request.uri().path().to_string();
    let answer = answer(request, host, session).await.unwrap_or_else(|error| Answer::Whole(Response::Error(error)));
    let response = match answer {
        Answer::Stream(stream) => return stream,
        Answer::Whole(response) => response,
    };
    let (status, http) = match response {
        Response::Error(error) => (error.status, body::json(error.status, &ErrorBody { error })),
        Response::State(state) => (200, body::bytes(state, "application/octet-stream")),
        Response::OpenApi => (200, body::bytes(OPENAPI.into(), "application/json")),
        Response::Metrics(snapshot) => {
            (200, body::bytes(snapshot.text().unwrap_or_default().into(), metrics::MEDIA_TYPE))
        }
        good => (200, body::json(200, &good)),
    };
    let mut http = http.map(Either::Left);
    if status == 405
        && let Ok(allowed) = HeaderValue::from_str(&routes::allowed(&path))
    {
        http.headers_mut().insert(ALLOW, allowed);
    }
    http
}

/// What goes back to the client.
enum Answer {
    /// At once.
    Whole(Response),
    /// Part by part.
    Stream(hyper::Response<Body>),
}

/// Checks a request and gets the handler's answer.
async fn answer(request: hyper::Request<Incoming>, host: &Host, session: &Arc<Session>) -> Result<Answer, ApiError> {
    let (uri, method, handler) = (request.uri(), request.method(), &*host.handler);
    let wanted = match host.face {
        Face::Api => routes::resolve(method, uri.path(), uri.query())?,
        Face::Metrics if (method, uri.path()) == (&Method::GET, "/metrics") => Request::Metrics,
        Face::Metrics => return Err(ApiError::not_found("only the metrics are here").mend("use GET /metrics")),
    };
    session.may(method, uri.path())?;
    let limit = wanted.limit();
    if limit > ANSWER_TIMEOUT {
        session.allow(limit);
    }
    let response = match wanted {
        Request::AwaitState { vm, limit } => transfer::load(vm, limit, request.into_body(), handler).await?,
        Request::PutVm { vm, .. } => {
            let text = upload::read(request).await?;
            ask(handler, Request::PutVm { vm, text }, limit).await?
        }
        Request::Events(wanted) => {
            let lines = handler.feed().answer(wanted, session, host.place(session)?)?;
            return Ok(Answer::Stream(body::parts(lines, feed::LINES)));
        }
        Request::Capture { vm, .. } => {
            let place = host.place(session)?;
            let frames = capture::answer(vm, request.into_body(), (&host.handler, session), place).await?;
            return Ok(Answer::Stream(body::parts(frames, capture::PCAPNG)));
        }
        Request::OpenApi => Response::OpenApi,
        Request::Rates(time) => rates(handler, time).await?,
        wanted => {
            if request.method() != Method::GET {
                no_body(request.into_body()).await?;
            }
            ask(handler, wanted, limit).await?
        }
    };
    Ok(Answer::Whole(response))
}

/// Looks twice.
async fn rates(handler: &dyn Handler, time: Duration) -> Result<Response, ApiError> {
    let before = ask(handler, Request::Stats, ANSWER_TIMEOUT).await?;
    let begun = Instant::now();
    time::sleep(time).await;
    let after = ask(handler, Request::Stats, ANSWER_TIMEOUT).await?;
    match (before, after) {
        (Response::Stats(before), Response::Stats(after)) => {
            Ok(Response::Rates(Rates::between(&before, &after, begun.elapsed())))
        }
        _ => Err(ApiError::internal("the engine gave another answer").mend("see vonicd's log")),
    }
}

/// What the handler answers within so long.
pub(super) async fn ask(handler: &dyn Handler, wanted: Request, limit: Duration) -> Result<Response, ApiError> {
    let (reply, response) = Reply::new();
    handler.handle(wanted, reply);
    match time::timeout(limit, response).await {
        Ok(Ok(Response::Error(error))) => Err(error),
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) => Err(ApiError::internal("the engine gave no answer").mend("see vonicd's log")),
        Err(_) => Err(ApiError::unavailable(format!("the engine did not answer within {limit:?}"))
            .mend("try again; see vonicd's log if it stays so")),
    }
}

/// Most routes take none.
async fn no_body(incoming: Incoming) -> Result<(), ApiError> {
    let read = body::read(incoming).await.map_err(|e| e.mend("send none"))?;
    if read.is_empty() {
        return Ok(());
    }
    Err(ApiError::bad_request("this path takes no body").field("body").mend("send none"))
}
