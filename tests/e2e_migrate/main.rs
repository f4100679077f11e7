//! A guest moves from host to host with its terminated connections: do they go on, and is every byte of them there, once?
#![allow(clippy::print_stdout, reason = "figures")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod along;
mod begun;
mod by_hand;
mod hosts;
mod state;

use hosts::{FORWARD, Hosts, SERVICE, SERVICE6, WORLD, WORLD6};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vonic_tests::*;

/// Connections that have begun when the guest moves first: idle ones, unread ones, and streams both ways of either opener.
const ALL: u64 = IDLE as u64 + 8 + 2 * STREAMS;
const STREAMS: u64 = 24;
/// Hundredths of a second for which receivers of these do not read: on most machines none of them is over before the last has begun.
const PAUSE: &str = "250";
/// Seconds that an application waits: on a busy machine a translated guest is slow.
const PATIENCE: &str = "300";
/// Behind so long it is looked at what stands still.
const STILL: Duration = seconds(60);
/// Connections at which the guest's application only waits.
const IDLE: usize = 8;
/// Connections that the world does not read while the guest moves, and bytes on each: so few that the guest has ended its stream,
/// and so many that every queue on the way is full.
const UNREAD: [(usize, u64); 2] = [(4, 50_003), (4, 4_000_003)];

/// The guest's session is read to its end, and answered.
fn answer(mut stream: TcpStream, sent: u64) {
    stream.set_read_timeout(Some(seconds(60))).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    let text = heard.split_off(32);
    assert_eq!(text.len() as u64, sent);
    stream.write_all(&sent.to_le_bytes()).unwrap();
}

/// Streams both ways, of both openers; some that are ended at one end, some that nobody reads, some on which nothing moves.
#[test]
fn connections_go_with_their_guest_back_and_forth() {
    let long = std::env::var_os("VONIC_LONG").is_some();
    let (crossings, bytes, rounds) = if long { (100, "30000017", 600) } else { (3, "1500007", 50) };
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let directory = hosts.here().directory.path().to_path_buf();
    let (mut guest, mut name) = hosts.guest(0, false).unwrap();
    let world = |name: &str, words: &[&str]| {
        let mut command = Command::new(peer_program().unwrap());
        command.args(words).env("VONIC_PEER_TIMEOUT", PATIENCE).env("VONIC_PEER_PAUSE", PAUSE);
        Process::start(name, &mut command, None, &directory.join(format!("{name}.log"))).unwrap()
    };
    let _server = world("server", &["serve", "[::]:7"]);
    let _echo = world("echo", &["echo", "[::]:9"]);
    let _others = world("others", &["serve", "[::]:11"]);
    Hosts::settle(&mut guest).unwrap();
    for server in ["serve [::]:7", "echo [::]:9"] {
        let served = guest.spawn(&format!("VONIC_PEER_TIMEOUT={PATIENCE} vonic-peer {server}")).unwrap();
        served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    }
    let idle =
        guest.spawn(&format!("VONIC_PEER_TIMEOUT={PATIENCE} vonic-peer hold [{WORLD6}]:9 {IDLE} /run/moved")).unwrap();
    idle.wait_output(&mut guest, "open", seconds(10)).unwrap();
    let mut follower = Follower::start(&mut guest).unwrap();
    let listener = TcpListener::bind((WORLD, 0)).unwrap();
    let unread = listener.local_addr().unwrap();
    let mut unread_here = Vec::new();
    let sends = UNREAD.map(|(count, bytes)| {
        let send = format!("VONIC_PEER_TIMEOUT={PATIENCE} vonic-peer send {unread} {bytes} 9 {count}");
        let job = guest.spawn(&send).unwrap();
        unread_here.extend((0..count).map(|_| (listener.accept().unwrap().0, bytes)));
        job
    });
    let reflector = Reflector::start();
    // Sent again after a third of that.
    let spoken = format!("VONIC_PEER_TIMEOUT=15 vonic-peer datagrams {} 1472 {rounds} twice", reflector.address);
    let spoken = guest.spawn(&spoken).unwrap();
    // Half of the streams of each family.
    let half = STREAMS / 2;
    let into = [format!("{SERVICE}:7007"), format!("[{SERVICE6}]:7007")];
    let into = into.map(|to| {
        world(if to.starts_with('[') { "into6" } else { "into" }, &["both", &to, bytes, "5", &half.to_string()])
    });
    let out = [format!("{WORLD}:7"), format!("[{WORLD6}]:7")].map(|to| {
        let both =
            format!("VONIC_PEER_PAUSE={PAUSE} VONIC_PEER_TIMEOUT={PATIENCE} vonic-peer both {to} {bytes} 3 {half}");
        guest.spawn(&both).unwrap()
    });
    // All have begun. Where that takes longer than the pause, some have ended by then.
    let begun = || {
        let tcp = &hosts.here().vonicd.vm("a").unwrap()["tcp"];
        tcp["guest_opened"].as_u64().unwrap() + tcp["world_opened"].as_u64().unwrap()
    };
    wait_until("connections", seconds(60), || begun() >= ALL).unwrap();
    for crossing in 1..=crossings {
        if crossing == crossings {
            follower.wait_begun(&mut guest).unwrap();
        }
        if crossing == 1 {
            hosts.cancel(&name).unwrap();
        }
        let standing;
        (guest, name, standing) = hosts.cross(guest, &name).unwrap();
        println!("crossing {crossing}: the guest stood still for {standing:?}");
        if crossing == 2 {
            let is_here = || hosts.here().vonicd.log().contains("its guest is here");
            wait_until("the guest's connections", seconds(10), is_here).unwrap();
            state::kill_engine(hosts.here());
        }
    }
    is_followed(&mut guest, &mut follower);
    guest.must("touch /run/moved", seconds(10)).unwrap();
    unread_here.into_iter().for_each(|(stream, bytes)| answer(stream, bytes));
    reflector.hurry();
    for job in [idle, spoken].into_iter().chain(out).chain(sends) {
        let done = match job.wait(&mut guest, STILL) {
            Ok(done) => done,
            Err(_) => {
                println!("something stands still:\n{}", hosts.describe(&mut guest).unwrap());
                job.wait(&mut guest, seconds(3000)).unwrap()
            }
        };
        assert_eq!(done.status, 0, "{}", done.stdout);
    }
    let sources = reflector.stop();
    assert_eq!(sources.len(), 1, "the guest's datagrams came from {sources:?}");
    for mut into in into {
        assert!(into.wait(seconds(3000)).unwrap().success(), "{}", into.log());
    }
    report(&hosts);
    refused(&mut hosts, &mut guest, &name);
}

/// Who listens in the guest to its connections knows those that came along, and hears of those that begin here.
fn is_followed(guest: &mut Guest, follower: &mut Follower) {
    const COUNT: usize = 10;
    follower.wait_begun(guest).unwrap();
    assert_eq!(follower.told(guest).unwrap().open(9).len(), IDLE);
    let heard = |guest: &mut Guest| {
        // To a port of its own, so that the streams' ends are none of these.
        guest.must(&format!("vonic-peer connections {WORLD}:11 {COUNT}"), seconds(120)).unwrap();
        let told = follower.wait_closed(guest, 11, COUNT).unwrap();
        assert_eq!((told.count(11, "established"), told.count(11, "closed")), (COUNT, COUNT));
    };
    heard(guest);
}

/// A thousand connections, of both families, there and back.
#[test]
#[ignore = "minutes: make long-test"]
fn a_thousand_connections_go_along() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let directory = hosts.here().directory.path().to_path_buf();
    let (mut guest, mut name) = hosts.guest(0, false).unwrap();
    let mut echo = Command::new(peer_program().unwrap());
    let log = directory.join("echo.log");
    let _echo = Process::start("echo", echo.args(["echo", "[::]:9"]), None, &log).unwrap();
    Hosts::settle(&mut guest).unwrap();
    let held = [format!("{WORLD}:9"), format!("[{WORLD6}]:9")].map(|to| {
        let held = guest.spawn(&format!("VONIC_PEER_TIMEOUT={PATIENCE} vonic-peer hold {to} 500 /run/moved")).unwrap();
        held.wait_output(&mut guest, "open", seconds(120)).unwrap();
        held
    });
    for _ in 0..4 {
        let standing;
        (guest, name, standing) = hosts.cross(guest, &name).unwrap();
        println!("a thousand connections: the guest stood still for {standing:?}");
        // The guest runs before they are all taken over.
        let rows = || hosts.here().vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len();
        wait_until("a thousand connections", seconds(20), || rows() == 1000).unwrap();
    }
    guest.must("touch /run/moved", seconds(10)).unwrap();
    for job in held {
        let done = job.wait(&mut guest, seconds(300)).unwrap();
        assert_eq!(done.status, 0, "{}", done.stdout);
    }
    report(&hosts);
}

/// Answers datagrams in the world, so slowly that they go on while the guest moves.
struct Reflector {
    address: SocketAddr,
    told: Arc<Told>,
    thread: JoinHandle<BTreeSet<SocketAddr>>,
}

/// What the reflector's thread has been told.
#[derive(Default)]
struct Told {
    hurry: AtomicBool,
    stop: AtomicBool,
}

impl Reflector {
    const SLOWLY: Duration = Duration::from_millis(30);

    fn start() -> Reflector {
        let socket = UdpSocket::bind((WORLD, 0)).unwrap();
        let (address, told) = (socket.local_addr().unwrap(), Arc::new(Told::default()));
        let heard = Arc::clone(&told);
        let thread = thread::spawn(move || {
            let (mut sources, mut data) = (BTreeSet::new(), [0; 2000]);
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            while !heard.stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut data) else { continue };
                sources.insert(from);
                data[..length].reverse();
                if !heard.hurry.load(Ordering::Relaxed) {
                    thread::sleep(Reflector::SLOWLY);
                }
                socket.send_to(&data[..length], from).unwrap();
            }
            sources
        });
        Reflector { address, told, thread }
    }

    /// Answers the rest at once.
    fn hurry(&self) {
        self.told.hurry.store(true, Ordering::Relaxed);
    }

    /// Who has spoken to it. For when nobody does any more: what is lost is sent again seconds later.
    fn stop(self) -> BTreeSet<SocketAddr> {
        self.told.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What vonic says that it has taken of the guests' time.
fn report(hosts: &Hosts) {
    for line in hosts.beds.iter().map(|bed| bed.vonicd.log()).collect::<String>().lines() {
        if line.contains("are saved") || line.contains("waited") {
            println!("{line}");
        }
    }
}

/// A host whose file for the VM is another one's does not take the guest, which then goes on where it is.
fn refused(hosts: &mut Hosts, guest: &mut Guest, name: &str) {
    let file = hosts.there().vonicd.config_dir().join("vms.d/a.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("52:54:00:00:00:02", "52:54:00:00:00:0a");
    std::fs::write(&file, text).unwrap();
    hosts.there().vonicd.vonic(&["reload", "--json"]).unwrap();
    let held = guest.spawn(&format!("vonic-peer both {WORLD}:7 2000003 11 4")).unwrap();
    let why = hosts.fail_to_cross(name).unwrap();
    let log = hosts.there().vonicd.log();
    assert!(log.contains("this VM's file says 52:54:00:00:00:0a: write the same"), "{why}: {log}");
    let done = held.wait(guest, seconds(60)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    let log = hosts.here().vonicd.log();
    assert!(log.contains("its guest has not left"), "{log}");
}
