//! One guest with ten thousand connections at once, and with thousands one after the other: what does it cost, and does all come back?
//! VONIC_LONG=1 has ten times as many.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::*;

/// Connections of each side at once; those of both need more than the 20,000 files that some hosts allow a process.
const HELD: usize = 10_000;
const FILES: &str = "--nofile=40000";
/// Over which time processor time is measured, and how much may be spent.
const WINDOW: Duration = seconds(5);
const IDLE: Duration = Duration::from_millis(5);

fn long() -> bool {
    std::env::var_os("VONIC_LONG").is_some()
}

/// Guest `a` at 192.0.2.2, reached at 127.0.0.1:7007 on its port 7; `b` has no guest yet.
struct Stage {
    guest: Guest,
    bed: Bed,
    server: Process,
    address: SocketAddr,
}

impl Stage {
    fn start() -> Stage {
        isolate().unwrap();
        let more = "limits = { connections = 30000, new_per_second = 100000 }
[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7007\"\nport = 7";
        let config = TestConfig::default().vm("a", 2, more).vm("b", 3, "");
        let directory = TempDir::new().unwrap();
        let vonicd = Vonicd::start(&directory, &config).unwrap();
        let bed = Bed { vonicd, lab: Lab::open().unwrap(), directory };
        let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
        guest.spawn("vonic-peer echo 0.0.0.0:7").unwrap().wait_output(&mut guest, "listening", seconds(10)).unwrap();
        let server = run(bed.directory.path(), "echo", &["echo", "127.0.0.1:0"]);
        wait_until("the echo server", seconds(10), || server.log().contains('\n')).unwrap();
        let line: serde_json::Value = serde_json::from_str(&server.log()).unwrap();
        let address = line["listening"].as_str().unwrap().parse().unwrap();
        Stage { guest, bed, server, address }
    }
}

/// `vonic-peer ARGUMENTS` on the host, with as many files as it likes.
fn run(directory: &Path, name: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(peer_program().unwrap());
    command.args(arguments);
    Process::start(name, &mut command, None, &directory.join(format!("{name}.log"))).unwrap()
}

#[test]
fn ten_thousand_connections() {
    let mut stage = Stage::start();
    let engine = stage.bed.vonicd.engine().unwrap();
    let base = (usage::private_dirty(engine).unwrap(), usage::descriptors(engine).unwrap());
    eprintln!("base {base:?}");
    let began = Instant::now();
    let count = HELD.to_string();
    let job =
        stage.guest.spawn(&format!("vonic-peer hold 192.0.2.1:{} {count} /run/go", stage.address.port())).unwrap();
    job.wait_output(&mut stage.guest, "open", seconds(120)).unwrap();
    eprintln!("{}", job.output(&mut stage.guest).unwrap());
    let then = (usage::private_dirty(engine).unwrap(), usage::descriptors(engine).unwrap());
    eprintln!("{:?} with {then:?}; {} a connection", began.elapsed(), (then.0 - base.0) / HELD as u64);
    let go = stage.bed.directory.path().join("go");
    let mut host = run(stage.bed.directory.path(), "hold", &["hold", "127.0.0.1:7007", "5000", go.to_str().unwrap()]);
    wait_until("world", seconds(120), || host.log().contains("open")).unwrap();
    eprintln!("{}", host.log());
    let then = (usage::private_dirty(engine).unwrap(), usage::descriptors(engine).unwrap());
    eprintln!("{:?} with {then:?}; {} a connection", began.elapsed(), (then.0 - base.0) / HELD as u64 / 2);
    let before = usage::processor_time(engine).unwrap();
    thread::sleep(WINDOW);
    eprintln!("idle {:?}", usage::processor_time(engine).unwrap() - before);
    let mut mock = stage.bed.mock("b", MockConfig::default()).unwrap();
    let began = Instant::now();
    for _ in 0..100 {
        mock.gateway_answers(3).unwrap();
    }
    eprintln!("alone {:?}", began.elapsed() / 100);
    let done = AtomicBool::new(false);
    let mut worst = Duration::ZERO;
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let began = Instant::now();
                let n = stage.bed.vonicd.vonic_text(&["conns"]).unwrap().lines().count();
                eprintln!("conns {n} lines {:?}", began.elapsed());
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let began = Instant::now();
            mock.gateway_answers(3).unwrap();
            worst = worst.max(began.elapsed());
        }
    });
    eprintln!("worst {worst:?}");
    std::fs::write(&go, "").unwrap();
    stage.guest.must("touch /run/go", seconds(5)).unwrap();
    let began = Instant::now();
    job.wait_output(&mut stage.guest, "closed", seconds(120)).unwrap();
    eprintln!("{}", job.output(&mut stage.guest).unwrap());
    host.wait(seconds(120)).unwrap();
    eprintln!("{}", host.log());
    eprintln!("{:?}", began.elapsed());
    let open = || stage.bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len();
    wait_until("empty", seconds(20), || open() == 0).unwrap();
    let then = (usage::private_dirty(engine).unwrap(), usage::descriptors(engine).unwrap());
    eprintln!("{:?} after {then:?}", began.elapsed());
}
