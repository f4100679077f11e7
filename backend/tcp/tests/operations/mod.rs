//! A list of operations on a leg, written as bytes, and what must hold whatever they are. Property tests make up the bytes,
//! and so does the fuzz target `leg` (`tests/fuzz`).

use vonic_tcp::{
    AckPolicy, Config, Flags, Instant, Keepalive, Leg, Options, Segment, Seq, State, Timestamps, Transmit,
};

const ISS: Seq = Seq(u32::MAX - 700);
const IRS: Seq = Seq(u32::MAX - 300);

/// Numbers out of bytes; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Mostly a few, sometimes many, now and then anything.
    fn number(&mut self) -> u32 {
        match self.byte() {
            0..200 => self.byte().into(),
            200..245 => self.word() % 100_000,
            _ => self.word(),
        }
    }

    /// A distance in either direction.
    fn near(&mut self) -> u32 {
        let number = self.number();
        if self.byte() < 40 { 0u32.wrapping_sub(number) } else { number }
    }

    fn chance(&mut self, of_256: u8) -> bool {
        !self.0.is_empty() && self.byte() < of_256
    }
}

/// A leg, and what was seen of it.
struct Watch {
    leg: Leg,
    now: Instant,
    scale: u8,
    by_peer: bool,
    stamped: bool,
    /// The right edge, SEG.ACK and TSval that the guest last heard of.
    edge: Option<Seq>,
    ack: Option<Seq>,
    val: Option<u32>,
    una: Seq,
}

/// Runs the operations that `bytes` stand for.
///
/// # Panics
/// If a rule is broken.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let (choices, scale) = (bytes.byte(), bytes.byte() % 16);
    let by_peer = choices & 1 != 0;
    let config = Config {
        timestamps: (choices & 2 != 0).then_some(u32::MAX - 10),
        sack: choices & 4 != 0,
        keepalive: (choices & 8 != 0).then_some(Keepalive::DEFAULT),
        ack: if by_peer { AckPolicy::Peer } else { AckPolicy::Kernel },
        patience: if choices & 128 != 0 { 2000 } else { 0 },
        ..Config::new(1460, scale)
    };
    let stamped = choices & 32 != 0;
    let timestamps = stamped.then_some(Timestamps { val: 1, ecr: 0 });
    let offered = Options {
        mss: Some(u16::from(bytes.byte()) * 16),
        window_scale: Some(5),
        sack_permitted: choices & 16 != 0,
        timestamps,
        ..Options::default()
    };
    let options = offered.emit();
    let options = options.as_slice();
    let open = choices & 64 != 0;
    let leg = if open {
        Leg::open(&config, ISS, Instant(0))
    } else {
        let syn = Segment { seq: IRS, ack: Seq(0), flags: Flags::SYN, window: 1000, options, len: 0 };
        Leg::accept(&config, &syn, ISS, Instant(0))
    };
    let (now, una, scale) = (Instant(0), leg.snd_una(), scale.min(14));
    let mut watch = Watch { leg, now, scale, by_peer, stamped, edge: None, ack: None, val: None, una };
    if open {
        watch.poll(1, 1);
        let flags = Flags::SYN | Flags::ACK;
        let answer = Segment { seq: IRS, ack: ISS + 1, flags, window: 1000, options, len: 0 };
        watch.leg.handle_segment(watch.now, &answer);
    }
    while !bytes.0.is_empty() {
        watch.step(&mut bytes);
        watch.check();
    }
}

impl Watch {
    fn step(&mut self, bytes: &mut Bytes) {
        match bytes.byte() % 32 {
            0..10 => self.segment(bytes),
            10..20 => {
                let (max, n) = (bytes.number().max(1), bytes.number());
                self.poll(max, n);
            }
            20..22 => self.leg.set_window(bytes.number()),
            22 => self.leg.host_readable(),
            23 => self.leg.hurry(),
            24 => self.leg.host_finished(bytes.number() % 200),
            25 => self.leg.host_connected(self.now),
            26..28 => self.now = Instant(self.now.0 + u64::from(bytes.word() % 100_000_000)),
            28..30 => self.time_out(),
            30 => {
                let (n, held) = (bytes.number(), self.leg.held());
                self.leg.peer_acked(self.now, n);
                assert_eq!(self.leg.held(), held - n.min(held));
            }
            _ => match bytes.byte() {
                0..4 => self.leg.abort(),
                4..16 => self.leg.host_gone(self.now),
                16..64 => self.leg.ask_again(),
                _ => self.leg.withdraw_challenge(),
            },
        }
    }

    fn options(&mut self, bytes: &mut Bytes) -> Options {
        let mut options = Options::default();
        if self.stamped && !bytes.chance(8) {
            let val = (self.now.0 / 1000) as u32;
            options.timestamps = Some(Timestamps { val: val.wrapping_add(bytes.near()), ecr: bytes.near() });
        }
        while bytes.chance(80) {
            let left = self.leg.snd_una() + bytes.near();
            options.sack.push(left, left + bytes.near());
        }
        options
    }

    fn segment(&mut self, bytes: &mut Bytes) {
        let before = (self.leg.rcv_nxt(), self.leg.snd_una());
        let emitted = self.options(bytes).emit();
        let mut raw = emitted.as_slice().to_vec();
        if bytes.chance(20) {
            raw = (0..bytes.byte() % 41).map(|_| bytes.byte()).collect();
        }
        let flags = match bytes.byte() {
            0..160 => Flags::ACK,
            160..210 => Flags::ACK | Flags::FIN,
            _ => Flags(bytes.byte()),
        };
        let len = if bytes.chance(8) { bytes.word() } else { bytes.number() % 70_000 };
        let segment = Segment {
            seq: before.0 + bytes.near(),
            ack: before.1 + bytes.near(),
            flags,
            window: bytes.number() as u16,
            options: &raw,
            len,
        };
        let effect = self.leg.handle_segment(self.now, &segment);
        let newly = self.leg.snd_una() - before.1;
        assert!(effect.acked <= newly && newly - effect.acked <= 2, "{effect:?}");
        let payload = effect.payload.unwrap_or(0..0);
        assert!(payload.start <= payload.end && payload.end <= len);
        if payload.start < payload.end {
            assert_eq!(segment.seq + payload.start, before.0, "not the next byte");
        }
        let n = bytes.number().min(payload.end - payload.start);
        let finished = self.leg.taken(self.now, n);
        assert_eq!(finished, effect.fin && n == payload.end - payload.start);
        if self.leg.state() != State::SynReceived && before.0 != Seq(0) {
            assert_eq!(self.leg.rcv_nxt() - before.0, n + u32::from(finished));
        }
    }

    fn time_out(&mut self) {
        if let Some(at) = self.leg.deadline() {
            self.now = self.now.max(at);
            self.leg.handle_timeout(self.now);
            assert!(self.leg.deadline().is_none_or(|at| at > self.now), "a timer that starves");
        }
    }

    fn poll(&mut self, max: u32, n: u32) {
        let header = match self.leg.poll(self.now, max) {
            None => return,
            Some(Transmit::Control(header) | Transmit::Question(header)) => header,
            Some(Transmit::Data(plan)) => {
                assert!(plan.max > 0 && plan.max <= max, "{plan:?}");
                assert_eq!(plan.seq - plan.offset, self.leg.snd_una());
                let window_end = self.leg.snd_una() + self.leg.snd_wnd().max(1);
                assert!((plan.seq + plan.max).le(window_end), "{plan:?} leaves the window");
                let Some(header) = self.leg.sent(self.now, &plan, n.min(plan.max)) else { return };
                assert_eq!(header.options.as_slice().len(), usize::from(self.leg.options_len()));
                header
            }
        };
        assert_eq!(header.options.as_slice().len() % 4, 0);
        if let Some(timestamps) = Options::parse(header.options.as_slice()).timestamps {
            let before = self.val.replace(timestamps.val).unwrap_or(timestamps.val);
            assert!(timestamps.val.wrapping_sub(before) < 1 << 31, "our clock went back");
        }
        if header.flags.contains(Flags::RST) || !header.flags.contains(Flags::ACK) {
            return;
        }
        assert!(header.ack.le(self.leg.rcv_nxt()) && self.ack.is_none_or(|before| header.ack.ge(before)));
        self.ack = Some(header.ack);
        let held = self.leg.rcv_nxt() - header.ack;
        assert!(held == 0 || self.by_peer && held <= self.leg.held() + 1);
        let syn = header.flags.contains(Flags::SYN);
        if syn && header.window == u16::MAX {
            // A repeated SYN-ACK cannot say more, though an ACK may have.
            return;
        }
        let shift = if syn { 0 } else { self.scale };
        let edge = header.ack + (u32::from(header.window) << shift);
        assert!(self.edge.is_none_or(|before| edge.ge(before)), "the right edge moved left");
        self.edge = Some(edge);
    }

    fn check(&mut self) {
        assert!(self.leg.snd_una().ge(self.una), "SND.UNA went back");
        self.una = self.leg.snd_una();
        assert!(self.leg.snd_max().ge(self.una));
        if self.leg.state() == State::Closed {
            assert_eq!(self.leg.deadline(), None);
        }
    }
}
