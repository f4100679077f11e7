//! Cases 7 to 11, 18, 24 and 25: what the subject makes of payload.

use std::time::{Duration, Instant};

use vonic_tests::frames::Tcp;
use vonic_tests::mock::VnetHeader;
use vonic_tests::{Result, ensure, seconds};

use crate::bench::{Bench, Offer, acks, stamps_of};

/// Case 7.
pub fn payload_is_acknowledged_at_once_and_as_far_as_it_was_taken(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    let mss = bench.mss();
    for segments in [1, 2, 4] {
        let begun = Instant::now();
        // 1 + 2 + 4: so many went before.
        let at = (segments - 1) * mss;
        for n in 0..segments {
            bench.data(at + n * mss, mss)?;
        }
        let end = at + segments * mss;
        bench.expect("acknowledgment", |heard| heard.acks == end)?;
        let soon = begun.elapsed() < Duration::from_millis(500);
        bench.check(&format!("{segments} segments acknowledged within 500 ms"), soon, true);
        let order = format!("read {}", segments * mss);
        bench.must(&order, &order)?;
    }
    bench.close(7 * mss)
}

/// Case 8.
pub fn overlapping_segments_give_each_byte_once(bench: &mut Bench) -> Result<()> {
    // Behind 1000 bytes: where it begins, how long it is, how much is acknowledged then.
    for (at, len, all) in [
        (0, 500, 1000),
        (0, 1000, 1000),
        (500, 900, 1400),
        (1000, 1000, 2000),
        (0, 1400, 1400),
        (1001, 10, 1000),
        (999, 0, 1000),
        (0u32.wrapping_sub(200), 100, 1000),
        (0u32.wrapping_sub(200), 1400, 1200),
    ] {
        bench.open(&Offer::SCALED)?;
        bench.data(0, 1000)?;
        bench.expect("acknowledgment", |heard| heard.acks == 1000)?;
        bench.data(at, len)?;
        let heard = bench.expect("answer", |_| true)?;
        bench.check(&format!("acknowledged after {}+{len}", at.cast_signed()), heard.acks, all);
        bench.put(heard.acks, 0, Tcp::FIN | Tcp::ACK)?;
        let ended = bench.ask("end")?;
        bench.check("the stream", ended, format!("end {} fin", heard.acks));
        bench.close(heard.acks + 1)?;
    }
    Ok(())
}

/// Case 9.
pub fn a_hole_is_answered_by_duplicates_and_filled_by_one_ack(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    for n in 1..4 {
        bench.data(n * 1000, 1000)?;
    }
    let heard = bench.settle()?;
    bench.check("acknowledgments of three segments behind a hole", acks(&heard), "0 0 0");
    bench.data(0, 1000)?;
    let heard = bench.settle()?;
    bench.check("acknowledgments once it is filled", acks(&heard), "4000");
    bench.data(1000, 1000)?;
    bench.data(2000, 1000)?;
    bench.data(3000, 1000)?;
    bench.expect("acknowledgment", |heard| heard.acks == 4000)?;
    bench.must("read 4000", "read 4000")?;
    bench.close(4000)
}

/// Case 10.
pub fn payload_beyond_the_window_is_dropped_and_answered(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    bench.data(0, 1)?;
    bench.expect("acknowledgment", |heard| heard.acks == 1)?;
    let edge = bench.conn.edge;
    bench.data(edge, 10)?;
    let heard = bench.settle()?;
    bench.check("acknowledgments of what lies beyond the window", acks(&heard), "1");
    bench.data(1, 100)?;
    bench.must("read 101", "read 101")?;
    bench.close(101)
}

/// Case 11.
pub fn a_wrong_checksum_costs_one_segment(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    let mut frame = bench.frame(0, 100);
    *frame.last_mut().unwrap() ^= 0x55;
    bench.mock.send_frame(&VnetHeader::default(), &frame)?;
    let heard = bench.settle()?;
    bench.check("answers to a wrong checksum", heard.len(), 0);
    bench.data(0, 100)?;
    bench.must("read 100", "read 100")?;
    bench.close(100)
}

/// Case 18.
pub fn a_stalled_host_closes_the_window_without_moving_its_edge(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    bench.data(0, 1)?;
    bench.expect("acknowledgment", |heard| heard.acks == 1)?;
    let (mut una, mut next, mss) = (1, 1, bench.mss());
    loop {
        let len = bench.conn.edge.saturating_sub(next).min(mss);
        if len > 0 {
            bench.data(next, len)?;
            next += len;
            if let Some(heard) = bench.hear(Duration::ZERO)? {
                una = una.max(heard.acks);
            }
            continue;
        }
        let heard = bench.hear(Duration::from_millis(300))?;
        una = una.max(heard.as_ref().map_or(una, |heard| heard.acks));
        if heard.is_none() && una < next {
            next = una;
            bench.data(next, mss.min(bench.conn.edge - next))?;
            let answer = bench.hear(Duration::from_millis(300))?;
            let more = answer.map_or(una, |heard| heard.acks);
            if more == una {
                break;
            }
            (una, next) = (more, more);
        } else if heard.is_none() {
            break;
        }
        ensure!(next < 8_000_000, "the window never closes");
    }
    // On a busy machine something may still have been on its way.
    una = bench.settle()?.iter().map(|heard| heard.acks).fold(una, u32::max);
    let closed = bench.conn.edge;
    // A probe without payload stands before what is acknowledged (the window's rest may be one unit of its scale, and what lies in it
    // is not answered); one with a byte stands behind the window.
    for (at, len) in [(una - 1, 0), (closed, 1)] {
        bench.data(at, len)?;
        let heard = bench.settle()?;
        let still = !heard.is_empty() && heard.iter().all(|heard| heard.acks == una);
        bench.check(&format!("a probe with {len} bytes is answered as before"), still, true);
    }
    bench.check("the right edge moved left", bench.conn.shrunk, false);
    let order = format!("read {una}");
    bench.must(&order, &order)?;
    bench.expect("open window", |heard| heard.acks >= una && heard.window > 0)?;
    bench.tell("read 100000")?;
    bench.pour(una, una + 100_000)?;
    let answer = bench.answer()?;
    bench.check("read", answer, "read 100000");
    bench.close(una + 100_000)
}

/// Case 24.
pub fn timestamps_are_echoed_checked_and_monotone(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::STAMPED)?;
    let mut last: Option<u32> = None;
    for n in 0..5u32 {
        std::thread::sleep(Duration::from_millis(5));
        tick(bench, 7);
        let val = bench.conn.stamps.map_or(0, |stamps| stamps.0);
        bench.data(n, 1)?;
        let heard = bench.expect("acknowledgment", |heard| heard.acks == n + 1)?;
        let ours = stamps_of(&heard.options);
        bench.check("the echo", ours.map(|ours| ours.1) == Some(val), true);
        let steps = ours.map(|ours| last.map_or(1, |last| ours.0.wrapping_sub(last)));
        bench.check("the clock goes on", steps.is_some_and(|step| (1..5000).contains(&step)), true);
        last = ours.map(|ours| ours.0);
    }
    bench.put_such(5, 100, |segment| segment.options[4..8].copy_from_slice(&1u32.wrapping_sub(1000).to_be_bytes()))?;
    let heard = bench.settle()?;
    bench.check("acknowledgments of a segment from the past", acks(&heard), "5");
    bench.put_such(5, 100, |segment| segment.options.clear())?;
    let heard = bench.settle()?;
    bench.check("acknowledgments of a segment without timestamp", acks(&heard), "");
    bench.data(5, 100)?;
    bench.expect("acknowledgment", |heard| heard.acks == 105)?;
    bench.must("read 105", "read 105")?;
    bench.close(105)
}

fn tick(bench: &mut Bench, millis: u32) {
    if let Some(stamps) = &mut bench.conn.stamps {
        stamps.0 = stamps.0.wrapping_add(millis);
    }
}

/// Case 25.
pub fn keepalive_probes_are_answered_with_and_without_a_byte(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    bench.data(0, 100)?;
    bench.must("read 100", "read 100")?;
    bench.expect("acknowledgment", |heard| heard.acks == 100)?;
    bench.settle()?;
    for len in [0, 1] {
        bench.data(99, len)?;
        let heard = bench.hear(seconds(5))?;
        let good = heard.is_some_and(|heard| heard.flags == Tcp::ACK && heard.acks == 100 && heard.window > 0);
        bench.check(&format!("a probe with {len} bytes is answered"), good, true);
    }
    bench.close(100)
}
