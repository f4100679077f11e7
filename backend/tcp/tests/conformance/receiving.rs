use vonic_tcp::{Flags, Options};

use crate::bench::{Bench, ROOM, SCALE};
use crate::each;

/// Case 7.
#[test]
fn payload_is_acknowledged_at_once_and_as_far_as_it_was_taken() {
    each(|bench| {
        let piece = bench.piece();
        for n in 0..4 {
            bench.data(n * piece, piece);
            assert_eq!(bench.one().acks, (n + 1) * piece, "no ACK is put off");
        }
        for n in 4..8 {
            bench.data(n * piece, piece);
        }
        assert_eq!(bench.one().acks, 8 * piece, "one ACK for a burst");
        let effect = bench.segment(8 * piece, piece, Flags::ACK);
        bench.take(&effect, 100);
        assert_eq!(bench.one().acks, 8 * piece + 100, "never beyond what the host took");
    });
}

/// Case 8.
#[test]
fn overlapping_segments_give_each_byte_once() {
    for (offset, len, payload) in [
        (0, 500, None),                  // old
        (0, 1000, None),                 // old, up to the edge
        (500, 1000, Some(500..1000)),    // partly old
        (1000, 1000, Some(0..1000)),     // exact
        (0, 60_000, Some(1000..60_000)), // from before to far beyond
        (1001, 10, None),                // a hole
        (999, 0, None),                  // empty, old
    ] {
        each(|bench| {
            bench.data(0, 1000);
            bench.drain();
            let effect = bench.data(offset, len);
            assert_eq!(effect.payload, payload, "{offset}+{len}");
            let n = payload.as_ref().map_or(0, |payload| payload.end - payload.start);
            assert_eq!(bench.one().acks, 1000 + n, "{offset}+{len}");
        });
    }
}

/// Case 9.
#[test]
fn a_hole_is_answered_by_duplicates_and_filled_by_one_ack() {
    each(|bench| {
        let piece = bench.piece();
        for n in 1..4 {
            assert_eq!(bench.data(n * piece, piece).payload, None);
        }
        let out = bench.drain();
        assert!(out.len() == 3 && out.iter().all(|out| out.is(Flags::ACK) && out.acks == 0));
        bench.data(0, piece);
        assert_eq!(bench.one().acks, piece);
        // Out of order within one round: what the second fills costs nothing.
        bench.data(2 * piece, piece);
        bench.data(piece, piece);
        assert_eq!(bench.one().acks, 2 * piece);
    });
}

/// Case 10.
#[test]
fn payload_beyond_the_window_is_dropped_and_answered() {
    each(|bench| {
        let edge = edge_of(bench);
        let effect = bench.data(edge, 10);
        assert_eq!(effect.payload, None);
        let out = bench.one();
        assert!(out.acks == 1 && out.edge >= edge);
        let effect = bench.data(1, ROOM + 100_000);
        assert_eq!(effect.payload.map(|payload| payload.end), Some(edge - 1), "cut at the edge");
    });
}

/// One byte goes, so that the leg says where its window ends.
fn edge_of(bench: &mut Bench) -> u32 {
    bench.data(0, 1);
    bench.one().edge
}

/// Case 18.
#[test]
fn a_stalled_host_closes_the_window_without_moving_its_edge() {
    each(|bench| {
        let (mut edge, mss) = (edge_of(bench), u32::from(bench.overlay.mss));
        let mut at = 1;
        while at < edge {
            let len = 60_000.min(edge - at);
            bench.data(at, len);
            at += len;
            bench.leg.set_window(0);
            for out in bench.drain() {
                // The field counts in units, and is rounded up each time (RFC 7323 §2.4).
                assert!(out.edge >= edge && out.edge < edge + (1 << SCALE), "{edge} {}", out.edge);
                edge = out.edge;
            }
        }
        bench.leg.set_window(mss / 2);
        assert!(bench.drain().iter().all(|out| out.header.window == 0), "less than a segment is nothing");
        for len in [0, 1, 1000] {
            assert_eq!(bench.segment(at, len, Flags::ACK).payload, None);
            assert!(bench.drain().iter().all(|out| out.acks == at && out.header.window == 0));
        }
        bench.leg.set_window(ROOM);
        assert!(bench.one().edge >= at + ROOM, "and opens at once");
    });
}

/// Case 24.
#[test]
fn timestamps_are_echoed_checked_and_monotone() {
    each(|bench| {
        if !bench.overlay.options {
            return;
        }
        let stamp = |bench: &Bench, back: u32| {
            let mut options = Options::default();
            let val = ((bench.now.0 / 1000) as u32).wrapping_sub(back);
            options.timestamps = Some(vonic_tcp::Timestamps { val, ecr: 0 });
            options
        };
        let mut last = None;
        for n in 0..10u32 {
            bench.millis(7);
            bench.data(n, 1);
            let out = bench.one();
            let ours = Options::parse(out.header.options.as_slice()).timestamps.expect("a timestamp");
            assert_eq!(ours.ecr, (bench.now.0 / 1000) as u32);
            assert!(last.is_none_or(|last| ours.val == u32::wrapping_add(last, 7)));
            last = Some(ours.val);
        }
        let options = stamp(bench, 1);
        assert_eq!(bench.segment_with(10, 100, Flags::ACK, &options).payload, None, "from the past");
        assert_eq!(bench.one().acks, 10);
        let options = stamp(bench, 0);
        let effect = bench.segment_with(10, 100, Flags::ACK, &options);
        assert_eq!(effect.payload, Some(0..100));
        bench.take(&effect, 100);
    });
}

/// Case 25.
#[test]
fn keepalive_probes_are_answered_with_and_without_a_byte() {
    each(|bench| {
        bench.data(0, 100);
        bench.drain();
        for len in [0, 1] {
            assert_eq!(bench.segment(99, len, Flags::ACK).payload, None);
            let out = bench.one();
            assert!(out.is(Flags::ACK) && out.acks == 100);
            assert!(out.header.window > 0);
        }
    });
}
