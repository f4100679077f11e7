//! Does a host's socket go on at another host, in every state that a connection can be in, with nothing lost and nothing twice?
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may fail, and says what it measured"
)]

mod hosts;
mod line;
mod states;

use hosts::{Hosts, service};
use line::{End, Host, cross, finish, open, stay, wait};
use states::{STATES, both_end};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vonic_tests::ip;
use vonic_uplink::{
    Frozen, HostSocket, Known, Origin, Parked, PeekMode, Peer, SocketState, can_repair, descriptor_limit,
};

/// What the peer's kernel does not agree to.
const WITHOUT: [Option<&str>; 4] = [None, Some("tcp_timestamps"), Some("tcp_sack"), Some("tcp_window_scaling")];

/// Of a connection that the host opened.
const KNOWN: Known = Known { origin: Origin::fresh(true), shut: false, aborted: false };

/// As `make long-test` has it.
fn long() -> bool {
    std::env::var_os("VONIC_LONG").is_some()
}

#[test]
fn streams_go_on_at_another_host_and_back_while_the_peer_sends_and_receives() {
    let mut hosts = Hosts::new().unwrap();
    let (connections, rounds) = if long() { (16, 20) } else { (4, 5) };
    let (mut lines, mut peers) = (Vec::new(), Vec::new());
    for without in WITHOUT {
        let set = |value| without.map(|name| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap());
        set("0");
        for number in 0..connections {
            let (host, peer) = open(&hosts, number & 1 == 0, number & 2 == 0).unwrap();
            lines.push(host);
            peers.push(peer);
        }
        set("1");
    }
    let stop = AtomicBool::new(false);
    let (mut lines, mut peers) = std::thread::scope(|scope| {
        let peers = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let moved =
                    peers.iter_mut().fold(false, |moved, peer| moved | peer.write(100_000) | peer.read(300_000));
                if !moved {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            peers
        });
        for round in 0..rounds {
            let until = Instant::now() + Duration::from_millis(250);
            while Instant::now() < until {
                lines.iter_mut().for_each(|line| {
                    line.end.write(60_000);
                    line.end.read(50_000);
                });
            }
            lines = if round % 5 == 2 { stay(lines) } else { cross(&mut hosts, lines).unwrap() };
            lines.iter().for_each(Host::check);
        }
        stop.store(true, Ordering::Relaxed);
        (lines, peers.join().unwrap())
    });
    for (line, peer) in lines.iter_mut().zip(&mut peers) {
        line.shut();
        finish(peer);
        peer.read_all(line.end.wrote);
        line.end.read_all(peer.wrote);
        line.check();
        assert!(peer.wrote > 100_000 && peer.read > 100_000, "{} and {} bytes", peer.wrote, peer.read);
    }
}

#[test]
fn a_connection_in_any_state_ends_as_if_it_had_not_moved() {
    let mut hosts = Hosts::new().unwrap();
    // There and back, and not at all: frozen, saved and thawed.
    for crossings in [2, 0] {
        let (mut lines, mut peers) = (Vec::new(), Vec::new());
        for (number, state) in STATES.iter().flat_map(|state| [state; 2]).enumerate() {
            let (mut host, peer) = open(&hosts, number & 1 == 0, (number + crossings) & 2 == 0).unwrap();
            peers.push((state, (state.begin)(&mut host, peer)));
            lines.push(host);
        }
        lines.iter().for_each(Host::check);
        for _ in 0..crossings {
            lines = cross(&mut hosts, lines).unwrap();
            lines.iter().for_each(Host::check);
        }
        if crossings == 0 {
            lines = stay(lines);
        }
        for (mut host, (state, peer)) in lines.into_iter().zip(peers) {
            println!("{crossings} crossings: {}", state.name);
            host.check();
            (state.end)(&mut host, peer);
            host.check();
        }
    }
}

/// The peer's answer to the first SYN finds nobody any more; the other host asks again.
#[test]
fn a_connect_in_progress_is_made_by_the_other_host() {
    let mut hosts = Hosts::new().unwrap();
    // Nobody answers for it yet.
    let to: SocketAddr = "198.51.100.77:7777".parse().unwrap();
    let socket = hosts.here().run(|| Ok(HostSocket::connect(to, PeekMode::Offset)?.0)).unwrap();
    let known = KNOWN;
    let host = Host::new(socket, known, to);
    assert_eq!(host.progress().peer, Peer::Connecting);
    ip("addr add 198.51.100.77/32 dev br0").unwrap();
    let listener = TcpListener::bind(to).unwrap();
    let mut host = cross(&mut hosts, vec![host]).unwrap().remove(0);
    let mut peer = End::new(listener.accept().unwrap().0);
    assert_eq!(peer.stream.peer_addr().unwrap().ip(), service(false).ip());
    wait("the connection", || host.progress().peer == Peer::Open);
    assert!(host.end.write(10_000));
    host.shut();
    peer.read_all(10_000);
    host.check();
}

/// An urgent mark stops every peek; the byte stays in the stream (SO_OOBINLINE).
#[test]
fn a_stream_with_urgent_marks_travels_whole() {
    let mut hosts = Hosts::new().unwrap();
    let (host, mut peer) = open(&hosts, false, true).unwrap();
    assert!(peer.write(5000));
    vonic_tests::wire::write_urgent(&peer.stream, &[(5000 % 251) as u8]).unwrap();
    peer.wrote += 1;
    assert!(peer.write(3000));
    wait("the peer's bytes", || host.progress().queued == 8001);
    let mut host = cross(&mut hosts, vec![host]).unwrap().remove(0);
    finish(&peer);
    host.end.read_all(8001);
    host.check();
}

/// As many as one guest may have at work.
#[test]
fn many_sockets_take_a_few_milliseconds() {
    let mut hosts = Hosts::new().unwrap();
    // Each needs up to five descriptors.
    let count = if long() { 1000 } else { 200 }.min((descriptor_limit().unwrap() - 100) / 5);
    let (lines, peers): (Vec<Host>, Vec<End>) = (0..count).map(|_| open(&hosts, false, false).unwrap()).unzip();
    let begin = Instant::now();
    let frozen: Vec<Frozen> = lines.into_iter().map(|line| line.socket.freeze().unwrap()).collect();
    let freezing = begin.elapsed();
    let known = KNOWN;
    let states: Vec<SocketState> = frozen
        .iter()
        .zip(&peers)
        .map(|(frozen, peer)| frozen.save(&known, peer.stream.local_addr().unwrap()).unwrap())
        .collect();
    let saving = begin.elapsed() - freezing;
    let begin = Instant::now();
    let parked: Vec<Parked> =
        hosts.there().run(|| states.into_iter().map(|mut state| Ok(state.restore()?)).collect()).unwrap();
    let restoring = begin.elapsed();
    hosts.swap().unwrap();
    let begin = Instant::now();
    let released = parked.into_iter().map(|parked| parked.release(PeekMode::Offset).unwrap());
    let lines: Vec<Host> = released
        .zip(&peers)
        .map(|((socket, known), peer)| Host::new(socket, known, peer.stream.local_addr().unwrap()))
        .collect();
    println!(
        "{count} sockets: frozen in {freezing:?}, saved in {saving:?}, restored in {restoring:?}, released in {:?}",
        begin.elapsed()
    );
    assert!(freezing + saving < Duration::from_millis(500) && restoring < Duration::from_millis(500));
    drop(frozen);
    for (mut host, mut peer) in lines.into_iter().zip(peers) {
        assert!(host.end.write(100) && peer.write(200));
        both_end(&mut host, peer);
    }
}

/// Full queues: what they cost beside their own copies.
#[test]
fn full_queues_take_about_a_millisecond_per_megabyte() {
    let mut hosts = Hosts::new().unwrap();
    let (mut lines, mut peers): (Vec<Host>, Vec<End>) = (0..16).map(|_| open(&hosts, true, false).unwrap()).unzip();
    lines.iter_mut().for_each(|line| line.end.fill());
    peers.iter_mut().for_each(End::fill);
    let (mut frozen, mut states, mut wrote) = (Vec::new(), Vec::new(), Vec::new());
    let begin = Instant::now();
    for (line, peer) in lines.into_iter().zip(&peers) {
        wrote.push(line.end.wrote);
        drop(line.end);
        frozen.push(line.socket.freeze().unwrap());
        states.push(frozen[frozen.len() - 1].save(&KNOWN, peer.stream.local_addr().unwrap()).unwrap());
    }
    let saving = begin.elapsed();
    let queued: usize = states.iter().map(|state| state.send.len() + state.received.len()).sum();
    let restore = || {
        let begin = Instant::now();
        let parked = states.iter_mut().map(SocketState::restore).collect::<Result<Vec<Parked>, _>>()?;
        Ok((parked, begin.elapsed()))
    };
    let (parked, restoring) = hosts.there().run(restore).unwrap();
    hosts.swap().unwrap();
    println!("{queued} bytes queued: saved in {saving:?}, restored in {restoring:?}");
    assert!(
        queued > 1_000_000 && saving + restoring < Duration::from_millis(200),
        "{queued}: {saving:?}, {restoring:?}"
    );
    for ((parked, wrote), peer) in parked.into_iter().zip(wrote).zip(peers) {
        let (socket, known) = parked.release(PeekMode::Offset).unwrap();
        let mut host = Host::new(socket, known, peer.stream.local_addr().unwrap());
        host.end.wrote = wrote;
        both_end(&mut host, peer);
    }
    drop(frozen);
}

/// Without CAP_NET_ADMIN nothing moves, and nothing is harmed.
#[test]
fn without_the_capability_a_socket_stays_as_it_is() {
    const CHILD: &str = "VONIC_WITHOUT_CAPABILITY";
    let name = "without_the_capability_a_socket_stays_as_it_is";
    if std::env::var_os(CHILD).is_none() {
        let mut again = Command::new("setpriv");
        again.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]).arg(std::env::current_exe().unwrap());
        let output = again.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert_eq!(can_repair().unwrap_err().raw_os_error(), Some(1), "EPERM");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let (socket, _) = HostSocket::connect(to, PeekMode::Offset).unwrap();
    let mut peer = End::new(listener.accept().unwrap().0);
    let (socket, error) = socket.freeze().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(1), "EPERM");
    let known = KNOWN;
    let mut host = Host::new(socket, known, to);
    assert!(host.end.write(1000) && peer.write(2000));
    both_end(&mut host, peer);
}
