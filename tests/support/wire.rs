//! A guest's TCP made by hand: every segment is the test's own, every answer is checked as it lies in guest memory.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;
use crate::frames::{Mac, Tcp, ip4, mac};
use crate::mock::{MockConfig, MockFrontend, VnetHeader};
use crate::verify::verify;
use crate::{seconds, sys};

/// The gateway, behind which the host's loopback lies.
pub const HOST: Ipv4Addr = ip4(1);

/// A guest without a stack.
pub struct HandGuest {
    /// Its rings.
    pub mock: MockFrontend,
    /// The gateway's MAC.
    pub gateway: Mac,
    number: u8,
}

impl HandGuest {
    /// VM `name`, which [`crate::TestConfig::vm`] gave `number`; it knows the gateway.
    ///
    /// # Errors
    /// If the service refuses it, or the gateway does not answer.
    pub fn start(bed: &Bed, name: &str, number: u8, features: u64) -> Result<HandGuest> {
        HandGuest::start_configured(bed, name, number, MockConfig { features, ..MockConfig::default() })
    }

    /// The same with rings as `config` says.
    ///
    /// # Errors
    /// As [`HandGuest::start`].
    pub fn start_configured(bed: &Bed, name: &str, number: u8, config: MockConfig) -> Result<HandGuest> {
        let mut mock = bed.mock(name, config)?;
        let gateway = mock.gateway_answers(number)?;
        Ok(HandGuest { mock, gateway, number })
    }

    /// The guest with other rings: on another host.
    #[must_use]
    pub fn on(self, mock: MockFrontend) -> HandGuest {
        HandGuest { mock, ..self }
    }

    /// A segment to `remote` as a frame.
    pub fn frame(&self, remote: Ipv4Addr, segment: &Tcp) -> Vec<u8> {
        segment.frame((mac(self.number), self.gateway), ip4(self.number), remote)
    }

    /// Sends a segment with a complete checksum.
    ///
    /// # Errors
    /// If the device does not take it.
    pub fn send(&mut self, remote: Ipv4Addr, segment: &Tcp) -> Result<()> {
        let frame = self.frame(remote, segment);
        self.mock.send_frame(&VnetHeader::default(), &frame).map(drop)
    }

    /// The next segment from `remote`, with ports as the guest has them (its own first); every frame on the way is checked.
    ///
    /// # Errors
    /// If a frame is not what its headers say.
    pub fn hear(&mut self, remote: Ipv4Addr, ports: (u16, u16), limit: Duration) -> Result<Option<(VnetHeader, Tcp)>> {
        let end = Instant::now() + limit;
        while let Some((header, frame)) = self.mock.receive_frame(end.saturating_duration_since(Instant::now()))? {
            verify(&header, &frame)?;
            let segment = Tcp::parse(&frame).filter(|tcp| tcp.ports == (ports.1, ports.0));
            if let Some(segment) = segment.filter(|_| frame[26..30] == remote.octets()) {
                return Ok(Some((header, segment)));
            }
        }
        Ok(None)
    }
}

/// A guest's end of one connection. All fields are the test's to change.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as in RFC 9293 §3.3.1")]
pub struct Conn {
    pub remote: Ipv4Addr,
    /// The guest's, the remote's.
    pub ports: (u16, u16),
    pub iss: u32,
    pub snd_nxt: u32,
    pub rcv_nxt: u32,
    /// SEG.WND of what is sent.
    pub window: u16,
    /// MSS option of the SYN.
    pub mss: u16,
    /// Shift option of the SYN, for both directions.
    pub scale: Option<u8>,
    /// The remote's ISS.
    pub irs: u32,
    /// The right edge of the window that the remote advertised last.
    pub edge: u32,
    /// The remote's shift.
    pub remote_scale: u8,
    /// The remote goes on, now or soon, from what outlives its engine, of which the window that it advertised is none: the guest copes with
    /// another one (RFC 9293 §3.8.6, MUST-34). Its right edge may move left once, which ends this.
    pub restored: bool,
}

impl Conn {
    /// A connection that has not begun; its sequence numbers will wrap soon.
    pub fn new(remote: Ipv4Addr, ports: (u16, u16)) -> Conn {
        let iss = 0xffff_fc00;
        Conn {
            remote,
            ports,
            iss,
            snd_nxt: iss,
            rcv_nxt: 0,
            window: 0xffff,
            mss: 1460,
            scale: Some(4),
            irs: 0,
            edge: 0,
            remote_scale: 0,
            restored: false,
        }
    }

    /// A segment as things stand.
    pub fn segment(&self, flags: u8, text: &[u8]) -> Tcp {
        Tcp {
            ports: self.ports,
            sequence: self.snd_nxt,
            acknowledgment: self.rcv_nxt,
            flags,
            window: self.window,
            text: text.to_vec(),
            ..Tcp::default()
        }
    }

    /// SYN or SYN-ACK with the options.
    pub fn syn(&self, flags: u8) -> Tcp {
        let [high, low] = self.mss.to_be_bytes();
        let mut options = vec![2, 4, high, low];
        options.extend(self.scale.map(|shift| [1, 3, 3, shift]).into_iter().flatten());
        Tcp { sequence: self.iss, options, ..self.segment(flags, &[]) }
    }

    /// Opens: SYN, SYN-ACK, ACK.
    ///
    /// # Errors
    /// If the SYN is not answered as RFC 9293 §3.5 says within five seconds.
    pub fn open(mut self, guest: &mut HandGuest) -> Result<Conn> {
        guest.send(self.remote, &self.syn(Tcp::SYN))?;
        let answer = self.expect(guest, "SYN-ACK")?;
        self.synchronize(&answer)?;
        self.ack(guest)?;
        Ok(self)
    }

    /// Opens to a host socket of its own, which is the other result; the remote's port in [`Conn::ports`] is set.
    ///
    /// # Errors
    /// Of [`Conn::open`] and [`accept`].
    pub fn connect(self, guest: &mut HandGuest) -> Result<(Conn, TcpStream)> {
        let (listener, port) = listen()?;
        let conn = Conn { ports: (self.ports.0, port), ..self }.open(guest)?;
        Ok((conn, accept(&listener)?))
    }

    /// Takes a SYN-ACK over.
    ///
    /// # Errors
    /// If it is none, or does not fit.
    pub fn synchronize(&mut self, answer: &Tcp) -> Result<()> {
        ensure!(answer.flags == Tcp::SYN | Tcp::ACK, "no SYN-ACK: {answer:?}");
        ensure!(answer.acknowledgment == self.iss.wrapping_add(1), "acknowledges {}", answer.acknowledgment);
        self.irs = answer.sequence;
        self.rcv_nxt = answer.sequence.wrapping_add(1);
        self.snd_nxt = answer.acknowledgment;
        self.note_scale(&answer.options)?;
        Ok(())
    }

    /// Learns the remote's shift, which it must offer exactly if this end did (RFC 7323 §2.2).
    ///
    /// # Errors
    /// If it does not.
    pub fn note_scale(&mut self, options: &[u8]) -> Result<()> {
        let shift = options.windows(3).find(|window| window[..2] == [3, 3]).map(|window| window[2]);
        ensure!(shift.is_some() == self.scale.is_some(), "window scale {shift:?} in answer to {:?}", self.scale);
        self.remote_scale = shift.unwrap_or(0);
        Ok(())
    }

    /// Sends the next text, at most one segment.
    ///
    /// # Errors
    /// Of [`HandGuest::send`].
    pub fn send(&mut self, guest: &mut HandGuest, flags: u8, text: &[u8]) -> Result<()> {
        guest.send(self.remote, &self.segment(flags | Tcp::ACK, text))?;
        let fin = u32::from(flags & Tcp::FIN != 0);
        self.snd_nxt = self.snd_nxt.wrapping_add(text.len() as u32 + fin);
        Ok(())
    }

    /// Acknowledges all that was received.
    ///
    /// # Errors
    /// Of [`HandGuest::send`].
    pub fn ack(&self, guest: &mut HandGuest) -> Result<()> {
        guest.send(self.remote, &self.segment(Tcp::ACK, &[]))
    }

    /// The remote's next segment. Its window's right edge must not have moved left (RFC 9293 §3.8.6).
    ///
    /// # Errors
    /// If it has, and those of [`HandGuest::hear`].
    pub fn hear(&mut self, guest: &mut HandGuest, limit: Duration) -> Result<Option<(VnetHeader, Tcp)>> {
        let heard = guest.hear(self.remote, self.ports, limit)?;
        if let Some((_, segment)) = heard.as_ref().filter(|(_, segment)| segment.flags & Tcp::RST == 0) {
            let shift = if segment.flags & Tcp::SYN == 0 { self.remote_scale } else { 0 };
            let edge = segment.acknowledgment.wrapping_add(u32::from(segment.window) << shift);
            let first = segment.flags & Tcp::SYN != 0;
            let moved = edge.wrapping_sub(self.edge);
            let left = !first && moved >= 1 << 31;
            ensure!(
                !left || std::mem::take(&mut self.restored),
                "the window's right edge moved left by {}",
                moved.wrapping_neg()
            );
            self.edge = edge;
        }
        Ok(heard)
    }

    /// As [`Conn::hear`], for a segment that must come within five seconds.
    ///
    /// # Errors
    /// If it does not.
    pub fn expect(&mut self, guest: &mut HandGuest, what: &str) -> Result<Tcp> {
        let heard = self.hear(guest, seconds(5)).with_context(|| what.to_string())?;
        Ok(heard.with_context(|| format!("no {what} within 5 s"))?.1)
    }

    /// Hears segments until one satisfies `wanted`.
    ///
    /// # Errors
    /// If none does within ten seconds.
    pub fn expect_such(&mut self, guest: &mut HandGuest, what: &str, wanted: impl Fn(&Tcp) -> bool) -> Result<Tcp> {
        let end = Instant::now() + seconds(10);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (_, segment) = self.hear(guest, left)?.with_context(|| format!("no {what} within 10 s"))?;
            if wanted(&segment) {
                return Ok(segment);
            }
        }
    }

    /// Waits until everything sent is acknowledged.
    ///
    /// # Errors
    /// If it is not within ten seconds.
    pub fn expect_ack(&mut self, guest: &mut HandGuest) -> Result<Tcp> {
        let all = self.snd_nxt;
        self.expect_such(guest, "acknowledgment of everything", |segment| segment.acknowledgment == all)
    }

    /// Receives and acknowledges in order until `count` bytes are there, or the remote's FIN; whether the FIN came.
    ///
    /// # Errors
    /// If nothing new comes for ten seconds, or a segment leaves a hole.
    pub fn receive(&mut self, guest: &mut HandGuest, count: usize) -> Result<(Vec<u8>, bool)> {
        let mut got = Vec::new();
        while got.len() < count {
            let heard = self.hear(guest, seconds(10))?;
            let (_, segment) = heard.with_context(|| format!("{} of {count} bytes came", got.len()))?;
            ensure!(segment.flags & Tcp::RST == 0, "a reset after {} of {count} bytes", got.len());
            let old = self.rcv_nxt.wrapping_sub(segment.sequence) as usize;
            ensure!(old < 1 << 31, "a hole of {} bytes", (old as u32).wrapping_neg());
            let new = segment.text.get(old..).unwrap_or_default();
            got.extend(new);
            self.rcv_nxt = self.rcv_nxt.wrapping_add(new.len() as u32);
            let fin = segment.flags & Tcp::FIN != 0 && old <= segment.text.len();
            self.rcv_nxt = self.rcv_nxt.wrapping_add(u32::from(fin));
            // A segment in front of what is expected asks what is, be it empty (RFC 9293 section 3.10.7.4).
            if !segment.text.is_empty() || fin || old > 0 {
                self.ack(guest)?;
            }
            if fin {
                return Ok((got, true));
            }
        }
        Ok((got, false))
    }
}

/// Test bytes with a prime period, so that a lost or repeated block shows.
pub fn ramp(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Asks by HTTP, without a body; the whole answer.
///
/// # Errors
/// The system's.
pub fn ask(mut stream: impl Read + Write, method: &str, path: &str) -> Result<String> {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: vonic\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A metric's value, by its name with all its labels.
pub fn metric(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// A listener on the host's loopback.
///
/// # Errors
/// If there is no port.
pub fn listen() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    // The standard library's 128 are fewer than a crowd opens while a busy machine has other things to do, and each SYN that finds no
    // room costs a second.
    sys::listen(listener.as_raw_fd(), 4096).context("a longer queue")?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Accepts one connection, whose reads and writes wait at most ten seconds.
///
/// # Errors
/// If none comes within ten seconds.
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    accept_within(listener, seconds(10))
}

/// As [`accept`], if one comes within `limit`.
///
/// # Errors
/// If none does.
pub fn accept_within(listener: &TcpListener, limit: Duration) -> Result<TcpStream> {
    let ready = sys::wait_readable(listener.as_raw_fd(), limit).context("waiting for a connection")?;
    ensure!(ready, "a connection to the host: not within {limit:?}");
    let (stream, _) = listener.accept().context("a connection to the host")?;
    stream.set_nonblocking(false)?;
    with_limits(stream)
}

/// Connects to `address`; reads and writes wait at most ten seconds.
///
/// # Errors
/// The system's.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    with_limits(TcpStream::connect_timeout(&address, seconds(10))?)
}

fn with_limits(stream: TcpStream) -> Result<TcpStream> {
    stream.set_read_timeout(Some(seconds(10)))?;
    stream.set_write_timeout(Some(seconds(10)))?;
    Ok(stream)
}

/// Writes `bytes` from a thread of its own, since a socket's buffer may be smaller. The socket stays open.
///
/// # Errors
/// If the socket cannot be shared.
pub fn write_behind(stream: &TcpStream, bytes: Vec<u8>) -> Result<JoinHandle<io::Result<()>>> {
    let mut stream = stream.try_clone()?;
    Ok(thread::spawn(move || stream.write_all(&bytes)))
}

/// Closes by a reset (SO_LINGER with 0 seconds).
///
/// # Errors
/// The system's.
pub fn reset(stream: TcpStream) -> Result<()> {
    sys::reset_on_close(stream.as_raw_fd()).context("SO_LINGER")
}

/// Writes `bytes`, the last of which is urgent.
///
/// # Errors
/// The system's, and if the socket does not take all of them.
pub fn write_urgent(stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    let taken = sys::send_urgent(stream.as_raw_fd(), bytes).context("MSG_OOB")?;
    ensure!(taken == bytes.len(), "{taken} of {} bytes taken", bytes.len());
    Ok(())
}
