//! What a VMM sends, with descriptors, through front and session, while engines end and others go on.
//!
//! Whatever it is: each side answers or the connection ends, guest memory and rings that a session gives the data path can be used, and
//! what the journal replays is never refused.
use std::fs::File;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock};

use vonic_front::fuzzing::{Vmm, send};
use vonic_queue::{Burst, Direction, MemoryMap, SplitRing, survive_truncation};
use vonic_session::{EventSink, PortEvent, Session, SessionEvent, SessionSpec};

use crate::bytes::Bytes;

/// VERSION_1, PROTOCOL_FEATURES, and what QEMU acknowledges.
const FEATURES: u64 = 0x1_7021_99ab;
const REQUESTS: [u32; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 24, 25, 34, 36, 37, 38, 39, 40, 42, 43,
    0,
];
/// Where regions lie in the VMM.
const USER: u64 = 0x7000_0000_0000;
const REGION: u64 = 0x10_0000;
/// Milliseconds that the engine may take for an answer.
const PATIENCE_MS: libc::c_int = 20_000;

/// What the data path does with a session's events.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Option<Arc<MemoryMap>>>>);

impl EventSink for Sink {
    fn event(&self, event: SessionEvent) {
        let Ok(mut memory) = self.0.lock() else { return };
        match event.event {
            PortEvent::Memory(map, done) => {
                *memory = Some(map);
                done.done();
            }
            PortEvent::Ring { index, setup, .. } => {
                let way = if index % 2 == 0 { Direction::HostToGuest } else { Direction::GuestToHost };
                let ring = memory.as_ref().map(|map| SplitRing::new(map, &setup, way));
                if let Some(Ok(mut ring)) = ring {
                    let mut burst = Burst::with_capacity(8, 64);
                    let _ = ring.fetch(&mut burst, 8);
                    for i in 0..burst.len() {
                        burst.read(i, 0, &mut [0; 64]);
                        ring.push_used(burst.chain(i).head, 0);
                    }
                    ring.publish();
                }
            }
            PortEvent::Save(request) => request.answer(Ok(b"state".into())),
            PortEvent::Load(request) => {
                let (state, answer) = request.take();
                answer(if state.starts_with(b"state") { Ok(()) } else { Err("another".into()) });
            }
            PortEvent::Log { done, .. } | PortEvent::RingStopped { done, .. } => done.done(),
            PortEvent::Features(_) | PortEvent::Announce | PortEvent::Reset | PortEvent::Closed => {}
        }
    }
}

fn scratch() -> Option<&'static tempfile::TempDir> {
    static SCRATCH: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    SCRATCH
        .get_or_init(|| {
            survive_truncation().ok()?;
            tempfile::tempdir().ok()
        })
        .as_ref()
}

fn session() -> Option<(Session, OwnedFd)> {
    let (mac, name) = ([2, 0, 0, 0, 0, 2], String::from("fuzz"));
    let spec = SessionSpec { port: 0, session: 1, name, features: FEATURES, queue_pairs: 2, mac, mtu: 1500 };
    vonic_session::start(spec, scratch()?.path(), Sink::default()).ok()
}

/// An input is a list of messages, and of what happens to engines and masters between them.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let Ok((ours, vmm)) = UnixStream::pair() else { return };
    let _ = (ours.set_nonblocking(true), vmm.set_nonblocking(true));
    let Some((running, engine)) = session() else { panic!("a session does not start") };
    let mut bench = Bench { front: Vmm::new(ours), vmm, running };
    if bench.front.attach(engine).and_then(|()| bench.settle()).is_err() {
        panic!("the handshake between front and session");
    }
    while !bytes.is_empty() {
        match bytes.byte() {
            250.. if bench.next_engine(&mut bytes).is_err() => return,
            250.. => {}
            _ => message(&mut bytes, &bench.vmm),
        }
        if bench.settle().is_err() {
            return;
        }
        assert!(bench.front.descriptors() <= 32 * 40, "descriptors are kept without end");
    }
    // It is there, and in its wits.
    bench.hear();
    let _ = send(&bench.vmm, 1, 1, Vec::new(), Vec::new());
    if bench.settle().is_ok() {
        // A header of the input's may still wait for its body.
        bench.hear();
    }
}

struct Bench {
    front: Vmm,
    vmm: UnixStream,
    running: Session,
}

impl Bench {
    /// Until the VMM's messages are answered.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            match self.front.awaits() {
                Some(fd) => {
                    wait(fd);
                    self.front.session_ready()?;
                }
                None => {
                    self.front.vmm_ready()?;
                    if self.front.awaits().is_none() {
                        break;
                    }
                }
            }
            // A VMM that does not read its answers loses its connection.
            self.hear();
        }
        Ok(())
    }

    fn hear(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let mut heard = 0;
        while let Ok(n @ 1..) = self.vmm.read(&mut buffer) {
            heard += n;
        }
        heard
    }

    /// The engine dies, perhaps while it owes an answer; maybe another master goes on; the next engine takes up what there was.
    fn next_engine(&mut self, bytes: &mut Bytes<'_>) -> Result<(), String> {
        let choices = bytes.byte();
        if choices & 1 != 0 {
            message(bytes, &self.vmm);
            self.front.vmm_ready()?;
        }
        self.front.lose_engine()?;
        if choices & 2 != 0 {
            assert_eq!(self.front.is_saved(), Ok(true), "what another master is told");
        }
        let Some((running, engine)) = session() else { panic!("a session does not start") };
        self.running = running;
        let replayed = self.front.attach(engine).and_then(|()| self.settle());
        if let Err(end) = &replayed {
            assert!(!end.contains("the new engine refuses"), "{end}");
        }
        replayed
    }
}

fn wait(fd: RawFd) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let ready = crate::sys::poll(&mut poll, PATIENCE_MS);
    assert!(ready, "the engine does not answer");
}

/// A file of so many bytes.
fn file(len: u64) -> Option<OwnedFd> {
    let file = crate::sys::memory_file()?;
    File::from(file.try_clone().ok()?).set_len(len).ok()?;
    Some(file)
}

/// One message: mostly a known one of a sound form, of which then some bytes are changed.
fn message(bytes: &mut Bytes<'_>, to: &UnixStream) {
    let code = bytes.of(&REQUESTS);
    let (mut body, mut fds) = (Vec::new(), Vec::new());
    let ring = u32::from(bytes.byte() % 6);
    match code {
        2 => body.extend((if bytes.byte() < 230 { FEATURES } else { bytes.long() }).to_ne_bytes()),
        16 => body.extend((if bytes.byte() < 230 { 0xaa0b } else { bytes.long() }).to_ne_bytes()),
        5 => table(bytes, &mut body, &mut fds),
        37 | 38 => {
            body.extend([0; 8]);
            region(bytes, &mut body, &mut fds);
            if code == 38 && bytes.flag() {
                fds.clear();
            }
        }
        6 => {
            let len = u64::from(bytes.half()) * 4096;
            body.extend([len, bytes.of(&[0, 0, 4096, 1])].map(u64::to_ne_bytes).concat());
            fds.extend(file(if bytes.byte() < 220 { len } else { bytes.half().into() }));
        }
        8 => body.extend([ring, bytes.of(&[256, 1, 2, 1024, 32768, 0, 3])].map(u32::to_ne_bytes).concat()),
        10 | 11 => body.extend([ring, bytes.half().into()].map(u32::to_ne_bytes).concat()),
        18 => body.extend([ring, bytes.byte().into()].map(u32::to_ne_bytes).concat()),
        9 => {
            body.extend([ring, u32::from(bytes.byte() % 3)].map(u32::to_ne_bytes).concat());
            for _ in 0..3 {
                let near = u64::from(bytes.half()) << 4;
                let at = if bytes.byte() < 230 { USER + near } else { bytes.long() };
                body.extend(at.to_ne_bytes());
            }
            body.extend(near(bytes).to_ne_bytes());
        }
        12..=14 => {
            let none = bytes.byte() < 30;
            body.extend((u64::from(ring) | if none { 0x100 } else { 0 }).to_ne_bytes());
            if !none {
                fds.extend(UnixStream::pair().ok().map(|(one, _)| OwnedFd::from(one)));
            }
        }
        42 => {
            body.extend([u32::from(bytes.byte() % 3), 0].map(u32::to_ne_bytes).concat());
            let state = file(0).map(File::from).map(|mut file| {
                let text = bytes.some(32);
                let _ = std::io::Write::write_all(&mut file, text);
                let _ = std::io::Seek::rewind(&mut file);
                OwnedFd::from(file)
            });
            fds.extend(state);
        }
        24 | 25 => {
            body.extend([0, u32::from(bytes.byte()), 0].map(u32::to_ne_bytes).concat());
            body.resize(12 + bytes.below(64), 0);
        }
        1 | 3 | 4 | 15 | 17 | 34 | 36 | 40 | 43 => {}
        _ => body.extend(bytes.long().to_ne_bytes()),
    }
    while bytes.byte() > 236 {
        let at = bytes.below(body.len());
        let value = bytes.byte();
        match body.get_mut(at) {
            Some(byte) if value & 1 == 0 => *byte = value,
            _ => body.resize(at, value),
        }
    }
    for _ in 0..bytes.byte().saturating_sub(230) {
        fds.extend(File::open("/dev/null").ok().map(OwnedFd::from));
    }
    let flags = match bytes.byte() {
        0..120 => 9,
        120..250 => 1,
        other => u32::from(other),
    };
    if bytes.byte() < 252 {
        let _ = send(to, code, flags, body, fds);
    } else {
        // Half of one.
        let _ = std::io::Write::write(&mut &*to, bytes.take(20));
    }
}

fn near(bytes: &mut Bytes<'_>) -> u64 {
    if bytes.byte() < 200 { u64::from(bytes.half()) } else { bytes.number() }
}

fn table(bytes: &mut Bytes<'_>, body: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) {
    let count = bytes.byte() % 5;
    body.extend(u64::from(count).to_ne_bytes());
    for _ in 0..count {
        region(bytes, body, fds);
    }
}

fn region(bytes: &mut Bytes<'_>, body: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) {
    let slot = u64::from(bytes.byte() % 8);
    let mut words = [slot * REGION, REGION, USER + slot * REGION, bytes.of(&[0, 0, 0, 4096])];
    let len = words[1] + words[3];
    if bytes.byte() > 220 {
        words[bytes.below(4)] = bytes.number();
    }
    body.extend(words.map(u64::to_ne_bytes).concat());
    fds.extend(file(if bytes.byte() < 230 { len } else { bytes.half().into() }));
}
