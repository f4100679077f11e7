//! Guests' states as bodies: they may be long, and what they wait for may take as long as the operator says.
use std::time::Duration;

use hyper::body::{Bytes, Incoming};

use super::server::ask;
use super::{ANSWER_TIMEOUT, ApiError, Handler, Request, Response, body};

/// The longest that a client may have something waited for.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long it is otherwise.
pub(super) const WAIT: Duration = Duration::from_secs(60);
/// For what comes behind the wait: the state is put together, the operator's hook runs, and the bytes go through the socket.
const WORK: Duration = Duration::from_secs(120);

impl Request {
    /// How long its answer may take.
    pub(super) fn limit(&self) -> Duration {
        match self {
            Request::SaveState { limit, .. } | Request::AwaitState { limit, .. } => *limit + WORK,
            _ => ANSWER_TIMEOUT,
        }
    }
}

/// Has a VM's rings wait from here on, reads the body, and gives it to the engine.
pub(super) async fn load(
    vm: String,
    limit: Duration,
    body: Incoming,
    handler: &dyn Handler,
) -> Result<Response, ApiError> {
    let awaited = ask(handler, Request::AwaitState { vm: vm.clone(), limit }, ANSWER_TIMEOUT).await?;
    let Response::Awaited(number) = awaited else { return Ok(awaited) };
    let waiting = Waiting { handler, vm: &vm, number };
    let state: Bytes = body::read_state(body, limit).await?;
    if state.is_empty() {
        let error = ApiError::bad_request("nothing has come").field("body");
        return Err(error.mend("see what 'vonic migrate save' has said on the other host"));
    }
    let loaded = ask(handler, Request::LoadState { vm: vm.clone(), number, state }, WORK).await;
    drop(waiting);
    loaded
}

/// A VM whose rings wait for a state; dropped, also because the client has gone, they wait no longer.
struct Waiting<'a> {
    handler: &'a dyn Handler,
    vm: &'a str,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (reply, _) = super::Reply::new();
        self.handler.handle(Request::ForgetState { vm: self.vm.into(), number: self.number }, reply);
    }
}
