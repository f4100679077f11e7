//! Master and engine as two processes. The engine's clone wants a process with one thread, so this has no test harness: it
//! starts itself as the service, watches from outside, and fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "a test without harness reports for itself")]
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use vmm_sys_util::tempdir::TempDir;
use vonic_front::{EngineLink, MasterConfig, Message, Request, Start, ToEngine, ToMaster, run, run_standalone};
use vonic_session::{EventSink, PortEvent, SessionEvent, SessionSpec};

mod healing;

const FEATURES: u64 = 1 << 32 | 1 << 30;
/// VHOST_F_LOG_ALL, which the front offers beside the engine's.
const LOG_ALL: u64 = 1 << 26;
const PATIENCE: Duration = Duration::from_secs(10);
/// What a worker is given for an answer; the control side gets five times as much.
const HEARTBEAT: Duration = Duration::from_millis(200);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, manner, dir] = arguments.as_slice()
        && role == "--service"
    {
        std::process::exit(service(manner, Path::new(dir)));
    }
    if arguments.iter().any(|a| a == "--list") {
        return;
    }
    let tests: [(&str, fn()); 18] = [
        ("terminated, it stops in order", terminated_it_stops_in_order),
        ("an interrupt for the whole group is the master's", interrupted_as_a_group),
        ("a hang-up asks for a reload", hang_up_asks_for_a_reload),
        ("a killed engine is followed by another, and no VMM notices", killed_engine_is_followed),
        ("engines that die again and again are followed more and more slowly", storms_are_slowed_down),
        ("an engine that never served ends the master with an error", engine_that_never_served),
        ("while there is no engine, the service ends at once", ends_without_an_engine),
        ("a killed master takes the engine along", killed_master_takes_the_engine_along),
        ("an engine that does not stop is killed", stubborn_engine_is_killed),
        ("standalone, it stops in order as well", standalone_stops_in_order),
        ("an engine's own exit code is the service's", exit_code_is_the_engines),
        ("what the engine opens is open in the master", one_descriptor_table),
        ("who stands by takes over, costs nothing, and ends with the master", healing::standby_takes_over),
        ("an engine whose worker hangs is killed", healing::hanging_worker_is_noticed),
        ("an engine whose control side hangs is killed", healing::deaf_control_side_is_noticed),
        ("a stopped engine is killed, but not for the master's own standing still", healing::stopped_engine_is_killed),
        ("an engine that is replaced has not died", healing::replaced_engine_has_not_died),
        ("a VM that engines die of is named to the next", healing::blame_is_handed_on),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
}

// ---- The service, in the child process.

#[derive(Clone)]
struct Sink;

impl EventSink for Sink {
    fn event(&self, event: SessionEvent) {
        if let PortEvent::Memory(_, done) | PortEvent::RingStopped { done, .. } = event.event {
            done.done();
        }
    }
}

fn service(manner: &str, dir: &Path) -> i32 {
    let heartbeat = matches!(manner, "hangs" | "deaf" | "beats").then_some(HEARTBEAT);
    let config = MasterConfig {
        engine_pid_file: Some(dir.join("engine.pid")),
        heartbeat,
        quarantine: true,
        ..Default::default()
    };
    let engine = |link: EngineLink, start: Start| engine(manner, dir, &link, &start);
    match if manner == "standalone" { run_standalone(config, engine) } else { run(config, engine) } {
        Ok(code) => code,
        Err(error) => {
            std::fs::write(dir.join("error"), error.to_string()).unwrap();
            70
        }
    }
}

fn engine(manner: &str, dir: &Path, link: &EngineLink, start: &Start) -> i32 {
    match manner {
        "quits" => return 7,
        "falters" if start.takes_over => std::process::abort(),
        "never-serves" => std::process::abort(),
        _ => {}
    }
    let number = vonic_record::vm_number("vm");
    let blame = start.blamed.get(&number).copied().unwrap_or_default();
    std::fs::write(dir.join("blamed"), format!("{} {}", blame.deaths, blame.quarantined)).unwrap();
    start.checkpoint.header().work_on(0, number);
    std::fs::write(dir.join("left"), start.read("note").unwrap().unwrap_or_default()).unwrap();
    link.keep("note", &[b"from the one before"]).unwrap();
    // A connection that only the engine has opened, and that must live as long as the table does.
    let tcp = std::fs::read_to_string(dir.join("peer")).ok().map(|address| TcpStream::connect(address).unwrap());
    let path = dir.join("vm.sock");
    link.send(&ToMaster::Listen { name: "vm".into(), path, mode: 0o600 }).unwrap();
    let mut sessions = Vec::new();
    while let Ok(Some(message)) = link.recv() {
        match message {
            ToEngine::Listening { result, .. } => {
                result.unwrap();
                link.send(&ToMaster::Ready).unwrap();
                let number = tcp.as_ref().map_or(-1, AsRawFd::as_raw_fd);
                std::fs::write(dir.join("new"), format!("{number}\n")).unwrap();
                std::fs::rename(dir.join("new"), dir.join("ready")).unwrap();
            }
            ToEngine::Connected { session, .. } => {
                let (mac, name) = ([2; 6], String::from("vm"));
                let spec = SessionSpec { port: 0, session, name, features: FEATURES, queue_pairs: 1, mac, mtu: 1500 };
                let (running, front) = vonic_session::start(spec, dir, Sink).unwrap();
                sessions.push(running);
                link.send(&ToMaster::Session { session, fd: front.into_raw_fd() }).unwrap();
            }
            ToEngine::Rest => link.send(&ToMaster::Replace).unwrap(),
            ToEngine::Reload if manner == "replaces" => link.send(&ToMaster::Replace).unwrap(),
            ToEngine::Reload if manner == "faults" => std::process::abort(),
            ToEngine::Reload => std::fs::write(dir.join("reloaded"), "").unwrap(),
            ToEngine::Stop if manner == "stubborn" => {}
            ToEngine::Stop => return 0,
            ToEngine::History(history) => {
                std::fs::write(dir.join("history.new"), serde_json::to_string(&history).unwrap()).unwrap();
                std::fs::rename(dir.join("history.new"), dir.join("history")).unwrap();
            }
            // The first engine's worker falls silent after a while, or its control side.
            ToEngine::Ping { number } => {
                let well = start.takes_over || number < 4;
                if well || manner != "hangs" {
                    start.checkpoint.header().answer(0, number);
                }
                if well || manner != "deaf" {
                    link.send(&ToMaster::Pong { number }).unwrap();
                }
            }
            ToEngine::Present
            | ToEngine::Disconnected { .. }
            | ToEngine::Upgraded { .. }
            | ToEngine::Pardoned { .. }
            | ToEngine::Marked { .. } => {}
        }
    }
    99 // The master cannot have gone: this process would have been killed.
}

// ---- The tests, outside.

struct Service {
    child: Child,
    dir: TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    fn start(manner: &str) -> Service {
        Service::start_in(manner, TempDir::new().unwrap())
    }

    fn start_in(manner: &str, dir: TempDir) -> Service {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // A group of its own, so that a signal to it does not reach this test.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let command = command.arg("--service").arg(manner).arg(dir.as_path()).stdin(Stdio::null());
        Service { child: command.spawn().unwrap(), dir }
    }

    fn ready(manner: &str) -> Service {
        let service = Service::start(manner);
        service.wait_ready();
        service
    }

    fn wait_ready(&self) {
        until(|| self.path("ready").exists(), "the service is ready");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.as_path().join(name)
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Without those that are left to be closed later, as a dead engine's are that nobody waits for: the fewest within half a second.
    fn settled_descriptors(&self) -> usize {
        let looks = (0..25).map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            self.descriptors()
        });
        looks.min().unwrap()
    }

    fn engine(&self) -> u32 {
        std::fs::read_to_string(self.path("engine.pid")).unwrap().trim().parse().unwrap()
    }

    /// A VMM with a session that has answered.
    fn vmm(&self) -> UnixStream {
        let socket = UnixStream::connect(self.path("vm.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ask_features(&socket);
        socket
    }

    fn signal(&self, target: &str, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, "--", target]).status().unwrap();
        assert!(status.success(), "kill -s {signal} {target}");
    }

    fn signal_master(&self, signal: &str) {
        self.signal(&self.child.id().to_string(), signal);
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the service does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn left_behind(&self) -> Vec<String> {
        let ours = ["vm.sock", "engine.pid"];
        ours.iter().filter(|name| self.path(name).exists()).map(|name| (*name).to_owned()).collect()
    }
}

fn until(condition: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waiting in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ask_features(mut socket: &UnixStream) {
    Message::new(Request::GetFeatures, vec![]).send(socket).unwrap();
    let mut reply = [0; 20];
    socket.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..], (FEATURES | LOG_ALL).to_ne_bytes());
}

fn ended(mut socket: &UnixStream) {
    assert!(matches!(socket.read(&mut [0; 1]), Ok(0) | Err(_)), "the connection goes on");
}

/// Gone, or dead and not yet reaped by whoever inherited it.
fn is_dead(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn terminated_it_stops_in_order() {
    let mut service = Service::ready("serves");
    let (vmm, engine) = (service.vmm(), service.engine());
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
    ended(&vmm);
    assert!(is_dead(engine));
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn interrupted_as_a_group() {
    let mut service = Service::ready("serves");
    let vmm = service.vmm();
    service.signal(&service.engine().to_string(), "INT");
    service.signal(&service.engine().to_string(), "TERM");
    ask_features(&vmm);
    service.signal(&format!("-{}", service.child.id()), "INT");
    assert_eq!(service.wait().code(), Some(0));
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn hang_up_asks_for_a_reload() {
    let mut service = Service::ready("serves");
    service.signal_master("HUP");
    until(|| service.path("reloaded").exists(), "the engine is told to reload");
    let vmm = service.vmm();
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
    ended(&vmm);
}

fn killed_engine_is_followed() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.as_path().join("peer"), peer.local_addr().unwrap().to_string()).unwrap();
    let mut service = Service::start_in("serves", dir);
    let (mut connection, _) = peer.accept().unwrap();
    service.wait_ready();
    service.standby();
    let (mut vmm, table) = (service.vmm(), service.descriptors());
    // What the journal holds, with a descriptor in it.
    for (request, value) in [(Request::SetOwner, None), (Request::SetFeatures, Some(FEATURES))] {
        let body = value.map(u64::to_ne_bytes).map(Vec::from).unwrap_or_default();
        Message::new(request, body).send(&vmm).unwrap();
    }
    for _ in 0..3 {
        let old = service.engine();
        service.signal(&old.to_string(), "KILL");
        // A message that comes while there is no engine waits for the next one.
        Message::new(Request::GetVringBase, vec![0; 8]).send(&vmm).unwrap();
        let mut reply = [0; 20];
        vmm.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], (Request::GetVringBase as u32).to_ne_bytes());
        ask_features(&vmm);
        until(|| service.engine() != old && is_dead(old), "another engine serves");
        assert_eq!(std::fs::read(service.path("left")).unwrap(), b"from the one before");
        // Whoever was connected through the dead engine is told.
        let cut = connection.read(&mut [0; 1]).unwrap_err();
        assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
        connection = peer.accept().unwrap().0;
        until(|| service.descriptors() <= table, "what the dead engine had open is closed");
    }
    drop(vmm);
    let vmm = service.vmm();
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
    ended(&vmm);
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn storms_are_slowed_down() {
    let mut service = Service::ready("serves");
    let vmm = service.vmm();
    let start = Instant::now();
    for _ in 0..6 {
        let old = service.engine();
        service.signal(&old.to_string(), "KILL");
        until(|| service.engine() != old, "another engine takes over");
        ask_features(&vmm);
    }
    // 0, 0, 0, 100, 200 and 400 ms.
    assert!((700..3_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
}

fn engine_that_never_served() {
    let mut service = Service::start("never-serves");
    assert_eq!(service.wait().code(), Some(70));
    assert_eq!(std::fs::read_to_string(service.path("error")).unwrap(), "the engine died by signal 6");
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn ends_without_an_engine() {
    let mut service = Service::ready("falters");
    let vmm = service.vmm();
    service.signal(&service.engine().to_string(), "KILL");
    std::thread::sleep(Duration::from_secs(2));
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
    ended(&vmm);
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn killed_master_takes_the_engine_along() {
    let mut service = Service::ready("serves");
    let (vmm, engine) = (service.vmm(), service.engine());
    service.signal_master("KILL");
    assert_eq!(service.wait().signal(), Some(9));
    until(|| is_dead(engine), "the engine is dead");
    ended(&vmm);
    // What a killed master leaves is taken over by the next.
    assert!(service.path("vm.sock").exists());
    let dir = std::mem::replace(&mut service.dir, TempDir::new().unwrap());
    std::fs::remove_file(dir.as_path().join("ready")).unwrap();
    let next = Service::start_in("serves", dir);
    next.wait_ready();
    drop(next.vmm());
}

fn stubborn_engine_is_killed() {
    let mut service = Service::ready("stubborn");
    let (vmm, start) = (service.vmm(), Instant::now());
    service.signal_master("TERM");
    std::thread::sleep(Duration::from_millis(500));
    ask_features(&vmm);
    assert_eq!(service.wait().code(), Some(70));
    assert!((4..8).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn standalone_stops_in_order() {
    let mut service = Service::ready("standalone");
    let vmm = service.vmm();
    assert_eq!(service.engine(), service.child.id());
    service.signal_master("HUP");
    until(|| service.path("reloaded").exists(), "the engine is told to reload");
    ask_features(&vmm);
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
    ended(&vmm);
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn exit_code_is_the_engines() {
    let mut service = Service::start("quits");
    assert_eq!(service.wait().code(), Some(7));
    assert_eq!(service.left_behind(), Vec::<String>::new());
}

fn one_descriptor_table() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.as_path().join("peer"), peer.local_addr().unwrap().to_string()).unwrap();
    let mut service = Service::start_in("serves", dir);
    let (connection, _) = peer.accept().unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    service.wait_ready();
    let ready = BufReader::new(std::fs::File::open(service.path("ready")).unwrap()).lines().next().unwrap().unwrap();
    let link = |pid: u32| std::fs::read_link(format!("/proc/{pid}/fd/{ready}")).unwrap();
    let (in_master, in_engine) = (link(service.child.id()), link(service.engine()));
    assert!(in_master.to_string_lossy().starts_with("socket:"), "{in_master:?}");
    assert_eq!(in_master, in_engine);
    let alive = (&connection).read(&mut [0; 1]).unwrap_err();
    assert!(matches!(alive.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{alive}");
    (&connection).write_all(b"x").unwrap();
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
    ended_tcp(&connection);
}

fn ended_tcp(mut connection: &TcpStream) {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    match connection.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("the connection goes on: {other:?}"),
    }
}
