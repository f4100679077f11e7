use vonic_tcp::{AckPolicy, Config, Event, Flags, Options, State};

use crate::{CONFIG, Rig};

const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);

fn by_peer() -> Rig {
    Rig::established_with(&Config { ack: AckPolicy::Peer, ..CONFIG }, Options::default())
}

#[test]
fn nothing_is_acknowledged_before_the_peer_has_it() {
    let mut rig = by_peer();
    for offset in [0, 1000, 2000] {
        assert_eq!(rig.data(offset, 1000).payload, Some(0..1000));
        assert_eq!(rig.drain(), [], "an ACK that says nothing new would look like a duplicate");
    }
    assert_eq!(rig.leg.held(), 3000);
    rig.leg.peer_acked(rig.now, 1500);
    assert_eq!(rig.one().acks(), 1500);
    assert_eq!(rig.leg.held(), 1500);
    rig.leg.peer_acked(rig.now, u32::MAX);
    assert_eq!(rig.one().acks(), 3000);
    rig.leg.peer_acked(rig.now, 10);
    assert_eq!(rig.drain(), []);
}

#[test]
fn the_right_edge_stays_where_it_was() {
    let mut rig = by_peer();
    rig.data(0, 4000);
    rig.leg.set_window(6000);
    rig.leg.peer_acked(rig.now, 1000);
    let out = rig.one();
    assert_eq!((out.acks(), out.header.window), (1000, 9000));
    rig.data(4000, 6000);
    rig.leg.set_window(0);
    rig.leg.peer_acked(rig.now, 3000);
    let out = rig.one();
    assert_eq!((out.acks(), out.header.window), (4000, 6000), "all of it is taken: the guest may send no more");
    assert_eq!(rig.segment(10_000, 100, Flags::ACK).payload, None);
}

#[test]
fn more_room_is_told_though_nothing_is_acknowledged() {
    let mut rig = by_peer();
    rig.data(0, 5000);
    rig.leg.set_window(10_000);
    let out = rig.one();
    assert_eq!((out.acks(), out.header.window), (0, 15_000));
}

#[test]
fn what_is_held_and_what_is_free_fit_the_field_together() {
    let mut rig = by_peer();
    rig.leg.set_window(u32::MAX);
    rig.drain();
    rig.data(0, 60_000);
    rig.leg.set_window(u32::MAX);
    assert!(rig.drain().iter().all(|out| out.header.window == u16::MAX));
    assert_eq!(rig.segment(60_000, 60_000, Flags::ACK).payload, Some(0..5535), "the field ends there");
}

#[test]
fn what_the_guest_repeats_is_not_offered_twice() {
    let mut rig = by_peer();
    rig.data(0, 3000);
    for _ in 0..5 {
        assert_eq!(rig.segment(0, 3000, Flags::ACK).payload, None);
        let out = rig.one();
        assert_eq!(out.acks(), 0);
        assert!(out.header.options.as_slice().is_empty(), "what is not acknowledged is no duplicate either");
    }
    assert_eq!(rig.segment(1000, 3000, Flags::ACK).payload, Some(2000..3000));
    rig.leg.taken(rig.now, 1000);
    assert_eq!(rig.leg.held(), 4000);
}

#[test]
fn payload_to_the_guest_carries_only_what_the_peer_has() {
    let mut rig = by_peer();
    rig.data(0, 3000);
    rig.host_sends(10);
    assert_eq!(rig.one().acks(), 0);
    rig.leg.peer_acked(rig.now, 3000);
    rig.host_sends(10);
    assert_eq!(rig.one().acks(), 3000);
}

#[test]
fn a_fin_is_acknowledged_with_the_last_byte() {
    let mut rig = by_peer();
    rig.segment(0, 100, FIN_ACK);
    assert!(rig.leg.taken(rig.now, 100));
    assert_eq!(rig.leg.state(), State::CloseWait);
    assert_eq!(rig.drain(), []);
    rig.leg.peer_acked(rig.now, 99);
    assert_eq!(rig.one().acks(), 99);
    rig.leg.peer_acked(rig.now, 1);
    assert_eq!(rig.one().acks(), 101);
}

#[test]
fn a_fin_alone_is_acknowledged_at_once() {
    let mut rig = by_peer();
    rig.segment(0, 0, FIN_ACK);
    assert!(rig.leg.taken(rig.now, 0));
    assert_eq!(rig.one().acks(), 1);
}

#[test]
fn the_host_socket_is_needed_until_all_is_acknowledged() {
    // The host closes first, then the guest with bytes that the peer does not have yet.
    let mut rig = by_peer();
    rig.leg.host_finished(0);
    rig.drain();
    rig.ack(1);
    rig.segment(0, 100, FIN_ACK);
    assert!(rig.leg.taken(rig.now, 100));
    assert_eq!(rig.leg.state(), State::Closing);
    assert_eq!(rig.drain(), []);
    rig.leg.peer_acked(rig.now, 100);
    assert_eq!(rig.leg.state(), State::TimeWait);
    assert_eq!(rig.one().acks(), 101);
}

#[test]
fn the_last_ack_is_not_owed_for_ever() {
    // The guest closes first, and acknowledges our FIN before the peer has its bytes.
    let mut rig = by_peer();
    rig.segment(0, 100, FIN_ACK);
    assert!(rig.leg.taken(rig.now, 100));
    rig.leg.host_finished(0);
    assert!(rig.one().is(FIN_ACK));
    assert_eq!(rig.leg.state(), State::LastAck);
    assert_eq!(rig.ack(1).event, None);
    assert_eq!(rig.leg.state(), State::Closing);
    rig.leg.peer_acked(rig.now, 100);
    assert_eq!(rig.one().acks(), 101);
    assert_eq!(rig.leg.state(), State::TimeWait, "should the guest not hear this ACK, it is said again");
    rig.segment(0, 100, FIN_ACK);
    assert_eq!(rig.one().acks(), 101);
    assert_eq!(rig.expire(), Some(Event::Closed));
}

#[test]
fn both_at_once_and_the_peer_last() {
    let mut rig = by_peer();
    rig.leg.host_finished(0);
    rig.drain();
    rig.segment(0, 100, FIN_ACK);
    assert!(rig.leg.taken(rig.now, 100));
    assert_eq!(rig.leg.state(), State::Closing);
    assert_eq!(rig.ack(1).event, None);
    rig.leg.peer_acked(rig.now, 100);
    assert_eq!(rig.leg.state(), State::TimeWait);
    assert_eq!(rig.drain().last().map(|out| out.acks()), Some(101));
}

#[test]
fn a_reset_says_what_the_peer_has() {
    let mut rig = by_peer();
    rig.data(0, 100);
    rig.leg.abort();
    assert_eq!(rig.one().acks(), 0);
    rig.leg.peer_acked(rig.now, 100);
    assert_eq!(rig.drain(), []);
}

#[test]
fn under_the_other_policy_nothing_is_ever_held() {
    let mut rig = Rig::established();
    rig.data(0, 100);
    assert_eq!(rig.leg.held(), 0);
    rig.drain();
    rig.leg.peer_acked(rig.now, 100);
    assert_eq!(rig.drain(), []);
}

#[test]
fn an_ack_that_came_after_our_fin_may_be_lost() {
    let mut rig = by_peer();
    rig.segment(0, 100, FIN_ACK);
    assert!(rig.leg.taken(rig.now, 100));
    rig.leg.host_finished(0);
    assert_eq!(rig.one().acks(), 0, "our FIN");
    rig.leg.peer_acked(rig.now, 100);
    assert_eq!(rig.one().acks(), 101, "is lost");
    assert_eq!(rig.ack(1).event, Some(Event::TimeWait));
    rig.segment(0, 100, FIN_ACK);
    assert_eq!(rig.one().acks(), 101);
}
