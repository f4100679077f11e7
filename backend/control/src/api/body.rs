//! Bodies of requests and answers: what the API and the guests' service have in common.
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::time;

use super::ApiError;
use vonic_session::STATE_MAX;

/// The most bytes of a request's body that are read.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;
/// How long a client may take to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a body whole. Errors: 408, it did not come in time; 413, it is too long; 400.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    read_within(body, BODY_LIMIT, BODY_TIMEOUT).await
}

/// Reads a guest's state, which may be long. Errors: as [`read`].
pub(super) async fn read_state(body: Incoming, limit: Duration) -> Result<Bytes, ApiError> {
    read_within(body, STATE_MAX, limit).await
}

async fn read_within(body: Incoming, most: usize, limit: Duration) -> Result<Bytes, ApiError> {
    let read = time::timeout(limit, Limited::new(body, most).collect()).await;
    let Ok(read) = read else {
        let message = format!("the body did not come within {limit:?}");
        return Err(ApiError::new(408, message).field("body"));
    };
    match read.map(|read| read.to_bytes()) {
        Ok(read) => Ok(read),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            let message = format!("the body is longer than {most} bytes");
            Err(ApiError::new(413, message).field("body").mend("send a shorter one"))
        }
        Err(e) => Err(ApiError::bad_request(format!("the body cannot be read: {e}")).field("body")),
    }
}

/// An answer of bytes.
pub(super) fn bytes(content: Bytes) -> hyper::Response<Full<Bytes>> {
    let mut http = hyper::Response::new(Full::new(content));
    http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    http
}

/// An answer in JSON.
pub(crate) fn json<T: Serialize>(status: u16, content: &T) -> hyper::Response<Full<Bytes>> {
    let (status, body) = match serde_json::to_vec(content) {
        Ok(body) => (status, body),
        Err(e) => {
            log::error!("a response cannot be written as JSON: {e}");
            (500, br#"{"error":{"message":"the response cannot be written as JSON"}}"#.to_vec())
        }
    };
    let mut http = hyper::Response::new(Full::new(Bytes::from(body)));
    *http.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    http
}
