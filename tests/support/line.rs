//! One TCP connection through vonic, held by the test at both ends: what goes in at one comes out at the other, at any time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::frames::Tcp;
use crate::wire::{self, Conn, HOST, HandGuest};

/// Bytes of one exchange, each way: several segments, and not a multiple of anything.
const GUEST_TO_HOST: usize = 3 * 1400 + 11;
const HOST_TO_GUEST: usize = 9001;

/// The connection.
#[derive(Debug)]
pub struct Line {
    conn: Conn,
    stream: TcpStream,
    sent: usize,
    received: usize,
}

/// Bytes `at`.. of the stream: a period that is prime to every size in use, so that a lost or repeated block shows.
fn text(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|at| ((at % 65_521 * 7) >> 3) as u8).collect()
}

impl Line {
    /// The guest opens, from `port`, to a fresh port of the host's loopback.
    ///
    /// # Errors
    /// If it does not come to be.
    pub fn guest_opens(guest: &mut HandGuest, port: u16) -> Result<Line> {
        let (listener, to) = wire::listen()?;
        let conn = Conn::new(HOST, (port, to)).open(guest)?;
        let stream = wire::accept(&listener)?;
        Ok(Line { conn, stream, sent: 0, received: 0 })
    }

    /// The host opens, by a forward at `address` that leads to the guest's `port`.
    ///
    /// # Errors
    /// If it does not come to be.
    pub fn world_opens(guest: &mut HandGuest, address: SocketAddr, port: u16) -> Result<Line> {
        let stream = wire::connect(address)?;
        let mut conn = Conn::new(HOST, (port, stream.local_addr()?.port()));
        let syn = conn.expect(guest, "SYN")?;
        ensure!(syn.flags == Tcp::SYN, "no SYN: {syn:?}");
        conn.note_scale(&syn.options)?;
        (conn.irs, conn.rcv_nxt) = (syn.sequence, syn.sequence.wrapping_add(1));
        guest.send(HOST, &conn.syn(Tcp::SYN | Tcp::ACK))?;
        conn.snd_nxt = conn.iss.wrapping_add(1);
        conn.expect_ack(guest)?;
        Ok(Line { conn, stream, sent: 0, received: 0 })
    }

    /// Some segments each way, every byte checked.
    ///
    /// # Errors
    /// If a byte is wrong or does not come.
    pub fn exchange(&mut self, guest: &mut HandGuest) -> Result<()> {
        self.host_sends()?;
        self.guest_sends(guest)?;
        self.host_receives()?;
        self.guest_receives(guest)
    }

    /// The guest's half of an exchange; every segment is in the ring and taken from it afterwards.
    ///
    /// # Errors
    /// If the device does not take one.
    pub fn guest_sends(&mut self, guest: &mut HandGuest) -> Result<()> {
        text(self.sent, GUEST_TO_HOST).chunks(1400).try_for_each(|piece| self.conn.send(guest, 0, piece))
    }

    /// What the guest sent has come.
    ///
    /// # Errors
    /// If a byte is wrong or does not come.
    pub fn host_receives(&mut self) -> Result<()> {
        let mut got = vec![0; GUEST_TO_HOST];
        self.stream.read_exact(&mut got).context("from the guest")?;
        ensure!(got == text(self.sent, GUEST_TO_HOST), "wrong bytes from the guest, behind {}", self.sent);
        self.sent += GUEST_TO_HOST;
        Ok(())
    }

    /// The host's half of an exchange; vonic has it when it can.
    ///
    /// # Errors
    /// Of the socket.
    pub fn host_sends(&mut self) -> Result<()> {
        self.stream.write_all(&text(self.received, HOST_TO_GUEST)).context("to the guest")
    }

    /// What the host sent has come.
    ///
    /// # Errors
    /// If a byte is wrong or does not come.
    pub fn guest_receives(&mut self, guest: &mut HandGuest) -> Result<()> {
        let (got, _) = self.conn.receive(guest, HOST_TO_GUEST)?;
        ensure!(got == text(self.received, HOST_TO_GUEST), "wrong bytes to the guest, behind {}", self.received);
        self.received += HOST_TO_GUEST;
        Ok(())
    }

    /// The guest's end.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Waits until the host's end is reset.
    ///
    /// # Errors
    /// If it is not within ten seconds.
    pub fn host_sees_reset(mut self) -> Result<()> {
        match self.stream.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            other => anyhow::bail!("no reset but {other:?}"),
        }
    }
}
