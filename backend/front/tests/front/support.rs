//! A master, a minimal engine, and a VMM.
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vmm_sys_util::tempdir::TempDir;
use vmm_sys_util::tempfile::TempFile;
use vonic_front::{EngineLink, MasterConfig, Message, Request, ToEngine, ToMaster, run_standalone};
use vonic_session::{EventSink, PortEvent, Session, SessionEvent, SessionSpec};

/// VERSION_1, PROTOCOL_FEATURES, and what the recorded VMMs acknowledged.
pub const FEATURES: u64 = 0x1_7021_99ab;
/// VHOST_F_LOG_ALL, which a session offers besides.
pub const LOG_ALL: u64 = 1 << 26;
/// What the engine has to save, and the only thing that it loads.
pub const STATE: &[u8] = b"what there is of it";
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What happened in the engine, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Listening(String, bool),
    Connected(u64),
    Disconnected(u64),
    Features(u64),
    Memory,
    Ring { index: u16, size: u16, enabled: bool, kick: bool, call: bool },
    RingStopped(u16),
    Log { on: bool, used: Vec<Option<u64>> },
    Announce,
    Save,
    Load(Vec<u8>),
    Reset,
    Closed(u64),
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Sender<Seen>>>);

impl EventSink for Sink {
    fn event(&self, event: SessionEvent) {
        let seen = match event.event {
            PortEvent::Features(bits) => Seen::Features(bits),
            PortEvent::Memory(_, done) => {
                done.done();
                Seen::Memory
            }
            PortEvent::Ring { index, setup, kick, call, enabled, .. } => {
                Seen::Ring { index, size: setup.size, enabled, kick: kick.is_some(), call: call.is_some() }
            }
            PortEvent::RingStopped { index, done } => {
                done.done();
                Seen::RingStopped(index)
            }
            PortEvent::Log { log, used, done } => {
                done.done();
                Seen::Log { on: log.is_some(), used }
            }
            PortEvent::Announce => Seen::Announce,
            PortEvent::Save(request) => {
                request.answer(Ok(STATE.into()));
                Seen::Save
            }
            PortEvent::Load(request) => {
                let (state, answer) = request.take();
                answer(if state == STATE { Ok(()) } else { Err("it is another".into()) });
                Seen::Load(state)
            }
            PortEvent::Reset => Seen::Reset,
            PortEvent::Closed => Seen::Closed(event.session),
        };
        let _ = self.0.lock().unwrap().send(seen);
    }
}

/// How the engine answers `Connected`.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    /// With a session.
    Serve,
    /// With SessionRefused.
    Refuse,
    /// With a session, once the VMM has gone.
    Late,
}

/// A running master, and what its engine sees.
pub struct Bench {
    pub dir: TempDir,
    pub link: EngineLink,
    pub seen: Receiver<Seen>,
    sessions: Arc<Mutex<BTreeMap<u64, Session>>>,
}

/// Runs a master and an engine around `test`.
pub fn with_master(manner: Manner, test: impl FnOnce(&Bench)) {
    let engine = |link: EngineLink, _| {
        let (sender, seen) = mpsc::channel();
        let dir = TempDir::new().unwrap();
        let sessions = Arc::new(Mutex::new(BTreeMap::new()));
        let engine = Engine { link: link.try_clone().unwrap(), scratch: dir.as_path().into(), manner };
        let table = Arc::clone(&sessions);
        let engine = thread::spawn(move || engine.run(Sink(Arc::new(Mutex::new(sender))), &table));
        let bench = Bench { dir, link, seen, sessions };
        test(&bench);
        assert!(!engine.is_finished(), "the master is still there");
        0
    };
    assert_eq!(run_standalone(MasterConfig::default(), engine).unwrap(), 0);
}

struct Engine {
    link: EngineLink,
    scratch: PathBuf,
    manner: Manner,
}

impl Engine {
    fn run(self, sink: Sink, sessions: &Mutex<BTreeMap<u64, Session>>) {
        while let Ok(Some(message)) = self.link.recv() {
            let seen = match message {
                ToEngine::Listening { name, result } => Seen::Listening(name, result.is_ok()),
                ToEngine::Connected { session, .. } => {
                    if self.manner == Manner::Serve {
                        self.serve(session, &sink, sessions);
                    } else if self.manner == Manner::Refuse {
                        self.link.send(&ToMaster::SessionRefused { session }).unwrap();
                    }
                    Seen::Connected(session)
                }
                ToEngine::Disconnected { session } => {
                    if self.manner == Manner::Late {
                        self.serve(session, &sink, sessions);
                    }
                    drop(sessions.lock().unwrap().remove(&session));
                    Seen::Disconnected(session)
                }
                ToEngine::Present | ToEngine::Reload | ToEngine::Rest | ToEngine::Marked { .. } | ToEngine::Stop => {
                    continue;
                }
                ToEngine::Ping { .. }
                | ToEngine::History(_)
                | ToEngine::Pardoned { .. }
                | ToEngine::Upgraded { .. } => continue,
            };
            let _ = sink.0.lock().unwrap().send(seen);
        }
    }

    fn serve(&self, session: u64, sink: &Sink, sessions: &Mutex<BTreeMap<u64, Session>>) {
        let (mac, name) = ([0x52, 0x54, 0, 0, 0, 2], String::from("vm"));
        let spec = SessionSpec { port: 0, session, name, features: FEATURES, queue_pairs: 1, mac, mtu: 1500 };
        let (running, front) = vonic_session::start(spec, &self.scratch, sink.clone()).unwrap();
        sessions.lock().unwrap().insert(session, running);
        self.link.send(&ToMaster::Session { session, fd: front.into_raw_fd() }).unwrap();
    }
}

impl Bench {
    /// The next thing that the engine sees.
    pub fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("the engine sees nothing more")
    }

    /// Waits until the engine sees this, whatever comes before.
    pub fn until(&self, awaited: &Seen) {
        while self.next() != *awaited {}
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.as_path().join(name)
    }

    /// Has the master listen for a VM.
    pub fn listen(&self, name: &str) {
        let (path, mode) = (self.path(name), 0o600);
        self.link.send(&ToMaster::Listen { name: name.into(), path, mode }).unwrap();
        self.until(&Seen::Listening(name.into(), true));
    }

    pub fn connect(&self, name: &str) -> Vmm {
        let socket = UnixStream::connect(self.path(name)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Vmm(socket)
    }

    /// Ends a session from the engine's side.
    pub fn end_session(&self, session: u64) {
        let session = self.sessions.lock().unwrap().remove(&session);
        drop(session.unwrap());
    }
}

/// A VMM's end of a connection.
pub struct Vmm(pub UnixStream);

impl Vmm {
    /// Sends raw bytes with descriptors. The front may have hung up meanwhile.
    pub fn throw(&self, bytes: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let _ = self.0.send_with_fds(&[bytes], &fds);
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Sends a request, asking for an acknowledgement or not.
    pub fn send(&self, mut message: Message, asks: bool) {
        message.set_needs_reply(asks);
        let _ = message.send(&self.0);
    }

    /// The next message: code and body. None: the connection has ended.
    pub fn receive(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        match self.0.read_exact(&mut header) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("neither an answer nor an end")
            }
            Err(_) => return None,
        }
        let word = |i: usize| u32::from_ne_bytes(header[i..i + 4].try_into().unwrap());
        assert_eq!(word(4), 5, "an answer's flags are version and REPLY");
        let mut body = vec![0; word(8) as usize];
        self.0.read_exact(&mut body).unwrap();
        Some((word(0), body))
    }

    /// Sends a request and returns its answer's body.
    pub fn ask(&mut self, message: Message) -> Vec<u8> {
        let code = message.code;
        self.send(message, true);
        let (answered, body) = self.receive().unwrap_or_else(|| panic!("the connection ended at request {code}"));
        assert_eq!(answered, code);
        body
    }

    /// Sends a request and returns its answer's number.
    pub fn number(&mut self, message: Message) -> u64 {
        u64::from_ne_bytes(self.ask(message)[..8].try_into().unwrap())
    }

    /// Is the front there, and in its wits?
    pub fn lives(&mut self) {
        assert_eq!(self.number(Message::new(Request::GetFeatures, vec![])), FEATURES | LOG_ALL);
    }

    /// Sees the connection end.
    pub fn ended(&mut self) {
        while self.receive().is_some() {}
    }
}

pub fn memory_file(size: u64) -> OwnedFd {
    let mut file = TempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file.remove().unwrap();
    file.as_file().try_clone().unwrap().into()
}

/// Something to kick or call with: a socket, as UML passes.
pub fn event() -> OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

pub fn request(request: Request, body: Vec<u8>, fds: Vec<OwnedFd>) -> Message {
    Message { fds, ..Message::new(request, body) }
}

pub fn number(code: Request, value: u64) -> Message {
    request(code, value.to_ne_bytes().to_vec(), vec![])
}

pub fn ring(code: Request, index: u32, value: u32) -> Message {
    request(code, [index, value].map(u32::to_ne_bytes).concat(), vec![])
}

pub fn ring_fd(code: Request, index: u64) -> Message {
    request(code, index.to_ne_bytes().to_vec(), vec![event()])
}

pub fn table(regions: &[[u64; 4]], fds: Vec<OwnedFd>) -> Message {
    let mut body = (regions.len() as u64).to_ne_bytes().to_vec();
    body.extend(regions.iter().flatten().flat_map(|word| word.to_ne_bytes()));
    request(Request::SetMemTable, body, fds)
}
