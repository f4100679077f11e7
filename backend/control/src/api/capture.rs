//! Captures: an answer that goes on for as long as its client reads it.
use std::sync::Arc;

use hyper::body::{Bytes, Incoming};
use tokio::sync::mpsc;

use super::server::ask;
use super::session::{Place, Session};
use super::types::CaptureTerms;
use super::{ANSWER_TIMEOUT, ApiError, Handed, Handler, Reply, Request, Response, body};
use crate::capture::stream::{self, PARTS, Terms};

/// What an answer is (draft-ietf-opsawg-pcapng, §8).
pub(super) const PCAPNG: &str = "application/x-pcapng";

/// Begins a capture, whose terms are the body; without one everything is captured. The file's parts.
///
/// # Errors
/// 400, and what the engine says.
pub(super) async fn answer(
    vm: String,
    incoming: Incoming,
    (handler, session): (&Arc<dyn Handler>, &Arc<Session>),
    place: Place,
) -> Result<mpsc::Receiver<Bytes>, ApiError> {
    let body = body::read(incoming).await?;
    let terms = match body.is_empty() {
        true => CaptureTerms::default(),
        false => serde_json::from_slice(&body).map_err(|e| {
            let error = ApiError::bad_request(format!("the body is no JSON of a capture's terms: {e}")).field("body");
            error.mend("see openapi.json for them, or send none")
        })?,
    };
    let (capturer, capture) = stream::open(Terms::check(terms)?)?;
    let ending = Ending { handler: Arc::clone(handler), vm: vm.clone(), number: capture.number() };
    let wanted = Request::Capture { vm: vm.clone(), capturer: Handed::new(capturer) };
    let Response::Capturing(nic) = ask(&**handler, wanted, ANSWER_TIMEOUT).await? else {
        return Err(ApiError::internal("the engine gave another answer").mend("see vonicd's log"));
    };
    let (to, parts) = mpsc::channel(PARTS);
    session.go_on(async move {
        capture.run(&vm, nic, to).await;
        drop((ending, place));
    });
    Ok(parts)
}

/// Has the worker capture no more, however this ends.
struct Ending {
    handler: Arc<dyn Handler>,
    vm: String,
    number: u64,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let (reply, _) = Reply::new();
        let vm = std::mem::take(&mut self.vm);
        self.handler.handle(Request::EndCapture { vm, number: self.number }, reply);
    }
}
