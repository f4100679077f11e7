use std::time::Duration;

use vonic_tcp::{DATA_RETRIES, Event, Flags, MAX_RTO};

use crate::Rig;

/// The guest's window is closed and the host has payload.
fn closed() -> Rig {
    let mut rig = Rig::established();
    rig.window = 0;
    rig.ack(0);
    rig.host_sends(3000);
    assert_eq!(rig.drain(), []);
    rig
}

#[test]
fn a_closed_window_is_probed_with_one_byte_ever_more_rarely() {
    let mut rig = closed();
    let mut expected = Duration::from_millis(200);
    for _ in 0..30 {
        assert_eq!(rig.until_deadline(), expected);
        assert_eq!(rig.expire(), None);
        assert_eq!(rig.frames(), [(0, 1)]);
        rig.ack(0);
        assert_eq!(rig.drain(), []);
        expected = (expected * 2).min(MAX_RTO);
    }
}

#[test]
fn an_opened_window_is_used_at_once_and_the_probes_byte_goes_again() {
    let mut rig = closed();
    rig.expire();
    rig.drain();
    rig.ack(0);
    rig.window = 20_000;
    rig.ack(0);
    assert_eq!(rig.frames(), [(0, 3000)]);
    rig.ack(3000);
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn a_probes_byte_may_be_accepted() {
    let mut rig = closed();
    rig.expire();
    rig.drain();
    rig.window = 20_000;
    assert_eq!(rig.ack(1).acked, 1);
    assert_eq!(rig.frames(), [(1, 2999)]);
}

#[test]
fn acks_do_not_leave_the_closed_window() {
    let mut rig = closed();
    rig.expire();
    rig.drain();
    rig.data(0, 100);
    assert_eq!(rig.one().at(), 0, "not behind the probe, where the guest would drop it");
}

#[test]
fn a_guest_that_answers_no_probe_is_given_up() {
    let mut rig = closed();
    for _ in 0..DATA_RETRIES {
        assert_eq!(rig.expire(), None);
        assert_eq!(rig.frames(), [(0, 1)]);
    }
    assert_eq!(rig.expire(), Some(Event::GaveUp));
    assert!(rig.one().is(Flags::RST | Flags::ACK));
}

#[test]
fn nothing_to_send_needs_no_probe() {
    let mut rig = Rig::established();
    rig.window = 0;
    rig.ack(0);
    assert_eq!(rig.drain(), []);
    assert_eq!(rig.leg.deadline(), None);
    rig.leg.host_readable();
    assert_eq!(rig.drain(), []);
    rig.expire();
    assert_eq!(rig.drain(), [], "the queue turned out to be empty");
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn a_window_closed_over_bytes_on_their_way_rewinds() {
    let mut rig = Rig::established();
    rig.host_sends(5000);
    rig.drain();
    rig.window = 0;
    rig.ack(2000);
    assert_eq!(rig.drain(), []);
    rig.expire();
    assert_eq!(rig.frames(), [(2000, 1)]);
    rig.window = 20_000;
    rig.ack(2000);
    assert_eq!(rig.frames(), [(2000, 3000)]);
}

/// What Linux answers once a socket's memory is full: a window of 0 to bytes that it drops, and to the next ones the window that it had
/// promised (tcp_data_queue, ICSK_ACK_NOMEM). The leg has stopped to believe it.
fn refused() -> Rig {
    let mut rig = Rig::established();
    rig.window = 6000;
    rig.ack(0);
    rig.host_sends(9000);
    let mut fed = 0;
    while !rig.frames().is_empty() {
        fed += 1;
        assert!(fed < 10, "fed and refused as fast as both can");
        for window in [0, 6000] {
            rig.window = window;
            rig.ack(0);
        }
    }
    rig
}

#[test]
fn a_window_that_twice_refused_what_it_had_asked_for_is_probed_like_a_closed_one() {
    let mut rig = refused();
    let mut expected = rig.until_deadline();
    for _ in 0..20 {
        assert_eq!(rig.until_deadline(), expected);
        assert_eq!(rig.expire(), None);
        assert_eq!(rig.frames(), [(0, 1)]);
        rig.ack(0);
        assert_eq!(rig.frames(), []);
        expected = (expected * 2).min(MAX_RTO);
    }
    rig.expire();
    rig.drain();
    rig.ack(1);
    assert_eq!(rig.frames(), [(1, 6000)], "the probe was taken");
}

#[test]
fn a_window_that_refused_bytes_is_used_at_once_when_it_opens_further() {
    let mut rig = refused();
    rig.window = 7000;
    rig.ack(0);
    assert_eq!(rig.frames(), [(0, 7000)]);
}

#[test]
fn a_shrunk_window_holds_back_new_payload_only() {
    let mut rig = Rig::established();
    rig.host_sends(20_000);
    rig.drain();
    rig.host_sends(5000);
    rig.window = 5000;
    rig.ack(10_000);
    assert_eq!(rig.drain(), []);
    rig.expire();
    assert_eq!(rig.frames(), [(10_000, 5000)], "what was sent goes again as far as the window reaches");
    rig.ack(15_000);
    assert_eq!(rig.frames(), [(15_000, 5000)]);
}

#[test]
fn a_small_window_is_used_after_the_override_timeout() {
    let mut rig = Rig::established();
    rig.window = 100;
    rig.ack(0);
    rig.host_sends(3000);
    assert_eq!(rig.drain(), []);
    assert_eq!(rig.expire(), None);
    assert_eq!(rig.frames(), [(0, 100)]);
}

#[test]
fn a_small_window_that_holds_the_rest_is_used_at_once() {
    let mut rig = Rig::established();
    rig.window = 100;
    rig.ack(0);
    rig.queued = 80;
    rig.leg.host_finished(80);
    let out = rig.one();
    assert_eq!(out.len, 80);
    assert!(out.header.flags.contains(Flags::FIN | Flags::PSH));
}

#[test]
fn a_fin_probes_too() {
    let mut rig = Rig::established();
    rig.window = 0;
    rig.ack(0);
    rig.leg.host_finished(0);
    assert_eq!(rig.drain(), []);
    rig.expire();
    let out = rig.one();
    assert!(out.is(Flags::FIN | Flags::ACK));
    rig.window = 1000;
    rig.ack(0);
    assert!(rig.one().is(Flags::FIN | Flags::ACK));
    rig.ack(1);
    assert_eq!(rig.leg.state(), vonic_tcp::State::FinWait2);
}

#[test]
fn payload_is_repeated_into_however_little_room() {
    let mut rig = Rig::established();
    rig.host_sends(5000);
    rig.drain();
    rig.window = 100;
    rig.ack(1000);
    rig.expire();
    assert_eq!(rig.frames(), [(1000, 100)]);
}

#[test]
fn a_peek_that_failed_is_tried_again_by_the_next_probe() {
    let mut rig = closed();
    rig.expire();
    assert_eq!(rig.frames(), [(0, 1)]);
    rig.ack(0);
    let queued = std::mem::take(&mut rig.queued);
    rig.expire();
    assert_eq!(rig.drain(), []);
    rig.queued = queued;
    rig.expire();
    assert_eq!(rig.frames(), [(0, 1)]);
}
