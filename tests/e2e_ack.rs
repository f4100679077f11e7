//! What does an acknowledgment to the guest stand for? With `ack = "kernel"` the host's kernel has the bytes, with `ack = "peer"` the remote
//! peer has acknowledged them. Neither is late enough for the guest's retransmission timer.
#![allow(clippy::unwrap_used, reason = "test code")]
#![allow(clippy::print_stdout, reason = "one figure is measured, not only held against a bound")]

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use vonic_tests::frames::Tcp;
use vonic_tests::mock::feature;
use vonic_tests::relay::Relay;
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, ramp};
use vonic_tests::*;

const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Two VMs, `a` with `ack = "peer"` and `b` without.
fn start() -> Bed {
    Bed::start(&TestConfig::default().vm("a", 2, "ack = \"peer\"").vm("b", 3, "")).unwrap()
}

fn nft(script: &str) {
    let status = std::process::Command::new("nft").arg(script).status().unwrap();
    assert!(status.success(), "nft {script}");
}

fn listen_at(netns: &Netns) -> (TcpListener, u16) {
    let listener = netns.run(|| Ok(TcpListener::bind((PEER, 0))?)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_peer_that_acknowledges_nothing_is_silent_to_the_guest_too() {
    let bed = start();
    let outside = Netns::new().unwrap();
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let (listener, port) = listen_at(&outside);
    nft("add table ip lost; add chain ip lost in { type filter hook input priority 0; }");
    let text = ramp(5 * 1400);
    for (vm, number, by_peer) in [("a", 2, true), ("b", 3, false)] {
        let mut guest = HandGuest::start(&bed, vm, number, feature::ALL).unwrap();
        let mut conn = Conn::new(PEER, (40_000, port)).open(&mut guest).unwrap();
        let mut host = accept(&listener).unwrap();
        nft(&format!("add rule ip lost in ip saddr {PEER} tcp sport {port} drop"));
        let first = conn.snd_nxt;
        text.chunks(1400).for_each(|piece| conn.send(&mut guest, 0, piece).unwrap());
        let mut got = vec![0; text.len()];
        host.read_exact(&mut got).unwrap();
        assert!(got == text, "the peer has other bytes");
        if by_peer {
            // The peer's application has read it all; its kernel's word is what is missing.
            let end = Instant::now() + Duration::from_millis(600);
            while let Some((_, heard)) = conn.hear(&mut guest, end.saturating_duration_since(Instant::now())).unwrap() {
                assert_eq!(heard.acknowledgment, first, "acknowledged although the peer did not: {heard:?}");
            }
            // Asking costs next to nothing.
            let engine = std::fs::read_to_string(bed.directory.path().join("run/engine.pid")).unwrap();
            let used = || usage::processor_time(engine.trim().parse().unwrap()).unwrap();
            let (before, begin) = (used(), Instant::now());
            std::thread::sleep(seconds(1)); // What is measured.
            let share = (used() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
            assert!(share < 0.02, "{:.1} % of a processor", 100.0 * share);
            // A FIN waits with the bytes before it.
            conn.send(&mut guest, Tcp::FIN, &[]).unwrap();
            assert!(conn.hear(&mut guest, Duration::from_millis(300)).unwrap().is_none());
        } else {
            conn.expect_ack(&mut guest).unwrap();
        }
        nft("flush chain ip lost in");
        if by_peer {
            // The host's kernel sends again, and the answer comes through.
            conn.expect_ack(&mut guest).unwrap();
            assert_eq!(host.read(&mut got).unwrap(), 0);
        }
    }
}

/// The peer's application stalls: its kernel takes what it has room for and closes its window, and so does vonic, without ever moving an
/// edge left ([`Conn::hear`] looks at each segment). What was acknowledged by then is with the peer; the rest comes when it reads.
#[test]
fn a_stalled_peer_closes_the_window_by_peer_too() {
    let bed = start();
    for name in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), "4096 65536 65536").unwrap();
    }
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let (mut conn, mut host) = Conn::new(HOST, (40_000, 0)).connect(&mut guest).unwrap();
    let bytes = ramp(600_011);
    let first = conn.snd_nxt;
    let acknowledged = |segment: &Tcp| segment.acknowledgment.wrapping_sub(first) as usize;
    let (mut sent, mut una, mut reader, mut timeouts) = (0, 0, None, 0);
    let mut stalled_at = 0;
    while una < bytes.len() {
        let room = conn.edge.wrapping_sub(conn.snd_nxt) as i32;
        let piece = &bytes[sent..bytes.len().min(sent + room.clamp(0, 1460) as usize)];
        if !piece.is_empty() {
            conn.send(&mut guest, Tcp::PSH, piece).unwrap();
            sent += piece.len();
            continue;
        }
        let limit = Duration::from_millis(if reader.is_none() { 500 } else { 1000 });
        let Some((_, heard)) = conn.hear(&mut guest, limit).unwrap() else {
            if reader.is_some() {
                // What the host's socket had refused goes again, as after a guest's timeout.
                timeouts += 1;
                assert!(timeouts < 5 && una < sent, "it stands still at {una} of {}", bytes.len());
                (conn.snd_nxt, sent) = (first.wrapping_add(una as u32), una);
                continue;
            }
            assert!(una <= sent && sent < bytes.len(), "the window never closed");
            stalled_at = una;
            // A probe is answered: nothing of it is taken, and nothing more acknowledged.
            guest.send(HOST, &conn.segment(Tcp::ACK, &bytes[sent..=sent])).unwrap();
            let answer = conn.expect(&mut guest, "answer to the probe").unwrap();
            assert_eq!((acknowledged(&answer), conn.edge), (una, conn.snd_nxt), "{answer:?}");
            let mut host = host.try_clone().unwrap();
            let length = bytes.len();
            reader = Some(std::thread::spawn(move || {
                let mut got = vec![0; length];
                host.read_exact(&mut got).map(|()| got)
            }));
            continue;
        };
        una = acknowledged(&heard);
    }
    assert!(stalled_at > 0, "nothing was acknowledged before the window closed");
    assert!(reader.unwrap().join().unwrap().unwrap() == bytes, "other bytes came");
    host.set_nonblocking(true).unwrap();
    assert!(host.read(&mut [0]).is_err(), "more came than was sent");
}

/// The kernel's one event comes when a third of the room is free, which is less than one of the guest's segments here: the rest has to be
/// asked for, whoever acknowledges. The guest only waits for the window, as a kernel does whose probes are far apart.
#[test]
fn a_window_of_large_segments_opens_by_itself() {
    let config = TestConfig::default().vm("a", 2, "mtu = 65520\nack = \"peer\"").vm("b", 3, "mtu = 65520");
    let bed = Bed::start(&config).unwrap();
    std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 87040 87040").unwrap();
    let outside = Netns::new().unwrap();
    let _line = Relay::new(&outside, "198.51.100.1/24", "198.51.100.2/24", Duration::from_millis(5)).unwrap();
    let (listener, port) = listen_at(&outside);
    for (vm, number) in [("a", 2), ("b", 3)] {
        let mut guest = HandGuest::start(&bed, vm, number, feature::ALL).unwrap();
        let mut conn = Conn::new(PEER, (40_000, port)).open(&mut guest).unwrap();
        let mut host = accept(&listener).unwrap();
        let bytes = ramp(2_000_003);
        let length = bytes.len();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; length];
            host.read_exact(&mut got).map(|()| got)
        });
        let first = conn.snd_nxt;
        let (mut sent, mut una, mut longest) = (0, 0, Duration::ZERO);
        while una < bytes.len() {
            let room = conn.edge.wrapping_sub(conn.snd_nxt) as i32;
            let piece = &bytes[sent..bytes.len().min(sent + room.clamp(0, 65_000) as usize)];
            if !piece.is_empty() {
                conn.send(&mut guest, Tcp::PSH, piece).unwrap();
                sent += piece.len();
                continue;
            }
            let begin = Instant::now();
            if let Some((_, heard)) = conn.hear(&mut guest, seconds(1)).unwrap() {
                una = heard.acknowledgment.wrapping_sub(first) as usize;
                longest = longest.max(begin.elapsed());
            } else {
                assert!(una < sent, "{vm}: the window stays closed at {sent} of {}", bytes.len());
                // What the host's socket had refused goes again, as after a guest's timeout.
                (conn.snd_nxt, sent) = (first.wrapping_add(una as u32), una);
            }
        }
        assert!(reader.join().unwrap().unwrap() == bytes, "{vm}: other bytes came");
        assert!(longest < Duration::from_millis(500), "{vm}: the window opened after {longest:?}");
    }
}

/// Whose word counts is decided when a connection begins.
#[test]
fn a_reload_changes_it_for_connections_to_come() {
    let bed = start();
    let outside = Netns::new().unwrap();
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let (listener, port) = listen_at(&outside);
    nft("add table ip lost; add chain ip lost in { type filter hook input priority 0; }");
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    assert_eq!(bed.vonicd.vm("a").unwrap()["ack"], "peer");
    let mut old = Conn::new(PEER, (40_000, port)).open(&mut guest).unwrap();
    let file = bed.directory.path().join("etc/vms.d/a.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"peer\"", "\"kernel\"")).unwrap();
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!(report["changed"], serde_json::json!(["a"]), "{report}");
    assert_eq!(bed.vonicd.vm("a").unwrap()["ack"], "kernel");
    let mut new = Conn::new(PEER, (40_001, port)).open(&mut guest).unwrap();
    let _hosts = [accept(&listener).unwrap(), accept(&listener).unwrap()];
    nft(&format!("add rule ip lost in ip saddr {PEER} tcp sport {port} drop"));
    old.send(&mut guest, Tcp::PSH, b"old").unwrap();
    assert!(old.hear(&mut guest, Duration::from_millis(300)).unwrap().is_none());
    new.send(&mut guest, Tcp::PSH, b"new").unwrap();
    new.expect_ack(&mut guest).unwrap();
}

/// Retransmissions that a guest's kernel has made so far (SNMP's tcpRetransSegs).
fn retransmissions(guest: &mut Guest) -> u64 {
    let table = guest.must("grep ^Tcp: /proc/net/snmp", seconds(5)).unwrap();
    let mut rows = table.lines().map(|line| line.split(' '));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "RetransSegs").unwrap().1.parse().unwrap()
}

/// The answer comes with the round trip to the peer, and little later; a Linux guest's timer leaves it the time.
#[test]
fn a_distant_peers_acknowledgment_is_in_time_for_the_guests_timer() {
    let bed = start();
    let outside = Netns::new().unwrap();
    let _line = Relay::new(&outside, "198.51.100.1/24", "198.51.100.2/24", Duration::from_millis(75)).unwrap();
    let (listener, port) = listen_at(&outside);
    {
        let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
        let mut conn = Conn::new(PEER, (40_000, port)).open(&mut guest).unwrap();
        let _host = accept(&listener).unwrap();
        for _ in 0..5 {
            let begin = Instant::now();
            conn.send(&mut guest, Tcp::PSH, &ramp(100)).unwrap();
            conn.expect_ack(&mut guest).unwrap();
            let took = begin.elapsed().as_millis();
            // The peer's kernel may delay its own by 40 ms; asking adds an eighth.
            assert!((145..260).contains(&took), "acknowledged after {took} ms");
        }
    }
    let mut server = PeerServer::start("far", bed.directory.path(), &format!("{PEER}:0"), Some(&outside)).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    for operation in ["send 3000017 1 1", "both 500009 2 3"] {
        let (name, rest) = operation.split_once(' ').unwrap();
        guest.must(&format!("vonic-peer {name} {} {rest}", server.address()), seconds(60)).unwrap();
    }
    for _ in 0..4 {
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
    }
    assert_eq!(retransmissions(&mut guest), 0, "the guest's timer ran out, or it saw three duplicates");
    bed.vonicd.stop().unwrap();
}

/// What acknowledgment by the peer costs over loopback, where the peer answers at once.
#[test]
fn by_peer_a_stream_is_not_much_slower() {
    let bed = start();
    let mut server = bed.server().unwrap();
    let mut guests = [("a", 2), ("b", 3)].map(|(name, number)| bed.start_guest(name, number, Vmm::Uml).unwrap());
    guests.iter().for_each(|guest| guest.wait_ready().unwrap());
    let command = format!("vonic-peer send 192.0.2.1:{} 33554433 7", server.address().port());
    let mut best = [f64::MAX; 2];
    for _ in 0..3 {
        for (best, guest) in best.iter_mut().zip(&mut guests) {
            let begin = Instant::now();
            guest.must(&command, seconds(60)).unwrap();
            *best = best.min(begin.elapsed().as_secs_f64());
            let report = server.report(seconds(10)).unwrap();
            assert!(report["error"].is_null(), "{report}");
        }
    }
    let [by_peer, by_kernel] = best.map(|seconds| 8.0 * 33_554_433.0 / 1e9 / seconds);
    println!("by peer {by_peer:.2} Gbit/s, by kernel {by_kernel:.2} Gbit/s, ratio {:.2}", by_kernel / by_peer);
    assert!(by_peer > by_kernel / 3.0, "{by_peer:.2} Gbit/s by peer, {by_kernel:.2} Gbit/s by kernel");
    bed.vonicd.stop().unwrap();
}
