//! Connections that the world begins while a guest moves: do they come to be, wherever it is by then?
use crate::hosts::{FORWARD, Hosts, SERVICE, WORLD};
use crate::state::{Pair, hand_guest, kill_engine, run, waiting};
use anyhow::{Result, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use vonic_tests::frames::Tcp;
use vonic_tests::wire::{Conn, HandGuest};
use vonic_tests::*;

fn to() -> SocketAddr {
    format!("{SERVICE}:7007").parse().unwrap()
}

/// The world connects; until that is answered, on a thread of its own.
fn connect() -> JoinHandle<std::io::Result<TcpStream>> {
    std::thread::spawn(|| TcpStream::connect_timeout(&to(), seconds(30)))
}

/// The guest accepts the world's connection.
fn accept(guest: &mut HandGuest, world: TcpStream) -> Result<Pair> {
    world.set_read_timeout(Some(seconds(10)))?;
    let remote: Ipv4Addr = WORLD.parse()?;
    let mut conn = Conn { restored: true, ..Conn::new(remote, (7, world.local_addr()?.port())) };
    // The SYN may have come before it was known by which port.
    let syn = conn.expect_such(guest, "SYN", |segment| segment.flags & Tcp::SYN != 0)?;
    ensure!(syn.flags == Tcp::SYN, "no SYN: {syn:?}");
    conn.note_scale(&syn.options)?;
    (conn.irs, conn.rcv_nxt) = (syn.sequence, syn.sequence.wrapping_add(1));
    guest.send(remote, &conn.syn(Tcp::SYN | Tcp::ACK))?;
    conn.snd_nxt = conn.iss.wrapping_add(1);
    conn.expect_ack(guest)?;
    Ok(Pair { conn, world })
}

/// One is there before the guest's state is asked for, of which the guest has not heard; another asks while the state is on its way.
#[test]
fn what_the_world_begins_while_a_guest_moves_comes_to_be() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    guest.mock.stop_rings().unwrap();
    let early = TcpStream::connect_timeout(&to(), seconds(10)).unwrap();
    let state = guest.mock.save_state().unwrap();
    let late = connect();
    let mut mock = waiting(&hosts);
    assert!(mock.load_state(&state).unwrap());
    run(&mut mock);
    drop(std::mem::replace(&mut guest.mock, mock));
    hosts.at = 1;
    let mut early = accept(&mut guest, early).unwrap();
    early.exchange(&mut guest).unwrap();
    let late = late.join().unwrap().unwrap();
    let mut late = accept(&mut guest, late).unwrap();
    late.exchange(&mut guest).unwrap();
    early.exchange(&mut guest).unwrap();
}

/// The guest stays after all, with the same engine or another one: whoever has waited is let in.
#[test]
fn what_the_world_begins_while_a_guest_seems_to_leave_is_let_in() {
    let hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = hand_guest(&hosts);
    for kill in [false, true] {
        guest.mock.stop_rings().unwrap();
        let early = TcpStream::connect_timeout(&to(), seconds(10)).unwrap();
        assert!(!guest.mock.save_state().unwrap().is_empty());
        let late = connect();
        if kill {
            kill_engine(hosts.here());
        }
        guest.mock.start_rings().unwrap();
        let mut early = accept(&mut guest, early).unwrap();
        early.exchange(&mut guest).unwrap();
        let late = late.join().unwrap().unwrap();
        let mut late = accept(&mut guest, late).unwrap();
        late.exchange(&mut guest).unwrap();
    }
}
