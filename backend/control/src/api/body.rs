//! Bodies of requests and answers: what the API and the guests' service have in common.
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time;

use super::ApiError;
use vonic_session::STATE_MAX;

/// The most bytes of a request's body that are read.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;
/// How long a client may take to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of an answer: whole, or in parts as they come.
pub(super) type Body = Either<Full<Bytes>, Parts>;

/// Parts of a body. Whoever gives them sees the client's end as this end of the channel.
pub(super) struct Parts(pub(super) mpsc::Receiver<Bytes>);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

/// A good answer of this media type that comes in parts.
pub(super) fn parts(parts: mpsc::Receiver<Bytes>, media_type: &'static str) -> hyper::Response<Body> {
    let mut http = hyper::Response::new(Either::Right(Parts(parts)));
    http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    http
}

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
        return Err(ApiError::new(408, message).field("body").mend("send it without a pause"));
    };
    match read.map(|read| read.to_bytes()) {
        Ok(read) => Ok(read),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            let message = format!("the body is longer than {most} bytes");
            Err(ApiError::new(413, message).field("body").mend("send a shorter one"))
        }
        Err(e) => {
            let error = ApiError::bad_request(format!("the body cannot be read: {e}")).field("body");
            Err(error.mend("send as many bytes as the head says"))
        }
    }
}

/// A good answer of this media type.
pub(super) fn bytes(content: Bytes, media_type: &'static str) -> hyper::Response<Full<Bytes>> {
    let mut http = hyper::Response::new(Full::new(content));
    http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
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
