//! What a guest can ask for.
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use vonic_agent::message::{Message, PATH};

use super::Guest;
use crate::api::{ApiError, ErrorBody, body};

/// The answer to `GET /`.
const GREETING: &str = "This is vonic, the network of this VM. vonic-agent posts its counters to /v1/stats.\n";

/// A path, the method that it takes, and what it does.
struct Route {
    method: Method,
    path: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Greeting,
    Stats,
}

static ROUTES: &[Route] = &[
    Route { method: Method::GET, path: "/", kind: Kind::Greeting },
    Route { method: Method::POST, path: PATH, kind: Kind::Stats },
];

/// Answers one request of a guest.
pub(super) async fn respond(request: Request<Incoming>, guest: &Guest) -> Response<Full<Bytes>> {
    let Some(route) = ROUTES.iter().find(|route| route.path == request.uri().path()) else {
        let paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
        return error(
            ApiError::not_found("there is no such path").field("path").mend(format!("use {}", paths.join(", "))),
        );
    };
    if route.method != *request.method() {
        let message = format!("{} is not for this path", request.method());
        let refused = ApiError::new(405, message).field("method").mend(format!("use {}", route.method));
        let mut answer = error(refused);
        if let Ok(allowed) = HeaderValue::from_str(route.method.as_str()) {
            answer.headers_mut().insert(ALLOW, allowed);
        }
        return answer;
    }
    match route.kind {
        Kind::Greeting => greeting(),
        Kind::Stats => stats(request.into_body(), guest).await.unwrap_or_else(error),
    }
}

fn greeting() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(GREETING.as_bytes())));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

async fn stats(incoming: Incoming, guest: &Guest) -> Result<Response<Full<Bytes>>, ApiError> {
    let bytes = body::read(incoming).await?;
    let message = Message::read(&bytes).map_err(|e| ApiError::bad_request(e.to_string()).field("body"))?;
    guest.says(message);
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

fn error(error: ApiError) -> Response<Full<Bytes>> {
    body::json(error.status, &ErrorBody { error })
}
