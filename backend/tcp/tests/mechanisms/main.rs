//! One test per mechanism of the leg: segments by hand on one side, a counted host queue on the other.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod closing;
mod handshake;
mod keepalive;
mod loss;
#[path = "../operations/mod.rs"]
mod operations;
mod options;
mod patience;
mod peer;
mod persist;
mod random;
mod receive;
mod reset;
mod restore;
mod sack;
mod send;
mod sequence;
mod timestamps;

use std::time::Duration;

use vonic_tcp::{Config, Effect, Event, Flags, Header, Instant, Leg, Options, Segment, Seq, Transmit};

/// Both lie just before the wrap at 2³², so that every test crosses it.
pub(crate) const ISS: Seq = Seq(u32::MAX - 700);
pub(crate) const IRS: Seq = Seq(u32::MAX - 300);
pub(crate) const MSS: u16 = 1000;
pub(crate) const CONFIG: Config = Config::new(MSS, 0);
pub(crate) const FRAME: u32 = 64_000;

/// A segment that came out of the leg.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Out {
    pub(crate) header: Header,
    pub(crate) len: u32,
}

impl Out {
    /// Where its first byte lies in the host's stream.
    pub(crate) fn at(&self) -> u32 {
        self.header.seq - (ISS + 1)
    }

    /// How many bytes of the guest's stream it acknowledges.
    pub(crate) fn acks(&self) -> u32 {
        self.header.ack - (IRS + 1)
    }

    pub(crate) fn is(&self, flags: Flags) -> bool {
        self.header.flags == flags
    }
}

pub(crate) struct Rig {
    pub(crate) leg: Leg,
    pub(crate) now: Instant,
    /// Bytes in the host socket's receive queue, from SND.UNA on.
    pub(crate) queued: u32,
    /// What the guest says: its window field, and how many bytes of the host's stream it has.
    pub(crate) window: u16,
    pub(crate) guest_acks: u32,
    /// The options of its segments.
    pub(crate) options: Options,
}

pub(crate) fn syn(window: u16, options: &[u8]) -> Segment<'_> {
    Segment { seq: IRS, ack: Seq(0), flags: Flags::SYN, window, options, len: 0 }
}

impl Rig {
    pub(crate) fn new(leg: Leg) -> Rig {
        Rig { leg, now: Instant(1_000_000), queued: 0, window: 20_000, guest_acks: 0, options: Options::default() }
    }

    /// ESTABLISHED, opened by the guest, with a window of 10000 bytes on our side and 20000 on the guest's.
    pub(crate) fn established() -> Rig {
        Rig::established_with(&CONFIG, Options::default())
    }

    /// The same with another configuration, and more options in the guest's SYN than its MSS.
    pub(crate) fn established_with(config: &Config, syn_options: Options) -> Rig {
        let options = Options { mss: Some(MSS), ..syn_options }.emit();
        let mut rig = Rig::new(Leg::accept(config, &syn(20_000, options.as_slice()), ISS, Instant(1_000_000)));
        rig.options.timestamps = syn_options.timestamps;
        rig.leg.set_window(10_000);
        rig.leg.host_connected(rig.now);
        let out = rig.drain();
        assert_eq!(out.len(), 1, "{out:?}");
        assert_eq!(rig.ack(0).event, Some(Event::Established));
        assert_eq!(rig.drain(), []);
        rig
    }

    pub(crate) fn after(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }

    pub(crate) fn millis(&mut self, millis: u64) {
        self.after(Duration::from_millis(millis));
    }

    /// Goes to the deadline and handles it.
    pub(crate) fn expire(&mut self) -> Option<Event> {
        self.now = self.leg.deadline().expect("a timer runs");
        self.leg.handle_timeout(self.now)
    }

    pub(crate) fn until_deadline(&self) -> Duration {
        self.leg.deadline().expect("a timer runs") - self.now
    }

    /// The guest sends `len` bytes at `offset` of its stream.
    pub(crate) fn segment(&mut self, offset: u32, len: u32, flags: Flags) -> Effect {
        let options = self.options.emit();
        let segment = Segment {
            seq: IRS + 1 + offset,
            ack: ISS + 1 + self.guest_acks,
            flags,
            window: self.window,
            options: options.as_slice(),
            len,
        };
        let effect = self.leg.handle_segment(self.now, &segment);
        self.queued -= effect.acked;
        effect
    }

    /// The guest's pure ACK of `n` bytes of the host's stream.
    pub(crate) fn ack(&mut self, n: u32) -> Effect {
        self.guest_acks = n;
        let offset = self.leg.rcv_nxt() - (IRS + 1);
        self.segment(offset, 0, Flags::ACK)
    }

    /// The guest's payload; the host takes all of it.
    pub(crate) fn data(&mut self, offset: u32, len: u32) -> Effect {
        let effect = self.segment(offset, len, Flags::ACK);
        let n = effect.payload.as_ref().map_or(0, |payload| payload.end - payload.start);
        assert!(!self.leg.taken(self.now, n));
        effect
    }

    /// More bytes come from the host.
    pub(crate) fn host_sends(&mut self, n: u32) {
        self.queued += n;
        self.leg.host_readable();
    }

    pub(crate) fn poll(&mut self) -> Option<Out> {
        loop {
            let plan = match self.leg.poll(self.now, FRAME)? {
                Transmit::Control(header) => return Some(Out { header, len: 0 }),
                Transmit::Question(header) => return Some(Out { header, len: 1 }),
                Transmit::Data(plan) => plan,
            };
            assert_eq!(plan.seq, self.leg.snd_una() + plan.offset);
            assert!(plan.max > 0);
            let n = self.queued.saturating_sub(plan.offset).min(plan.max);
            match self.leg.sent(self.now, &plan, n) {
                Some(header) => return Some(Out { header, len: n }),
                None => assert_eq!(n, 0),
            }
        }
    }

    pub(crate) fn drain(&mut self) -> Vec<Out> {
        let out: Vec<Out> = std::iter::from_fn(|| self.poll()).take(1000).collect();
        assert!(out.len() < 1000, "polls without end: {:?}", &out[..3]);
        out
    }

    /// Exactly one segment comes out.
    pub(crate) fn one(&mut self) -> Out {
        let mut out = self.drain();
        assert_eq!(out.len(), 1, "{out:?}");
        out.remove(0)
    }

    /// Where the frames that come out begin, and how long they are.
    pub(crate) fn frames(&mut self) -> Vec<(u32, u32)> {
        self.drain().iter().map(|out| (out.at(), out.len)).collect()
    }
}
