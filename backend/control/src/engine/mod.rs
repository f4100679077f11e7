//! The engine's control side: one thread that takes everything in by one channel, and decides.
//!
//! In: the master's messages, the sessions' port events, the worker's notices, API requests, news of the host's addresses.
//! Out: commands to the worker, messages to the master, answers to the API.
mod agents;
mod answers;
mod cables;
mod captures;
mod chronicle;
mod confinement;
mod difference;
mod edits;
mod egress;
mod file_watch;
mod forwards;
mod guests;
mod health;
mod hints;
mod metrics;
mod migration;
mod quarantine;
mod registry;
mod relisten;
mod reload;
mod replacement;
pub(crate) mod resolvers;
mod sessions;
mod succession;
mod upgrades;
mod workers;

use crate::api::{self, Feed, Handler, Reply, Request};
use crate::config::Poll;
use crate::guest::{self, Asker, Guest, Question, Service};
use migration::Migration;
use registry::Registry;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use vonic_datapath::{Command, Notice, Notify, Waker, Worker, WorkerConfig, crash_point};
use vonic_front::{API, EngineLink, Start, ToEngine, ToMaster};
use vonic_record::Ledger;
use vonic_session::{EventSink, SessionEvent};
use vonic_uplink::{AddressWatch, PeekMode, host_addresses};
use workers::Workers;

/// How long the worker may take to reset every connection.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What the engine is started with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where `vonic.toml` and `vms.d` are.
    pub config_dir: PathBuf,
    /// How the worker peeks; `None`: by the best that the kernel has.
    pub peek_mode: Option<PeekMode>,
}

/// Reads the name of a way to peek; anything but `offset` and `scratch` leaves it to the kernel.
pub fn peek_mode(name: &str) -> Option<PeekMode> {
    match name {
        "offset" => Some(PeekMode::Offset),
        "scratch" => Some(PeekMode::Scratch),
        _ => None,
    }
}

/// The name by which an engine leaves the configuration that runs ([`EngineLink::keep`]).
pub const CONFIGURATION: &str = succession::CONFIG;

/// The configuration that an engine has left, as this version reads it.
///
/// # Errors
/// Everything that is wrong in it.
pub fn left_config(dir: &std::path::Path, left: &[u8]) -> Result<crate::config::Config, String> {
    succession::running(dir, left).map(|(config, _)| config)
}

/// What a vonicd with this configuration has a use for, and no more: for one that becomes another user.
pub fn needed_capabilities(config: &crate::config::Config) -> vonic_front::Capabilities {
    confinement::needed(config, forwards::unprivileged_start())
}

/// Everything that can reach the control thread.
enum Input {
    Master(ToEngine),
    MasterGone,
    Session(SessionEvent),
    Worker(Notice),
    Api(Request, Reply),
    Guest(Arc<Guest>, Question),
    Addresses(Vec<IpAddr>),
    /// The host's resolvers may be others now.
    Resolvers,
    /// An interface of the host came, went or changed.
    Links,
    /// A VM's file has been written or removed, or could not be.
    Edited(Box<edits::Edited>),
    /// The configuration's files have changed.
    Files,
    /// Of guests that leave or come.
    Migration(migration::News),
    /// A worker's end of a capture, which is over.
    Captured(vonic_datapath::Capturer),
}

#[derive(Clone)]
struct Sink(Sender<Input>);

impl EventSink for Sink {
    fn event(&self, event: SessionEvent) {
        crash_point!("message-heard");
        // The control thread is gone only when the process is.
        let _ = self.0.send(Input::Session(event));
    }
}

struct ApiHandler(Sender<Input>, Feed);

impl Handler for ApiHandler {
    fn handle(&self, request: Request, reply: Reply) {
        let _ = self.0.send(Input::Api(request, reply));
    }

    fn feed(&self) -> Feed {
        self.1.clone()
    }
}

/// Runs the engine until the master says stop, or is gone. Returns the process's exit code.
pub fn run(engine: EngineConfig, link: EngineLink, start: &Start) -> i32 {
    match begin(engine, link, start) {
        Ok((mut registry, inputs)) => serve(&mut registry, &inputs),
        Err(message) => {
            log::error!("the engine cannot start: {message}");
            1
        }
    }
}

fn begin(engine: EngineConfig, link: EngineLink, start: &Start) -> Result<(Registry, Receiver<Input>), String> {
    let (config, first_service) = succession::config(&engine.config_dir, start)?;
    vonic_queue::survive_truncation().map_err(|e| format!("SIGBUS handler: {e}"))?;
    start.checkpoint.note_faults().map_err(|e| format!("handlers of signals: {e}"))?;
    let bounds = confinement::bounds(&engine.config_dir, &config);
    if !start.is_standalone {
        confinement::confine(&bounds);
    }
    #[cfg(feature = "crash-points")]
    confinement::intrude();
    let (sender, inputs) = channel();
    let worker_config = WorkerConfig {
        checkpoint: Arc::clone(&start.checkpoint),
        takes_over: start.takes_over,
        poll: poll(config.service.poll),
        peek_mode: engine.peek_mode,
        turn_us: vonic_datapath::TURN_US,
    };
    let notify = || -> Notify {
        let notices = sender.clone();
        Box::new(move |notice| drop(notices.send(Input::Worker(notice))))
    };
    let team = Worker::team(config.service.workers.into(), &worker_config, notify);
    let workers = Workers::start(team.map_err(|e| format!("workers: {e}"))?)?;
    let reader = link.try_clone().map_err(|e| format!("control channel: {e}"))?;
    let (from_master, wakers) = (sender.clone(), workers.wakers());
    spawn("from-master", move || read_master(&reader, &wakers, &from_master))?;
    let addresses = sender.clone();
    spawn("addresses", move || watch_addresses(&addresses))?;
    let questions = sender.clone();
    // The control thread is gone only when the process is.
    let asker = Asker::new(move |guest, question| drop(questions.send(Input::Guest(guest, question))));
    let host = guest::Host::new(asker, Arc::clone(&start.checkpoint));
    let guests = Service::start(host).map_err(|e| format!("thread guests: {e}"))?;
    let ledger = Ledger::new(Arc::clone(&start.checkpoint));
    let migration = Migration::new(start, engine.peek_mode);
    let mut registry =
        Registry::new(engine.config_dir, (config, first_service), workers, (link, sender), guests, ledger, migration);
    registry.bounds = bounds;
    registry.blamed.clone_from(&start.blamed);
    registry.lists.held = start.takes_over;
    registry.leave_config();
    registry.told = chronicle::inherited(start);
    registry.inherit(&start.checkpoint);
    // Known before the first frame: the host's own addresses are out of the guests' reach from the start.
    let addresses = host_addresses().map_err(|e| format!("the host's addresses: {e}"))?;
    registry.host_has(addresses);
    registry.open_resolvers();
    registry.open_everything();
    registry.watch_files();
    Ok((registry, inputs))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(body);
    thread.map(drop).map_err(|e| format!("thread {name}: {e}"))
}

fn poll(poll: Poll) -> vonic_datapath::Poll {
    match poll {
        Poll::Never => vonic_datapath::Poll::For(0),
        Poll::For(time) => vonic_datapath::Poll::For(time.as_micros() as u64),
        Poll::Always => vonic_datapath::Poll::Always,
    }
}

fn read_master(link: &EngineLink, workers: &[Waker], to: &Sender<Input>) {
    loop {
        let input = match link.recv() {
            Ok(Some(message)) => {
                // The workers are asked by the checkpoint's header; this thread asks the control side.
                if matches!(message, ToEngine::Ping { .. }) {
                    workers.iter().for_each(Waker::wake);
                }
                Input::Master(message)
            }
            Ok(None) => Input::MasterGone,
            Err(error) => {
                log::error!("the control channel to the master failed: {error}");
                Input::MasterGone
            }
        };
        let gone = matches!(input, Input::MasterGone);
        if to.send(input).is_err() || gone {
            return;
        }
    }
}

/// Tells the host's addresses at the start and at each change.
fn watch_addresses(to: &Sender<Input>) {
    // Subscribed before the first look: no change goes unseen.
    let watch = AddressWatch::open();
    loop {
        match host_addresses() {
            Ok(addresses) => {
                if to.send(Input::Addresses(addresses)).is_err() {
                    return;
                }
            }
            Err(error) => log::warn!("the host's addresses cannot be read: {error}"),
        }
        match watch.as_ref().map(AddressWatch::wait) {
            Ok(Ok(())) => {}
            // Without news, look from time to time.
            _ => std::thread::sleep(Duration::from_secs(10)),
        }
    }
}

fn serve(registry: &mut Registry, inputs: &Receiver<Input>) -> i32 {
    loop {
        let retry = registry.cables.retry_in().into_iter().chain(registry.relisten.due_in());
        let retry = retry.chain(registry.migration.due_in()).chain(registry.by_hand_due_in()).min();
        let input = match retry {
            None => inputs.recv().map_err(RecvTimeoutError::from),
            Some(time) => inputs.recv_timeout(time),
        };
        let input = match input {
            Ok(input) => input,
            Err(RecvTimeoutError::Timeout) => Input::Links,
            Err(RecvTimeoutError::Disconnected) => return 1,
        };
        match input {
            Input::Master(ToEngine::Stop) if registry.rests => return 0,
            Input::Master(ToEngine::Stop) => {
                registry.stop(STOP_LIMIT);
                return 0;
            }
            Input::MasterGone => return 1,
            // Another engine does it.
            _ if registry.rests => {}
            Input::Master(message) => from_master(registry, message),
            Input::Session(event) => registry.session_event(event),
            Input::Worker(notice) => registry.notice(notice),
            Input::Api(request, reply) => registry.answer(request, reply),
            Input::Guest(guest, question) => registry.answer_guest(&guest, question),
            Input::Migration(news) => registry.migration_news(news),
            Input::Captured(capturer) => drop(capturer),
            Input::Addresses(addresses) => {
                registry.end_lingering(&addresses);
                registry.host_has(addresses);
                registry.mend_forwards();
            }
            Input::Resolvers => registry.look_for_resolvers(),
            Input::Edited(edited) => registry.edited(*edited),
            Input::Files => registry.files_changed(),
            Input::Links => {
                registry.end_lingering_in_time();
                registry.end_by_hand_in_time();
                registry.mend_uplinks();
                registry.mend_forwards();
            }
        }
    }
}

fn from_master(registry: &mut Registry, message: ToEngine) {
    match message {
        ToEngine::Listening { name, result } if name == API => match result {
            Ok(fd) => serve_api(registry.handler(), fd),
            Err(error) => log::error!("the API has no socket: {error}"),
        },
        ToEngine::Listening { name, result } => registry.listening(&name, result.err()),
        ToEngine::Connected { name, session } => registry.connected(&name, session),
        ToEngine::Present => {
            registry.order(Command::Inherited);
            registry.release_lists();
        }
        ToEngine::Disconnected { session } => registry.disconnected(session),
        // What is wrong is in the log.
        ToEngine::Reload => registry.reload(reload::Asker::Signal),
        ToEngine::Upgraded { number, error } => registry.upgraded(number, error),
        ToEngine::Marked { number } => registry.marked(number),
        ToEngine::Ping { number } => registry.tell(&ToMaster::Pong { number }),
        ToEngine::Rest => registry.rest(),
        ToEngine::Pardoned { vm } => registry.pardoned(vm),
        ToEngine::History(history) => registry.history_told(*history),
        ToEngine::Stop => {}
    }
}

fn serve_api(handler: ApiHandler, fd: RawFd) {
    match vonic_front::adopt_listener(fd) {
        Ok(listener) => {
            if let Err(error) = api::serve(listener, Arc::new(handler)) {
                log::error!("{error}");
            }
        }
        Err(error) => log::error!("the API's socket cannot be used: {error}"),
    }
}
