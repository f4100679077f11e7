//! Does a host's socket go on at another host, in every state that a connection can be in, with nothing lost and nothing twice?
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod hosts;
mod line;
mod states;

use hosts::Hosts;
use line::{Host, cross, finish, open, stay};
use states::STATES;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What the peer's kernel does not agree to.
const WITHOUT: [Option<&str>; 4] = [None, Some("tcp_timestamps"), Some("tcp_sack"), Some("tcp_window_scaling")];

#[test]
fn streams_go_on_at_another_host_and_back_while_the_peer_sends_and_receives() {
    let mut hosts = Hosts::new().unwrap();
    let (mut lines, mut peers) = (Vec::new(), Vec::new());
    for without in WITHOUT {
        let set = |value| without.map(|name| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap());
        set("0");
        for number in 0..16 {
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
        for round in 0..10 {
            let until = Instant::now() + Duration::from_millis(150);
            while Instant::now() < until {
                lines.iter_mut().for_each(|line| {
                    line.end.write(60_000);
                    line.end.read(50_000);
                });
            }
            lines = if round % 5 == 4 { stay(lines) } else { cross(&mut hosts, lines).unwrap() };
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
    // Once there, twice (there and back), and not at all: frozen, saved and thawed.
    for crossings in [1, 2, 0] {
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
