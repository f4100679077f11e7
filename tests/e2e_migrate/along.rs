//! What goes along beside connections that live: flows of datagrams, and the last of what a guest has sent before it left.
use crate::hosts::{FORWARD, Hosts, SERVICE, WORLD};
use crate::state::{Pair, hand_guest, kill_engine, open, run, waiting};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};
use vonic_migration::{DatagramState, PortState, Stream};
use vonic_tests::datagram::UdpGuest;
use vonic_tests::frames::{self, Tcp, ip4};
use vonic_tests::mock::{MockConfig, VnetHeader};
use vonic_tests::wire::{HandGuest, ramp};
use vonic_tests::*;
use vonic_uplink::Stage;

/// Bytes of a stream that its peer does not read: more than its socket takes.
const UNREAD: usize = 20_000;

fn state_of(bytes: &[u8]) -> PortState {
    Stream::read(bytes).unwrap().try_into().unwrap()
}

/// A guest is done with a connection, whose peer has not got everything yet, and leaves: the peer gets the rest from where the guest is,
/// although the engine has died before that and behind it.
#[test]
fn the_last_of_what_a_guest_has_sent_goes_along() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 4096 4096").unwrap();
    let mut guest = hand_guest(&hosts);
    let mut streams: Vec<_> = (0..3).map(|n| open(&mut guest, 4000 + n)).collect();
    for stream in &mut streams {
        ramp(UNREAD).chunks(1000).try_for_each(|piece| stream.conn.send(&mut guest, 0, piece)).unwrap();
        stream.conn.expect_ack(&mut guest).unwrap();
    }
    // Both ends of the stream, in either order.
    for (n, stream) in streams.iter_mut().enumerate() {
        let world_ends = |stream: &mut crate::state::Pair, guest: &mut HandGuest| {
            stream.world.shutdown(Shutdown::Write).unwrap();
            assert!(stream.conn.receive(guest, 1).unwrap().1);
        };
        if n == 0 {
            world_ends(stream, &mut guest);
        }
        stream.conn.send(&mut guest, Tcp::FIN, b"").unwrap();
        stream.conn.expect_ack(&mut guest).unwrap();
        if n > 0 {
            world_ends(stream, &mut guest);
        }
    }
    kill_engine(hosts.here());
    guest.mock.stop_rings().unwrap();
    let state = guest.mock.save_state().unwrap();
    let queued: Vec<usize> =
        state_of(&state).flows.iter().filter_map(|flow| Some(flow.socket.as_ref()?.send.len())).collect();
    assert!(queued.len() == 3 && queued.iter().all(|bytes| *bytes > UNREAD / 2), "{queued:?}");
    let mut mock = waiting(&hosts);
    assert!(mock.load_state(&state).unwrap());
    run(&mut mock);
    let source = std::mem::replace(&mut guest.mock, mock);
    drop(source);
    hosts.at = 1;
    guest.mock.gateway_answers(2).unwrap();
    kill_engine(hosts.here());
    for stream in &mut streams {
        let mut got = Vec::new();
        stream.world.read_to_end(&mut got).unwrap();
        assert!(got == ramp(UNREAD), "{} bytes", got.len());
    }
    // What is delivered is kept no more.
    guest.mock.stop_rings().unwrap();
    let gone = || state_of(&guest.mock.save_state().unwrap()).flows.is_empty();
    wait_until("an end of everything", seconds(10), gone).unwrap();
}

/// Both streams have ended, and the guest has yet to take what came last. What stands for the host's socket elsewhere is nothing but a
/// place for that, and has nothing to say to anybody.
#[test]
fn what_a_guest_has_yet_to_take_of_a_connection_that_is_over_goes_along() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    let Pair { mut conn, mut world } = open(&mut guest, 4000);
    world.write_all(&ramp(UNREAD)).unwrap();
    conn.send(&mut guest, Tcp::FIN, &ramp(700)).unwrap();
    let mut got = Vec::new();
    world.read_to_end(&mut got).unwrap();
    assert_eq!(got, ramp(700));
    let port = world.local_addr().unwrap().port();
    drop(world);
    let ended = || {
        let shown = Command::new("ss").args(["-tan", "sport", "=", &format!(":{port}")]).output().unwrap();
        !String::from_utf8(shown.stdout).unwrap().contains(&format!(":{port} "))
    };
    wait_until("the end of the peer's socket", seconds(10), ended).unwrap();
    for kill in [false, true] {
        if kill {
            kill_engine(hosts.here());
        }
        guest.mock.stop_rings().unwrap();
        let state = guest.mock.save_state().unwrap();
        let stages: Vec<_> = state_of(&state).flows.iter().map(|flow| flow.socket.as_ref().unwrap().stage).collect();
        assert_eq!(stages, [Stage::Over]);
        let mut mock = waiting(&hosts);
        assert!(mock.load_state(&state).unwrap());
        run(&mut mock);
        drop(std::mem::replace(&mut guest.mock, mock));
        hosts.at = 1 - hosts.at;
        conn.restored = true;
        conn.expect_ack(&mut guest).unwrap();
    }
    // The guest says no more than that it lives, for longer than the kernel would wait for an answer from nowhere.
    let end = Instant::now() + seconds(4);
    while Instant::now() < end {
        if let Some((_, segment)) = conn.hear(&mut guest, Duration::from_millis(500)).unwrap() {
            assert_eq!((segment.flags & Tcp::RST, segment.acknowledgment), (0, conn.snd_nxt));
        }
    }
    let (got, ended) = conn.receive(&mut guest, UNREAD + 1).unwrap();
    assert!(got == ramp(UNREAD) && ended, "{} bytes", got.len());
}

/// The flows of a state by their guests' ends.
fn flows(state: &[u8]) -> Vec<DatagramState> {
    let mut flows = state_of(state).datagrams;
    flows.sort_by_key(|flow| (flow.echo, flow.guest.port()));
    flows
}

/// The world sees each flow by the same port, and it is as old as it was; who spoke to the guest by a forward is answered from there.
#[test]
fn flows_of_datagrams_go_along_with_their_ports() {
    const GUEST: u16 = 4000;
    let forward = format!("{FORWARD}[[forward]]\nproto = \"udp\"\nlisten = \"*:7053\"\nport = 53\n");
    let mut hosts = Hosts::new(&forward).unwrap();
    let mut guest = UdpGuest::start(hosts.here(), "a", 2, MockConfig::default()).unwrap();
    let socket = || {
        let socket = UdpSocket::bind((WORLD, 0)).unwrap();
        socket.set_read_timeout(Some(seconds(10))).unwrap();
        socket
    };
    let receive = |socket: &UdpSocket| {
        let mut data = [0; 100];
        let (length, from) = socket.recv_from(&mut data).unwrap();
        (data[..length].to_vec(), from)
    };
    let (server, peer) = (socket(), socket());
    let to = server.local_addr().unwrap();
    guest.send(GUEST, to, b"hello").unwrap();
    let (_, own) = receive(&server);
    assert_eq!(own.ip().to_string(), SERVICE);
    let listens: SocketAddr = format!("{SERVICE}:7053").parse().unwrap();
    peer.connect(listens).unwrap();
    peer.send(b"question").unwrap();
    let seen = guest.expect().unwrap().from;
    let ping = |guest: &mut UdpGuest| {
        let (world, own): (Ipv4Addr, _) = (WORLD.parse().unwrap(), ip4(2));
        let frame = frames::ping(guest.link, own, world, 7, b"ping");
        guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
        let reply = |frame: &[u8]| frame.get(23) == Some(&1) && frame.get(34) == Some(&0);
        guest.mock.expect_frame("a reply", seconds(10), reply).unwrap();
    };
    ping(&mut guest);
    let mut before = None;
    for crossing in 0..2 {
        guest.mock.stop_rings().unwrap();
        let state = guest.mock.save_state().unwrap();
        assert_eq!(flows(&state).len(), 3);
        // The other host's clock is another one: what it has is compared by the age.
        let now = state_of(&state).clock;
        let ends: Vec<_> = flows(&state).iter().map(|f| (f.echo, f.guest, f.remote, f.host, f.local)).collect();
        let ages: Vec<u64> = flows(&state).iter().map(|flow| now - flow.opened).collect();
        if let Some((ends_before, ages_before)) = before.replace((ends.clone(), ages.clone())) {
            assert_eq!(ends, ends_before);
            assert!(ages.iter().zip(ages_before).all(|(age, before)| *age > before), "{ages:?}");
        }
        let mut mock = waiting(&hosts);
        assert!(mock.load_state(&state).unwrap());
        // What comes for it meanwhile is lost, and nobody says that the port is closed.
        server.send_to(b"lost", own).unwrap();
        run(&mut mock);
        drop(std::mem::replace(&mut guest.mock, mock));
        hosts.at = 1 - hosts.at;
        guest.mock.gateway_answers(2).unwrap();
        if crossing == 1 {
            kill_engine(hosts.here());
        }
        ping(&mut guest);
        server.send_to(b"there", own).unwrap();
        while guest.expect().unwrap().data != b"there" {}
        guest.send(GUEST, to, b"again").unwrap();
        assert_eq!(receive(&server), (b"again".to_vec(), own));
        guest.send(53, seen, b"answer").unwrap();
        assert_eq!(receive(&peer), (b"answer".to_vec(), listens));
    }
}

/// Between the load and the first ring, and while what has come gets its sockets.
#[test]
fn what_has_come_outlives_the_engine_that_it_came_to() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    let mut streams: Vec<_> = (0..5).map(|n| open(&mut guest, 4000 + n)).collect();
    for crossing in 0..2 {
        guest.mock.stop_rings().unwrap();
        let state = guest.mock.save_state().unwrap();
        let mut mock = waiting(&hosts);
        assert!(mock.load_state(&state).unwrap());
        kill_engine(hosts.there());
        mock.share_memory().unwrap();
        kill_engine(hosts.there());
        mock.start_rings().unwrap();
        mock.post_buffers().unwrap();
        drop(std::mem::replace(&mut guest.mock, mock));
        hosts.at = 1 - hosts.at;
        streams.iter_mut().try_for_each(|stream| stream.exchange(&mut guest)).unwrap();
        // What is here is not there to come again.
        kill_engine(hosts.here());
        streams.iter_mut().try_for_each(|stream| stream.exchange(&mut guest)).unwrap();
        let log = hosts.here().vonicd.log();
        assert_eq!(
            log.matches("its guest is still to come, with 5 connections").count(),
            2,
            "crossing {crossing}: {log}"
        );
    }
}
