use std::time::Duration;

use vonic_tcp::{
    Config, DEFAULT_MSS, Event, Flags, Instant, Leg, MIN_MSS, Options, SYN_RETRIES, Segment, State, Transmit,
};

use crate::{CONFIG, FRAME, IRS, ISS, MSS, Out, Rig, syn};

const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);

fn accepted(config: &Config, options: Options) -> Rig {
    let mut rig = Rig::new(Leg::accept(config, &syn(1000, options.emit().as_slice()), ISS, Instant(0)));
    rig.leg.set_window(1 << 20);
    rig
}

fn opened() -> Rig {
    let mut rig = Rig::new(Leg::open(&Config::new(1460, 7), ISS, Instant(0)));
    rig.leg.set_window(1 << 20);
    rig
}

fn answer(options: &[u8]) -> Segment<'_> {
    Segment { seq: IRS, ack: ISS + 1, flags: SYN_ACK, window: 500, options, len: 0 }
}

#[test]
fn guest_hears_nothing_until_the_host_connected() {
    let mut rig = accepted(&CONFIG, Options::default());
    assert_eq!(rig.leg.state(), State::SynReceived);
    assert_eq!(rig.leg.deadline(), None);
    assert_eq!(rig.drain(), []);
    rig.leg.handle_segment(rig.now, &syn(1000, &[]));
    rig.segment(0, 10, Flags::ACK);
    assert_eq!(rig.drain(), []);
    rig.leg.host_connected(rig.now);
    let out = rig.one();
    assert!(out.is(SYN_ACK));
    assert_eq!((out.header.seq, out.header.ack), (ISS, IRS + 1));
    assert_eq!(rig.ack(0).event, Some(Event::Established));
    assert_eq!(rig.leg.state(), State::Established);
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn reset_ends_the_silence() {
    let mut rig = accepted(&CONFIG, Options::default());
    assert_eq!(rig.segment(1, 0, Flags::RST).event, None);
    assert_eq!(rig.segment(0, 0, Flags::RST).event, Some(Event::Reset));
    rig.leg.host_connected(rig.now);
    assert_eq!(rig.drain(), []);
    assert!(rig.leg.is_closed());
}

#[test]
fn syn_ack_has_a_scale_only_if_offered_and_an_unscaled_window() {
    let config = Config::new(1460, 7);
    for (offered, window_scale) in [(None, None), (Some(0), Some(7)), (Some(9), Some(7))] {
        let mut rig = accepted(&config, Options { mss: None, window_scale: offered, ..Options::default() });
        rig.leg.host_connected(rig.now);
        let header = rig.one().header;
        assert_eq!(
            Options::parse(header.options.as_slice()),
            Options { mss: Some(1460), window_scale, ..Options::default() }
        );
        assert_eq!(header.window, u16::MAX);
        rig.ack(0);
        rig.data(0, 1);
        let unscaled = if offered.is_some() { 8192 } else { 65534 };
        assert_eq!(rig.one().header.window, unscaled);
    }
}

#[test]
fn a_scale_above_14_counts_as_14() {
    for (offered, shift) in [(1, 1), (14, 14), (15, 14), (255, 14)] {
        let mut rig = accepted(&CONFIG, Options { mss: None, window_scale: Some(offered), ..Options::default() });
        rig.leg.host_connected(rig.now);
        rig.drain();
        assert_eq!(rig.leg.snd_wnd(), 1000, "a SYN's window is not scaled");
        rig.window = 0x8001;
        rig.ack(0);
        assert_eq!(rig.leg.snd_wnd(), 0x8001 << shift);
    }
    let mut rig = accepted(&Config::new(1000, 15), Options { mss: None, window_scale: Some(0), ..Options::default() });
    rig.leg.host_connected(rig.now);
    assert_eq!(Options::parse(rig.one().header.options.as_slice()).window_scale, Some(14));
}

#[test]
fn mss_has_a_default_a_floor_and_the_links_bound() {
    for (offered, mss) in
        [(None, DEFAULT_MSS), (Some(0), DEFAULT_MSS), (Some(47), MIN_MSS), (Some(900), 900), (Some(65535), MSS)]
    {
        let rig = accepted(&CONFIG, Options { mss: offered, window_scale: None, ..Options::default() });
        assert_eq!(rig.leg.mss(), mss, "{offered:?}");
    }
}

#[test]
fn syn_ack_is_repeated_then_given_up() {
    let mut rig = accepted(&CONFIG, Options::default());
    rig.leg.host_connected(rig.now);
    let (start, first) = (rig.now, rig.one());
    let mut intervals = vec![];
    for _ in 0..SYN_RETRIES {
        intervals.push(rig.until_deadline().as_secs());
        assert_eq!(rig.expire(), None);
        assert_eq!(rig.one(), first);
    }
    assert_eq!(intervals, [1, 2, 4, 8, 16, 32, 60]);
    assert_eq!(rig.expire(), Some(Event::GaveUp));
    assert_eq!(rig.now - start, Duration::from_secs(183));
    let out = rig.one();
    assert!(out.is(Flags::RST | Flags::ACK));
    assert_eq!(out.header.seq, ISS + 1);
    assert!(rig.leg.is_closed());
}

#[test]
fn wrong_ack_in_syn_received_is_reset() {
    let mut rig = accepted(&CONFIG, Options::default());
    rig.leg.host_connected(rig.now);
    rig.drain();
    for ack in [ISS, ISS + 2] {
        let segment = Segment { seq: IRS + 1, ack, flags: Flags::ACK, window: 1000, options: &[], len: 0 };
        assert_eq!(rig.leg.handle_segment(rig.now, &segment).event, None);
        let out = rig.one();
        assert_eq!((out.header.seq, out.header.flags), (ack, Flags::RST));
        assert_eq!(rig.leg.state(), State::SynReceived);
    }
}

#[test]
fn payload_with_the_last_ack_counts() {
    let mut rig = accepted(&CONFIG, Options::default());
    rig.leg.host_connected(rig.now);
    rig.drain();
    let effect = rig.data(0, 100);
    assert_eq!((effect.event, effect.payload), (Some(Event::Established), Some(0..100)));
    assert_eq!(rig.one().acks(), 100);
}

#[test]
fn world_opens() {
    let mut rig = opened();
    let header = rig.one().header;
    assert_eq!((header.flags, header.seq, header.window), (Flags::SYN, ISS, u16::MAX));
    assert_eq!(
        Options::parse(header.options.as_slice()),
        Options { mss: Some(1460), window_scale: Some(7), ..Options::default() }
    );
    let options = Options { mss: Some(1200), window_scale: Some(3), ..Options::default() }.emit();
    assert_eq!(rig.leg.handle_segment(rig.now, &answer(options.as_slice())).event, Some(Event::Established));
    assert_eq!((rig.leg.mss(), rig.leg.snd_wnd()), (1200, 500));
    let out = rig.one();
    assert!(out.is(Flags::ACK));
    assert_eq!((out.header.seq, out.header.ack, out.header.window), (ISS + 1, IRS + 1, 8192));
    rig.ack(0);
    assert_eq!(rig.leg.snd_wnd(), 20_000 << 3);
}

#[test]
fn without_the_guests_scale_neither_window_is_scaled() {
    let mut rig = opened();
    rig.drain();
    rig.leg.handle_segment(rig.now, &answer(&[]));
    assert_eq!(rig.one().header.window, u16::MAX);
    rig.ack(0);
    assert_eq!(rig.leg.snd_wnd(), 20_000);
}

#[test]
fn world_may_have_finished_before_the_guest_answered() {
    let mut rig = opened();
    rig.drain();
    rig.queued = 300;
    rig.leg.host_finished(300);
    assert_eq!(rig.drain(), []);
    rig.leg.handle_segment(rig.now, &answer(&[]));
    let out = rig.one();
    assert_eq!((out.at(), out.len), (0, 300));
    assert!(out.header.flags.contains(Flags::FIN));
}

#[test]
fn in_syn_sent_only_a_fitting_ack_counts() {
    let mut rig = opened();
    rig.drain();
    for (ack, flags) in [(ISS, SYN_ACK), (ISS + 2, SYN_ACK), (ISS + 2, Flags::ACK)] {
        let segment = Segment { ack, flags, ..answer(&[]) };
        assert_eq!(rig.leg.handle_segment(rig.now, &segment).event, None);
        let out = rig.one();
        assert_eq!((out.header.seq, out.header.flags), (ack, Flags::RST));
    }
    for (ack, flags) in [(ISS, Flags::RST | Flags::ACK), (ISS + 1, Flags::RST), (ISS + 1, Flags::ACK)] {
        let segment = Segment { ack, flags, ..answer(&[]) };
        assert_eq!(rig.leg.handle_segment(rig.now, &segment).event, None);
        assert_eq!(rig.drain(), []);
    }
    let segment = Segment { flags: Flags::RST | Flags::ACK, ..answer(&[]) };
    assert_eq!(rig.leg.handle_segment(rig.now, &segment).event, Some(Event::Reset));
    assert!(rig.leg.is_closed());
    assert_eq!(rig.drain(), []);
}

#[test]
fn syn_is_repeated_then_given_up_without_reset() {
    let mut rig = opened();
    let first = rig.one();
    for _ in 0..SYN_RETRIES {
        assert_eq!(rig.expire(), None);
        assert_eq!(rig.one(), first);
    }
    assert_eq!(rig.expire(), Some(Event::GaveUp));
    assert_eq!(rig.drain(), []);
    assert!(rig.leg.is_closed());
}

#[test]
fn both_open_at_once() {
    let mut rig = opened();
    rig.drain();
    assert_eq!(rig.leg.handle_segment(rig.now, &syn(1000, &[])).event, None);
    assert_eq!(rig.leg.state(), State::SynReceived);
    let out = rig.one();
    assert!(out.is(SYN_ACK));
    assert_eq!((out.header.seq, out.header.ack), (ISS, IRS + 1));
    assert_eq!(rig.ack(0).event, Some(Event::Established));
}

#[test]
fn a_lost_syn_starts_data_with_three_seconds() {
    let mut rig = opened();
    rig.drain();
    rig.expire();
    rig.drain();
    rig.leg.handle_segment(rig.now, &answer(&[]));
    rig.host_sends(100);
    rig.drain();
    assert_eq!(rig.until_deadline(), Duration::from_secs(3));
}

#[test]
fn data_waits_for_the_handshake() {
    let mut rig = accepted(&CONFIG, Options::default());
    rig.host_sends(100);
    assert_eq!(rig.leg.poll(rig.now, FRAME), None::<Transmit>);
    rig.leg.host_connected(rig.now);
    assert!(rig.one().is(SYN_ACK));
    rig.ack(0);
    let out: Out = rig.one();
    assert_eq!((out.at(), out.len), (0, 100));
}

#[test]
fn a_repeated_syn_ack_is_not_measured() {
    let mut rig = accepted(&CONFIG, Options::default());
    rig.leg.host_connected(rig.now);
    rig.drain();
    rig.millis(500);
    rig.leg.handle_segment(rig.now, &syn(1000, &[]));
    rig.drain();
    rig.millis(1);
    rig.ack(0);
    rig.host_sends(10);
    rig.drain();
    assert_eq!(rig.until_deadline(), Duration::from_secs(1), "neither 3 * 501 ms nor 3 * 1 ms");
}
