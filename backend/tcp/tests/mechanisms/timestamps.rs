use std::time::Duration;

use vonic_tcp::{Config, Event, Flags, Instant, Leg, MSL, Note, Options, Segment, State, Timestamps};

use crate::{CONFIG, IRS, ISS, MSS, Out, Rig, syn};

/// Our TSval at instant 0: the clock wraps within the first second.
const OFFSET: u32 = u32::MAX - 999;
const STAMPED: Config = Config { timestamps: Some(OFFSET), ..CONFIG };

fn stamp(val: u32, ecr: u32) -> Option<Timestamps> {
    Some(Timestamps { val, ecr })
}

/// The guest's clock stands at 100.
fn stamped() -> Rig {
    Rig::established_with(&STAMPED, Options { timestamps: stamp(100, 0), ..Options::default() })
}

fn of(out: &Out) -> Timestamps {
    Options::parse(out.header.options.as_slice()).timestamps.expect("a timestamp")
}

#[test]
fn timestamps_are_agreed_upon_only_if_both_want_them() {
    for (config, offered, agreed) in
        [(STAMPED, None, false), (CONFIG, stamp(1, 0), false), (STAMPED, stamp(1, 0), true)]
    {
        let options = Options { timestamps: offered, ..Options::default() }.emit();
        let mut rig = Rig::new(Leg::accept(&config, &syn(1000, options.as_slice()), ISS, Instant(0)));
        rig.leg.host_connected(rig.now);
        let header = rig.one().header;
        let answer = Options::parse(header.options.as_slice()).timestamps;
        // A second has passed: the clock stands at 0 again.
        assert_eq!(answer, agreed.then_some(Timestamps { val: 0, ecr: 1 }));
        assert_eq!(rig.leg.options_len(), if agreed { 12 } else { 0 });
    }
}

#[test]
fn our_syn_offers_and_the_guests_answer_decides() {
    for (answer, len) in [(None, 0), (stamp(5, 0), 12)] {
        let mut rig = Rig::new(Leg::open(&STAMPED, ISS, Instant(0)));
        assert_eq!(of(&rig.one()), Timestamps { val: 0, ecr: 0 });
        let options = Options { timestamps: answer, ..Options::default() }.emit();
        let flags = Flags::SYN | Flags::ACK;
        let segment = Segment { seq: IRS, ack: ISS + 1, flags, window: 500, options: options.as_slice(), len: 0 };
        assert_eq!(rig.leg.handle_segment(rig.now, &segment).event, Some(Event::Established));
        assert_eq!(rig.leg.options_len(), len);
        assert_eq!(rig.one().header.options.as_slice().len(), usize::from(len));
    }
}

#[test]
fn every_segment_has_them_resets_too() {
    let mut rig = stamped();
    rig.host_sends(10);
    rig.data(0, 5);
    rig.leg.host_finished(10);
    let mut out = rig.drain();
    rig.leg.abort();
    out.extend(rig.drain());
    assert!(out.last().is_some_and(|out| out.header.flags.contains(Flags::RST)));
    assert!(out.iter().all(|out| out.header.options.as_slice().len() == 12), "{out:?}");
}

#[test]
fn options_come_off_the_segments_payload() {
    assert_eq!(stamped().leg.mss(), MSS - 12);
    let mut rig = stamped();
    rig.host_sends(5 * u32::from(MSS - 12));
    assert_eq!(rig.drain()[0].len, 5 * u32::from(MSS - 12));
    assert_eq!(Rig::established_with(&STAMPED, Options::default()).leg.mss(), MSS);
}

#[test]
fn echo_is_of_the_first_segment_that_the_ack_answers() {
    let mut rig = stamped();
    for (offset, val) in [(0, 200), (1000, 201), (2000, 202)] {
        rig.options.timestamps = stamp(val, 0);
        rig.data(offset, 1000);
    }
    assert_eq!(of(&rig.one()).ecr, 200, "RFC 7323 §4.3: of the one at Last.ACK.sent");
    rig.options.timestamps = stamp(300, 0);
    rig.data(4000, 1000);
    assert_eq!(of(&rig.one()).ecr, 200, "a segment behind a hole is not echoed");
    rig.options.timestamps = stamp(299, 0);
    rig.data(3000, 1000);
    assert_eq!(of(&rig.one()).ecr, 299);
}

#[test]
fn old_timestamps_are_challenged_and_dropped() {
    let mut rig = stamped();
    rig.options.timestamps = stamp(99, 0);
    let effect = rig.segment(0, 100, Flags::ACK);
    assert_eq!((effect.payload, effect.note), (None, Some(Note::Paws)));
    assert_eq!(rig.one().acks(), 0);
    let effect = rig.segment(0, 0, Flags::ACK);
    assert_eq!(effect.note, Some(Note::Challenge));
    rig.drain();
    rig.options.timestamps = stamp(100, 0);
    assert_eq!(rig.data(0, 100).payload, Some(0..100), "the same is not old");
}

#[test]
fn wrapped_timestamps_are_newer() {
    let mut rig = stamped();
    rig.options.timestamps = stamp(100 + (1 << 31) - 1, 0);
    assert_eq!(rig.data(0, 100).payload, Some(0..100));
    rig.drain();
    rig.options.timestamps = stamp(100 + (1 << 31), 0);
    assert_eq!(rig.data(100, 100).payload, Some(0..100));
    rig.drain();
    rig.options.timestamps = stamp(50, 0);
    assert_eq!(rig.data(200, 100).payload, Some(0..100), "past the wrap");
}

#[test]
fn a_reset_is_not_judged_by_its_timestamp() {
    for timestamps in [stamp(1, 0), None] {
        let mut rig = stamped();
        rig.options.timestamps = timestamps;
        assert_eq!(rig.segment(0, 0, Flags::RST).event, Some(Event::Reset));
    }
}

#[test]
fn a_segment_without_the_agreed_timestamp_is_dropped_silently() {
    let mut rig = stamped();
    rig.options.timestamps = None;
    let effect = rig.segment(0, 100, Flags::ACK);
    assert_eq!((effect.payload, effect.note), (None, Some(Note::NoTimestamp)));
    assert_eq!(rig.drain(), []);
}

#[test]
fn after_24_days_any_timestamp_is_believed() {
    let mut rig = stamped();
    rig.after(Duration::from_secs(24 * 24 * 3600 - 1));
    rig.options.timestamps = stamp(99, 0);
    assert_eq!(rig.segment(0, 100, Flags::ACK).payload, None);
    rig.drain();
    rig.after(Duration::from_secs(1));
    assert_eq!(rig.data(0, 100).payload, Some(0..100));
    assert_eq!(of(&rig.one()).ecr, 99);
}

#[test]
fn our_clock_counts_milliseconds_from_its_offset() {
    let mut rig = stamped();
    rig.data(0, 1);
    assert_eq!(of(&rig.one()).val, 0);
    rig.millis(1234);
    rig.data(1, 1);
    assert_eq!(of(&rig.one()).val, 1234);
}

/// A leg that goes on elsewhere, under a clock that starts anew, is given the offset with which TSval goes on.
#[test]
fn another_clock_goes_on_where_the_offset_says() {
    for (offset, now) in [(0, 5_000_000), (5000, 0), (4000, 1_000_000)] {
        let mut rig = Rig::new(Leg::open(&Config { timestamps: Some(offset), ..CONFIG }, ISS, Instant(now)));
        rig.now = Instant(now);
        assert_eq!(of(&rig.one()).val, 5000);
    }
}

#[test]
fn round_trips_are_measured_by_the_echo_even_of_repeated_segments() {
    let mut rig = stamped();
    rig.host_sends(10);
    rig.drain();
    rig.expire();
    let repeated = of(&rig.one()).val;
    rig.millis(300);
    rig.options.timestamps = stamp(101, repeated);
    rig.ack(10);
    rig.host_sends(10);
    rig.drain();
    // The handshake took no time: SRTT was 0. By Karn's rule the timeout would still be 400 ms.
    assert_eq!(rig.until_deadline(), Duration::from_micros(37_500 + 4 * 75_000));
}

/// RFC 7323 appendix G: of many measurements in one round trip each counts the less.
#[test]
fn many_echoes_of_one_round_trip_weigh_as_one() {
    let after_one = |flight: u32| {
        let mut rig = stamped();
        rig.host_sends(flight);
        let sent = of(&rig.drain()[0]).val;
        rig.millis(190);
        rig.options.timestamps = stamp(101, sent + 1);
        rig.ack(1);
        rig.until_deadline()
    };
    let (alone, many) = (after_one(988), after_one(19_000));
    assert!(alone > Duration::from_millis(200) && many < alone, "{alone:?} {many:?}");
}

#[test]
fn echoes_of_nothing_say_nothing() {
    for ecr in [0, 500_000, u32::MAX / 2] {
        let mut rig = stamped();
        rig.host_sends(10);
        rig.drain();
        rig.expire();
        rig.drain();
        rig.options.timestamps = stamp(101, ecr);
        rig.ack(10);
        rig.host_sends(10);
        rig.drain();
        assert_eq!(rig.until_deadline(), Duration::from_millis(400), "{ecr}: still backed off");
    }
}

#[test]
fn a_new_syn_replaces_time_wait_by_its_timestamp() {
    let mut rig = stamped();
    rig.leg.host_finished(0);
    rig.drain();
    rig.ack(1);
    rig.segment(0, 0, Flags::FIN | Flags::ACK);
    assert!(rig.leg.taken(rig.now, 0));
    assert_eq!(rig.leg.state(), State::TimeWait);
    assert_eq!(rig.until_deadline(), 2 * MSL);
    let lower = 0u32.wrapping_sub(5000);
    for (timestamps, offset, reusable) in [
        (stamp(101, 0), lower, true), // later, whatever its number
        (stamp(100, 0), lower, false),
        (stamp(100, 0), 50, true), // the same: the number decides
        (stamp(99, 0), 50, false),
        (None, 50, true),
        (None, lower, false),
    ] {
        let options = Options { timestamps, ..Options::default() }.emit();
        let syn = Segment { seq: IRS + 2 + offset, ..syn(1000, options.as_slice()) };
        assert_eq!(rig.leg.reusable(&syn), reusable, "{timestamps:?} {offset}");
    }
}

#[test]
fn a_repeated_syn_renews_the_echo() {
    let syn_at = |val| Options { timestamps: stamp(val, 0), ..Options::default() }.emit();
    let mut rig = Rig::new(Leg::accept(&STAMPED, &syn(1000, syn_at(7).as_slice()), ISS, Instant(0)));
    rig.leg.host_connected(rig.now);
    assert_eq!(of(&rig.one()).ecr, 7);
    rig.leg.handle_segment(rig.now, &syn(1000, syn_at(1007).as_slice()));
    let again = rig.one();
    assert_eq!((of(&again).ecr, again.header.seq), (1007, ISS));
}
