//! Guests that mind their own business beside one that does not: each has a TCP connection to an echo on the host, every byte of which is checked
//! and every exchange timed. What another guest, or its VMM, costs them shows here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;
use crate::frames::Tcp;
use crate::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, VnetHeader};
use crate::verify::verify;
use crate::vonicd::TestConfig;
use crate::wire::{self, Conn, HOST, HandGuest};
use crate::{seconds, sys};

/// How many there are.
pub const WITNESSES: u8 = 7;
/// The VM number of the first.
const FIRST: u8 = 3;
/// Bytes of one exchange each way, and of one segment; neither is a multiple of the other.
const MESSAGE: usize = 5000;
const SEGMENT: usize = 1400;
/// The period of what is sent.
const PERIOD: usize = 251;
/// An exchange that takes longer is none any more.
const LOST: Duration = seconds(10);

/// What they had in some time.
#[derive(Debug, Clone, Copy)]
pub struct Score {
    /// Bytes a second, both directions, all of them together.
    pub rate: f64,
    /// The time in which 99 of 100 exchanges were over.
    pub p99: Duration,
    /// The longest exchange.
    pub longest: Duration,
}

struct Witness {
    guest: HandGuest,
    conn: Conn,
    /// Bytes that were sent, and bytes that have come back.
    sent: usize,
    got: usize,
    /// When the exchange that runs began.
    asked: Option<Instant>,
    owes: bool,
}

/// All of them.
pub struct Witnesses {
    all: Vec<Witness>,
    text: Vec<u8>,
}

fn name(number: u8) -> String {
    format!("w{number}")
}

impl Witnesses {
    /// Adds their VMs.
    #[must_use]
    pub fn vms(config: TestConfig) -> TestConfig {
        (FIRST..FIRST + WITNESSES).fold(config, |config, number| config.vm(&name(number), number, ""))
    }

    /// Starts them, each with its connection.
    ///
    /// # Errors
    /// If one does not come to be.
    pub fn start(bed: &Bed) -> Result<Witnesses> {
        let start = |number: u8| {
            let config = MockConfig { posted: 256, ..MockConfig::default() };
            let mut guest = HandGuest::start_configured(bed, &name(number), number, config)?;
            let (conn, stream) = Conn::new(HOST, (4000, 0)).connect(&mut guest)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(None)?;
            // It ends with its connection.
            thread::spawn(move || echo(stream));
            Ok(Witness { guest, conn, sent: 0, got: 0, asked: None, owes: false })
        };
        let all = (FIRST..FIRST + WITNESSES).map(start).collect::<Result<_>>()?;
        Ok(Witnesses { all, text: wire::ramp(MESSAGE + PERIOD) })
    }

    /// They talk for `time`, and finish what they have begun.
    ///
    /// # Errors
    /// If a byte is wrong, a connection ends, or an exchange takes ten seconds.
    pub fn talk(&mut self, time: Duration) -> Result<Score> {
        let began = Instant::now();
        let mut times = Vec::new();
        loop {
            let on = began.elapsed() < time;
            let mut moved = false;
            for (place, witness) in self.all.iter_mut().enumerate() {
                let step = witness.turn(&self.text, on, &mut times);
                moved |= step.with_context(|| format!("witness {place}"))?;
            }
            if !on && self.all.iter().all(|witness| witness.asked.is_none()) {
                break;
            }
            if !moved {
                self.wait()?;
            }
        }
        let passed = began.elapsed().as_secs_f64();
        times.sort_unstable();
        ensure!(!times.is_empty(), "no exchange in {time:?}");
        let rate = (2 * MESSAGE * times.len()) as f64 / passed;
        Ok(Score { rate, p99: times[times.len() * 99 / 100], longest: times[times.len() - 1] })
    }

    /// Until something comes for one of them.
    fn wait(&mut self) -> Result<()> {
        let calls: Vec<_> = self.all.iter_mut().map(|w| w.guest.mock.ring(HOST_TO_GUEST).call.as_raw_fd()).collect();
        sys::wait_any_readable(&calls, Duration::from_millis(10))?;
        for witness in &mut self.all {
            drop(witness.guest.mock.ring(HOST_TO_GUEST).call.read());
        }
        Ok(())
    }
}

/// Gives back what comes.
fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 1 << 16];
    while let Ok(count @ 1..) = stream.read(&mut bytes)
        && stream.write_all(&bytes[..count]).is_ok()
    {}
}

impl Witness {
    /// Takes what has come, and answers; begins another exchange if `on`. False: there was nothing to do.
    fn turn(&mut self, text: &[u8], on: bool, times: &mut Vec<Duration>) -> Result<bool> {
        while self.guest.mock.take_used(GUEST_TO_HOST)?.is_some() {}
        let mut moved = false;
        while let Some((_, content)) = self.guest.mock.take_used(HOST_TO_GUEST)? {
            moved = true;
            let header = VnetHeader::decode(&content).context("less than a header")?;
            self.hear(&header, &content[VnetHeader::LENGTH..], text)?;
        }
        if moved {
            self.guest.mock.post_buffers()?;
        }
        if let Some(asked) = self.asked.filter(|_| self.got == self.sent) {
            times.push(asked.elapsed());
            self.asked = None;
        }
        ensure!(self.asked.is_none_or(|asked| asked.elapsed() < LOST), "{} of {} bytes", self.got, self.sent);
        if on && self.asked.is_none() {
            self.ask(text)?;
            moved = true;
        }
        if std::mem::take(&mut self.owes) {
            self.queue(Tcp::ACK, &[])?;
        }
        self.guest.mock.notify_on(0)?;
        Ok(moved)
    }

    /// Begins an exchange.
    fn ask(&mut self, text: &[u8]) -> Result<()> {
        self.asked = Some(Instant::now());
        let from = self.sent % PERIOD;
        for piece in text[from..from + MESSAGE].chunks(SEGMENT) {
            self.queue(Tcp::ACK | Tcp::PSH, piece)?;
            self.conn.snd_nxt = self.conn.snd_nxt.wrapping_add(piece.len() as u32);
        }
        self.sent += MESSAGE;
        self.owes = false;
        Ok(())
    }

    fn queue(&mut self, flags: u8, text: &[u8]) -> Result<()> {
        let frame = self.guest.frame(HOST, &self.conn.segment(flags, text));
        self.guest.mock.queue_frame_on(0, &VnetHeader::default(), &frame).map(drop)
    }

    /// Takes a frame in; what is none of its connection's is nobody's.
    fn hear(&mut self, header: &VnetHeader, frame: &[u8], text: &[u8]) -> Result<()> {
        let ports = (self.conn.ports.1, self.conn.ports.0);
        let Some(segment) = Tcp::parse(frame).filter(|segment| segment.ports == ports) else { return Ok(()) };
        verify(header, frame)?;
        ensure!(segment.flags & (Tcp::RST | Tcp::FIN | Tcp::SYN) == 0, "its connection ends: {segment:?}");
        let old = self.conn.rcv_nxt.wrapping_sub(segment.sequence) as usize;
        ensure!(old < 1 << 31, "a hole of {} bytes", (old as u32).wrapping_neg());
        let new = segment.text.get(old..).unwrap_or_default();
        ensure!(self.got + new.len() <= self.sent, "more came back than was sent");
        let from = self.got % PERIOD;
        ensure!(new.iter().zip(&text[from..]).all(|(a, b)| a == b), "wrong bytes behind {}", self.got);
        self.got += new.len();
        self.conn.rcv_nxt = self.conn.rcv_nxt.wrapping_add(new.len() as u32);
        self.owes |= !segment.text.is_empty() || old > 0;
        Ok(())
    }
}
