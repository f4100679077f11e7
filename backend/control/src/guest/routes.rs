//! What a guest can ask for.
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time;
use vonic_agent::message::{Message, PATH};
use vonic_agent::metadata::Metadata;

use super::question::Question;
use super::server::{Body, Session};
use super::{Guest, Host, connections, events, query, tree};
use crate::api::{ApiError, ErrorBody, body};

/// The answer to `GET /`.
const GREETING: &str = "This is vonic, the network of this VM. It tells a VM of itself at /v1/, and vonic-agent posts its counters \
    to /v1/stats.\n";
/// Where metadata begins, each part of which has a path below.
const METADATA: &str = "/v1/";
/// How long the engine may take.
const ENGINE_LIMIT: Duration = Duration::from_secs(2);

/// A path, the methods that it takes, and what it does.
struct Route {
    methods: &'static [Method],
    path: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Greeting,
    Metadata,
    Nic,
    Connections,
    Events,
    Stats,
}

const READ: &[Method] = &[Method::GET, Method::HEAD];

static ROUTES: &[Route] = &[
    Route { methods: READ, path: "/", kind: Kind::Greeting },
    Route { methods: READ, path: METADATA, kind: Kind::Metadata },
    Route { methods: READ, path: "/v1/nic", kind: Kind::Nic },
    Route { methods: READ, path: "/v1/connections", kind: Kind::Connections },
    Route { methods: READ, path: "/v1/events", kind: Kind::Events },
    Route { methods: &[Method::POST], path: PATH, kind: Kind::Stats },
];

/// Answers one request of a guest.
pub(super) async fn respond(
    request: Request<Incoming>,
    guest: &Arc<Guest>,
    host: &Arc<Host>,
    session: &Arc<Session>,
) -> Response<Body> {
    let path = request.uri().path().to_string();
    let exact = ROUTES.iter().find(|route| route.path == path || path == "/v1" && route.path == METADATA);
    let (methods, kind) = match exact {
        Some(route) => (route.methods, route.kind),
        // A part of the metadata, if there is such a one.
        None if path.starts_with(METADATA) => (READ, Kind::Metadata),
        None => return error(no_path(&[])),
    };
    if !methods.contains(request.method()) {
        return refuse(request.method(), methods);
    }
    let query = request.uri().query().map(str::to_string);
    let query = query.as_deref();
    let answer = match kind {
        // Nothing is waited for that would not be sent.
        Kind::Events if request.method() == Method::HEAD => Ok(text(String::new())),
        Kind::Greeting => Ok(text(GREETING.into())),
        Kind::Metadata => metadata(&path, query, guest, host).await,
        Kind::Nic => nic(query, guest, host).await,
        Kind::Connections => connections::respond(query, guest, host).await,
        Kind::Events => events::respond(query, guest, host, session).await,
        Kind::Stats => stats(request.into_body(), guest).await,
    };
    answer.unwrap_or_else(error)
}

fn refuse(method: &Method, methods: &[Method]) -> Response<Body> {
    let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let message = format!("{} is not for this path", method);
    let mut answer = error(ApiError::new(405, message).field("method").mend(format!("use {allowed}")));
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

/// There is nothing at a path; `parts` are those of the metadata that there are.
fn no_path(parts: &[String]) -> ApiError {
    let paths = ROUTES.iter().map(|route| route.path.to_string());
    let paths: Vec<String> = paths.chain(parts.iter().map(|part| format!("{METADATA}{part}"))).collect();
    ApiError::not_found("there is no such path").field("path").mend(format!("use {}", paths.join(", ")))
}

/// All of the metadata as JSON, or a part of it as text.
async fn metadata(
    path: &str,
    query: Option<&str>,
    guest: &Arc<Guest>,
    host: &Arc<Host>,
) -> Result<Response<Body>, ApiError> {
    let [] = query::read(query, [])?;
    let metadata: Metadata = answered(host.asker.ask(guest, Question::Metadata), ENGINE_LIMIT).await?;
    let part = path.strip_prefix(METADATA).unwrap_or_default();
    if part.is_empty() {
        return Ok(json(&metadata));
    }
    let tree = serde_json::to_value(&metadata).map_err(|e| ApiError::internal(e.to_string()))?;
    tree::text(&tree, part).map(text).ok_or_else(|| no_path(&tree::names(&tree).collect::<Vec<_>>()))
}

async fn nic(query: Option<&str>, guest: &Arc<Guest>, host: &Arc<Host>) -> Result<Response<Body>, ApiError> {
    let [] = query::read(query, [])?;
    let mut nic = answered(host.asker.ask(guest, Question::Nic), ENGINE_LIMIT).await?;
    nic.rates = guest.rates(std::time::Instant::now());
    Ok(json(&nic))
}

async fn stats(incoming: Incoming, guest: &Guest) -> Result<Response<Body>, ApiError> {
    let bytes = body::read(incoming).await?;
    let message = Message::read(&bytes).map_err(|e| ApiError::bad_request(e.to_string()).field("body"))?;
    guest.says(message);
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

/// Waits for the engine.
///
/// # Errors
/// 404, the VM is gone; 503.
pub(super) async fn answered<T>(answer: oneshot::Receiver<T>, limit: Duration) -> Result<T, ApiError> {
    match time::timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(ApiError::unavailable("vonic has no such VM any more, or ends").mend("try again")),
        Err(_) => Err(ApiError::unavailable("vonic did not answer in time").mend("try again")),
    }
}

fn text(text: String) -> Response<Body> {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(text))));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// An answer in JSON.
pub(super) fn json<T: Serialize>(content: &T) -> Response<Body> {
    body::json(200, content).map(Either::Left)
}

fn error(error: ApiError) -> Response<Body> {
    body::json(error.status, &ErrorBody { error }).map(Either::Left)
}
