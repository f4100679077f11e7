//! A whole worker with a hostile guest on one port, and a neighbour with a sound driver on another: while the worker runs, the guest
//! changes rings, descriptors and frames, and its VMM starts, stops and remaps.
//!
//! Whatever they do: the worker goes on, the neighbour gets answers, and nothing of the neighbour's is written to but its buffers and
//! used rings.
mod neighbour;
mod spec;

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use vonic_datapath::{
    CaptureReader, CaptureSpec, Command, ListPlace, Poll, PortId, Reply, RingCommand, Worker, WorkerConfig,
    WorkerHandle, capture,
};
use vonic_frame::{Content, Frame, Transport, VNET_HEADER_LEN};
use vonic_queue::{RingSetup, handover};
use vonic_record::Checkpoint;
use vonic_uplink::PeekMode;

use crate::bytes::Bytes;
use crate::memory::{BUFFERS, INDIRECT, Memory, NEXT, SIZE, WRITE, lie, setup};
use crate::server::{Ports, ports};
use crate::template::{self, Conversations, Heard};
use neighbour::Neighbour;
use spec::{FEATURES, network, port};

const HOSTILE: PortId = 0;
const NEIGHBOUR: PortId = 1;
/// How long a worker may take for what is asked of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The kinds of rings: receive, transmit, control.
const RINGS: usize = 3;

/// A worker on a thread of its own.
struct Running {
    handle: WorkerHandle,
    thread: thread::JoinHandle<()>,
    kicks: [Option<PipeWriter>; 2 * RINGS],
    calls: Vec<PipeReader>,
    captured: Option<CaptureReader>,
}

impl Running {
    fn send(&mut self, mut command: Command) {
        let end = Instant::now() + PATIENCE;
        while let Err(back) = self.handle.send(command) {
            assert!(Instant::now() < end, "the worker takes no more orders");
            command = *back;
            thread::yield_now();
        }
    }

    /// Sends what says when it is done, and waits for that.
    fn done(&mut self, command: impl FnOnce(vonic_queue::Done) -> Command) {
        let (done, waiter) = handover();
        self.send(command(done));
        assert!(waiter.wait(PATIENCE), "the worker does not do what it is told");
    }

    fn kick(&mut self, id: PortId, queue: u16) {
        if let Some(Some(kick)) = self.kicks.get_mut(id as usize * RINGS + usize::from(queue)) {
            let _ = kick.write(&[0; 8]);
        }
    }

    fn ring(&mut self, id: PortId, index: u16, setup: RingSetup, enabled: bool) {
        let (Ok((kick, kicks)), Ok((calls, call))) = (pipe(), pipe()) else { panic!("no descriptors are left") };
        if usize::from(index) < RINGS {
            self.kicks[id as usize * RINGS + usize::from(index)] = Some(kicks);
        }
        self.calls.push(calls);
        self.calls.drain(..self.calls.len().saturating_sub(2 * RINGS));
        self.done(|done| {
            Command::Ring(Box::new(RingCommand {
                port: id,
                index,
                setup,
                kick: Some(kick.into()),
                call: Some(call.into()),
                enabled,
                done: Some(done),
            }))
        });
    }

    /// Connects a port with this memory and these rings.
    fn connect(&mut self, id: PortId, memory: &Memory, bits: u64, rings: &[RingSetup]) {
        self.send(Command::Session { port: id, session: u64::from(id) + 1 });
        self.send(Command::Features { port: id, bits });
        self.done(|done| Command::Memory { port: id, map: memory.map(), done });
        for (index, setup) in (0..).zip(rings) {
            self.ring(id, index, *setup, true);
        }
    }
}

/// An input is the features, and then what guest and VMM do one after the other.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let (Some(host), Some(memory), Some(own)) = (ports(), Memory::new(), Memory::new()) else { return };
    let (choices, size) = (bytes.byte(), 1 << (3 + bytes.byte() % 6));
    let Some(mut running) = start() else { return };
    let Some(network) = network(host.udp, choices & 4 != 0) else { return };
    running.send(Command::Network(Box::new(network)));
    running.send(Command::Attach(Box::new(port(HOSTILE, host, choices & 8 != 0))));
    running.send(Command::Attach(Box::new(port(NEIGHBOUR, host, true))));
    let neighbour = Neighbour::new(own);
    running.connect(NEIGHBOUR, &neighbour.memory, FEATURES[1], &neighbour.rings);
    let rings = [0, 1, 2].map(|queue| setup(queue, size, choices >> 4 & 1 != 0));
    let mut guest = Hostile { memory, rings, heads: [0; 3], seen: 0, buffer: 0, host, heard: Conversations::default() };
    let bits = FEATURES[usize::from(choices & 3)];
    for (number, heard) in (0u32..).zip(&mut guest.heard) {
        *heard = Heard { seq: number << 20, ack: 0 };
    }
    guest.receive(&mut bytes, true);
    running.connect(HOSTILE, &guest.memory, bits, &guest.rings);
    while !bytes.is_empty() {
        guest.step(&mut bytes, &mut running);
    }
    neighbour.is_served(&mut running);
    running.done(|done| Command::Stop { done });
    assert!(running.thread.join().is_ok(), "the worker has panicked");
}

fn start() -> Option<Running> {
    static PEEK: OnceLock<PeekMode> = OnceLock::new();
    let peek = *PEEK.get_or_init(|| PeekMode::probe((Ipv4Addr::LOCALHOST, 0).into()));
    let checkpoint = Arc::new(Checkpoint::create(64).ok()?);
    let (poll, peek_mode, turn_us) = (Poll::For(0), Some(peek), vonic_datapath::TURN_US);
    let config = WorkerConfig { checkpoint, takes_over: false, poll, peek_mode, turn_us };
    let (worker, handle) = Worker::new(config, Box::new(|_| {})).ok()?;
    let thread = thread::spawn(move || worker.run());
    Some(Running { handle, thread, kicks: Default::default(), calls: Vec::new(), captured: None })
}

/// A guest that does what the input says.
struct Hostile {
    memory: Memory,
    rings: [RingSetup; 3],
    /// The next descriptor of each ring.
    heads: [u16; 3],
    /// The used index of its receive ring as far as it has looked.
    seen: u16,
    /// Where its next buffer lies.
    buffer: u64,
    host: Ports,
    heard: Conversations,
}

impl Hostile {
    fn room(&mut self, len: u64) -> u64 {
        let most = SIZE - BUFFERS;
        if self.buffer + len > most {
            self.buffer = 0;
        }
        self.buffer += len;
        BUFFERS + self.buffer - len
    }

    fn head(&mut self, queue: usize) -> u16 {
        let head = self.heads[queue] % self.rings[queue].size;
        self.heads[queue] = self.heads[queue].wrapping_add(1);
        head
    }

    fn post(&self, queue: usize, head: u16) {
        let ring = &self.rings[queue];
        self.memory.post(ring, self.memory.get(ring.available + 2), head);
    }

    fn step(&mut self, bytes: &mut Bytes<'_>, running: &mut Running) {
        match bytes.byte() % 32 {
            0..9 => {
                self.transmit(bytes);
                running.kick(HOSTILE, 1);
            }
            9..12 => {
                let many = bytes.byte() < 40;
                self.receive(bytes, many);
                running.kick(HOSTILE, 0);
            }
            12 | 13 => {
                let at = lie(bytes, &self.rings);
                self.memory.put(at, bytes.number() as u16);
            }
            14 => self.memory.write(u64::from(bytes.word()) % SIZE, bytes.take(24)),
            15 | 16 => {
                running.done(|done| Command::Barrier { done });
                self.listen();
            }
            17 => {
                self.control(bytes);
                running.kick(HOSTILE, 2);
            }
            18..21 => self.hammer(bytes, running),
            21 => {
                // As long as the host needs to answer.
                thread::sleep(Duration::from_micros(400));
                running.done(|done| Command::Barrier { done });
                self.listen();
            }
            22 | 23 => running.kick(HOSTILE, u16::from(bytes.byte() % 3)),
            _ => self.vmm(bytes, running),
        }
    }

    /// Posts a frame, in pieces or by an indirect table.
    fn transmit(&mut self, bytes: &mut Bytes<'_>) {
        let frame = template::frame(bytes, self.host, &mut self.heard);
        let mut vnet = [0; VNET_HEADER_LEN];
        match bytes.byte() {
            0..120 => {}
            120..180 => vnet = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0],
            180..230 => vnet = [1, 1, 54, 0, bytes.byte(), 5, 34, 0, 16, 0, 0, 0],
            _ => vnet = std::array::from_fn(|_| bytes.byte()),
        }
        let whole = [&vnet[..], &frame].concat();
        let at = self.room(whole.len() as u64);
        self.memory.write(at, &whole);
        let (mut pieces, mut start) = (Vec::new(), 0);
        for _ in 0..bytes.byte() % 4 {
            let end = (start + bytes.below(80)).min(whole.len());
            pieces.push((at + start as u64, (end - start) as u32));
            start = end;
        }
        pieces.push((at + start as u64, (whole.len() - start) as u32));
        if bytes.byte() < 60 {
            let table = self.room(16 * pieces.len() as u64);
            self.chain(table, 0, &pieces);
            let head = self.head(1);
            let len = 16 * pieces.len() as u32;
            self.memory.descriptor(self.rings[1].descriptors, head, (table, len), INDIRECT, 0);
            return self.post(1, head);
        }
        let head = self.heads[1] % self.rings[1].size;
        let table = self.rings[1].descriptors;
        if usize::from(self.rings[1].size - head) >= pieces.len() {
            self.chain(table, head, &pieces);
            self.heads[1] = self.heads[1].wrapping_add(pieces.len() as u16);
        } else {
            self.memory.descriptor(table, head, (at, whole.len() as u32), 0, 0);
            self.heads[1] = self.heads[1].wrapping_add(1);
        }
        self.post(1, head);
    }

    fn chain(&self, table: u64, first: u16, pieces: &[(u64, u32)]) {
        for (i, piece) in (first..).zip(pieces) {
            let last = usize::from(i - first) + 1 == pieces.len();
            self.memory.descriptor(table, i, *piece, if last { 0 } else { NEXT }, i + 1);
        }
    }

    /// Posts buffers to be received into.
    fn receive(&mut self, bytes: &mut Bytes<'_>, many: bool) {
        let len = if many { 2048 } else { bytes.of(&[12, 60, 300, 1526, 1600, 4096, 13, 66_000]) };
        for _ in 0..if many { self.rings[0].size.min(16) } else { 1 } {
            let at = self.room(len);
            let head = self.head(0);
            self.memory.descriptor(self.rings[0].descriptors, head, (at, len as u32), WRITE, 0);
            self.post(0, head);
        }
    }

    /// A command of the control queue.
    fn control(&mut self, bytes: &mut Bytes<'_>) {
        let mut text = vec![bytes.of(&[0, 1, 2, 3, 4, 5, 255]), bytes.byte() % 4];
        text.extend(bytes.some(40));
        let at = self.room(text.len() as u64 + 1);
        self.memory.write(at, &text);
        let table = self.rings[2].descriptors;
        let (head, second) = (self.head(2), self.head(2));
        self.memory.descriptor(table, head, (at, text.len() as u32), NEXT, second);
        self.memory.descriptor(table, second, (at + text.len() as u64, 1), WRITE, 0);
        self.post(2, head);
    }

    /// Changes two places to and fro while the worker reads them.
    fn hammer(&mut self, bytes: &mut Bytes<'_>, running: &mut Running) {
        let places = [lie(bytes, &self.rings), lie(bytes, &self.rings)];
        let values = [bytes.number() as u16, bytes.number() as u16];
        let before = places.map(|place| self.memory.get(place));
        self.transmit(bytes);
        running.kick(HOSTILE, 1);
        for turn in 0..200 {
            for i in 0..2 {
                self.memory.put(places[i], values[i]);
                self.memory.put(places[i], before[i]);
            }
            if turn % 50 == 0 {
                self.post(1, self.heads[1].wrapping_sub(1) % self.rings[1].size);
                running.kick(HOSTILE, 1);
            }
        }
    }

    /// Reads what has come, so that the next segments are of its connections.
    fn listen(&mut self) {
        let ring = self.rings[0];
        let used = self.memory.get(ring.used + 2);
        for _ in 0..used.wrapping_sub(self.seen).min(ring.size) {
            let slot = u64::from(self.seen % ring.size);
            self.seen = self.seen.wrapping_add(1);
            let head = u64::from(self.memory.get(ring.used + 4 + 8 * slot) % ring.size);
            let at = u64::from_le_bytes(self.memory.read(ring.descriptors + 16 * head));
            let frame: [u8; 128] = self.memory.read(at.wrapping_add(VNET_HEADER_LEN as u64));
            let len = u32::from(u16::from_be_bytes([frame[16], frame[17]])).saturating_add(14);
            let Ok(Frame { content: Content::Ip(ip), .. }) = Frame::parse(&frame[..128.min(len as usize)], len) else {
                continue;
            };
            let Transport::Tcp(tcp) = ip.transport else { continue };
            if let Some(heard) = self.heard.get_mut(usize::from(tcp.dst_port.wrapping_sub(4000))) {
                let ends = u32::from(tcp.flags & 2 != 0) + u32::from(tcp.flags & 1 != 0);
                *heard = Heard { seq: tcp.ack, ack: tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(ends) };
            }
        }
        self.seen = used;
    }

    /// What the guest's VMM says.
    fn vmm(&mut self, bytes: &mut Bytes<'_>, running: &mut Running) {
        let index = u16::from(bytes.byte() % 3);
        let ring = self.rings[usize::from(index)];
        match bytes.byte() % 12 {
            0 => running.send(Command::Features { port: HOSTILE, bits: bytes.of(&FEATURES) }),
            1 => running.send(Command::Features { port: HOSTILE, bits: bytes.long() }),
            2 => running.done(|done| Command::StopRing { port: HOSTILE, index, done }),
            3 => running.ring(HOSTILE, index, ring, bytes.flag()),
            4 => {
                // Where it is not, or not of this size.
                let wild = RingSetup { descriptors: bytes.number(), size: 1 << (bytes.byte() % 16), ..ring };
                running.ring(HOSTILE, u16::from(bytes.byte() % 8), if bytes.flag() { wild } else { ring }, true);
            }
            5 => {
                let (map, port) = (self.memory.map(), HOSTILE);
                running.done(|done| Command::Memory { port, map, done });
            }
            6 => {
                running.done(|done| Command::Disconnect { port: HOSTILE, done });
                let bits = bytes.of(&FEATURES);
                running.connect(HOSTILE, &self.memory, bits, &self.rings);
            }
            7 => running.send(Command::Announce { port: HOSTILE }),
            8 => {
                let spec = Box::new(port(HOSTILE, self.host, bytes.flag()));
                running.done(|done| Command::Reconfigure { spec, done });
            }
            9 => {
                running.done(|done| Command::Detach { port: HOSTILE, done });
                running.send(Command::Attach(Box::new(port(HOSTILE, self.host, bytes.flag()))));
                running.connect(HOSTILE, &self.memory, bytes.of(&FEATURES), &self.rings);
            }
            10 => {
                let reply = Reply::new(drop);
                running.send(Command::Connections { port: Some(HOSTILE), from: ListPlace::default(), reply });
            }
            _ => self.captured(bytes, running),
        }
    }

    fn captured(&self, bytes: &mut Bytes<'_>, running: &mut Running) {
        if let Some(mut reader) = running.captured.take() {
            reader.read(|captured, frame| assert!(frame.len() as u64 <= u64::from(captured.len)));
            running.send(Command::EndCapture { port: HOSTILE, number: 1, reply: Reply::new(drop) });
        } else if let Ok((capturer, reader, _)) =
            capture(CaptureSpec { number: 1, ways: [true; 2], snaplen: bytes.number() as u32, filter: None })
        {
            running.captured = Some(reader);
            running.send(Command::Capture { port: HOSTILE, capturer: Box::new(capturer) });
        }
    }
}
