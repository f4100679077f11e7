//! One request to the API, and its answer.
use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time;

use super::command::Failure;
use crate::api::{ApiError, ErrorBody};

/// How long to wait for the whole answer; the service itself gives up before.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Asks, and returns the body of the answer.
///
/// # Errors
/// The API's own error, or why there was no answer.
pub(super) fn ask(socket: &Path, method: Method, target: &str) -> Result<Bytes, Failure> {
    let broken = |e: &dyn std::fmt::Display| {
        let message = format!("no answer from {}: {e}", socket.display());
        Failure::Api(ApiError::unavailable(message).mend("see vonicd's log"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|e| broken(&e))?;
    let target: Uri = target.parse().map_err(|e| broken(&e))?;
    let answer = runtime.block_on(async {
        time::timeout(TIMEOUT, async {
            let stream = UnixStream::connect(socket).await.map_err(|e| unreachable(socket, &e))?;
            exchange(stream, method, target).await.map_err(|e| broken(&e))
        })
        .await
        .unwrap_or_else(|_| Err(broken(&format_args!("nothing came within {TIMEOUT:?}"))))
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

async fn exchange(stream: UnixStream, method: Method, target: Uri) -> Result<(u16, Bytes), hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; its error is the request's too.
    let driver = tokio::spawn(connection);
    let mut request = hyper::Request::new(Empty::<Bytes>::new());
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
