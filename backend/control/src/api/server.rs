//! The API's thread: accepts, reads one request per connection, asks the handler, answers.
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time;

use super::transfer::{self, Until};
use super::{ANSWER_TIMEOUT, ApiError, ErrorBody, Handler, Reply, Request, Response, body, routes};

/// How many connections are served at once; more wait in the listener's queue.
const CONNECTIONS: usize = 64;
/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last: head, body, the handler's answer, and the response's way to the client.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause after an accept that failed, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API on a listener, on a thread of its own that lives as long as the process.
///
/// # Errors
/// Status 500, if the thread, its event loop or its use of the listener cannot be set up.
pub fn serve(listener: UnixListener, handler: Arc<dyn Handler>) -> Result<JoinHandle<()>, ApiError> {
    start(listener, handler).map_err(|e| ApiError::internal(format!("the API cannot start: {e}")))
}

fn start(listener: UnixListener, handler: Arc<dyn Handler>) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _context = runtime.enter();
        tokio::net::UnixListener::from_std(listener)?
    };
    thread::Builder::new().name("vonic-api".into()).spawn(move || runtime.block_on(accept(listener, handler)))
}

/// Accepts for ever.
async fn accept(listener: tokio::net::UnixListener, handler: Arc<dyn Handler>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut failing = false;
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    connection(stream, handler).await;
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

async fn connection(stream: UnixStream, handler: Arc<dyn Handler>) {
    let (until, limit) = watch::channel(Instant::now() + CONNECTION_TIMEOUT);
    let until = Arc::new(until);
    let service = service_fn(|request| {
        let (handler, until) = (Arc::clone(&handler), Arc::clone(&until));
        async move { Ok::<_, Infallible>(respond(request, &*handler, &until).await) }
    });
    let mut served = pin!(served(stream, service));
    loop {
        let end = *limit.borrow();
        match time::timeout_at(end.into(), served.as_mut()).await {
            Ok(Ok(())) => return,
            Ok(Err(e)) => return log::debug!("API client: {e}"),
            // It was moved on meanwhile.
            Err(_) if *limit.borrow() > end => {}
            Err(_) => return log::debug!("API client: too slow"),
        }
    }
}

async fn served<S>(stream: UnixStream, service: S) -> hyper::Result<()>
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<Full<Bytes>>, Error = Infallible>,
{
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.max_buf_size(body::BODY_LIMIT).serve_connection(TokioIo::new(stream), service).await
}

async fn respond(
    request: hyper::Request<Incoming>,
    handler: &dyn Handler,
    until: &Until,
) -> hyper::Response<Full<Bytes>> {
    let path = request.uri().path().to_string();
    let response = answer(request, handler, until).await.unwrap_or_else(Response::Error);
    let (status, mut http) = match response {
        Response::Error(error) => (error.status, body::json(error.status, &ErrorBody { error })),
        Response::State(state) => (200, body::bytes(state)),
        good => (200, body::json(200, &good)),
    };
    if status == 405
        && let Ok(allowed) = HeaderValue::from_str(&routes::allowed(&path))
    {
        http.headers_mut().insert(ALLOW, allowed);
    }
    http
}

/// Checks a request and gets the handler's answer.
async fn answer(request: hyper::Request<Incoming>, handler: &dyn Handler, until: &Until) -> Result<Response, ApiError> {
    let wanted = routes::resolve(request.method(), request.uri().path(), request.uri().query())?;
    let limit = wanted.limit();
    if limit > ANSWER_TIMEOUT {
        until.send_modify(|until| *until = Instant::now() + limit + CONNECTION_TIMEOUT);
    }
    match wanted {
        Request::AwaitState { vm, limit } => transfer::load(vm, limit, request.into_body(), handler).await,
        wanted => {
            if request.method() != Method::GET {
                no_body(request.into_body()).await?;
            }
            ask(handler, wanted, limit).await
        }
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
