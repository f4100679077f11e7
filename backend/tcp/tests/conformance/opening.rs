use vonic_tcp::{Config, Flags, Instant, Leg, MIN_MSS, Options, Segment, Seq};

use crate::bench::{Bench, IRS, ISS, SCALE};
use crate::{each, overlays};

const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);

/// Case 1.
#[test]
fn a_syn_ack_answers_what_was_offered() {
    for overlay in overlays() {
        let all = overlay.offer();
        for offer in
            [Options::default(), all, Options { window_scale: None, ..all }, Options { sack_permitted: false, ..all }]
        {
            let mut bench = Bench::accepted(overlay, &offer);
            bench.leg.host_connected(bench.now);
            let header = bench.one().header;
            assert!(header.flags == SYN_ACK && header.seq == ISS && header.ack == IRS + 1);
            assert_eq!(header.window, u16::MAX, "not scaled");
            let answer = Options::parse(header.options.as_slice());
            assert_eq!(answer.mss, Some(overlay.mss));
            assert_eq!(answer.window_scale, offer.window_scale.map(|_| SCALE));
            assert_eq!(answer.sack_permitted, offer.sack_permitted);
            assert_eq!(answer.timestamps.map(|timestamps| timestamps.ecr), offer.timestamps.map(|offer| offer.val));
        }
    }
}

/// Case 2.
#[test]
fn a_repeated_syn_is_answered_by_the_same_iss() {
    for overlay in overlays() {
        let mut bench = Bench::accepted(overlay, &overlay.offer());
        let options = overlay.offer().emit();
        let syn =
            Segment { seq: IRS, ack: Seq(0), flags: Flags::SYN, window: 60_000, options: options.as_slice(), len: 0 };
        bench.leg.handle_segment(bench.now, &syn);
        assert!(bench.drain().is_empty(), "the host is still connecting");
        bench.leg.host_connected(bench.now);
        for _ in 0..3 {
            assert_eq!(bench.one().header.seq, ISS);
            bench.leg.handle_segment(bench.now, &syn);
        }
    }
}

/// Case 3; unreachable hosts are the caller's, by ICMP.
#[test]
fn a_refused_connect_is_a_reset_of_the_syn() {
    for overlay in overlays() {
        let mut bench = Bench::accepted(overlay, &overlay.offer());
        bench.leg.abort();
        let header = bench.one().header;
        assert_eq!((header.flags, header.seq, header.ack), (Flags::RST | Flags::ACK, Seq(0), IRS + 1));
        assert!(bench.leg.is_closed());
    }
}

/// Case 4.
#[test]
fn any_mss_is_survived_and_obeyed() {
    for overlay in overlays() {
        for (offered, mss) in [
            (None, overlay.default_mss),
            (Some(0), overlay.default_mss),
            (Some(1), MIN_MSS),
            (Some(600), 600),
            (Some(65_535), overlay.mss),
        ] {
            let mut bench = Bench::accepted(overlay, &Options { mss: offered, ..overlay.offer() });
            bench.leg.host_connected(bench.now);
            bench.drain();
            bench.ack(0);
            let mss = mss - bench.leg.options_len();
            assert_eq!(bench.leg.mss(), mss, "{offered:?}");
            bench.host_sends(200_000);
            let out = bench.drain();
            let last = out.last().expect("payload").at;
            assert!(out.iter().all(|out| out.at == last || out.len % u32::from(mss) == 0), "whole segments");
        }
    }
}

/// Case 5.
#[test]
fn broken_options_break_nothing() {
    for overlay in overlays() {
        for options in [
            &[2, 0][..],
            &[2, 1, 5, 180],
            &[2, 3, 5],
            &[2, 40, 5, 180],
            &[3],
            &[8, 10, 1, 2, 3],
            &[5, 9, 1, 2, 3, 4, 5, 6, 7],
            &[99, 2, 254, 4, 1, 1],
            &[0xff; 40],
            &[0; 40],
            &[1; 40],
        ] {
            let syn = Segment { seq: IRS, ack: Seq(0), flags: Flags::SYN, window: 60_000, options, len: 0 };
            let leg = Leg::accept(&overlay.config(), &syn, ISS, Instant(0));
            let mut bench = Bench::new(overlay, leg);
            bench.leg.host_connected(bench.now);
            assert!(bench.one().is(SYN_ACK), "{options:?}");
            let flags = Flags::ACK;
            let segment = Segment { seq: IRS + 1, ack: ISS + 1, flags, window: 60_000, options, len: 0 };
            assert!(bench.leg.handle_segment(bench.now, &segment).event.is_some(), "{options:?}");
        }
    }
}

/// Case 6.
#[test]
fn windows_are_scaled_by_at_most_14_and_never_negative() {
    for overlay in overlays() {
        for (offered, shift) in [(0, 0), (14, 14), (15, 14), (255, 14)] {
            let mut bench = Bench::accepted(overlay, &Options { window_scale: Some(offered), ..overlay.offer() });
            bench.leg.host_connected(bench.now);
            bench.drain();
            bench.window = 0xffff << SCALE;
            bench.ack(0);
            assert_eq!(bench.leg.snd_wnd(), 0xffff << shift);
            bench.window = 0x8000 << SCALE;
            bench.ack(0);
            assert_eq!(bench.leg.snd_wnd(), 0x8000 << shift);
        }
        let config = Config { window_scale: 255, ..overlay.config() };
        let mut leg = Leg::open(&config, ISS, Instant(0));
        leg.set_window(1000);
        let Some(vonic_tcp::Transmit::Control(syn)) = leg.poll(Instant(0), 1000) else { panic!("no SYN") };
        assert_eq!(Options::parse(syn.options.as_slice()).window_scale, Some(14));
    }
}

/// Case 23.
#[test]
fn a_syn_on_a_connection_is_challenged_and_a_stray_ack_reset() {
    each(|bench| {
        for offset in [0u32.wrapping_sub(1), 0, 500, 5_000_000] {
            let effect = bench.segment(offset, 0, Flags::SYN);
            assert_eq!(effect.note, Some(vonic_tcp::Note::Challenge));
            let out = bench.one();
            assert!(out.is(Flags::ACK) && out.acks == 0);
        }
    });
    let stray = Segment { seq: IRS, ack: ISS, flags: Flags::ACK, window: 0, options: &[], len: 10 };
    let header = vonic_tcp::reset_for(&stray).expect("a reset");
    assert_eq!((header.seq, header.flags), (ISS, Flags::RST));
}
