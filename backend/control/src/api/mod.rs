//! HTTP/1 with JSON over a Unix socket, on one thread of its own.
//!
//! Access is the socket file's mode and nothing else. A client that sends garbage, nothing, or too much loses its own
//! connection.
pub(crate) mod body;
mod error;
mod handler;
mod routes;
mod server;
mod transfer;
pub mod types;

use std::time::Duration;

pub use error::{ApiError, ErrorBody};
pub use handler::{Handler, Reply, Request, Response};
pub use routes::{ROUTES, Route};
pub use server::serve;

/// How long a handler has to answer; later, the client gets status 503.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
