//! HTTP/1 with JSON over a Unix socket, on one thread of its own.
//!
//! Who may ask is a matter of the socket file's mode; who may change something, of the client's user, too (ADR 0022). A client
//! that sends garbage, nothing, or too much loses its own connection. What there is to ask stands in `docs/openapi.json`, which
//! the routes and types are held against.
pub(crate) mod body;
mod capture;
mod error;
mod events;
mod feed;
mod filter;
mod handed;
mod handler;
mod histogram;
#[cfg(test)]
mod openapi;
mod parameters;
mod rates;
mod routes;
mod server;
mod session;
mod transfer;
pub mod types;
mod upload;

use std::time::Duration;

pub use error::{ApiError, ErrorBody};
pub use feed::{Feed, Wanted};
pub use filter::Filter;
pub use handed::Handed;
pub use handler::{Handler, Reply, Request, Response};
pub use parameters::{Form, PARAMETERS, Parameter};
pub use routes::{ROUTES, Route};
pub use server::{MetricsListener, serve};
pub use session::wait_for_answers;

/// How long a handler has to answer; later, the client gets status 503.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What there is to ask, as OpenAPI 3.1 says such things.
pub const OPENAPI: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json"));
