//! A guest that injects segments by hand on one side, a counted host queue on the other. Positions are relative to where the
//! case begins.

use std::time::Duration;

use vonic_tcp::{
    Config, Effect, Event, Flags, Header, Instant, Leg, Options, Segment, Seq, State, Timestamps, Transmit,
};

/// Both lie just before the wrap at 2³².
pub(crate) const ISS: Seq = Seq(u32::MAX - 70_000);
pub(crate) const IRS: Seq = Seq(u32::MAX - 30_000);
/// Shift of both windows.
pub(crate) const SCALE: u8 = 7;
/// What both sides have room for.
pub(crate) const ROOM: u32 = 1 << 20;

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "the family's name is for a failing test's output")]
pub(crate) struct Overlay {
    pub(crate) family: &'static str,
    /// The MTU less the fixed headers.
    pub(crate) mss: u16,
    /// The family's MSS if none is announced.
    pub(crate) default_mss: u16,
    /// The largest payload of a frame, both ways.
    pub(crate) frame: u32,
    /// Timestamps and SACK, or neither.
    pub(crate) options: bool,
    /// Before the case begins, bytes have moved over a ring that loses, repeats and reorders.
    pub(crate) lossy: bool,
}

impl Overlay {
    pub(crate) fn config(&self) -> Config {
        let timestamps = self.options.then_some(u32::MAX - 100);
        Config { default_mss: self.default_mss, timestamps, sack: self.options, ..Config::new(self.mss, SCALE) }
    }

    /// The options of the guest's SYN.
    pub(crate) fn offer(&self) -> Options {
        Options {
            mss: Some(self.mss),
            window_scale: Some(SCALE),
            sack_permitted: self.options,
            timestamps: self.options.then_some(Timestamps { val: 1, ecr: 0 }),
            ..Options::default()
        }
    }
}

/// A segment that came out of the leg.
#[derive(Clone, Debug)]
pub(crate) struct Out {
    pub(crate) header: Header,
    /// Where its payload lies in the host's stream, and how long it is.
    pub(crate) at: u32,
    pub(crate) len: u32,
    /// How much of the guest's stream it acknowledges, and where the window ends.
    pub(crate) acks: u32,
    pub(crate) edge: u32,
}

impl Out {
    pub(crate) fn is(&self, flags: Flags) -> bool {
        self.header.flags == flags
    }
}

pub(crate) struct Bench {
    pub(crate) overlay: Overlay,
    pub(crate) leg: Leg,
    pub(crate) now: Instant,
    /// The host's stream: how much has come from the world, how much the guest has acknowledged.
    pub(crate) arrived: u32,
    pub(crate) dropped: u32,
    /// How much of the guest's stream the host took.
    pub(crate) taken: u32,
    /// What the guest says: its window in bytes, and how much of the host's stream it has.
    pub(crate) window: u32,
    pub(crate) has: u32,
    /// The leg's last timestamp.
    pub(crate) echo: u32,
    /// Where the case begins in the host's and in the guest's stream.
    start: (u32, u32),
}

impl Bench {
    pub(crate) fn new(overlay: Overlay, leg: Leg) -> Bench {
        Bench {
            overlay,
            leg,
            now: Instant(1_000_000),
            arrived: 0,
            dropped: 0,
            taken: 0,
            window: ROOM,
            has: 0,
            echo: 0,
            start: (0, 0),
        }
    }

    /// The guest has sent its SYN.
    pub(crate) fn accepted(overlay: Overlay, options: &Options) -> Bench {
        let options = options.emit();
        let flags = Flags::SYN;
        let syn = Segment { seq: IRS, ack: Seq(0), flags, window: 60_000, options: options.as_slice(), len: 0 };
        let mut bench = Bench::new(overlay, Leg::accept(&overlay.config(), &syn, ISS, Instant(1_000_000)));
        bench.leg.set_window(ROOM);
        bench
    }

    pub(crate) fn established(overlay: Overlay) -> Bench {
        let mut bench = Bench::accepted(overlay, &overlay.offer());
        bench.leg.host_connected(bench.now);
        assert!(bench.one().is(Flags::SYN | Flags::ACK));
        assert_eq!(bench.ack(0).event, Some(Event::Established));
        bench.settle();
        bench
    }

    /// From here on positions are counted.
    pub(crate) fn begin(&mut self) {
        self.settle();
        self.start = (self.has, self.taken);
    }

    /// Nothing is owed and nothing is asked for.
    fn settle(&mut self) {
        self.leg.set_window(ROOM);
        self.drain();
    }

    /// After the case: what is left goes through, and then more, if the connection still stands.
    pub(crate) fn finish(mut self) {
        if self.leg.state() == State::Established {
            self.start = (0, 0);
            self.window = ROOM;
            self.exercise(100_000);
        }
    }

    /// Payload of a frame from the guest: whole segments.
    pub(crate) fn piece(&self) -> u32 {
        let mss = u32::from(self.leg.mss());
        self.overlay.frame / mss.min(self.overlay.frame) * mss
    }

    pub(crate) fn mss(&self) -> u32 {
        self.leg.mss().into()
    }

    pub(crate) fn millis(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    /// Goes to the deadline and handles it.
    pub(crate) fn expire(&mut self) -> Option<Event> {
        self.now = self.leg.deadline().expect("a timer runs");
        self.leg.handle_timeout(self.now)
    }

    pub(crate) fn until_deadline(&self) -> Duration {
        self.leg.deadline().expect("a timer runs") - self.now
    }

    fn options(&self) -> Options {
        let val = (self.now.0 / 1000) as u32;
        let timestamps = self.overlay.options.then_some(Timestamps { val, ecr: self.echo });
        Options { timestamps, ..Options::default() }
    }

    /// The guest sends `len` bytes at `offset` of its stream; nothing of it is taken yet.
    pub(crate) fn segment(&mut self, offset: u32, len: u32, flags: Flags) -> Effect {
        let options = self.options();
        self.segment_with(offset, len, flags, &options)
    }

    pub(crate) fn segment_with(&mut self, offset: u32, len: u32, flags: Flags, options: &Options) -> Effect {
        let options = options.emit();
        let segment = Segment {
            seq: IRS + 1 + self.start.1 + offset,
            ack: ISS + 1 + self.has,
            flags,
            window: (self.window >> SCALE) as u16,
            options: options.as_slice(),
            len,
        };
        let effect = self.leg.handle_segment(self.now, &segment);
        self.dropped += effect.acked;
        assert!(self.dropped <= self.arrived, "acknowledged what was never sent");
        if let Some(payload) = &effect.payload {
            assert_eq!(self.start.1 + offset + payload.start, self.taken, "not the next byte");
        }
        effect
    }

    /// The guest's payload; the host takes all that is offered.
    pub(crate) fn data(&mut self, offset: u32, len: u32) -> Effect {
        let effect = self.segment(offset, len, Flags::ACK);
        self.take(&effect, u32::MAX);
        effect
    }

    /// The host takes up to `n` bytes of what is offered; whether the guest's stream ends.
    pub(crate) fn take(&mut self, effect: &Effect, n: u32) -> bool {
        let offered = effect.payload.as_ref().map_or(0, |payload| payload.end - payload.start);
        self.taken += offered.min(n);
        self.leg.taken(self.now, offered.min(n))
    }

    /// The guest's pure ACK of `n` bytes of the host's stream.
    pub(crate) fn ack(&mut self, n: u32) -> Effect {
        self.has = self.start.0 + n;
        let offset = self.leg.rcv_nxt() - (IRS + 1) - self.start.1;
        self.segment(offset, 0, Flags::ACK)
    }

    /// More bytes come from the host.
    pub(crate) fn host_sends(&mut self, n: u32) {
        self.arrived += n;
        self.leg.host_readable();
    }

    pub(crate) fn poll(&mut self) -> Option<Out> {
        loop {
            let largest = self.overlay.frame.max(self.mss()).min(65_495 - u32::from(self.leg.options_len()));
            let (header, len) = match self.leg.poll(self.now, largest)? {
                Transmit::Control(header) => (header, 0),
                Transmit::Question(header) => (header, 1),
                Transmit::Data(plan) => {
                    let n = (self.arrived - self.dropped).saturating_sub(plan.offset).min(plan.max);
                    match self.leg.sent(self.now, &plan, n) {
                        Some(header) => (header, n),
                        None => continue,
                    }
                }
            };
            return Some(self.out(header, len));
        }
    }

    fn out(&mut self, header: Header, len: u32) -> Out {
        let options = Options::parse(header.options.as_slice());
        assert!(options.mss.is_none() || header.flags.contains(Flags::SYN), "an MSS beyond the handshake");
        let agreed = self.overlay.options && self.leg.options_len() > 0;
        assert_eq!(options.timestamps.is_some(), agreed, "{header:?}");
        self.echo = options.timestamps.map_or(0, |timestamps| timestamps.val);
        let acks = header.ack - (IRS + 1) - self.start.1;
        let shift = if header.flags.contains(Flags::SYN) { 0 } else { SCALE };
        let edge = acks + (u32::from(header.window) << shift);
        Out { at: header.seq - (ISS + 1) - self.start.0, len, acks, edge, header }
    }

    pub(crate) fn drain(&mut self) -> Vec<Out> {
        let out: Vec<Out> = std::iter::from_fn(|| self.poll()).take(5000).collect();
        assert!(out.len() < 5000, "polls without end: {:?}", &out[..3]);
        out
    }

    /// Exactly one segment comes out.
    pub(crate) fn one(&mut self) -> Out {
        let mut out = self.drain();
        assert_eq!(out.len(), 1, "{:?} {out:?}", self.overlay);
        out.remove(0)
    }

    /// What comes out begins and ends here, in one piece; nothing if both are the same.
    pub(crate) fn stretch(&mut self) -> (u32, u32) {
        let out = self.drain();
        let data: Vec<&Out> = out.iter().filter(|out| out.len > 0).collect();
        assert!(data.windows(2).all(|pair| pair[0].at + pair[0].len == pair[1].at), "{data:?}");
        match (data.first(), data.last()) {
            (Some(first), Some(last)) => (first.at, last.at + last.len),
            _ => (0, 0),
        }
    }
}
