//! The border between the API's thread and the engine: requests go over it, responses come back.
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::oneshot;
use vonic_datapath::Capturer;

use super::types::{
    ConnectionRow, EngineStatus, Health, LoadReport, Rates, ReloadReport, Stats, UpgradeReport, VmDetail, VmRow,
};
use super::{ApiError, Feed, Filter, Handed, Wanted};
use crate::capture::Nic;
use crate::metrics::Snapshot;
use std::path::PathBuf;
use std::time::Duration;

/// What a client asks for, checked for form only.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Every VM.
    Vms,
    /// One VM.
    Vm(String),
    /// A VM's configuration: its file's text. Empty until the body has been read.
    PutVm {
        /// The VM's name.
        vm: String,
        /// What its file is to say.
        text: String,
    },
    /// There is to be no such VM.
    DeleteVm(String),
    /// Open connections.
    Connections(Filter),
    /// What happens from now on. The API's thread answers it by itself, from the handler's feed.
    Events(Wanted),
    /// What there is to ask. The API's thread answers it by itself.
    OpenApi,
    /// Counters.
    Stats,
    /// How they move within so long. The API's thread asks for them twice.
    Rates(Duration),
    /// The same for Prometheus.
    Metrics,
    /// Read the configuration again.
    Reload {
        /// Only tell what that would change.
        dry_run: bool,
    },
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
    /// A VM's state for another host, as soon as its rings have stopped.
    SaveState {
        /// The VM.
        vm: String,
        /// How long that may take.
        limit: Duration,
    },
    /// A VM's state is about to come: its rings are to wait. Answered by [`Response::Awaited`].
    AwaitState {
        /// The VM.
        vm: String,
        /// How long they may have to wait.
        limit: Duration,
    },
    /// It has come.
    LoadState {
        /// The VM.
        vm: String,
        /// As it was answered.
        number: u64,
        /// The state.
        state: Bytes,
    },
    /// It will not come, or has: nobody waits for it any more. Not answered.
    ForgetState {
        /// The VM.
        vm: String,
        /// As it was answered.
        number: u64,
    },
    /// A VM's frames are to be captured. Answered by [`Response::Capturing`].
    Capture {
        /// The VM.
        vm: String,
        /// Where they go.
        capturer: Handed<Capturer>,
    },
    /// And no more. Not answered.
    EndCapture {
        /// The VM.
        vm: String,
        /// The capture's number.
        number: u64,
    },
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
    /// How they move.
    Rates(Rates),
    /// What there is to ask.
    #[serde(skip)]
    OpenApi,
    /// The same for Prometheus.
    #[serde(skip)]
    Metrics(Box<Snapshot>),
    /// What the reload did.
    Reload(ReloadReport),
    /// How the last upgrade ended.
    Upgrade(UpgradeReport),
    /// Whether the service works.
    Health(Health),
    /// The engine.
    Engine(Box<EngineStatus>),
    /// What has come with a VM's guest.
    Loaded(LoadReport),
    /// A VM's state.
    #[serde(skip)]
    State(Bytes),
    /// A VM's rings wait for its state, which is to be given by this number.
    #[serde(skip)]
    Awaited(u64),
    /// A VM's frames are captured.
    #[serde(skip)]
    Capturing(Nic),
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

    /// The same; whether the client was still there.
    pub fn deliver(self, response: Response) -> bool {
        self.0.send(response).is_ok()
    }

    /// Whether the client has gone.
    pub fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// Who answers requests. `handle` is called on the API's thread and must not block: it passes the request on, and the
/// reply is sent from wherever the answer is known, within [`super::ANSWER_TIMEOUT`].
pub trait Handler: Send + Sync + 'static {
    /// Takes one request.
    fn handle(&self, request: Request, reply: Reply);

    /// Where what happens is told.
    fn feed(&self) -> Feed;
}
