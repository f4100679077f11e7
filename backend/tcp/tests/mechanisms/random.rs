use proptest::prelude::*;
use vonic_tcp::{Config, Flags, Instant, Leg, Segment, Seq, State, Transmit};

use crate::{IRS, ISS, syn};

/// Anything that can happen to a leg, with numbers near those in use.
#[derive(Clone, Debug)]
enum Step {
    Segment { seq: i32, ack: i32, flags: u8, window: u16, len: u32, take: u32, options: Vec<u8> },
    Window(u32),
    Readable,
    Finished(u32),
    Connected,
    Poll { max: u32, n: u32 },
    Wait(u64),
    Timeout,
    Abort,
}

fn near() -> impl Strategy<Value = i32> {
    prop_oneof![8 => -3..200i32, 2 => -100_000..100_000i32, 1 => any::<i32>()]
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![6 => Just(Flags::ACK.0), 2 => Just(Flags::ACK.0 | Flags::FIN.0), 1 => any::<u8>()];
    let len = prop_oneof![4 => 0..100u32, 1 => 0..70_000u32, 1 => any::<u32>()];
    let options = prop::collection::vec(any::<u8>(), 0..12);
    let segment = (near(), near(), flags, any::<u16>(), len, any::<u32>(), options).prop_map(
        |(seq, ack, flags, window, len, take, options)| Step::Segment { seq, ack, flags, window, len, take, options },
    );
    prop_oneof![
        10 => segment,
        2 => (0..200_000u32).prop_map(Step::Window),
        2 => Just(Step::Readable),
        1 => (0..200u32).prop_map(Step::Finished),
        2 => Just(Step::Connected),
        10 => (1..70_000u32, 0..70_000u32).prop_map(|(max, n)| Step::Poll { max, n }),
        2 => (0..100_000_000u64).prop_map(Step::Wait),
        3 => Just(Step::Timeout),
        1 => prop_oneof![20 => Just(Step::Readable), 1 => Just(Step::Abort)],
    ]
}

/// The leg under random steps, and what must hold whatever happens.
struct Watch {
    leg: Leg,
    now: Instant,
    scale: u8,
    /// The right edge that the guest last heard of.
    edge: Option<Seq>,
    una: Seq,
}

impl Watch {
    fn step(&mut self, step: Step) {
        match step {
            Step::Segment { seq, ack, flags, window, len, take, options } => {
                let before = (self.leg.rcv_nxt(), self.leg.snd_una());
                let segment = Segment {
                    seq: before.0 + seq as u32,
                    ack: before.1 + ack as u32,
                    flags: Flags(flags),
                    window,
                    options: &options,
                    len,
                };
                let effect = self.leg.handle_segment(self.now, &segment);
                let newly = self.leg.snd_una() - before.1;
                assert!(effect.acked <= newly && newly - effect.acked <= 2, "{effect:?}");
                let payload = effect.payload.unwrap_or(0..0);
                assert!(payload.start <= payload.end && payload.end <= len);
                let n = take.min(payload.end - payload.start);
                let finished = self.leg.taken(self.now, n);
                assert_eq!(finished, effect.fin && n == payload.end - payload.start);
            }
            Step::Window(free) => self.leg.set_window(free),
            Step::Readable => self.leg.host_readable(),
            Step::Finished(queued) => self.leg.host_finished(queued),
            Step::Connected => self.leg.host_connected(self.now),
            Step::Poll { max, n } => self.poll(max, n),
            Step::Wait(micros) => self.now = Instant(self.now.0 + micros),
            Step::Timeout => {
                if let Some(at) = self.leg.deadline() {
                    self.now = self.now.max(at);
                    self.leg.handle_timeout(self.now);
                    assert!(self.leg.deadline().is_none_or(|at| at > self.now), "a timer that starves");
                }
            }
            Step::Abort => self.leg.abort(),
        }
        self.check();
    }

    fn poll(&mut self, max: u32, n: u32) {
        let header = match self.leg.poll(self.now, max) {
            None => return,
            Some(Transmit::Control(header)) => header,
            Some(Transmit::Data(plan)) => {
                assert!(plan.max > 0 && plan.max <= max, "{plan:?}");
                assert_eq!(plan.seq - plan.offset, self.leg.snd_una());
                let window_end = self.leg.snd_una() + self.leg.snd_wnd().max(1);
                assert!((plan.seq + plan.max).le(window_end), "{plan:?} leaves the window");
                let Some(header) = self.leg.sent(self.now, &plan, n.min(plan.max)) else { return };
                header
            }
        };
        if header.flags.contains(Flags::RST) || !header.flags.contains(Flags::ACK) {
            return;
        }
        let syn = header.flags.contains(Flags::SYN);
        if syn && header.window == u16::MAX {
            // A repeated SYN-ACK cannot say more, though an ACK may have.
            return;
        }
        let shift = if syn { 0 } else { self.scale };
        let edge = header.ack + (u32::from(header.window) << shift);
        assert!(self.edge.is_none_or(|before| edge.ge(before)), "the right edge moved left");
        self.edge = Some(edge);
        assert_eq!(header.ack, self.leg.rcv_nxt());
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold(steps in prop::collection::vec(step(), 1..120), scale in 0u8..16, open: bool) {
        let config = Config::new(1460, scale);
        let options = [3, 3, 5, 0];
        let leg = if open {
            Leg::open(&config, ISS, Instant(0))
        } else {
            Leg::accept(&config, &syn(1000, &options), ISS, Instant(0))
        };
        let mut watch = Watch { una: leg.snd_una(), leg, now: Instant(0), scale: scale.min(14), edge: None };
        if open {
            watch.poll(1, 1);
            let flags = Flags::SYN | Flags::ACK;
            let answer = Segment { seq: IRS, ack: ISS + 1, flags, window: 1000, options: &options, len: 0 };
            watch.leg.handle_segment(watch.now, &answer);
        }
        for step in steps {
            watch.step(step);
        }
    }
}

#[test]
fn a_leg_is_small() {
    // 16384 connections per port are the default limit; each segment touches the whole of it.
    assert!(size_of::<Leg>() <= 384, "{}", size_of::<Leg>());
}
