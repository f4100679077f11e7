//! A guest that opens thousands of connections at once, and listens meanwhile to what vonic tells it of them.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bed::Bed;
use crate::frames::Tcp;
use crate::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, VnetHeader, feature};
use crate::wire::{Conn, HOST, HandGuest};
use crate::{seconds, sys};

const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The guest's port of the connection that listens.
const LISTENER: u16 = 1000;
/// The guest's port of its first connection.
const FIRST_PORT: u16 = 20_000;
/// Handshakes that are under way at once: fewer than a VM may have pending.
const OPENING: usize = 256;
/// How long anything may take.
const LIMIT: Duration = seconds(60);
/// The guest's initial sequence number.
const ISS: u32 = 7;

/// The guest.
pub struct Burst {
    guest: HandGuest,
    /// The connection that listens.
    listener: Conn,
    said: Vec<u8>,
    to_send: VecDeque<(Ipv4Addr, Tcp)>,
    /// When each connection's handshake was completed, by the guest's port.
    pub established: BTreeMap<u16, Instant>,
    /// Batches, with the moments at which they had come whole.
    pub batches: Vec<(Instant, Value)>,
}

impl Burst {
    /// The limits that a VM with so many connections needs, for its file.
    pub const LIMITS: &str =
        "limits = { connections = 15000, pending = 512, pending_per_destination = 512, new_per_second = 1000000 }";

    /// VM `name`, which [`crate::TestConfig::vm`] gave `number`, begins to listen on these terms.
    ///
    /// # Errors
    /// If the service refuses it.
    pub fn start(bed: &Bed, name: &str, number: u8, terms: &str) -> Result<Burst> {
        sys::raise_descriptor_limit(0).context("descriptors for the far ends")?;
        let config = MockConfig { features: feature::ALL, posted: 256, ..MockConfig::default() };
        let mut guest = HandGuest::start_configured(bed, name, number, config)?;
        let mut listener = Conn { scale: Some(6), ..Conn::new(SERVICE, (LISTENER, 80)) }.open(&mut guest)?;
        let request = format!("GET /v1/events?stream=1&{terms} HTTP/1.1\r\nhost: x\r\n\r\n");
        listener.send(&mut guest, Tcp::ACK, request.as_bytes())?;
        let (to_send, established) = (VecDeque::new(), BTreeMap::new());
        let mut burst = Burst { guest, listener, said: Vec::new(), to_send, established, batches: Vec::new() };
        burst.serve_until("a first line of the stream", |burst| !burst.batches.is_empty())?;
        let (_, first) = burst.batches.remove(0);
        ensure!(first["restarted"] == true && first["events"] == Value::Array(Vec::new()), "{first}");
        Ok(burst)
    }

    /// Opens so many connections to the host's port, as fast as they go.
    ///
    /// # Errors
    /// If they do not open, or vonic resets one.
    pub fn open(&mut self, count: usize, port: u16) -> Result<()> {
        let mut begun = 0;
        self.serve_until("handshake of each", |burst| {
            while begun < count && begun - burst.established.len() < OPENING {
                let ports = (FIRST_PORT + begun as u16, port);
                let options = vec![2, 4, 5, 180];
                let syn = Tcp { ports, sequence: ISS, window: 0xffff, flags: Tcp::SYN, options, ..Tcp::default() };
                burst.to_send.push_back((HOST, syn));
                begun += 1;
            }
            burst.established.len() == count
        })
    }

    /// How many events have come.
    pub fn events(&self) -> usize {
        self.batches.iter().filter_map(|(_, batch)| batch["events"].as_array()).map(Vec::len).sum()
    }

    /// Goes on until that is so; ends that the far ends begin are answered.
    ///
    /// # Errors
    /// If it is not within a minute, and as [`Burst::open`].
    pub fn serve_until(&mut self, what: &str, mut done: impl FnMut(&mut Burst) -> bool) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !done(self) {
            if Instant::now() > end {
                bail!("no {what}: {} are open, {} events came", self.established.len(), self.events());
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Takes frames and answers them.
    fn turn(&mut self) -> Result<()> {
        let mut taken = 0;
        while taken < 64
            && let Some((_, content)) = self.guest.mock.take_used(HOST_TO_GUEST)?
        {
            if let Some(segment) = content.get(VnetHeader::LENGTH..).and_then(Tcp::parse) {
                self.hear(&segment)?;
            }
            taken += 1;
        }
        if taken > 0 {
            self.guest.mock.post_buffers()?;
        }
        self.send()?;
        if taken == 0 {
            let calls = [HOST_TO_GUEST, GUEST_TO_HOST].map(|index| self.guest.mock.ring(index).call.as_raw_fd());
            sys::wait_any_readable(&calls, Duration::from_millis(5))?;
            for index in [HOST_TO_GUEST, GUEST_TO_HOST] {
                drop(self.guest.mock.ring(index).call.read());
            }
        }
        Ok(())
    }

    fn hear(&mut self, segment: &Tcp) -> Result<()> {
        ensure!(segment.flags & Tcp::RST == 0, "{segment:?}");
        if segment.ports.1 == LISTENER {
            return self.listen(segment);
        }
        let opens = segment.flags & Tcp::SYN != 0;
        let ends = segment.flags & Tcp::FIN != 0;
        if opens || ends {
            let ports = (segment.ports.1, segment.ports.0);
            let acknowledgment = segment.sequence.wrapping_add(1);
            // Its own end goes with the acknowledgement of the other's.
            let flags = if ends { Tcp::ACK | Tcp::FIN } else { Tcp::ACK };
            let answer = Tcp { ports, sequence: ISS + 1, acknowledgment, window: 0xffff, flags, ..Tcp::default() };
            self.to_send.push_back((HOST, answer));
        }
        Ok(())
    }

    /// Takes what the stream says, in order: what is lost comes again.
    fn listen(&mut self, segment: &Tcp) -> Result<()> {
        if segment.text.is_empty() {
            return Ok(());
        }
        if segment.sequence == self.listener.rcv_nxt {
            self.listener.rcv_nxt = segment.sequence.wrapping_add(segment.text.len() as u32);
            self.said.extend_from_slice(&segment.text);
            self.read_lines()?;
        }
        self.to_send.push_back((SERVICE, self.listener.segment(Tcp::ACK, &[])));
        Ok(())
    }

    /// A batch is the line of a chunk: whatever else stands there, heads and sizes, is no JSON object.
    fn read_lines(&mut self) -> Result<()> {
        while let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            if line.starts_with(b"{") {
                self.batches.push((Instant::now(), serde_json::from_slice(&line)?));
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let mock = &mut self.guest.mock;
        while !self.to_send.is_empty() && mock.take_used(GUEST_TO_HOST)?.is_some() {}
        let ring = mock.ring(GUEST_TO_HOST);
        let room = ring.size - ring.outstanding();
        for _ in 0..room {
            let Some((remote, segment)) = self.to_send.pop_front() else { break };
            let frame = self.guest.frame(remote, &segment);
            self.guest.mock.queue_frame_on(0, &VnetHeader::default(), &frame)?;
            if remote == HOST && segment.flags == Tcp::ACK {
                self.established.entry(segment.ports.0).or_insert_with(Instant::now);
            }
        }
        self.guest.mock.notify_on(0)
    }
}
