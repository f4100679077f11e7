use vonic_tcp::{Event, Flags, MSL, Segment, Seq, State};

use crate::bench::{Bench, IRS};
use crate::each;

const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);

/// The guest's FIN behind `len` bytes.
fn guest_finishes(bench: &mut Bench, offset: u32, len: u32) {
    let effect = bench.segment(offset, len, FIN_ACK);
    assert!(effect.fin);
    assert!(bench.take(&effect, len));
}

/// Our FIN, behind all that was sent.
fn host_finishes(bench: &mut Bench) {
    bench.leg.host_finished(bench.arrived - bench.dropped);
    let out = bench.drain();
    assert!(out.last().is_some_and(|out| out.header.flags.contains(Flags::FIN)));
}

/// The guest acknowledges our FIN behind `n` bytes.
fn acks_fin(bench: &mut Bench, n: u32) -> Option<Event> {
    let event = bench.ack(n + 1).event;
    bench.has -= 1;
    event
}

/// Case 19.
#[test]
fn a_fin_counts_in_order_once_and_not_beside_a_reset() {
    each(|bench| {
        let effect = bench.segment(100, 50, FIN_ACK);
        assert_eq!((effect.payload, effect.fin), (None, false), "out of order");
        assert_eq!(bench.one().acks, 0);
        guest_finishes(bench, 0, 150);
        assert_eq!(bench.leg.state(), State::CloseWait);
        assert_eq!(bench.one().acks, 151);
        let effect = bench.segment(0, 150, FIN_ACK);
        assert_eq!((effect.payload, effect.fin), (None, false), "twice");
        assert_eq!(bench.one().acks, 151);
        let effect = bench.segment(151, 10, FIN_ACK);
        assert_eq!((effect.payload, effect.fin), (None, false), "text in CLOSE-WAIT");
        bench.drain();
        let effect = bench.segment(151, 0, Flags::RST | FIN_ACK);
        assert_eq!((effect.event, effect.fin), (Some(Event::Reset), false));
    });
}

/// Case 20.
#[test]
fn half_closed_either_way_a_megabyte_goes_on() {
    each(|bench| {
        guest_finishes(bench, 0, 0);
        bench.drain();
        let mut at = 0;
        while at < 1 << 20 {
            bench.host_sends(60_000);
            assert_eq!(bench.stretch(), (at, at + 60_000));
            at += 60_000;
            bench.has += 60_000;
            assert_eq!(bench.segment(1, 0, Flags::ACK).acked, 60_000);
        }
    });
    each(|bench| {
        host_finishes(bench);
        acks_fin(bench, 0);
        assert_eq!(bench.leg.state(), State::FinWait2);
        bench.has += 1;
        let mut at = 0;
        while at < 1 << 20 {
            let piece = bench.piece();
            bench.data(at, piece);
            at += piece;
            bench.leg.set_window(1 << 20);
            assert_eq!(bench.one().acks, at);
        }
    });
}

/// Case 21.
#[test]
fn closing_at_once_and_one_after_the_other() {
    each(|bench| {
        host_finishes(bench);
        guest_finishes(bench, 0, 0);
        assert_eq!(bench.leg.state(), State::Closing);
        bench.drain();
        bench.has += 1;
        assert_eq!(bench.segment(1, 0, Flags::ACK).event, Some(Event::TimeWait));
        assert_eq!(bench.until_deadline(), 2 * MSL);
        let syn = |seq| Segment { seq, ack: Seq(0), flags: Flags::SYN, window: 1000, options: &[], len: 0 };
        let next = bench.leg.rcv_nxt();
        assert!(bench.leg.reusable(&syn(next + 1)) && !bench.leg.reusable(&syn(IRS)));
        bench.segment(0, 0, FIN_ACK);
        assert_eq!(bench.one().acks, 1, "its FIN again");
        assert_eq!(bench.expire(), Some(Event::Closed));
        assert!(bench.leg.is_closed());
    });
    each(|bench| {
        guest_finishes(bench, 0, 0);
        bench.drain();
        host_finishes(bench);
        assert_eq!(bench.leg.state(), State::LastAck);
        bench.has += 1;
        assert_eq!(bench.segment(1, 0, Flags::ACK).event, Some(Event::Closed));
        assert!(bench.leg.is_closed());
    });
}
