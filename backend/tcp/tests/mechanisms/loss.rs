use std::time::Duration;

use vonic_tcp::{DATA_RETRIES, Event, Flags, Instant, Leg, MAX_RTO};

use crate::{CONFIG, ISS, Rig, syn};

/// 20 segments of 1000 bytes are on their way.
fn in_flight() -> Rig {
    let mut rig = Rig::established();
    rig.host_sends(40_000);
    assert_eq!(rig.frames(), [(0, 20_000)]);
    rig
}

#[test]
fn first_timeout_comes_after_a_second_without_measurement() {
    let mut rig = Rig::established();
    assert_eq!(rig.leg.deadline(), None);
    rig.host_sends(10);
    rig.drain();
    // The handshake took no time at all: RTO is its minimum. Without it, see `handshake`.
    assert_eq!(rig.until_deadline(), Duration::from_millis(200));
    rig.millis(199);
    assert_eq!(rig.leg.handle_timeout(rig.now), None);
    assert_eq!(rig.drain(), []);
    rig.expire();
    assert_eq!(rig.frames(), [(0, 10)]);
}

#[test]
fn timeout_sends_everything_again_from_snd_una() {
    let mut rig = in_flight();
    rig.window = 15_000;
    rig.ack(5000);
    assert_eq!(rig.drain(), []);
    rig.expire();
    assert_eq!(rig.frames(), [(5000, 15_000)]);
    assert_eq!(rig.ack(20_000).acked, 15_000, "the guest had it all");
    rig.window = 20_000;
    rig.ack(20_000);
    assert_eq!(rig.frames(), [(20_000, 20_000)]);
}

#[test]
fn ack_of_what_went_before_the_timeout_is_good() {
    let mut rig = in_flight();
    rig.expire();
    assert_eq!(rig.ack(20_000).acked, 20_000);
    assert_eq!(rig.frames(), [(20_000, 20_000)]);
}

#[test]
fn an_ack_after_a_timeout_does_not_look_old() {
    let mut rig = in_flight();
    rig.expire();
    rig.data(1000, 10);
    let out = rig.drain();
    assert_eq!((out[0].at(), out[0].len), (20_000, 0), "behind everything sent, though SND.NXT went back");
    assert_eq!((out[1].at(), out[1].len), (0, 20_000));
}

#[test]
fn timeouts_double_up_to_the_cap_then_r2() {
    let mut rig = Rig::established();
    rig.host_sends(10);
    rig.drain();
    let start = rig.now;
    let mut expected = Duration::from_millis(200);
    for _ in 0..DATA_RETRIES {
        assert_eq!(rig.until_deadline(), expected);
        assert_eq!(rig.expire(), None);
        assert_eq!(rig.frames(), [(0, 10)]);
        expected = (expected * 2).min(MAX_RTO);
    }
    assert_eq!(rig.expire(), Some(Event::GaveUp));
    assert!(rig.now - start > Duration::from_secs(100));
    assert!(rig.one().is(Flags::RST | Flags::ACK));
    assert!(rig.leg.is_closed());
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn progress_restarts_the_timer_and_r2() {
    let mut rig = in_flight();
    for _ in 0..DATA_RETRIES {
        assert_eq!(rig.expire(), None);
        rig.drain();
    }
    rig.ack(1000);
    for _ in 0..DATA_RETRIES {
        assert_eq!(rig.expire(), None);
        rig.drain();
    }
    assert_eq!(rig.expire(), Some(Event::GaveUp));
}

#[test]
fn all_acknowledged_stops_the_timer() {
    let mut rig = Rig::established();
    rig.host_sends(10);
    rig.drain();
    rig.ack(10);
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn rto_follows_the_round_trip_time() {
    let mut rig = Rig::established();
    let mut total = 0;
    for _ in 0..100 {
        rig.host_sends(10);
        rig.drain();
        rig.millis(500);
        total += 10;
        rig.ack(total);
    }
    rig.host_sends(10);
    rig.drain();
    let rto = rig.until_deadline();
    assert!(rto > Duration::from_millis(500) && rto < Duration::from_millis(550), "{rto:?}");
}

#[test]
fn first_measurement_gives_three_times_itself() {
    let mut rig = Rig::new(Leg::accept(&CONFIG, &syn(1000, &[]), ISS, Instant(0)));
    rig.leg.host_connected(rig.now);
    rig.drain();
    rig.millis(300);
    rig.ack(0);
    rig.host_sends(10);
    rig.drain();
    assert_eq!(rig.until_deadline(), Duration::from_millis(900), "RFC 6298 §2.2: R + 4 * R/2");
}

#[test]
fn repeated_segments_are_not_measured() {
    let mut rig = Rig::established();
    rig.host_sends(10);
    rig.drain();
    rig.expire();
    rig.drain();
    rig.millis(100);
    rig.ack(10);
    rig.host_sends(10);
    rig.drain();
    assert_eq!(rig.until_deadline(), Duration::from_millis(400), "still backed off (Karn)");
    rig.ack(20);
    rig.host_sends(10);
    rig.drain();
    assert_eq!(rig.until_deadline(), Duration::from_millis(200));
}

#[test]
fn three_duplicate_acks_repeat_the_first_segment_once() {
    let mut rig = in_flight();
    for _ in 0..2 {
        rig.ack(0);
        assert_eq!(rig.drain(), []);
    }
    rig.ack(0);
    assert_eq!(rig.frames(), [(0, 20_000)]);
    for _ in 0..10 {
        rig.ack(0);
        assert_eq!(rig.drain(), []);
    }
    assert_eq!(rig.ack(20_000).acked, 20_000);
    assert_eq!(rig.frames(), [(20_000, 20_000)]);
}

#[test]
fn acks_with_payload_or_another_window_are_no_duplicates() {
    let mut rig = in_flight();
    for n in 0..5 {
        rig.data(n * 100, 100);
    }
    for n in 0..5 {
        rig.window = 20_000 + n;
        rig.ack(0);
    }
    assert!(rig.drain().iter().all(|out| out.len == 0));
    let mut idle = Rig::established();
    for _ in 0..5 {
        idle.ack(0);
    }
    idle.host_sends(100);
    assert_eq!(idle.frames(), [(0, 100)], "with nothing on its way nothing is a duplicate");
    assert_eq!(idle.drain(), []);
}

#[test]
fn a_partial_ack_uncovers_the_next_hole() {
    let mut rig = in_flight();
    for _ in 0..3 {
        rig.ack(0);
    }
    rig.drain();
    rig.window = 17_000;
    rig.ack(3000);
    assert_eq!(rig.frames(), [(3000, 17_000)]);
    rig.window = 5000;
    rig.ack(15_000);
    assert_eq!(rig.frames(), [(15_000, 5000)]);
    rig.window = 20_000;
    rig.ack(20_000);
    assert_eq!(rig.frames(), [(20_000, 20_000)], "recovered: only new payload");
}

#[test]
fn recovery_begins_once_per_window() {
    let mut rig = in_flight();
    rig.expire();
    rig.drain();
    for _ in 0..5 {
        rig.ack(0);
    }
    assert_eq!(rig.drain(), [], "duplicates of what the timeout repeated");
    rig.ack(20_000);
    rig.drain();
    rig.ack(21_000);
    rig.drain();
    for _ in 0..3 {
        rig.ack(21_000);
    }
    assert_eq!(rig.frames()[0].0, 21_000);
}

#[test]
fn what_a_timeout_repeated_in_vain_goes_again_after_three_duplicates() {
    let mut rig = in_flight();
    rig.expire();
    rig.drain();
    rig.ack(5000);
    rig.drain();
    for _ in 0..2 {
        rig.ack(5000);
        assert_eq!(rig.drain(), []);
    }
    rig.ack(5000);
    assert_eq!(rig.frames(), [(5000, 20_000)], "without waiting for the next timeout");
    for _ in 0..10 {
        rig.ack(5000);
        assert_eq!(rig.drain(), [], "once");
    }
}

#[test]
fn a_lone_fin_is_repeated_fast_too() {
    let mut rig = Rig::established();
    rig.leg.host_finished(0);
    assert!(rig.one().is(Flags::FIN | Flags::ACK));
    for _ in 0..3 {
        rig.ack(0);
    }
    let out = rig.one();
    assert!(out.is(Flags::FIN | Flags::ACK));
    assert_eq!(out.at(), 0);
}

#[test]
fn fast_retransmit_works_half_closed() {
    let mut rig = Rig::established();
    rig.segment(0, 0, Flags::ACK | Flags::FIN);
    assert!(rig.leg.taken(rig.now, 0));
    rig.drain();
    rig.host_sends(5000);
    assert_eq!(rig.frames(), [(0, 5000)]);
    for _ in 0..3 {
        rig.ack(0);
    }
    assert_eq!(rig.frames(), [(0, 5000)]);
}

#[test]
fn progress_restarts_the_timer_and_more_payload_does_not() {
    let mut rig = Rig::established();
    rig.host_sends(1000);
    rig.drain();
    rig.millis(150);
    rig.host_sends(1000);
    rig.drain();
    assert_eq!(rig.until_deadline(), Duration::from_millis(50));
    rig.ack(500);
    assert_eq!(rig.until_deadline(), Duration::from_millis(200));
}

#[test]
fn an_ack_in_time_saves_the_repetition() {
    let mut rig = in_flight();
    for _ in 0..3 {
        rig.ack(0);
    }
    rig.ack(20_000);
    assert_eq!(rig.frames(), [(20_000, 20_000)]);
}
