//! What a VMM does to a port's state: it takes it along, brings it back, brings it damaged, or late, or to the wrong place.
use crate::hosts::{FORWARD, Hosts, Kind, SERVICE, WORLD};
use anyhow::{Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use vonic_migration::{PortState, Stream};
use vonic_tests::frames::Tcp;
use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::wire::{Conn, HOST, HandGuest, ramp};
use vonic_tests::*;

/// A guest's connection with the world.
pub struct Pair {
    pub conn: Conn,
    pub world: TcpStream,
}

pub fn open(guest: &mut HandGuest, port: u16) -> Pair {
    let listener = TcpListener::bind((WORLD, 0)).unwrap();
    let remote: Ipv4Addr = WORLD.parse().unwrap();
    let mut conn = Conn::new(remote, (port, listener.local_addr().unwrap().port())).open(guest).unwrap();
    conn.restored = true;
    let (world, _) = listener.accept().unwrap();
    world.set_read_timeout(Some(seconds(10))).unwrap();
    Pair { conn, world }
}

impl Pair {
    /// Some segments each way. The guest may have moved meanwhile: what it is told twice it drops.
    pub fn exchange(&mut self, guest: &mut HandGuest) -> Result<()> {
        let (out, into) = (ramp(2000), ramp(9001));
        self.conn.restored = true;
        self.world.write_all(&into)?;
        out.chunks(1000).try_for_each(|piece| self.conn.send(guest, 0, piece))?;
        let mut got = vec![0; out.len()];
        self.world.read_exact(&mut got)?;
        ensure!(got == out, "wrong bytes from the guest");
        let (got, _) = self.conn.receive(guest, into.len())?;
        ensure!(got == into, "wrong bytes to the guest");
        Ok(())
    }
}

pub fn hand_guest(hosts: &Hosts) -> HandGuest {
    HandGuest::start_configured(hosts.here(), "a", 2, MockConfig::default()).unwrap()
}

pub fn kill_engine(bed: &Bed) {
    let old = bed.vonicd.engine().unwrap();
    assert!(Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
}

/// A VMM that waits for a guest, on the other host: nothing but features were spoken of yet.
pub fn waiting(hosts: &Hosts) -> MockFrontend {
    let mut mock = MockFrontend::connect(&hosts.there().socket("a"), MockConfig::default()).unwrap();
    mock.negotiate().unwrap();
    mock
}

/// The guest runs there.
pub fn run(mock: &mut MockFrontend) {
    mock.share_memory().unwrap();
    mock.start_rings().unwrap();
    mock.post_buffers().unwrap();
}

#[test]
fn a_guest_that_has_not_left_goes_on() {
    let hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    let mut stream = open(&mut guest, 4000);
    stream.exchange(&mut guest).unwrap();
    // Behind the save: nothing, another save, an engine's death, and both.
    for (again, kill) in [(false, false), (true, false), (false, true), (false, true), (true, true)] {
        guest.mock.stop_rings().unwrap();
        let saved_flows = |guest: &mut HandGuest| {
            let state: PortState = Stream::read(&guest.mock.save_state().unwrap()[..]).unwrap().try_into().unwrap();
            state.flows.iter().filter(|flow| flow.socket.is_some()).count()
        };
        assert_eq!(saved_flows(&mut guest), 1);
        // What comes now comes to nobody, and comes again.
        stream.world.write_all(&ramp(100)).unwrap();
        if kill {
            kill_engine(hosts.here());
        }
        if again {
            assert_eq!(saved_flows(&mut guest), 1);
        }
        guest.mock.start_rings().unwrap();
        stream.conn.restored = true;
        assert_eq!(stream.conn.receive(&mut guest, 100).unwrap().0, ramp(100));
        stream.exchange(&mut guest).unwrap();
    }
}

#[test]
fn connections_come_before_memory_and_go_on_even_behind_an_engines_death() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    let mut streams: Vec<Pair> = (0..5).map(|n| open(&mut guest, 4000 + n)).collect();
    streams.iter_mut().try_for_each(|stream| stream.exchange(&mut guest)).unwrap();
    // The guest has ended its stream, the world its own, and what the world has sent is not acknowledged.
    streams[1].conn.send(&mut guest, Tcp::FIN, b"").unwrap();
    assert_eq!(streams[1].world.read(&mut [0]).unwrap(), 0);
    streams[2].world.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(streams[2].conn.receive(&mut guest, 1).unwrap().1);
    streams[3].world.write_all(&ramp(50_000)).unwrap();
    guest.mock.stop_rings().unwrap();
    let state = guest.mock.save_state().unwrap();
    let mut mock = waiting(&hosts);
    assert!(mock.load_state(&state).unwrap());
    run(&mut mock);
    let source = std::mem::replace(&mut guest.mock, mock);
    drop(source);
    hosts.at = 1;
    for kill in [false, true] {
        if kill {
            kill_engine(hosts.here());
        }
        streams[0].exchange(&mut guest).unwrap();
        streams[4].exchange(&mut guest).unwrap();
    }
    let [_, ended, heard, queued, _] = &mut streams[..] else { unreachable!("five streams") };
    ended.world.write_all(&ramp(3000)).unwrap();
    assert_eq!(ended.conn.receive(&mut guest, 3000).unwrap().0, ramp(3000));
    heard.conn.send(&mut guest, Tcp::FIN, &ramp(700)).unwrap();
    let mut got = Vec::new();
    heard.world.read_to_end(&mut got).unwrap();
    assert_eq!(got, ramp(700));
    assert_eq!(queued.conn.receive(&mut guest, 50_000).unwrap().0, ramp(50_000));
}

#[test]
fn what_cannot_leave_is_reset_at_both_ends() {
    let hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    let listener = hosts.netns[0].run(|| Ok(TcpListener::bind("127.0.0.1:0")?)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut conn = Conn::new(HOST, (4000, port)).open(&mut guest).unwrap();
    let (mut here, _) = listener.accept().unwrap();
    let mut stream = open(&mut guest, 4001);
    guest.mock.stop_rings().unwrap();
    let state = guest.mock.save_state().unwrap();
    let mut mock = waiting(&hosts);
    assert!(mock.load_state(&state).unwrap());
    run(&mut mock);
    let source = std::mem::replace(&mut guest.mock, mock);
    let reset = conn.expect_such(&mut guest, "reset", |segment| segment.flags & Tcp::RST != 0).unwrap();
    assert_eq!(reset.sequence, conn.rcv_nxt);
    drop(source);
    here.set_read_timeout(Some(seconds(10))).unwrap();
    assert_eq!(here.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    stream.exchange(&mut guest).unwrap();
    let log = hosts.here().vonicd.log();
    assert!(
        log.contains("1 connections cannot go along and are reset if it leaves: 1: it leads to this host itself"),
        "{log}"
    );
}

/// Without the capability nothing goes along, and nobody is left in the dark: neither where the source lacks it nor where the target does.
#[test]
fn without_the_capability_both_ends_are_reset_and_the_log_says_why() {
    let lacks = Some("net_admin");
    for lacks in [[lacks, None], [None, lacks]] {
        let hosts = Hosts::of_kind(&Kind { vm: FORWARD, lacks }).unwrap();
        let mut guest = hand_guest(&hosts);
        let mut stream = open(&mut guest, 4000);
        stream.exchange(&mut guest).unwrap();
        // It does not leave: it has lost nothing.
        guest.mock.stop_rings().unwrap();
        assert!(!guest.mock.save_state().unwrap().is_empty());
        guest.mock.start_rings().unwrap();
        stream.exchange(&mut guest).unwrap();
        guest.mock.stop_rings().unwrap();
        let state = guest.mock.save_state().unwrap();
        let mut mock = waiting(&hosts);
        assert!(mock.load_state(&state).unwrap());
        let log = hosts.beds[usize::from(lacks[0].is_none())].vonicd.log();
        run(&mut mock);
        let source = std::mem::replace(&mut guest.mock, mock);
        let reset = stream.conn.expect_such(&mut guest, "reset", |segment| segment.flags & Tcp::RST != 0).unwrap();
        assert_eq!(reset.sequence, stream.conn.rcv_nxt);
        drop(source);
        let why = "vonicd lacks CAP_NET_ADMIN, which TCP_REPAIR needs";
        let says = || hosts.beds.iter().any(|bed| bed.vonicd.log().contains(why));
        wait_until(why, seconds(10), says).with_context(|| log.clone()).unwrap();
        if lacks[0].is_none() {
            // The address goes to the target, whose kernel knows no such connection.
            hosts.netns[0].ip(&format!("addr del {SERVICE}/32 dev eth0")).unwrap();
            hosts.netns[1].ip(&format!("addr add {SERVICE}/32 dev eth0")).unwrap();
            stream.world.write_all(b"are you there").unwrap();
        }
        assert_eq!(stream.world.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_state_that_is_damaged_newer_or_another_guests_is_refused_and_the_source_goes_on() {
    let hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    let mut stream = open(&mut guest, 4000);
    guest.mock.stop_rings().unwrap();
    let state = guest.mock.save_state().unwrap();
    let mut mock = waiting(&hosts);
    let changed = |change: &dyn Fn(&mut PortState)| {
        let mut port: PortState = Stream::read(&state[..]).unwrap().try_into().unwrap();
        change(&mut port);
        let mut bytes = Vec::new();
        vonic_migration::write(&port, &mut bytes).unwrap();
        bytes
    };
    let mut flipped = state.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let newer = vonic_migration::Header { version: 2, length: 0, crc: 0 }.to_bytes();
    for (bytes, why) in [
        (Vec::new(), "damaged: it ends too early"),
        (state[..state.len() - 1].to_vec(), "damaged"),
        (flipped, "damaged"),
        (newer, "of a newer vonic (format 2; this one knows 1)"),
        (
            changed(&|port| port.identity.mac[5] = 9),
            "a has MAC address 52:54:00:00:00:09 there, this VM's file says 52:54:00:00:00:02",
        ),
        (changed(&|port| port.identity.mtu = 9000), "a has MTU 9000 there, this VM's file says 1500"),
        (changed(&|port| port.flows[0].guest = "192.0.2.3:5".parse().unwrap()), "a has address 192.0.2.3 there"),
    ] {
        assert!(!mock.load_state(&bytes).unwrap(), "{why}");
        wait_until(why, seconds(5), || hosts.there().vonicd.log().contains(why)).unwrap();
    }
    drop(mock);
    guest.mock.start_rings().unwrap();
    stream.exchange(&mut guest).unwrap();
}

#[test]
fn of_an_old_state_nothing_is_sent() {
    let hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    let mut stream = open(&mut guest, 4000);
    stream.exchange(&mut guest).unwrap();
    guest.mock.stop_rings().unwrap();
    let mut port: PortState = Stream::read(&guest.mock.save_state().unwrap()[..]).unwrap().try_into().unwrap();
    port.saved -= 61_000;
    let mut state = Vec::new();
    vonic_migration::write(&port, &mut state).unwrap();
    let mut mock = waiting(&hosts);
    assert!(mock.load_state(&state).unwrap());
    run(&mut mock);
    let mut guest = guest.on(mock);
    let reset = stream.conn.expect_such(&mut guest, "reset", |segment| segment.flags & Tcp::RST != 0).unwrap();
    assert_eq!(reset.sequence, stream.conn.rcv_nxt);
    stream.world.set_read_timeout(Some(seconds(1))).unwrap();
    assert!(stream.world.read(&mut [0]).is_err(), "neither a byte nor an end");
}
