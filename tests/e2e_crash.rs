//! Engines die at every labelled point and at random times, in every manner, while guests' connections open, talk and end: is a byte
//! lost, doubled or changed, is a connection lost, does anything stay behind? And would these tests notice if recovery were wrong?
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells what it saw")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vonic_tests::churn::{Load, Scene, config, start_guest};
use vonic_tests::crash::{Killer, Manner, POINTS, Random, TAKEOVER_POINTS, WORKERS_POINTS, seed};
use vonic_tests::mock::{MockConfig, MockFrontend, code, handshake};
use vonic_tests::*;

#[test]
fn engines_end_at_every_point_and_nobody_notices() {
    let seed = seed();
    let load = Load { vmms: &[Vmm::Uml], sessions: 4, held: 0, loss: false, cramped: true };
    let scene = Scene::start(load, seed).unwrap();
    let mut random = Random(seed);
    // VONIC_POINT: that one alone, several times, to see what it is that fails.
    let chosen = std::env::var("VONIC_POINT").ok();
    let points = || POINTS.iter().filter(|(name, _)| chosen.as_ref().is_none_or(|chosen| chosen == name));
    let times = if chosen.is_some() { 15 } else { 1 };
    for (i, (point, most)) in (0..times).flat_map(|_| points()).enumerate() {
        scene.killer.end_at(point, 1 + random.below(*most), Manner::ALL[i % 3]).unwrap();
    }
    // What one engine had accepted, the next has not on record yet when it dies too.
    for _ in 0..if chosen.is_some() { 0 } else { 6 } {
        scene.killer.end_at("after-accept", 1, Manner::Kill).unwrap();
        scene.killer.kill().unwrap();
    }
    for (point, most) in TAKEOVER_POINTS {
        scene.killer.end_in_takeover(point, 1 + random.below(*most)).unwrap();
    }
    println!("{} sessions", scene.finish().unwrap());
}

#[test]
fn engines_end_at_random_times_and_nobody_notices() {
    let seed = seed();
    let load = Load { vmms: &Vmm::ALL, sessions: 3, held: 50, loss: false, cramped: false };
    let scene = Scene::start(load, seed).unwrap();
    let mut random = Random(seed);
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(random.below(150)));
        scene.killer.kill().unwrap();
    }
    println!("{} sessions", scene.finish().unwrap());
}

/// Leaves rules of recovery out, one at a time, and sees that a stream shows it; with all of them, in the same circumstances, none does.
#[test]
fn recovery_without_one_of_its_rules_is_noticed() {
    let bed = Bed::start(&config(&[("a", 2)])).unwrap();
    let killer = Killer::new(&bed.directory).unwrap();
    let mut guest = start_guest(&bed, ("a", 2), Vmm::Uml).unwrap();
    guest.wait_ready().unwrap();
    for (mutation, trial, sound) in [
        ("", reset_while_dead as Trial, true),
        ("close-is-finished", reset_while_dead, false),
        ("", end_while_dead, true),
        ("no-fin-term", end_while_dead, false),
        ("slow-read", stream_through_ends, true),
        ("single-read", stream_through_ends, false),
    ] {
        killer.mutate(mutation).unwrap();
        let told = trial(&mut guest, &killer);
        assert_eq!(told.is_ok(), sound, "{mutation:?} was {told:?}");
        println!("{mutation:?}: {told:?}");
    }
    killer.mutate("").unwrap();
    killer.kill().unwrap();
    bed.vonicd.stop().unwrap();
}

/// Whether all went well, or what the guest says of it.
type Trial = fn(&mut Guest, &Killer) -> std::result::Result<(), String>;

const LENGTH: usize = 1000;
/// What trickles for two seconds.
const TRICKLE: usize = 50_200;
/// More than all buffers hold.
const LONG: usize = 50_000_000;

/// A server of the test's own, and a guest's job that receives a stream of so many bytes from it; its request has been read or not.
fn receiver(guest: &mut Guest, length: usize, read: bool) -> (Job, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("192.0.2.1:{}", server.local_addr().unwrap().port());
    let job = guest.spawn(&format!("VONIC_PEER_TIMEOUT=3 vonic-peer recv {to} {length} 1")).unwrap();
    let (mut stream, _) = server.accept().unwrap();
    stream.set_read_timeout(Some(seconds(5))).unwrap();
    let mut request = [0; 32];
    if read {
        stream.read_exact(&mut request).unwrap();
    } else {
        wait_until("a request", seconds(5), || stream.peek(&mut request).unwrap() == 32).unwrap();
    }
    (job, stream)
}

/// What a job of the guest's came to.
fn outcome(job: &Job, guest: &mut Guest) -> std::result::Result<(), String> {
    let done = job.wait(guest, seconds(20)).unwrap();
    if done.status == 0 { Ok(()) } else { Err(done.stdout) }
}

/// The engine is stopped while `happens`, and then killed.
fn while_dead(killer: &Killer, happens: impl FnOnce()) {
    let engine = killer.signal(libc::SIGSTOP).unwrap();
    happens();
    killer.signal(libc::SIGKILL).unwrap();
    killer.wait_successor(engine).unwrap();
}

/// The peer resets while there is no engine and its bytes wait for the guest to read: the guest has to get all that had come, and then
/// hear of a reset.
fn reset_while_dead(guest: &mut Guest, killer: &Killer) -> std::result::Result<(), String> {
    let (job, mut stream) = receiver(guest, LONG, false);
    job.signal(guest, "STOP").unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut bytes = vec![0; LONG];
    vonic_peer::pattern::fill(&mut bytes, 1, 0);
    // Until all buffers are full.
    let mut written = 0;
    while let Ok(count) = stream.write(&bytes[written..]) {
        written += count;
    }
    let arrived = written - unacknowledged(stream.local_addr().unwrap().port());
    // Closed with bytes unread, the kernel resets (RFC 2525 §2.17).
    while_dead(killer, || drop(stream));
    job.signal(guest, "CONT").unwrap();
    match outcome(&job, guest) {
        Err(told) if told.contains(&format!("after {arrived} bytes: Connection reset")) => Ok(()),
        other => Err(format!("{arrived} bytes had arrived: {other:?}")),
    }
}

/// What of its bytes the connection from this port still has, by /proc/net/tcp (proc_net_tcp(5)).
fn unacknowledged(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let local = format!("0100007F:{port:04X}");
    let mut own = rows.filter(|row| row.get(1) == Some(&local.as_str()) && row[3] == "01");
    let queues = own.next().unwrap()[4].split_once(':').unwrap();
    usize::from_str_radix(queues.0, 16).unwrap()
}

/// The peer's bytes and its end come while there is no engine: the guest has to get each byte once.
fn end_while_dead(guest: &mut Guest, killer: &Killer) -> std::result::Result<(), String> {
    let (job, mut stream) = receiver(guest, LENGTH, true);
    let mut bytes = vec![0; LENGTH];
    vonic_peer::pattern::fill(&mut bytes, 1, 0);
    while_dead(killer, || {
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let mut count = [0; 8];
    let confirmed = stream.read_exact(&mut count).is_ok() && u64::from_le_bytes(count) == LENGTH as u64;
    drop(stream);
    match outcome(&job, guest) {
        Ok(()) if confirmed => Ok(()),
        other => Err(format!("{other:?}, confirmed: {confirmed}")),
    }
}

/// Bytes trickle to the guest on several connections while engines die: there is hardly a time at which counters do not move between two
/// readings that take a while, and there are times at which they do not.
fn stream_through_ends(guest: &mut Guest, killer: &Killer) -> std::result::Result<(), String> {
    const STREAMS: usize = 4;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("192.0.2.1:{}", listener.local_addr().unwrap().port());
    let job = guest.spawn(&format!("VONIC_PEER_TIMEOUT=3 vonic-peer recv {to} {TRICKLE} 1 {STREAMS}")).unwrap();
    // Each ends with its stream, or when the guest gives up.
    let trickles: Vec<_> = (0..STREAMS)
        .map(|_| {
            let stream = listener.accept().unwrap().0;
            std::thread::spawn(move || trickle(stream))
        })
        .collect();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(120));
        killer.kill().unwrap();
    }
    let told = outcome(&job, guest);
    let sent: Vec<_> = trickles.into_iter().map(|trickle| trickle.join().unwrap().is_ok()).collect();
    told.and_then(|()| if sent.contains(&false) { Err("a server's end failed".into()) } else { Ok(()) })
}

/// Serves one session, a few bytes at a time.
fn trickle(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(seconds(5)))?;
    let mut request = [0; 32];
    stream.read_exact(&mut request)?;
    let seed = request[24..].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let mut bytes = vec![0; TRICKLE];
    vonic_peer::pattern::fill(&mut bytes, seed, 0);
    for piece in bytes.chunks(251) {
        stream.write_all(piece)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0; 8])
}

/// The guest has ended its stream, and the peer's answer and end come at once: the engine dies while it passes the answer on, and finds, when it
/// looks again, a socket that has closed. Nobody has reset anything.
#[test]
fn the_peers_end_behind_the_guests_is_no_reset() {
    let bed = Bed::start(&config(&[("a", 2)])).unwrap();
    let killer = Killer::new(&bed.directory).unwrap();
    let server = bed.server().unwrap();
    let mut guest = start_guest(&bed, ("a", 2), Vmm::Uml).unwrap();
    guest.wait_ready().unwrap();
    for (i, point) in ["after-peek", "frame-completed", "before-publishing"].into_iter().cycle().take(12).enumerate() {
        // The answer is the first that is peeked at; what is published before it, the guest's other segments make happen.
        let nth = if point == "before-publishing" { 1 + i as u64 } else { 1 };
        killer.arm(point, nth, Manner::Kill).unwrap();
        std::thread::sleep(crash::LOOKS);
        let send = format!("vonic-peer send 192.0.2.1:{} 1000 {i}", server.address().port());
        let told = guest.run(&send, seconds(60)).unwrap();
        assert_eq!(told.status, 0, "{point}: {}", told.stdout);
        assert!(killer.has_fired() || point == "before-publishing");
        killer.disarm();
    }
    assert!(server.failures().is_empty(), "{:#?}", server.failures());
    bed.vonicd.stop().unwrap();
}

/// Every message of a VMM's handshake is in flight once when the engine dies: before the engine has seen it, and after. The VMM notices
/// nothing, and the device works.
#[test]
fn an_engine_that_dies_in_any_message_of_a_handshake_is_not_noticed() {
    let bed = Bed::start(&config(&[("a", 2)])).unwrap();
    let killer = Killer::new(&bed.directory).unwrap();
    let mut last = 0;
    while handshake_with_death(&bed, &killer, last) {
        last += 1;
    }
    assert_eq!(last, 18);
    // What the data path is told of a handshake, one thing after the other, is done, and not answered yet.
    let mut deaths = 0;
    loop {
        killer.arm("command-applied", deaths + 1, Manner::ALL[deaths as usize % 3]).unwrap();
        std::thread::sleep(crash::LOOKS);
        let mut mock = MockFrontend::start(&bed.socket("a"), MockConfig::default()).unwrap();
        mock.gateway_answers(2).unwrap();
        if !killer.has_fired() {
            // Before the mock's end, whose commands would be what it dies of.
            killer.disarm();
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 4, "{deaths}");
    bed.vonicd.stop().unwrap();
}

/// A handshake whose message number `last` finds a dead engine; false if there is no such message.
fn handshake_with_death(bed: &Bed, killer: &Killer, last: usize) -> bool {
    let mut mock = MockFrontend::connect(&bed.socket("a"), MockConfig::default()).unwrap();
    let messages = handshake(&mut mock);
    if last == messages.len() {
        return false;
    }
    for (number, (request, body, files)) in messages.iter().enumerate() {
        let engine = (number == last).then(|| killer.signal(libc::SIGSTOP).unwrap());
        assert!(mock.raw().tell(*request, body.len() as u32, body, files).unwrap());
        if let Some(engine) = engine {
            // The master has passed it on by then, mostly.
            std::thread::sleep(Duration::from_millis(20));
            killer.signal(libc::SIGKILL).unwrap();
            killer.wait_successor(engine).unwrap();
        }
        let reply = mock.raw().reply(*request).with_context(|| format!("message {number} of {last}")).unwrap();
        let asks = matches!(*request, code::GET_FEATURES | code::GET_PROTOCOL_FEATURES);
        assert!(asks || reply.acknowledged() == Some(true), "request {request}, a death in {last}: {reply:?}");
    }
    mock.post_buffers().unwrap();
    mock.gateway_answers(2).with_context(|| format!("a death in message {last}")).unwrap();
    true
}

/// What is released has nothing of all this.
#[test]
fn a_build_for_others_has_no_crash_points() {
    let points = POINTS.iter().chain(TAKEOVER_POINTS).chain(WORKERS_POINTS).map(|(name, _)| *name);
    let names: BTreeSet<&str> = points.chain(["VONIC_CRASH", "single-read", "crash point"]).collect();
    let list = names.iter().copied().collect::<Vec<_>>().join("\n");
    let found = |crash_points| {
        let program = Vonicd::program(crash_points).unwrap();
        let found = Command::new("grep").args(["-aoF", &list]).arg(program).output().unwrap().stdout;
        String::from_utf8(found).unwrap().lines().map(ToString::to_string).collect::<BTreeSet<_>>()
    };
    assert_eq!(found(true).iter().map(String::as_str).collect::<BTreeSet<_>>(), names);
    assert_eq!(found(false), BTreeSet::new());
}

/// Every labelled point of the source is one of those at which engines end here.
#[test]
fn every_labelled_point_is_tried() {
    let all = POINTS.iter().chain(TAKEOVER_POINTS).chain(WORKERS_POINTS);
    let tried: BTreeSet<&str> = all.map(|(name, _)| *name).collect();
    let backend = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("backend");
    let mut labelled = BTreeSet::new();
    let mut folders = vec![backend];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(path).unwrap();
                let names = text.split("crash_point!(\"").skip(1).filter_map(|rest| rest.split('"').next());
                labelled.extend(names.map(ToString::to_string));
            }
        }
    }
    assert_eq!(labelled.iter().map(String::as_str).collect::<BTreeSet<_>>(), tried);
}
