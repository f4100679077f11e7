//! The border between the API's thread and the engine: requests go over it, responses come back.
use serde::Serialize;
use tokio::sync::oneshot;

use super::ApiError;
use super::types::{ConnectionRow, EngineStatus, Health, ReloadReport, Stats, UpgradeReport, VmDetail, VmRow};
use std::path::PathBuf;

/// What a client asks for, checked for form only.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Every VM.
    Vms,
    /// One VM.
    Vm(String),
    /// Open connections.
    Connections {
        /// Of this VM only.
        vm: Option<String>,
    },
    /// Counters.
    Stats,
    /// Read the configuration again.
    Reload,
    /// Have this program, a newer vonicd, take over.
    Upgrade(PathBuf),
    /// How the last upgrade ended.
    Upgraded,
    /// Whether the service works.
    Health,
    /// The engine, and what became of those before it.
    Engine,
    /// Another engine in the place of this one.
    RestartEngine,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Response {
    /// Every VM, sorted by name.
    Vms(Vec<VmRow>),
    /// One VM.
    Vm(Box<VmDetail>),
    /// Open connections.
    Connections(Vec<ConnectionRow>),
    /// Counters.
    Stats(Stats),
    /// What the reload did.
    Reload(ReloadReport),
    /// How the last upgrade ended.
    Upgrade(UpgradeReport),
    /// Whether the service works.
    Health(Health),
    /// The engine.
    Engine(Box<EngineStatus>),
    /// Why not.
    #[serde(skip)]
    Error(ApiError),
}

/// Where one response goes. Dropped without [`Reply::send`], it answers with status 500.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Response>);

impl Reply {
    /// A reply, and where its response arrives.
    pub(super) fn new() -> (Reply, oneshot::Receiver<Response>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(sender), receiver)
    }

    /// Answers; from any thread, without blocking. A client that has gone away in the meantime is nobody's error.
    pub fn send(self, response: Response) {
        drop(self.0.send(response));
    }
}

/// Who answers requests. `handle` is called on the API's thread and must not block: it passes the request on, and the
/// reply is sent from wherever the answer is known, within [`super::ANSWER_TIMEOUT`].
pub trait Handler: Send + Sync + 'static {
    /// Takes one request.
    fn handle(&self, request: Request, reply: Reply);
}
