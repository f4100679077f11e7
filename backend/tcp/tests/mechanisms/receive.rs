use vonic_tcp::{Config, Flags, Instant, Leg, Options, Segment};

use crate::{IRS, ISS, MSS, Rig, syn};

#[test]
fn a_burst_in_order_gets_one_ack() {
    let mut rig = Rig::established();
    for offset in [0, 1000, 2000] {
        assert_eq!(rig.data(offset, 1000).payload, Some(0..1000));
    }
    let out = rig.one();
    assert!(out.is(Flags::ACK));
    assert_eq!((out.acks(), out.header.window), (3000, 7000));
}

/// Case by case: where a segment lies, what of it is offered, and how many ACKs come.
#[test]
fn overlap_matrix() {
    for (offset, len, payload, acks) in [
        (0, 500, None, 1),                  // old
        (0, 1000, None, 1),                 // old, up to the edge
        (500, 1000, Some(500..1000), 1),    // partly old
        (1000, 1000, Some(0..1000), 1),     // exact
        (0, 20_000, Some(1000..11_000), 1), // from before the window to behind it
        (1000, 20_000, Some(0..10_000), 1), // partly beyond the window
        (1001, 10, None, 1),                // a hole
        (10_999, 10, None, 1),              // its last byte in the window
        (11_000, 10, None, 1),              // beyond the window
        (11_000, 0, None, 0),               // empty, at the right edge
        (11_001, 0, None, 1),               // empty, beyond it
        (999, 0, None, 1),                  // empty, old: keepalive
        (999, 1, None, 1),                  // keepalive with a byte
    ] {
        let mut rig = Rig::established();
        rig.data(0, 1000);
        rig.drain();
        rig.leg.set_window(10_000);
        rig.drain();
        let effect = rig.segment(offset, len, Flags::ACK);
        assert_eq!(effect.payload, payload, "{offset}+{len}");
        let n = effect.payload.map_or(0, |payload| payload.end - payload.start);
        rig.leg.taken(rig.now, n);
        let out = rig.drain();
        assert_eq!(out.len(), acks, "{offset}+{len}");
        assert!(out.iter().all(|out| out.is(Flags::ACK) && out.acks() == 1000 + n), "{offset}+{len}: {out:?}");
    }
}

#[test]
fn each_segment_behind_a_hole_gets_a_duplicate_ack() {
    let mut rig = Rig::established();
    for offset in [1000, 2000, 3000] {
        assert_eq!(rig.data(offset, 1000).payload, None);
    }
    let out = rig.drain();
    assert_eq!(out.len(), 3, "as many as the guest's fast retransmit asks for");
    assert!(out.windows(2).all(|pair| pair[0] == pair[1]) && out[0].acks() == 0);
}

#[test]
fn duplicate_acks_per_burst_are_bounded() {
    let mut rig = Rig::established();
    for _ in 0..100 {
        rig.data(1000, 1000);
    }
    assert_eq!(rig.drain().len(), 3);
}

#[test]
fn a_hole_filled_within_the_burst_gets_one_ack() {
    let mut rig = Rig::established();
    rig.data(1000, 1000);
    rig.data(0, 1000);
    assert_eq!(rig.one().acks(), 1000);
}

#[test]
fn room_after_a_short_take_asks_for_the_rest_by_duplicate_acks() {
    let mut rig = Rig::established();
    rig.segment(0, 1000, Flags::ACK);
    rig.leg.taken(rig.now, 400);
    rig.drain();
    rig.leg.ask_again();
    let out = rig.drain();
    assert_eq!(out.len(), 4, "three count beside the first, which may bring another window");
    assert!(out.iter().all(|out| out.is(Flags::ACK) && out.acks() == 400));
}

#[test]
fn short_take_is_acknowledged_as_far_as_it_went() {
    let mut rig = Rig::established();
    assert_eq!(rig.segment(0, 1000, Flags::ACK | Flags::FIN).payload, Some(0..1000));
    assert!(!rig.leg.taken(rig.now, 400), "the FIN stands behind what was not taken");
    assert_eq!(rig.one().acks(), 400);
    let effect = rig.segment(0, 1000, Flags::ACK | Flags::FIN);
    assert_eq!((effect.payload, effect.fin), (Some(400..1000), true));
    assert!(!rig.leg.taken(rig.now, 0));
    assert_eq!(rig.one().acks(), 400);
    rig.segment(0, 1000, Flags::ACK | Flags::FIN);
    assert!(rig.leg.taken(rig.now, 600));
    assert_eq!(rig.one().acks(), 1001);
}

#[test]
fn an_offer_lapses_with_the_next_segment() {
    let mut rig = Rig::established();
    rig.segment(0, 1000, Flags::ACK);
    rig.ack(0);
    assert!(!rig.leg.taken(rig.now, 1000));
    assert_eq!(rig.leg.rcv_nxt(), IRS + 1);
}

#[test]
fn a_take_beyond_the_offer_counts_as_all_of_it() {
    let mut rig = Rig::established();
    rig.segment(0, 1000, Flags::ACK);
    rig.leg.taken(rig.now, 5000);
    assert_eq!(rig.one().acks(), 1000);
}

#[test]
fn right_edge_never_moves_left() {
    let mut rig = Rig::established();
    rig.leg.set_window(0);
    rig.data(0, 4000);
    rig.leg.set_window(0);
    let out = rig.one();
    assert_eq!((out.acks(), out.header.window), (4000, 6000));
    rig.data(4000, 6000);
    rig.leg.set_window(0);
    assert_eq!(rig.one().header.window, 0);
}

#[test]
fn an_edge_not_yet_advertised_may_move_left() {
    let mut rig = Rig::established();
    rig.leg.set_window(11_500);
    rig.leg.set_window(10_000);
    rig.data(0, 1);
    assert_eq!(rig.one().header.window, 9_999);
}

#[test]
fn silly_window_stays_closed() {
    let mut rig = Rig::established();
    rig.data(0, 10_000);
    for free in [0, 1, u32::from(MSS) - 1] {
        rig.leg.set_window(free);
        let window: Vec<u16> = rig.drain().iter().map(|out| out.header.window).collect();
        assert!(window.iter().all(|&window| window == 0), "{window:?}");
    }
    rig.leg.set_window(MSS.into());
    assert_eq!(rig.one().header.window, MSS);
}

#[test]
fn a_host_with_little_room_still_opens_its_window() {
    let leg = Leg::accept(&Config::new(1460, 0), &syn(1000, &[]), ISS, Instant(0));
    let mut rig = Rig::new(leg);
    rig.leg.set_window(600);
    rig.leg.host_connected(rig.now);
    assert_eq!(rig.one().header.window, 600);
    rig.ack(0);
    rig.data(0, 600);
    rig.leg.set_window(299);
    assert_eq!(rig.one().header.window, 0);
    rig.leg.set_window(300);
    assert_eq!(rig.one().header.window, 300);
}

#[test]
fn window_update_is_sent_from_zero_and_by_two_mss() {
    let mut rig = Rig::established();
    rig.data(0, 5000);
    rig.leg.set_window(5000);
    assert_eq!(rig.one().header.window, 5000);
    rig.leg.set_window(6500);
    assert_eq!(rig.drain(), [], "1.5 MSS more is not worth a segment");
    rig.leg.set_window(7500);
    assert_eq!(rig.one().header.window, 7500);
    rig.leg.set_window(7500);
    assert_eq!(rig.drain(), []);
}

#[test]
fn probes_of_our_closed_window_are_answered() {
    let mut rig = Rig::established();
    rig.data(0, 10_000);
    rig.leg.set_window(0);
    rig.drain();
    for len in [0, 1, 1000] {
        rig.host_sends(10);
        rig.drain();
        rig.guest_acks += 10;
        let effect = rig.segment(10_000, len, Flags::ACK);
        assert_eq!(effect.payload, None);
        assert_eq!(effect.acked, 10, "an ACK counts though the window is closed");
        let out = rig.drain();
        assert_eq!(out.len(), usize::from(len > 0));
        assert!(out.iter().all(|out| out.acks() == 10_000 && out.header.window == 0));
    }
}

#[test]
fn scaled_window_rounds_up_so_that_its_edge_stays() {
    let config = Config::new(1000, 10);
    let options = Options { mss: Some(1000), window_scale: Some(0), ..Options::default() }.emit();
    let mut rig = Rig::new(Leg::accept(&config, &syn(1000, options.as_slice()), ISS, Instant(0)));
    rig.leg.set_window(100_000);
    rig.leg.host_connected(rig.now);
    rig.drain();
    rig.ack(0);
    let mut edge = 0;
    for offset in 0..2000 {
        rig.data(offset, 1);
        let out = rig.one();
        let right = out.acks() + (u32::from(out.header.window) << 10);
        assert!(right >= edge && right < 102_400, "{right} after {edge}");
        edge = right;
    }
}

#[test]
fn more_than_the_field_can_say_is_cut() {
    let mut rig = Rig::established();
    rig.leg.set_window(u32::MAX);
    rig.data(0, 1000);
    rig.leg.set_window(u32::MAX);
    assert_eq!(rig.drain().last().unwrap().header.window, u16::MAX);
}

#[test]
fn a_segment_without_ack_is_dropped() {
    let mut rig = Rig::established();
    assert_eq!(rig.segment(0, 100, Flags::PSH), Default::default());
    assert_eq!(rig.drain(), []);
}

#[test]
fn urgent_data_is_payload() {
    let mut rig = Rig::established();
    assert_eq!(rig.segment(0, 100, Flags::ACK | Flags::URG).payload, Some(0..100));
}

#[test]
fn lengths_near_the_end_of_numbers_do_no_harm() {
    let mut rig = Rig::established();
    for len in [u32::MAX, u32::MAX - 1, 1 << 31] {
        let segment =
            Segment { seq: IRS + 1, ack: ISS + 1, flags: Flags::ACK | Flags::FIN, window: 1000, options: &[], len };
        let effect = rig.leg.handle_segment(rig.now, &segment);
        assert!(effect.payload.is_none_or(|payload| payload.end - payload.start <= 10_000));
        assert!(!effect.fin);
    }
}
