//! One guest with ten thousand connections at once, and with thousands one after the other: what does it cost, and does all come back?
//! And connections on which nothing moves for long: an idle one, a frozen guest, applications that do not read, no descriptors left.
//! VONIC_LONG=1 has ten times as many in sequence, and idles for minutes.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::*;

/// Connections at once that the guest opens, and that the world opens. In the long form together fewer than the 20,000 files that some
/// hosts allow a process, less what vonic keeps for everything else.
fn at_once() -> (usize, usize) {
    if long() { (10_000, 5000) } else { (7000, 3000) }
}

/// Over which time processor time is measured, and how much an idle engine may spend of it.
const WINDOW: Duration = seconds(5);
const IDLE: Duration = Duration::from_millis(10);
/// Memory of one connection, in bytes: 720 were measured.
const MEMORY: u64 = 1500;
/// How much the engine's memory may differ after the same again: the allocator's, and a list's of all connections.
const SLACK: u64 = 4 << 20;
/// How long a neighbour's answer may take while all connections are listed.
const NEIGHBOUR: Duration = Duration::from_millis(50);
/// So few that each is used again while a leg, or the guest, still has its last user in TIME-WAIT.
const FEW_PORTS: &str = "40000 40099";

fn long() -> bool {
    std::env::var_os("VONIC_LONG").is_some()
}

/// A process' private memory and descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    memory: u64,
    descriptors: usize,
}

/// Guest `a` at 192.0.2.2, reached at 127.0.0.1:7007 on its port 7 (echo), and at 127.0.0.1:7008 on 8 (sessions) and 7009 on 9; `b`
/// has no guest yet. The host has an echo server.
struct Stage {
    guest: Guest,
    echo: Process,
    address: SocketAddr,
    engine: u32,
    bed: Bed,
}

impl Stage {
    fn start() -> Stage {
        let limits = "limits = { connections = 30000, new_per_second = 100000, pending_per_destination = 512 }";
        let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7007-7009\"\nport = 7";
        let config = TestConfig::default().vm("a", 2, &format!("{limits}\n{forward}")).vm("b", 3, "");
        let bed = Bed::start(&config).unwrap();
        let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
        for server in ["echo 0.0.0.0:7", "serve 0.0.0.0:8"] {
            let job = guest.spawn(&format!("vonic-peer {server}")).unwrap();
            job.wait_output(&mut guest, "listening", seconds(10)).unwrap();
        }
        let echo = host(&bed, "echo", &["echo", "127.0.0.1:0"]);
        let line = wait_for("the echo server", seconds(10), || {
            Ok(echo.log().split_once('\n').map(|(line, _)| line.to_string()))
        });
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let address = line["listening"].as_str().unwrap().parse().unwrap();
        let engine = bed.vonicd.engine().unwrap();
        Stage { guest, echo, address, engine, bed }
    }

    /// What the engine has.
    fn holdings(&self) -> Holdings {
        let memory = usage::private_dirty(self.engine).unwrap();
        Holdings { memory, descriptors: usage::settled_descriptors(self.engine).unwrap() }
    }

    /// Processor time that the engine spends in `time`, once the last answers of its API and to its guest are out.
    fn spends(&self, time: Duration) -> Duration {
        thread::sleep(seconds(1));
        let before = usage::processor_time(self.engine).unwrap();
        thread::sleep(time);
        usage::processor_time(self.engine).unwrap() - before
    }

    fn connections(&self) -> Vec<Value> {
        self.bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().clone()
    }

    /// TIME-WAIT is over, too.
    fn wait_empty(&self) {
        wait_until("every connection's end", seconds(30), || self.connections().is_empty())
            .with_context(|| self.bed.vonicd.vonic_text(&["conns"]).unwrap_or_default())
            .unwrap();
        assert_eq!(self.counter("open"), 0);
    }

    fn counter(&self, name: &str) -> u64 {
        self.bed.vonicd.stats().unwrap()["vms"]["a"]["tcp"][name].as_u64().unwrap()
    }

    /// Opens both sides' connections, calls `meanwhile` while they are open, has each move bytes again, and closes all.
    fn hold(&mut self, round: u32, meanwhile: impl FnOnce(&mut Stage)) {
        let (guest_opens, world_opens) = at_once();
        let go = self.bed.directory.path().join(format!("go-{round}"));
        let command = format!("vonic-peer hold 192.0.2.1:{} {guest_opens} /run/go-{round}", self.address.port());
        let job = self.guest.spawn(&command).unwrap();
        let world = world_opens.to_string();
        let mut world = host(&self.bed, "hold", &["hold", "127.0.0.1:7007", &world, go.to_str().unwrap()]);
        job.wait_output(&mut self.guest, "open", seconds(120)).unwrap();
        wait_until("the world's connections", seconds(120), || world.log().contains("open")).unwrap();
        meanwhile(self);
        std::fs::write(&go, "").unwrap();
        self.guest.must(&format!("touch /run/go-{round}"), seconds(5)).unwrap();
        let ended = job.wait(&mut self.guest, seconds(120)).unwrap();
        assert_eq!(ended.status, 0, "{}", ended.stdout);
        assert!(world.wait(seconds(120)).unwrap().success(), "{}", world.log());
        self.wait_empty();
    }

    fn end(mut self) {
        assert!(self.echo.ended().is_none(), "{}", self.echo.log());
        drop(self.guest);
        self.bed.vonicd.stop().unwrap();
    }
}

/// `vonic-peer ARGUMENTS` on the host.
fn host(bed: &Bed, name: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(peer_program().unwrap());
    let log = bed.directory.path().join(format!("{name}.log"));
    drop(std::fs::remove_file(&log));
    Process::start(name, command.args(arguments), None, &log).unwrap()
}

/// The slowest answer that `mock` gets while everything is listed; the best of some times, since others disturb, too.
fn slowest_answer_while_listing(stage: &Stage, mock: &mut MockFrontend) -> Duration {
    let mut listed_once = || {
        let done = AtomicBool::new(false);
        let mut slowest = Duration::ZERO;
        thread::scope(|scope| {
            scope.spawn(|| {
                let lines = stage.bed.vonicd.vonic_text(&["conns"]).map(|text| text.lines().count());
                done.store(true, Ordering::Relaxed);
                // The heading is a line, too.
                assert_eq!(lines.unwrap(), 1 + at_once().0 + at_once().1);
            });
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                mock.gateway_answers(3).unwrap();
                slowest = slowest.max(asked.elapsed());
            }
        });
        slowest
    };
    (0..5).map(|_| listed_once()).min().unwrap()
}

#[test]
fn ten_thousand_connections_cost_nothing_while_idle_and_leave_nothing() {
    let mut stage = Stage::start();
    let mut mock = stage.bed.mock("b", MockConfig::default()).unwrap();
    let before = stage.holdings();
    stage.hold(1, |stage| {
        let held = stage.holdings();
        let count = at_once().0 + at_once().1;
        assert_eq!(held.descriptors, before.descriptors + count);
        let each = (held.memory - before.memory) / count as u64;
        assert!(each < MEMORY, "{each} bytes for each connection");
        let spent = stage.spends(WINDOW);
        assert!(spent < IDLE, "{spent:?} of {WINDOW:?} were spent on idle connections");
        let slowest = slowest_answer_while_listing(stage, &mut mock);
        assert!(slowest < NEIGHBOUR, "{slowest:?} for an answer while connections are listed");
    });
    let once = stage.holdings();
    assert_eq!(once.descriptors, before.descriptors);
    assert!(stage.spends(seconds(1)) < IDLE, "nothing is left to be done");
    // What tables have grown to is kept for the next: the same again needs no more.
    if long() {
        stage.hold(2, |_| ());
        let twice = stage.holdings();
        assert_eq!(twice.descriptors, before.descriptors);
        assert!(twice.memory < once.memory + SLACK, "{once:?}, then {twice:?}");
    }
    stage.end();
}

#[test]
fn thousands_in_sequence_leak_nothing_and_ports_are_used_again() {
    let mut stage = Stage::start();
    // The first round fills tables with as many connections in TIME-WAIT as the second will have.
    let rounds = if long() { [10_000, 50_000] } else { [1250, 1250] };
    // Enough of them for a minute of TIME-WAIT at the client, wherever the client ends the connection.
    let many_ports = "1024 65535";
    let ports = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
    stage.guest.must("echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse", seconds(5)).unwrap();
    let server = stage.bed.server().unwrap();
    let server_port = server.address().port();
    let mut base = None;
    for count in rounds {
        for (end, range) in [("", many_ports), ("recv", FEW_PORTS)] {
            let command =
                format!("echo {range} >{ports}; vonic-peer connections 192.0.2.1:{server_port} {count} {end}");
            stage.guest.must(&command, seconds(200)).unwrap();
            std::fs::write(ports, range).unwrap();
            let count = count.to_string();
            let words: Vec<&str> =
                ["connections", "127.0.0.1:7008", &count, end].into_iter().filter(|w| !w.is_empty()).collect();
            let result = peer(&words, None, stage.bed.directory.path(), seconds(200)).unwrap();
            assert_eq!(result["ok"], true, "{words:?}: {result}");
        }
        std::fs::write(ports, many_ports).unwrap();
        stage.wait_empty();
        let now = stage.holdings();
        let base = base.get_or_insert(now);
        assert_eq!(now.descriptors, base.descriptors);
        assert!(now.memory < base.memory + (1 << 20), "{base:?}, then {now:?}");
    }
    assert!(stage.spends(seconds(1)) < IDLE, "nothing is left to be done");
    assert_eq!(stage.counter("connect_failed"), 0);
    stage.end();
}

/// RFC 9293 §3.8.4 and §3.8.3: only keepalive and R2 may take a silent guest for dead, and both are far away.
#[test]
fn idle_connections_and_a_frozen_guest_go_on_where_they_were() {
    let mut stage = Stage::start();
    let (listener, port) = wire::listen().unwrap();
    let to = format!("TCP:192.0.2.1:{port}");
    // The guest's own keepalive would end a connection that is not answered for three seconds.
    let job = stage.guest.spawn(&format!("socat -u {to},keepalive,keepidle=1,keepintvl=1,keepcnt=2 STDOUT")).unwrap();
    let mut world = wire::accept(&listener).unwrap();
    thread::sleep(if long() { seconds(180) } else { seconds(5) });
    writeln!(world, "still here").unwrap();
    job.wait_output(&mut stage.guest, "still here", seconds(5)).unwrap();

    let mut stream = TcpStream::connect("127.0.0.1:7007").unwrap();
    stream.set_read_timeout(Some(seconds(20))).unwrap();
    let bytes = wire::ramp(100_003);
    let echoed = |stream: &mut TcpStream| {
        let mut got = vec![0; bytes.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == bytes, "the echo differs");
    };
    stream.write_all(&bytes).unwrap();
    echoed(&mut stream);
    let resets = stage.counter("reset");
    stage.guest.process().signal(libc::SIGSTOP).unwrap();
    stream.write_all(&bytes).unwrap();
    writeln!(world, "and here").unwrap();
    thread::sleep(if long() { seconds(60) } else { seconds(2) });
    let busy = stage.spends(seconds(2));
    assert_eq!((stage.counter("open"), stage.counter("reset")), (2, resets), "a frozen guest's connections");
    assert!(busy < Duration::from_millis(50), "{busy:?} of 2 s were spent on a frozen guest");
    assert!(stage.counter("retransmitted") > 0);
    stage.guest.process().signal(libc::SIGCONT).unwrap();
    echoed(&mut stream);
    job.wait_output(&mut stage.guest, "and here", seconds(20)).unwrap();
    drop((stream, world));
    stage.wait_empty();
    stage.end();
}

/// A hundred applications on each side that never read, each with a writer that fills all that there is to fill.
#[test]
fn applications_that_never_read_cost_their_neighbours_nothing() {
    let mut stage = Stage::start();
    let accept = "import socket, time; l = socket.create_server(('', 9), backlog=200); print('listening', flush=True)
while True: held = globals().setdefault('held', []); held.append(l.accept())";
    let script = accept.replace('\n', "\\n");
    let reader = stage.guest.spawn(&format!("printf \"{script}\" >/run/deaf.py; python3 /run/deaf.py")).unwrap();
    reader.wait_output(&mut stage.guest, "listening", seconds(20)).unwrap();
    let mut writers: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect("127.0.0.1:7009").unwrap()).collect();
    let block = vec![7; 1 << 20];
    for writer in &mut writers {
        writer.set_nonblocking(true).unwrap();
    }
    let (listener, port) = wire::listen().unwrap();
    let sender =
        stage.guest.spawn(&format!("VONIC_PEER_TIMEOUT=300 vonic-peer send 192.0.2.1:{port} 10000019 1 100")).unwrap();
    let held: Vec<TcpStream> = (0..100).map(|_| wire::accept(&listener).unwrap()).collect();
    let mut fill = || {
        let mut taken = 0;
        for writer in &mut writers {
            while let Ok(count) = writer.write(&block) {
                taken += count;
            }
        }
        taken
    };
    // Until nothing moves any more.
    wait_until("full buffers", seconds(60), || {
        let taken = fill();
        thread::sleep(Duration::from_millis(300));
        taken == 0
    })
    .unwrap();
    let spent = stage.spends(seconds(2));
    assert!(spent < Duration::from_millis(200), "{spent:?} of 2 s were spent on connections that stand still");
    let server = stage.bed.server().unwrap();
    let asked = Instant::now();
    stage
        .guest
        .must(&format!("vonic-peer connections 192.0.2.1:{} 200", server.address().port()), seconds(20))
        .unwrap();
    let took = asked.elapsed();
    assert!(took < seconds(5), "{took:?} for 200 short connections beside them");

    // They read after all: 100 streams of the guest arrive whole.
    let read = |mut stream: TcpStream| thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    let readers: Vec<_> = held.into_iter().map(read).collect();
    for reader in readers {
        // A session's header is in front, of 32 bytes.
        assert_eq!(reader.join().unwrap().unwrap(), 10_000_019 + 32);
    }
    drop(writers);
    sender.kill(&mut stage.guest).unwrap();
    reader.kill(&mut stage.guest).unwrap();
    stage.wait_empty();
    stage.end();
}

/// RLIMIT_NOFILE counts whatever the engine opens, its API's connections, too.
#[test]
fn descriptors_that_run_out_are_waited_for() {
    let mut stage = Stage::start();
    let (listener, port) = wire::listen().unwrap();
    let guests = |stage: &mut Stage| {
        let to = format!("TCP:192.0.2.1:{port}");
        stage.guest.spawn(&format!("socat -u {to} STDOUT")).unwrap()
    };
    let limit = |stage: &Stage, files: &str| {
        let (pid, files) = (stage.engine.to_string(), format!("--nofile={files}:"));
        let done = Command::new("prlimit").args(["--pid", &pid, &files]).status().unwrap();
        assert!(done.success(), "prlimit {files}");
    };
    let first = guests(&mut stage);
    let mut one = wire::accept(&listener).unwrap();
    // Every number below is taken.
    limit(&stage, "16");
    let second = guests(&mut stage);
    let mut stream = TcpStream::connect("127.0.0.1:7007").unwrap();
    stream.write_all(b"x").unwrap();
    stream.set_read_timeout(Some(seconds(1))).unwrap();
    let nothing = stream.read(&mut [0]).unwrap_err().kind();
    assert!(matches!(nothing, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{nothing}");
    let spent = stage.spends(seconds(2));
    assert!(spent < Duration::from_millis(200), "{spent:?} of 2 s were spent on what cannot be accepted");
    writeln!(one, "still here").unwrap();
    first.wait_output(&mut stage.guest, "still here", seconds(5)).unwrap();

    limit(&stage, "20000");
    stream.set_read_timeout(Some(seconds(5))).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let mut two = wire::accept(&listener).unwrap();
    writeln!(two, "here at last").unwrap();
    second.wait_output(&mut stage.guest, "here at last", seconds(5)).unwrap();
    assert!(stage.counter("connect_failed") > 0);
    let told = stage.bed.vonicd.log();
    assert_eq!(told.matches("cannot accept connections").count(), 1, "{told}");
    drop((one, two, stream));
    stage.wait_empty();
    stage.end();
}
