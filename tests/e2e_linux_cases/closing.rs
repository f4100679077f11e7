//! Cases 19 to 22: how a connection ends.

use vonic_tests::Result;
use vonic_tests::frames::Tcp;

use crate::bench::{Bench, Offer, acks};

const FIN_ACK: u8 = Tcp::FIN | Tcp::ACK;
/// Goes on after one side has ended.
const MEGABYTE: u32 = 1_000_003;

/// The application's FIN behind `at` bytes, which is not acknowledged yet.
fn host_finishes(bench: &mut Bench, at: u32) -> Result<()> {
    bench.must("shutdown", "done")?;
    bench.expect("FIN", |heard| heard.has(Tcp::FIN) && heard.at + heard.len == at)?;
    Ok(())
}

/// Case 19.
pub fn a_fin_counts_in_order_once_and_not_beside_a_reset(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    bench.put(100, 50, FIN_ACK)?;
    let heard = bench.settle()?;
    bench.check("acknowledgments of a FIN out of order", acks(&heard), "0");
    bench.put(0, 150, FIN_ACK)?;
    bench.expect("acknowledgment of the FIN", |heard| heard.acks == 151)?;
    bench.must("end", "end 150 fin")?;
    bench.settle()?;
    bench.put(0, 150, FIN_ACK)?;
    let heard = bench.settle()?;
    bench.check("acknowledgments of a FIN again", acks(&heard), "151");
    bench.put(151, 10, FIN_ACK)?;
    let heard = bench.settle()?;
    let more = heard.iter().any(|heard| heard.acks != 151);
    bench.check("text in CLOSE-WAIT counts", more, false);
    bench.must("write 10", "wrote 10")?;
    bench.drain(151, 10)?;
    bench.put(151, 0, Tcp::RST | FIN_ACK)?;
    let heard = bench.settle()?;
    bench.check("answers to a reset with FIN", heard.len(), 0);
    bench.ask("write 10")?;
    let written = bench.ask("write 10")?;
    bench.check("the application hears of the reset", written.starts_with("failed"), true);
    Ok(())
}

/// Case 20.
pub fn half_closed_either_way_a_megabyte_goes_on(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    bench.put(0, 0, FIN_ACK)?;
    bench.must("end", "end 0 fin")?;
    bench.tell(&format!("write {MEGABYTE}"))?;
    bench.drain(1, MEGABYTE)?;
    let answer = bench.answer()?;
    bench.check("written", answer, format!("wrote {MEGABYTE}"));
    bench.must("close", "done")?;
    bench.expect("FIN", |heard| heard.has(Tcp::FIN))?;
    bench.ack_of(1, MEGABYTE + 1)?;

    bench.open(&Offer::SCALED)?;
    host_finishes(bench, 0)?;
    bench.ack_of(0, 1)?;
    bench.tell("end")?;
    bench.pour(0, MEGABYTE)?;
    bench.put(MEGABYTE, 0, FIN_ACK)?;
    let answer = bench.answer()?;
    bench.check("read", answer, format!("end {MEGABYTE} fin"));
    bench.expect("acknowledgment of the FIN", |heard| heard.acks == MEGABYTE + 1)?;
    bench.must("close", "done")
}

/// Both ends have finished at once, and the subject waits.
fn time_wait(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    host_finishes(bench, 0)?;
    // The injector has not seen that FIN: both are in CLOSING.
    bench.put(0, 0, FIN_ACK)?;
    bench.expect("acknowledgment of the FIN", |heard| heard.acks == 1)?;
    bench.ack_of(1, 1)?;
    bench.must("end", "end 0 fin")?;
    bench.must("close", "done")?;
    bench.settle().map(drop)
}

/// Case 21.
pub fn closing_at_once_and_one_after_the_other(bench: &mut Bench) -> Result<()> {
    time_wait(bench)?;
    bench.put(0, 0, FIN_ACK)?;
    let heard = bench.settle()?;
    bench.check("acknowledgments of a FIN again in TIME-WAIT", acks(&heard), "1");
    again_from_time_wait(bench)?;

    // RFC 1337.
    time_wait(bench)?;
    bench.put(1, 0, Tcp::RST | Tcp::ACK)?;
    bench.put(0, 0, FIN_ACK)?;
    let heard = bench.settle()?;
    let waits = heard.len() == 1 && (heard[0].flags, heard[0].acks) == (Tcp::ACK, 1);
    bench.check("a reset cuts TIME-WAIT short", !waits, false);

    bench.open(&Offer::SCALED)?;
    bench.put(0, 0, FIN_ACK)?;
    bench.must("end", "end 0 fin")?;
    bench.must("close", "done")?;
    bench.expect("FIN", |heard| heard.has(Tcp::FIN))?;
    bench.ack_of(1, 1)?;
    bench.settle()?;
    bench.data(1, 0)?;
    let heard = bench.settle()?;
    let gone = heard.len() == 1 && heard[0].has(Tcp::RST);
    bench.check("after LAST-ACK there is no connection", gone, true);
    Ok(())
}

/// A SYN on the same ports beyond the old connection's last sequence number opens a new one.
fn again_from_time_wait(bench: &mut Bench) -> Result<()> {
    bench.conn.reborn(1_000_000);
    bench.send_syn(&Offer::SCALED)?;
    let heard = bench.hear_syn_ack()?;
    bench.check("a new SYN in TIME-WAIT", (heard.flags, heard.acks) == (Tcp::SYN | Tcp::ACK, 0), true);
    bench.ack(0)?;
    bench.must("accept", "accepted")?;
    bench.data(0, 100)?;
    bench.must("read 100", "read 100")?;
    bench.close(100)
}

/// Case 22, with what [`crate::sending`] has of it.
pub fn a_reset_is_believed_if_exact_and_passed_on(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    bench.data(0, 100)?;
    bench.must("read 100", "read 100")?;
    bench.settle()?;
    for at in [101, 5000, 20_000] {
        bench.put(at, 0, Tcp::RST)?;
        let heard = bench.settle()?;
        bench.check(&format!("answers to a reset at {at}, in the window"), acks(&heard), "100");
    }
    for at in [0, 99, 50_000_000] {
        bench.put(at, 0, Tcp::RST)?;
        let heard = bench.settle()?;
        bench.check(&format!("answers to a reset at {at}, outside"), heard.len(), 0);
    }
    bench.data(100, 10)?;
    bench.must("read 10", "read 10")?;
    bench.put(110, 0, Tcp::RST)?;
    let end = bench.ask("end")?;
    bench.check("what the application hears", end, "end 0 ConnectionReset");
    bench.settle()?;
    bench.data(110, 0)?;
    let heard = bench.settle()?;
    let gone = heard.len() == 1 && heard[0].has(Tcp::RST);
    bench.check("after it there is no connection", gone, true);
    Ok(())
}
