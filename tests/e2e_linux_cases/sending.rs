//! Cases 12 to 17: how the subject's own payload goes, comes again, and waits.

use std::time::{Duration, Instant};

use vonic_tests::frames::Tcp;
use vonic_tests::{Result, seconds};

use crate::bench::{Bench, Heard, Offer, acks, stretch};

/// Segments on their way, fewer than any congestion window begins with (RFC 6928).
const FLIGHT: u32 = 8;

/// A connection on which [`FLIGHT`] whole segments are on their way.
fn in_flight(bench: &mut Bench) -> Result<u32> {
    in_flight_with(bench, &Offer::MSS)
}

fn in_flight_with(bench: &mut Bench, offer: &Offer) -> Result<u32> {
    bench.open(offer)?;
    bench.conn.window = 0xff00;
    bench.ack(0)?;
    let bytes = FLIGHT * bench.mss();
    let order = format!("write {bytes}");
    bench.must(&order, &format!("wrote {bytes}"))?;
    let mut end = 0;
    while end < bytes {
        let heard = bench.expect("payload", |heard| heard.len > 0)?;
        end = heard.at + heard.len;
    }
    bench.settle()?;
    Ok(bytes)
}

/// Whether each wait is about twice the one before; a busy machine makes single ones longer.
fn doubles(times: &[Instant]) -> bool {
    let waits: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    waits.windows(2).all(|pair| (1.5..2.8).contains(&(pair[1] / pair[0])))
}

/// Times at which payload or a probe of it came, `count` of them.
fn repeats(bench: &mut Bench, count: usize) -> Result<Vec<Heard>> {
    let mut heard = vec![];
    while heard.len() < count {
        heard.push(bench.expect("repetition", |_| true)?);
    }
    Ok(heard)
}

/// How often waits are measured before they count as wrong: a busy machine makes single ones longer.
const MEASUREMENTS: usize = 4;

/// Case 12, the first waits; how it ends takes minutes.
pub fn a_silent_guest_is_asked_ever_more_rarely_then_reset(bench: &mut Bench) -> Result<()> {
    let mut right = false;
    for _ in 0..MEASUREMENTS {
        right = right || waits_of_a_silent_guest(bench)?;
    }
    bench.check("a first wait of 200 ms to 1 s, then doubled", right, true);
    Ok(())
}

fn waits_of_a_silent_guest(bench: &mut Bench) -> Result<bool> {
    bench.open(&Offer::MSS)?;
    bench.tell("write 10")?;
    let heard = repeats(bench, 3)?;
    let same = heard.iter().all(|heard| (heard.at, heard.len) == (0, 10));
    bench.check("the same bytes", same, true);
    let times: Vec<Instant> = heard.iter().map(|heard| heard.when).collect();
    let first = (times[1] - times[0]).as_millis();
    bench.ack_of(0, 10)?;
    let answer = bench.answer()?;
    bench.check("written", answer, "wrote 10");
    let heard = bench.settle()?;
    bench.check("payload once it is acknowledged", stretch(&heard) != (0, 0), false);
    bench.close(0)?;
    Ok(doubles(&times) && (150..1500).contains(&first))
}

/// Case 13.
pub fn three_duplicate_acks_repeat_and_others_do_not(bench: &mut Bench) -> Result<()> {
    let bytes = in_flight(bench)?;
    for n in 0..5 {
        bench.data(n * 10, 10)?;
    }
    for n in 1..5 {
        bench.conn.window = 0xff00 + n;
        bench.ack(50)?;
    }
    let heard = bench.settle()?;
    bench.check("payload after ACKs with payload, or with a larger window", stretch(&heard) != (0, 0), false);
    bench.ack(50)?;
    bench.ack(50)?;
    let heard = bench.settle()?;
    bench.check("payload after two duplicates", stretch(&heard) != (0, 0), false);
    bench.ack(50)?;
    let heard = bench.settle()?;
    let first = heard.iter().find(|heard| heard.len > 0).map(|heard| (heard.at, heard.len));
    let mss = bench.mss();
    bench.check("payload after three", format!("{first:?}"), format!("{:?}", Some((0, mss))));
    bench.ack_of(50, bytes)?;
    bench.must("read 50", "read 50")?;
    bench.close(50)?;

    // RFC 5681 §2, (e): the window is that of the last ACK.
    in_flight(bench)?;
    for n in 1..5 {
        bench.conn.window -= n;
        bench.ack(0)?;
    }
    let heard = bench.settle()?;
    bench.check("payload after ACKs with ever smaller windows", stretch(&heard) != (0, 0), false);
    bench.close(0)
}

/// Case 14.
pub fn a_partial_ack_uncovers_the_next_hole_and_one_beyond_is_challenged(bench: &mut Bench) -> Result<()> {
    let (bytes, mss) = (in_flight(bench)?, bench.mss());
    for _ in 0..3 {
        bench.ack(0)?;
    }
    bench.settle()?;
    bench.ack_of(0, 4 * mss)?;
    let heard = bench.settle()?;
    bench.check("what goes after a partial ACK begins at", stretch(&heard).0 / mss, 4);
    bench.conn.has = bytes + 5000;
    bench.data(0, 10)?;
    let heard = bench.settle()?;
    bench.check("answers to an ACK of what was never sent", acks(&heard), "0");
    bench.conn.has = bytes;
    bench.data(0, 10)?;
    bench.must("read 10", "read 10")?;
    bench.close(10)
}

/// Case 15.
pub fn old_acks_change_nothing(bench: &mut Bench) -> Result<()> {
    let (bytes, mss) = (in_flight(bench)?, bench.mss());
    bench.ack_of(0, 6 * mss)?;
    bench.settle()?;
    for has in [0, 100, 6 * mss - 1] {
        bench.ack_of(0, has)?;
    }
    let heard = bench.settle()?;
    bench.check("segments after old ACKs", heard.len(), 0);
    // RFC 5961 §5.2.
    bench.ack_of(0, 0u32.wrapping_sub(5_000_000))?;
    let heard = bench.settle()?;
    bench.check("answers to an ACK older than the largest window", acks(&heard), "0");
    bench.ack_of(0, bytes)?;
    bench.must("write 10", "wrote 10")?;
    bench.drain(0, bytes + 10)?;
    bench.close(0)
}

/// Case 16.
pub fn a_closed_window_is_probed_for_as_long_as_the_guest_answers(bench: &mut Bench) -> Result<()> {
    let mut right = false;
    for _ in 0..MEASUREMENTS {
        right = right || waits_of_a_closed_window(bench)?;
    }
    bench.check("waits that double, and none once the window opens", right, true);
    Ok(())
}

fn waits_of_a_closed_window(bench: &mut Bench) -> Result<bool> {
    bench.open(&Offer::MSS)?;
    bench.conn.window = 0;
    bench.ack(0)?;
    bench.settle()?;
    bench.must("write 3000", "wrote 3000")?;
    let mut times = vec![];
    for _ in 0..3 {
        let probe = bench.expect("probe", |_| true)?;
        bench.check("a probe", format!("{} bytes at {}", probe.len, probe.at.cast_signed()), "1 bytes at 0");
        times.push(probe.when);
        bench.ack(0)?;
    }
    bench.conn.window = 0xffff;
    let opened = Instant::now();
    bench.ack(0)?;
    bench.drain(0, 3000)?;
    let at_once = opened.elapsed() < Duration::from_millis(500);
    bench.close(0)?;
    Ok(doubles(&times) && at_once)
}

/// Case 17.
pub fn a_window_that_shrinks_is_obeyed(bench: &mut Bench) -> Result<()> {
    let (bytes, mss) = (in_flight(bench)?, bench.mss());
    bench.conn.window = mss as u16;
    bench.ack_of(0, 2 * mss)?;
    bench.must("write 1000", "wrote 1000")?;
    let heard = bench.settle()?;
    bench.check("new payload behind the edge", stretch(&heard) != (0, 0), false);
    let again = bench.expect("repetition", |heard| heard.len > 0)?;
    let first = (again.at, again.at + again.len);
    bench.check("what comes again", format!("{first:?}"), format!("{:?}", (2 * mss, 3 * mss)));
    bench.conn.window = 0;
    bench.ack_of(0, 3 * mss)?;
    let heard = bench.settle()?;
    bench.check("payload into a closed window", stretch(&heard) != (0, 0), false);
    bench.conn.window = 0xffff;
    bench.ack(0)?;
    bench.drain(0, bytes + 1000)?;
    bench.close(0)
}

/// RFC 2018 and RFC 2883, which the cases have as an overlay only.
pub fn blocks_are_used_and_sent(bench: &mut Bench) -> Result<()> {
    let (offer, mss) = (Offer { sack: true, ..Offer::MSS }, bench.mss());
    let bytes = in_flight_with(bench, &offer)?;
    bench.sack(0, 0, (mss, 3 * mss))?;
    bench.sack(0, 0, (4 * mss, bytes))?;
    let heard = bench.settle()?;
    let mut again: Vec<u32> = heard.iter().filter(|heard| heard.len > 0).map(|heard| heard.at / mss).collect();
    again.sort_unstable();
    bench.check("segments that come again, by number", format!("{again:?}"), "[0, 3]");
    bench.ack_of(0, bytes)?;
    bench.data(0, 1000)?;
    bench.expect("acknowledgment", |heard| heard.acks == 1000)?;
    // The injector's segment, and the block that answers it.
    for (at, len, block) in [(0, 1000, (0, 1000)), (2000, 1000, (2000, 3000)), (4000, 500, (4000, 4500))] {
        bench.data(at, len)?;
        let heard = bench.expect("answer", |_| true)?;
        let saw = bench.first_block(&heard);
        bench.check(&format!("the block that answers {at}+{len}"), format!("{saw:?}"), format!("{:?}", Some(block)));
    }
    bench.pour(1000, 5000)?;
    bench.must("read 5000", "read 5000")?;
    bench.close(5000)
}

/// The peer's reset reaches the guest: part of case 22, here since payload is on its way.
pub fn an_applications_reset_comes_where_it_is_expected(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    bench.must("write 1000", "wrote 1000")?;
    bench.drain(0, 1000)?;
    bench.data(0, 70)?;
    bench.must("read 70", "read 70")?;
    bench.settle()?;
    bench.must("reset", "done")?;
    let reset = bench.hear(seconds(5))?.filter(|heard| heard.has(Tcp::RST));
    let place = reset.map(|reset| (reset.at, reset.acks));
    bench.check("the reset's place", format!("{place:?}"), "Some((1000, 70))");
    Ok(())
}
