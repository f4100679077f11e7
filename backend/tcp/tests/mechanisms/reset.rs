use std::time::Duration;

use vonic_tcp::{Effect, Event, Flags, Note, Segment, Seq, State, reset_for};

use crate::{IRS, ISS, Rig};

/// Nothing but a challenge ACK comes of it.
const CHALLENGED: Effect = Effect { acked: 0, payload: None, fin: false, event: None, note: Some(Note::Challenge) };

#[test]
fn exact_reset_closes() {
    let mut rig = Rig::established();
    rig.data(0, 100);
    assert_eq!(rig.segment(100, 0, Flags::RST).event, Some(Event::Reset));
    assert!(rig.leg.is_closed());
    assert_eq!(rig.leg.deadline(), None);
    assert_eq!(rig.drain(), []);
}

#[test]
fn reset_within_the_window_is_challenged_and_outside_it_ignored() {
    let mut rig = Rig::established();
    rig.data(0, 100);
    rig.drain();
    for offset in [101, 5000, 10_000] {
        assert_eq!(rig.segment(offset, 0, Flags::RST).event, None);
        assert_eq!(rig.one().acks(), 100);
    }
    for offset in [0, 99, 10_001] {
        assert_eq!(rig.segment(offset, 0, Flags::RST).event, None);
        assert_eq!(rig.drain(), []);
    }
    assert_eq!(rig.leg.state(), State::Established);
}

#[test]
fn reset_is_seen_while_our_window_is_closed() {
    let mut rig = Rig::established();
    rig.data(0, 10_000);
    rig.leg.set_window(0);
    assert_eq!(rig.segment(10_000, 0, Flags::RST | Flags::ACK).event, Some(Event::Reset));
}

#[test]
fn syn_in_a_synchronized_state_is_challenged() {
    for offset in [0u32.wrapping_sub(1), 0, 500, 50_000] {
        for flags in [Flags::SYN, Flags::SYN | Flags::ACK] {
            let mut rig = Rig::established();
            assert_eq!(rig.segment(offset, 0, flags), CHALLENGED);
            assert_eq!(rig.one().acks(), 0);
            assert_eq!(rig.leg.state(), State::Established);
        }
    }
}

#[test]
fn ack_of_what_was_never_sent_is_challenged_and_its_payload_dropped() {
    let mut rig = Rig::established();
    rig.guest_acks = 1;
    assert_eq!(rig.segment(0, 100, Flags::ACK), CHALLENGED);
    assert_eq!(rig.one().acks(), 0);
}

#[test]
fn ack_older_than_the_largest_window_is_challenged() {
    let mut rig = Rig::established();
    rig.host_sends(100);
    rig.drain();
    rig.ack(100);
    rig.guest_acks = 100u32.wrapping_sub(20_001);
    assert_eq!(rig.segment(0, 100, Flags::ACK), CHALLENGED);
    assert!(rig.one().is(Flags::ACK));
    rig.guest_acks = 100u32.wrapping_sub(20_000);
    assert_eq!(rig.segment(0, 100, Flags::ACK).payload, Some(0..100), "an old ACK is ignored, the payload counts");
}

#[test]
fn aborted_leg_resets_the_guest_where_it_expects() {
    let mut rig = Rig::established();
    rig.host_sends(2500);
    rig.drain();
    rig.data(0, 70);
    rig.leg.abort();
    assert_eq!(rig.leg.state(), State::Closed);
    assert!(!rig.leg.is_closed());
    let out = rig.one();
    assert!(out.is(Flags::RST | Flags::ACK));
    assert_eq!((out.at(), out.acks()), (2500, 70));
    assert!(rig.leg.is_closed());
    rig.leg.abort();
    assert_eq!(rig.drain(), []);
    assert_eq!(rig.data(70, 10), Default::default());
}

#[test]
fn aborted_leg_resets_within_a_closed_window() {
    let mut rig = Rig::established();
    rig.host_sends(2500);
    rig.drain();
    rig.window = 0;
    rig.ack(1000);
    rig.expire();
    rig.drain();
    rig.leg.abort();
    assert_eq!(rig.one().at(), 1000, "the guest has dropped what came after its window closed");
}

#[test]
fn segment_of_no_leg_is_reset() {
    let segment = Segment { seq: IRS, ack: ISS, flags: Flags::SYN | Flags::FIN, window: 0, options: &[], len: 10 };
    let header = reset_for(&segment).unwrap();
    assert_eq!((header.seq, header.ack, header.flags), (Seq(0), IRS + 12, Flags::RST | Flags::ACK));
    let header = reset_for(&Segment { flags: Flags::ACK, ..segment }).unwrap();
    assert_eq!((header.seq, header.flags, header.window), (ISS, Flags::RST, 0));
    assert_eq!(reset_for(&Segment { flags: Flags::RST | Flags::ACK, ..segment }), None);
}

#[test]
fn challenges_are_bounded_in_time_and_counted() {
    let mut rig = Rig::established();
    let mut answers = 0;
    for n in 0..100 {
        let effect = rig.segment(500, 0, if n % 2 == 0 { Flags::RST } else { Flags::SYN });
        let expected = if n < 10 { Note::Challenge } else { Note::ChallengeLimited };
        assert_eq!(effect.note, Some(expected), "{n}");
        answers += rig.drain().len();
        rig.millis(10);
    }
    assert_eq!(answers, 10, "RFC 5961 §7: ten in five seconds");
    rig.after(Duration::from_secs(4));
    assert_eq!(rig.segment(500, 0, Flags::RST), CHALLENGED);
    assert_eq!(rig.one().acks(), 0);
}

#[test]
fn bounded_challenges_hold_back_no_acknowledgment_of_payload() {
    let mut rig = Rig::established();
    for _ in 0..20 {
        rig.segment(500, 0, Flags::SYN);
    }
    rig.drain();
    rig.data(1000, 1000);
    assert_eq!(rig.one().acks(), 0, "a duplicate ACK is no challenge");
    rig.data(0, 1000);
    assert_eq!(rig.one().acks(), 1000);
}

#[test]
fn a_challenge_can_be_withdrawn() {
    let mut rig = Rig::established();
    assert_eq!(rig.segment(500, 0, Flags::SYN), CHALLENGED);
    rig.leg.withdraw_challenge();
    assert_eq!(rig.drain(), []);
}
