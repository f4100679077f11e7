use vonic_tcp::{Flags, Instant, Leg, Options, Transmit};

use crate::{CONFIG, FRAME, ISS, Rig, syn};

#[test]
fn a_frame_holds_whole_segments_but_for_the_streams_end() {
    let mut rig = Rig::established();
    rig.host_sends(5300);
    let Some(Transmit::Data(plan)) = rig.leg.poll(rig.now, 3999) else { panic!("no plan") };
    assert_eq!((plan.offset, plan.max), (0, 3000));
    let header = rig.leg.sent(rig.now, &plan, 3000).unwrap();
    assert_eq!(header.flags, Flags::ACK);
    let out = rig.one();
    assert_eq!((out.at(), out.len), (3000, 2300));
    assert!(out.is(Flags::ACK | Flags::PSH), "the queue is empty");
}

#[test]
fn payload_carries_the_ack() {
    let mut rig = Rig::established();
    rig.data(0, 700);
    rig.host_sends(100);
    let out = rig.one();
    assert_eq!((out.len, out.acks()), (100, 700));
}

#[test]
fn duplicate_acks_go_before_payload_and_alone() {
    let mut rig = Rig::established();
    rig.data(1000, 700);
    rig.host_sends(100);
    let out = rig.drain();
    assert_eq!(out.iter().map(|out| out.len).collect::<Vec<_>>(), [0, 100]);
}

#[test]
fn an_empty_queue_is_peeked_once() {
    let mut rig = Rig::established();
    assert!(rig.leg.poll(rig.now, FRAME).is_none());
    rig.leg.host_readable();
    let Some(Transmit::Data(plan)) = rig.leg.poll(rig.now, FRAME) else { panic!("no plan") };
    assert_eq!(rig.leg.sent(rig.now, &plan, 0), None);
    assert_eq!(rig.leg.poll(rig.now, FRAME), None);
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn a_plan_not_sent_changes_nothing() {
    let mut rig = Rig::established();
    rig.host_sends(100);
    let first = rig.leg.poll(rig.now, FRAME);
    assert!(first.is_some());
    assert_eq!(rig.leg.poll(rig.now, FRAME), first);
    assert_eq!(rig.leg.deadline(), None);
    assert_eq!(rig.frames(), [(0, 100)]);
}

#[test]
fn guests_window_bounds_what_is_on_its_way() {
    let mut rig = Rig::established();
    rig.host_sends(50_000);
    assert_eq!(rig.frames(), [(0, 20_000)]);
    assert_eq!(rig.ack(5000).acked, 5000);
    assert_eq!(rig.frames(), [(20_000, 5000)]);
}

#[test]
fn a_sliver_of_window_is_not_used() {
    let mut rig = Rig::established();
    rig.host_sends(50_000);
    rig.drain();
    rig.window = 19_100;
    rig.ack(1000);
    assert_eq!(rig.drain(), [], "100 bytes more is silly");
    rig.window = 19_100;
    rig.ack(2000);
    assert_eq!(rig.frames(), [(20_000, 1000)], "1100 bytes hold a segment");
}

#[test]
fn half_of_a_tiny_window_is_used() {
    let mut rig = Rig::new(Leg::accept(&CONFIG, &syn(300, &[]), ISS, Instant(0)));
    rig.leg.host_connected(rig.now);
    rig.drain();
    rig.window = 300;
    rig.ack(0);
    rig.host_sends(1000);
    assert_eq!(rig.frames(), [(0, 300)]);
    rig.window = 149;
    rig.ack(300);
    assert_eq!(rig.drain(), []);
    rig.window = 150;
    rig.ack(300);
    assert_eq!(rig.frames(), [(300, 150)]);
}

#[test]
fn acked_counts_payload_without_syn_and_fin() {
    let mut rig = Rig::established();
    rig.host_sends(100);
    rig.leg.host_finished(100);
    rig.drain();
    assert_eq!(rig.ack(40).acked, 40);
    assert_eq!(rig.ack(101).acked, 60);
    assert_eq!(rig.ack(101).acked, 0);
}

#[test]
fn window_comes_from_the_newest_segment_only() {
    let mut rig = Rig::established();
    rig.data(0, 100);
    rig.window = 9000;
    rig.data(100, 100);
    rig.window = 1;
    rig.segment(50, 100, Flags::ACK);
    assert_eq!(rig.leg.snd_wnd(), 9000, "an older SEG.SEQ does not count");
    rig.host_sends(10);
    rig.drain();
    rig.window = 8000;
    rig.guest_acks = 10;
    rig.segment(200, 0, Flags::ACK);
    rig.window = 7000;
    rig.guest_acks = 5;
    rig.segment(200, 0, Flags::ACK);
    assert_eq!(rig.leg.snd_wnd(), 8000, "nor does an older SEG.ACK");
}

#[test]
fn small_writes_go_at_once_though_others_are_unacknowledged() {
    let mut rig = Rig::established();
    for n in 0..10 {
        rig.host_sends(10);
        assert_eq!(rig.frames(), [(n * 10, 10)], "no Nagle algorithm: the host's kernel has had its say");
    }
}

#[test]
fn only_a_syn_announces_an_mss() {
    let mut rig = Rig::established();
    rig.data(0, 10);
    rig.host_sends(10);
    rig.data(100, 10);
    rig.leg.host_finished(10);
    let mut out = rig.drain();
    rig.leg.abort();
    out.extend(rig.drain());
    assert!(out.len() >= 3);
    assert!(out.iter().all(|out| Options::parse(out.header.options.as_slice()).mss.is_none()));
}
