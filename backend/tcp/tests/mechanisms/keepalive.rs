use std::time::Duration;

use vonic_tcp::{Config, Event, FIN_WAIT_2, Flags, Keepalive, Options, State};

use crate::{CONFIG, Rig};

const ALIVE: Config = Config { keepalive: Some(Keepalive::DEFAULT), ..CONFIG };
const TWO_HOURS: Duration = Duration::from_secs(7200);

fn idle() -> Rig {
    Rig::established_with(&ALIVE, Options::default())
}

#[test]
fn keepalive_is_off_by_default() {
    assert_eq!(Config::new(1460, 7).keepalive, None);
    assert_eq!(Rig::established().leg.deadline(), None);
}

#[test]
fn a_silent_guest_is_asked_after_two_hours() {
    let mut rig = idle();
    assert_eq!(rig.until_deadline(), TWO_HOURS);
    assert_eq!(rig.expire(), None);
    let out = rig.one();
    assert!(out.is(Flags::ACK));
    assert_eq!((out.at(), out.len), (0u32.wrapping_sub(1), 0), "SND.NXT - 1, without payload");
    assert_eq!(rig.until_deadline(), Duration::from_secs(75));
}

#[test]
fn an_answer_starts_the_wait_anew() {
    let mut rig = idle();
    for _ in 0..3 {
        rig.expire();
        rig.drain();
    }
    rig.millis(1);
    rig.ack(0);
    assert_eq!(rig.until_deadline(), TWO_HOURS);
}

#[test]
fn only_silence_counts() {
    let mut rig = idle();
    let asked = rig.leg.deadline();
    rig.after(TWO_HOURS / 2);
    rig.data(0, 10);
    rig.drain();
    assert_eq!(rig.leg.deadline(), asked, "the timer need not move with each segment");
    assert_eq!(rig.expire(), None);
    assert_eq!(rig.drain(), [], "an hour ago there was one");
    assert_eq!(rig.until_deadline(), TWO_HOURS / 2);
    rig.expire();
    assert_eq!(rig.drain().len(), 1);
}

#[test]
fn lost_answers_are_tolerated_and_silence_is_not() {
    let mut rig = idle();
    let start = rig.now;
    for _ in 0..9 {
        assert_eq!(rig.expire(), None);
        assert_eq!(rig.drain().len(), 1);
    }
    assert_eq!(rig.expire(), Some(Event::GaveUp));
    assert_eq!(rig.now - start, Duration::from_secs(7200 + 9 * 75));
    assert!(rig.one().is(Flags::RST | Flags::ACK));
    assert!(rig.leg.is_closed());
}

#[test]
fn payload_on_its_way_needs_no_keepalive() {
    let mut rig = idle();
    rig.host_sends(10);
    rig.drain();
    assert_eq!(rig.until_deadline(), Duration::from_millis(200));
    rig.ack(10);
    assert_eq!(rig.until_deadline(), TWO_HOURS);
}

#[test]
fn a_half_closed_guest_is_asked_too() {
    let mut rig = idle();
    rig.leg.host_finished(0);
    rig.drain();
    rig.ack(1);
    assert_eq!(rig.leg.state(), State::FinWait2);
    assert_eq!(rig.until_deadline(), TWO_HOURS);
    rig.expire();
    assert_eq!(rig.one().at(), 0);
}

#[test]
fn interval_and_number_of_probes_are_the_callers() {
    let keepalive = Keepalive { idle: Duration::from_secs(10), interval: Duration::from_secs(3), probes: 2 };
    let mut rig = Rig::established_with(&Config { keepalive: Some(keepalive), ..CONFIG }, Options::default());
    let start = rig.now;
    while rig.expire().is_none() {
        rig.drain();
    }
    assert_eq!(rig.now - start, Duration::from_secs(16));
}

#[test]
fn on_nobodys_behalf_fin_wait_2_ends() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    rig.drain();
    rig.leg.host_gone(rig.now);
    rig.ack(1);
    assert_eq!(rig.leg.state(), State::FinWait2);
    assert_eq!(rig.until_deadline(), FIN_WAIT_2);
    assert_eq!(rig.expire(), Some(Event::Closed));
    assert!(rig.leg.is_closed());
}

#[test]
fn payload_for_nobody_is_reset() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    rig.drain();
    rig.ack(1);
    rig.leg.host_gone(rig.now);
    assert_eq!(rig.until_deadline(), FIN_WAIT_2);
    let effect = rig.segment(0, 100, Flags::ACK);
    assert_eq!((effect.payload, effect.event), (None, Some(Event::GaveUp)));
    assert!(rig.one().header.flags.contains(Flags::RST));
}

#[test]
fn a_fin_for_nobody_still_closes_well() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    rig.drain();
    rig.ack(1);
    rig.leg.host_gone(rig.now);
    rig.segment(0, 0, Flags::FIN | Flags::ACK);
    assert!(rig.leg.taken(rig.now, 0));
    assert_eq!(rig.leg.state(), State::TimeWait);
}

#[test]
fn a_host_gone_before_its_fin_is_a_reset() {
    let mut rig = Rig::established();
    rig.leg.host_gone(rig.now);
    assert!(rig.one().header.flags.contains(Flags::RST));
    assert!(rig.leg.is_closed());
}
