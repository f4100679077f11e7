use std::time::Duration;

use vonic_tcp::{Event, Flags, MSL, Segment, Seq, State};

use crate::{IRS, ISS, Rig};

const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);

/// The guest's FIN behind `len` bytes, all taken.
fn guest_finishes(rig: &mut Rig, offset: u32, len: u32) -> Option<Event> {
    let effect = rig.segment(offset, len, FIN_ACK);
    assert!(effect.fin);
    assert!(rig.leg.taken(rig.now, len));
    effect.event
}

#[test]
fn guest_closes_first() {
    let mut rig = Rig::established();
    guest_finishes(&mut rig, 0, 100);
    assert_eq!(rig.leg.state(), State::CloseWait);
    assert_eq!(rig.one().acks(), 101);
    rig.leg.host_finished(0);
    let out = rig.one();
    assert!(out.is(FIN_ACK));
    assert_eq!(rig.leg.state(), State::LastAck);
    let segment = Segment { seq: IRS + 102, ack: ISS + 2, flags: Flags::ACK, window: 1000, options: &[], len: 0 };
    assert_eq!(rig.leg.handle_segment(rig.now, &segment).event, Some(Event::Closed));
    assert!(rig.leg.is_closed());
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn host_closes_first() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    assert!(rig.one().is(FIN_ACK));
    assert_eq!(rig.leg.state(), State::FinWait1);
    rig.ack(1);
    assert_eq!(rig.leg.state(), State::FinWait2);
    assert_eq!(rig.leg.deadline(), None, "a half-closed stream may be silent");
    guest_finishes(&mut rig, 0, 100);
    assert_eq!(rig.leg.state(), State::TimeWait);
    assert_eq!(rig.one().acks(), 101);
    assert_eq!(rig.until_deadline(), 2 * MSL);
    assert_eq!(rig.expire(), Some(Event::Closed));
    assert!(rig.leg.is_closed());
}

#[test]
fn both_close_at_once() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    rig.drain();
    guest_finishes(&mut rig, 0, 0);
    assert_eq!(rig.leg.state(), State::Closing);
    assert_eq!(rig.one().acks(), 1);
    assert_eq!(rig.ack(1).event, Some(Event::TimeWait));
    assert_eq!(rig.leg.state(), State::TimeWait);
}

#[test]
fn fin_that_acknowledges_ours() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    rig.drain();
    rig.guest_acks = 1;
    guest_finishes(&mut rig, 0, 0);
    assert_eq!(rig.leg.state(), State::TimeWait);
}

#[test]
fn fin_rides_on_the_last_payload() {
    let mut rig = Rig::established();
    rig.queued = 1500;
    rig.leg.host_finished(1500);
    let out = rig.one();
    assert_eq!(out.len, 1500);
    assert!(out.is(FIN_ACK | Flags::PSH));
    assert_eq!(rig.ack(1501).acked, 1500);
    assert_eq!(rig.leg.state(), State::FinWait2);
}

#[test]
fn fin_goes_behind_what_was_sent_already() {
    let mut rig = Rig::established();
    rig.host_sends(700);
    rig.drain();
    rig.leg.host_finished(700);
    let out = rig.one();
    assert!(out.is(FIN_ACK));
    assert_eq!(out.at(), 700);
    rig.leg.host_finished(9000);
    assert_eq!(rig.drain(), []);
}

#[test]
fn fin_waits_for_the_guests_window() {
    let mut rig = Rig::established();
    rig.host_sends(30_000);
    rig.leg.host_finished(30_000);
    let out = rig.one();
    assert_eq!(out.len, 20_000);
    assert_eq!(rig.leg.state(), State::Established);
    rig.ack(20_000);
    assert!(rig.one().header.flags.contains(Flags::FIN));
}

#[test]
fn payload_and_fin_are_repeated_together() {
    let mut rig = Rig::established();
    rig.queued = 1500;
    rig.leg.host_finished(1500);
    let first = rig.one();
    rig.expire();
    assert_eq!(rig.one(), first);
    rig.ack(1500);
    rig.expire();
    let out = rig.one();
    assert!(out.is(FIN_ACK));
    assert_eq!((out.at(), out.len), (1500, 0));
}

#[test]
fn fin_out_of_order_is_not_taken() {
    let mut rig = Rig::established();
    let effect = rig.segment(100, 50, FIN_ACK);
    assert_eq!((effect.payload, effect.fin), (None, false));
    assert_eq!(rig.one().acks(), 0);
    let effect = rig.segment(10, 0, FIN_ACK);
    assert!(!effect.fin);
    assert_eq!(rig.one().acks(), 0);
    assert_eq!(rig.leg.state(), State::Established);
}

#[test]
fn fin_beyond_the_window_is_not_taken() {
    let mut rig = Rig::established();
    let effect = rig.segment(0, 10_001, FIN_ACK);
    assert_eq!((effect.payload, effect.fin), (Some(0..10_000), false));
    let effect = rig.segment(0, 10_000, FIN_ACK);
    assert!(effect.fin, "a FIN alone needs no room");
}

#[test]
fn fin_alone_is_taken_though_our_window_is_closed() {
    let mut rig = Rig::established();
    rig.data(0, 10_000);
    rig.leg.set_window(0);
    rig.drain();
    guest_finishes(&mut rig, 10_000, 0);
    let out = rig.one();
    assert_eq!((out.acks(), out.header.window), (10_001, 0));
}

#[test]
fn repeated_fin_is_acknowledged_again() {
    let mut rig = Rig::established();
    guest_finishes(&mut rig, 0, 100);
    rig.drain();
    let effect = rig.segment(0, 100, FIN_ACK);
    assert_eq!((effect.payload, effect.fin), (None, false));
    assert_eq!(rig.one().acks(), 101);
}

#[test]
fn payload_behind_the_fin_is_ignored() {
    let mut rig = Rig::established();
    guest_finishes(&mut rig, 0, 100);
    rig.drain();
    assert_eq!(rig.segment(101, 50, FIN_ACK), Default::default());
    assert_eq!(rig.leg.state(), State::CloseWait);
    assert_eq!(rig.drain(), []);
}

fn time_wait() -> Rig {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    rig.drain();
    rig.ack(1);
    guest_finishes(&mut rig, 0, 0);
    rig.drain();
    rig
}

#[test]
fn repeated_fin_restarts_time_wait() {
    let mut rig = time_wait();
    rig.after(MSL);
    rig.segment(0, 0, FIN_ACK);
    assert_eq!(rig.one().acks(), 1);
    assert_eq!(rig.until_deadline(), 2 * MSL);
    rig.after(Duration::from_secs(1));
    rig.segment(1, 0, Flags::ACK);
    assert_eq!(rig.drain(), []);
    assert_eq!(rig.until_deadline(), 2 * MSL - Duration::from_secs(1), "other segments do not");
}

#[test]
fn a_new_syn_may_replace_time_wait() {
    let rig = time_wait();
    let syn = |seq, flags| Segment { seq, ack: Seq(0), flags, window: 1000, options: &[], len: 0 };
    assert!(rig.leg.reusable(&syn(IRS + 3, Flags::SYN)));
    assert!(!rig.leg.reusable(&syn(IRS + 2, Flags::SYN)), "not beyond the old connection");
    assert!(!rig.leg.reusable(&syn(IRS + 3, Flags::SYN | Flags::ACK)));
    assert!(!rig.leg.reusable(&syn(IRS + 3, Flags::ACK)));
    assert!(!Rig::established().leg.reusable(&syn(IRS + 3, Flags::SYN)));
}

#[test]
fn abort_in_time_wait_sends_nothing() {
    let mut rig = time_wait();
    rig.leg.abort();
    assert!(rig.leg.is_closed());
    assert_eq!(rig.drain(), []);
}

#[test]
fn reset_in_time_wait_does_not_cut_it_short() {
    let mut rig = time_wait();
    assert_eq!(rig.segment(1, 0, Flags::RST), Default::default(), "RFC 1337, F1");
    assert_eq!(rig.drain(), []);
    assert_eq!(rig.leg.state(), State::TimeWait);
    assert_eq!(rig.until_deadline(), 2 * MSL);
}

#[test]
fn reset_while_half_closed_is_a_reset() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    rig.drain();
    rig.ack(1);
    assert_eq!(rig.segment(0, 0, Flags::RST).event, Some(Event::Reset));
}

#[test]
fn fin_with_reset_is_a_reset() {
    let mut rig = Rig::established();
    let effect = rig.segment(0, 10, Flags::RST | FIN_ACK);
    assert_eq!((effect.event, effect.payload, effect.fin), (Some(Event::Reset), None, false));
}

#[test]
fn fin_does_not_ride_beyond_the_guests_window() {
    let mut rig = Rig::established();
    rig.queued = 20_000;
    rig.leg.host_finished(20_000);
    let out = rig.one();
    assert_eq!(out.len, 20_000);
    assert!(out.is(Flags::ACK | Flags::PSH));
    rig.ack(20_000);
    assert!(rig.one().is(FIN_ACK));
}

#[test]
fn repeated_payload_does_not_bring_the_fin_forward() {
    let mut rig = Rig::established();
    rig.host_sends(1000);
    rig.drain();
    rig.leg.host_finished(1000);
    for _ in 0..3 {
        rig.ack(0);
    }
    let out = rig.drain();
    assert_eq!(out.len(), 2);
    assert!(out[0].is(Flags::ACK | Flags::PSH) && out[0].len == 1000);
    assert!(out[1].is(FIN_ACK) && out[1].len == 0);
}
