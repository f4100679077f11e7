//! A guest that moves to and fro between two hosts with its connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use vonic_tests::crash::Random;
use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::wire::{Conn, HandGuest, ramp};
use vonic_tests::*;

use crate::hosts::{FORWARD, Hosts, WORLD};

/// Connections that go along.
const CONNECTIONS: u16 = 4;

/// One of them, both of its ends.
struct Pair {
    conn: Conn,
    world: TcpStream,
}

impl Pair {
    fn open(guest: &mut HandGuest, port: u16) -> Result<Pair> {
        let listener = TcpListener::bind((WORLD, 0))?;
        let remote: Ipv4Addr = WORLD.parse()?;
        let conn = Conn::new(remote, (port, listener.local_addr()?.port())).open(guest)?;
        let (world, _) = listener.accept()?;
        world.set_read_timeout(Some(seconds(20)))?;
        Ok(Pair { conn, world })
    }

    /// Some segments each way. The guest may have moved meanwhile: what it is told twice it drops.
    fn exchange(&mut self, guest: &mut HandGuest) -> Result<()> {
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

/// Until it is over; how often it moved.
pub fn go_to_and_fro(seed: u64, over: &AtomicBool) -> u64 {
    let (mut hosts, mut random, mut crossings) = (Hosts::new(FORWARD).unwrap(), Random(seed), 0);
    let mut guest = HandGuest::start_configured(hosts.here(), "a", 2, MockConfig::default()).unwrap();
    let mut pairs: Vec<Pair> = (0..CONNECTIONS).map(|n| Pair::open(&mut guest, 4000 + n).unwrap()).collect();
    while !over.load(Ordering::Relaxed) || crossings == 0 {
        let moved = cross(&mut hosts, &mut guest, &mut pairs);
        moved.with_context(|| format!("crossing {crossings} of seed {seed}")).unwrap();
        crossings += 1;
        std::thread::sleep(std::time::Duration::from_millis(500 + random.below(1000)));
    }
    crossings
}

fn cross(hosts: &mut Hosts, guest: &mut HandGuest, pairs: &mut [Pair]) -> Result<()> {
    pairs.iter_mut().try_for_each(|pair| pair.exchange(guest))?;
    guest.mock.stop_rings()?;
    let state = guest.mock.save_state()?;
    let mut mock = MockFrontend::connect(&hosts.there().socket("a"), MockConfig::default())?;
    mock.negotiate()?;
    ensure!(mock.load_state(&state)?, "the state is refused");
    mock.share_memory()?;
    mock.start_rings()?;
    mock.post_buffers()?;
    drop(std::mem::replace(&mut guest.mock, mock));
    hosts.at = 1 - hosts.at;
    pairs.iter_mut().try_for_each(|pair| pair.exchange(guest))
}
