//! A DNS server for tests, over UDP and TCP (RFC 1035), which says by its answers who it is.
//!
//! Every name has the addresses 203.0.113.N and 2001:db8:53::N, where N is the server's number, and a text: under `long` one of 4 KB, under
//! `middle` one of 1100 bytes, else the server's number.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long the threads wait at once before they look whether the test is over.
const LOOK: Duration = Duration::from_millis(50);
/// Types of records (RFC 1035 §3.2.2, RFC 3596, RFC 6891).
const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;
/// The longest answer over UDP without EDNS (RFC 1035 §2.3.4).
const PLAIN: usize = 512;

#[derive(Debug, Default)]
struct Shared {
    number: u8,
    over: AtomicBool,
    silent: AtomicBool,
    asked_udp: AtomicUsize,
    asked_tcp: AtomicUsize,
}

/// A running server; it ends on drop.
#[derive(Debug)]
pub struct DnsServer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsServer {
    /// Starts server `number` at `address`, port 53, in the calling thread's namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn start(address: &str, number: u8) -> Result<DnsServer> {
        let at = SocketAddr::new(address.parse()?, 53);
        let udp = UdpSocket::bind(at).with_context(|| format!("binding UDP {at}"))?;
        udp.set_read_timeout(Some(LOOK))?;
        let tcp = TcpListener::bind(at).with_context(|| format!("binding TCP {at}"))?;
        tcp.set_nonblocking(true)?;
        let shared = Arc::new(Shared { number, ..Shared::default() });
        let (for_udp, for_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || for_udp.serve_udp(&udp)),
            std::thread::spawn(move || for_tcp.serve_tcp(&tcp)),
        ];
        Ok(DnsServer { shared, threads })
    }

    /// From now on it answers nothing, or everything again; TCP connections are accepted all the same.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// How many questions came by UDP and by TCP.
    pub fn asked(&self) -> (usize, usize) {
        (self.shared.asked_udp.load(Ordering::Relaxed), self.shared.asked_tcp.load(Ordering::Relaxed))
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has no result.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut question = [0; 4096];
        while !self.is_over() {
            let Ok((len, from)) = socket.recv_from(&mut question) else { continue };
            self.asked_udp.fetch_add(1, Ordering::Relaxed);
            if let Some(answer) = self.answer(&question[..len], false) {
                // A guest that has gone meanwhile asks again.
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while !self.is_over() {
            match listener.accept() {
                // One after the other: the tests ask one at a time.
                Ok((stream, _)) => drop(self.serve_stream(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK / 10),
                Err(_) => return,
            }
        }
    }

    /// Questions and answers with their lengths in front (RFC 1035 §4.2.2).
    fn serve_stream(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        loop {
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            let mut question = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut question)?;
            self.asked_tcp.fetch_add(1, Ordering::Relaxed);
            let Some(answer) = self.answer(&question, true) else { return Ok(()) };
            stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat())?;
        }
    }

    /// The answer to a question; `None` if it is none, or the server is silent.
    fn answer(&self, question: &[u8], whole: bool) -> Option<Vec<u8>> {
        if self.silent.load(Ordering::Relaxed) {
            return None;
        }
        let end = 12 + question.get(12..)?.iter().position(|length| *length == 0)? + 1;
        let name = question.get(13..end)?;
        let &[high, low, _, _, ref more @ ..] = question.get(end..)? else { return None };
        let room = match more {
            // The root's name, the type, and the room in place of the class (RFC 6891 §6.1.2).
            [0, kind_high, kind_low, room_high, room_low, ..] if u16::from_be_bytes([*kind_high, *kind_low]) == OPT => {
                usize::from(u16::from_be_bytes([*room_high, *room_low]))
            }
            _ => PLAIN,
        };
        let kind = u16::from_be_bytes([high, low]);
        let data = self.data(kind, name);
        // The record's name is the question's; it may be kept for a minute.
        let mut record = [&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 60]].concat();
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(&data);
        let fits = whole || end + 4 + record.len() <= room;
        let records = u8::from(fits && !data.is_empty());
        let flags = if fits { [0x81, 0x80] } else { [0x83, 0x80] };
        let mut answer = [&question[..2], &flags, &[0, 1, 0, records, 0, 0, 0, 0], &question[12..end + 4]].concat();
        if records > 0 {
            answer.extend(record);
        }
        Some(answer)
    }

    fn data(&self, kind: u16, name: &[u8]) -> Vec<u8> {
        let text = |len: usize| {
            let letters: Vec<u8> = (b'a'..=b'z').cycle().take(len).collect();
            letters.chunks(255).flat_map(|part| [&[part.len() as u8][..], part].concat()).collect()
        };
        match kind {
            A => vec![203, 0, 113, self.number],
            AAAA => [&[0x20, 1, 0x0d, 0xb8, 0, 0x53][..], &[0; 9], &[self.number]].concat(),
            TXT if name.starts_with(b"long") => text(4096),
            TXT if name.starts_with(b"middle") => text(1100),
            TXT => vec![1, b'0' + self.number],
            _ => Vec::new(),
        }
    }
}
