//! What clients of the API, and guests at the service address, send: whatever it is, the servers stay, and answer the next one.
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use vonic_agent::metadata::Metadata;
use vonic_agent::nic::Nic;
use vonic_control::api::types::{LoadReport, ReloadReport, UpgradeReport, VmRow};
use vonic_control::api::{ApiError, Feed, Handler, Reply, Request, Response, serve};
use vonic_control::guest::{Asker, Guest, Host, Question, Service};
use vonic_record::{Checkpoint, Shared};

/// How long an answer is waited for that may not end: of a stream, or of a client that is waited for.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one is waited for that has to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// A sound request behind so many others.
const OFTEN: u32 = 64;

/// Sends all that there will be and hears what is answered. `None`: nothing that ends.
fn say(mut stream: UnixStream, data: &[u8]) -> Option<Vec<u8>> {
    let _ = stream.set_write_timeout(Some(PAUSE));
    // A server that has heard enough may be gone before all is said.
    let _ = (stream.write_all(data), stream.shutdown(Shutdown::Write));
    hear(stream, PAUSE)
}

/// A sound request's answer. Who has said that he is gone need not be given one.
fn ask(mut stream: UnixStream, request: &[u8]) -> Option<Vec<u8>> {
    let _ = stream.write_all(request);
    hear(stream, PATIENCE)
}

fn hear(mut stream: UnixStream, patience: Duration) -> Option<Vec<u8>> {
    let _ = stream.set_read_timeout(Some(patience));
    let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Some(heard),
            Ok(n) => heard.extend_from_slice(&chunk[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            // By libFuzzer's timer.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Some(heard),
        }
    }
}

/// Whether all that was heard is what HTTP's servers say, and none of it a fault of the server's (500; the engine behind it may be
/// missing, 503).
fn check(heard: Option<Vec<u8>>) {
    let Some(heard) = heard.filter(|heard| !heard.is_empty()) else { return };
    let status = heard.strip_prefix(b"HTTP/1.1 ").or_else(|| heard.strip_prefix(b"HTTP/1.0 "));
    let status = status.and_then(|rest| rest.first_chunk::<3>());
    assert!(status.is_some_and(|status| *status != *b"500"), "{}", String::from_utf8_lossy(&heard));
}

struct Engine(Feed);

impl Handler for Engine {
    fn handle(&self, request: Request, reply: Reply) {
        let row = || VmRow { name: "a".into(), ..VmRow::default() };
        reply.send(match request {
            Request::Vms => Response::Vms(vec![row()]),
            Request::Vm(name) if name == "a" => Response::Vm(Box::default()),
            Request::PutVm { vm, text } => {
                let none = vonic_control::config::load_sources("/nonexistent".as_ref(), &Default::default());
                let dir = std::path::Path::new("/nonexistent");
                let put = none.map(|none| vonic_control::config::with_vm(dir, &none, &vm, Some(&text)));
                match put {
                    Ok(Ok(_)) => Response::Reload(ReloadReport::default()),
                    _ => Response::Error(ApiError::bad_request("no such file")),
                }
            }
            Request::Connections(_) => Response::Connections(Vec::new()),
            Request::Stats => Response::Stats(Default::default()),
            Request::Metrics => Response::Metrics(Box::default()),
            Request::Reload { dry_run } => Response::Reload(ReloadReport { dry_run, ..ReloadReport::default() }),
            Request::Upgrade(_) | Request::Upgraded => {
                Response::Upgrade(UpgradeReport { number: 1, error: None, version: "0".into(), process: 7 })
            }
            Request::Health => Response::Health(Default::default()),
            Request::SaveState { vm, .. } if vm == "a" => Response::State("state".into()),
            Request::AwaitState { vm, .. } if vm == "a" => Response::Awaited(7),
            Request::LoadState { .. } => Response::Loaded(LoadReport { from: "a".into(), connections: 0, runs: true }),
            Request::Vm(name) | Request::DeleteVm(name) => Response::Error(ApiError::no_such_vm(&name)),
            Request::SaveState { vm, .. } | Request::AwaitState { vm, .. } | Request::Capture { vm, .. } => {
                Response::Error(ApiError::no_such_vm(&vm))
            }
            Request::Engine | Request::RestartEngine => Response::Engine(Box::default()),
            Request::Events(_)
            | Request::OpenApi
            | Request::Rates(_)
            | Request::ForgetState { .. }
            | Request::EndCapture { .. } => return,
        });
    }

    fn feed(&self) -> Feed {
        self.0.clone()
    }
}

/// Where the API listens; the directory is kept for as long as the process lives.
fn api_server() -> Option<&'static (tempfile::TempDir, std::path::PathBuf)> {
    static SERVER: OnceLock<Option<(tempfile::TempDir, std::path::PathBuf)>> = OnceLock::new();
    let start = || {
        let dir = tempfile::tempdir().ok()?;
        let path = dir.path().join("api.sock");
        serve(UnixListener::bind(&path).ok()?, Arc::new(Engine(Feed::default()))).ok()?;
        Some((dir, path))
    };
    SERVER.get_or_init(start).as_ref()
}

/// An input is what a client of the API sends.
pub fn api(data: &[u8]) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Some((_, path)) = api_server() else { panic!("the API's server does not start") };
    let connect = || UnixStream::connect(path).unwrap_or_else(|error| panic!("the API is gone: {error}"));
    check(say(connect(), data));
    if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(OFTEN) {
        let health = ask(connect(), b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n");
        let heard = health.map(|heard| String::from_utf8_lossy(&heard).into_owned());
        assert!(heard.as_ref().is_some_and(|heard| heard.starts_with("HTTP/1.1 200 ")), "the API answers {heard:?}");
    }
}

/// The service with one guest.
fn guest_server() -> Option<&'static (Service, Arc<Guest>)> {
    static SERVER: OnceLock<Option<(Service, Arc<Guest>)>> = OnceLock::new();
    let answer = |question| match question {
        Question::Metadata(answer) => {
            let labels = [("tier".to_string(), "web".to_string())].into();
            drop(answer.send(Metadata { version: 1, name: "a".into(), labels, ..Metadata::default() }));
        }
        Question::Nic(answer) => drop(answer.send(Nic { name: "a".into(), ..Nic::default() })),
        Question::Connections(..) | Question::Notify(_) => {}
    };
    let start = || {
        let host = Host::new(Asker::new(move |_, question| answer(question)), Arc::new(Checkpoint::create(1).ok()?));
        Some((Service::start(host).ok()?, Arc::new(Guest::new("a", &Shared::default()))))
    };
    SERVER.get_or_init(start).as_ref()
}

/// An input is what a guest sends.
pub fn guest(data: &[u8]) {
    let Some((service, _)) = guest_server() else { panic!("the guests' service does not start") };
    // A guest has a pace, and eight places: each input is another guest's.
    let guest = Arc::new(Guest::new("a", &Shared::default()));
    let connect = || {
        let Ok((near, far)) = UnixStream::pair() else { panic!("no descriptors are left") };
        let _ = far.set_nonblocking(true);
        service.serve(Arc::clone(&guest), far.into(), ());
        near
    };
    check(say(connect(), data));
    if let Some(report) = guest.report() {
        assert!(report.message.interfaces.len() <= 64);
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(OFTEN) {
        let question = b"GET /v1/metadata HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let heard = ask(connect(), question);
        assert!(heard.is_some_and(|heard| heard.starts_with(b"HTTP/1.1 ")), "the guests' service answers no more");
    }
}
