//! Cases 1 to 6: how a connection begins.

use vonic_tests::frames::Tcp;
use vonic_tests::{Result, seconds};

use crate::bench::{Bench, Heard, Offer, acks, option, stretch};

/// Names of the options of a SYN-ACK.
fn names(heard: &Heard) -> String {
    let known = [(2, "mss"), (3, "scale"), (4, "sack"), (8, "stamps")];
    let there = known.iter().filter(|(kind, _)| option(&heard.options, *kind).is_some());
    there.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

/// Case 1.
pub fn a_syn_ack_answers_what_was_offered(bench: &mut Bench) -> Result<()> {
    let stamped = Offer { stamps: true, ..Offer::MSS };
    let all = Offer { sack: true, ..Offer::STAMPED };
    for (name, offer, answer) in [
        ("nothing", Offer::NONE, "mss"),
        ("an MSS", Offer::MSS, "mss"),
        ("a scale", Offer::SCALED, "mss scale"),
        ("timestamps", stamped, "mss stamps"),
        ("SACK", Offer { sack: true, ..Offer::MSS }, "mss sack"),
        ("all of them", all, "mss scale sack stamps"),
    ] {
        let heard = bench.open(&offer)?;
        bench.check(&format!("options in answer to {name}"), names(&heard), answer);
        let mss = option(&heard.options, 2).map_or(0, |value| u32::from(value[0]) << 8 | u32::from(value[1]));
        let announced = bench.mss();
        bench.check("MSS", mss, announced);
        bench.check("window before scaling", u32::from(heard.window) >= 10 * mss, true);
        bench.check("acknowledged", heard.acks, 0);
        bench.close(0)?;
    }
    Ok(())
}

/// Case 2.
pub fn a_repeated_syn_is_answered_by_the_same_iss(bench: &mut Bench) -> Result<()> {
    let port = bench.listen()?;
    bench.begin(port, &Offer::SCALED);
    bench.send_syn(&Offer::SCALED)?;
    bench.hear_syn_ack()?;
    for _ in 0..2 {
        bench.send_syn(&Offer::SCALED)?;
        // Position -1 is that of the first answer's ISS.
        let heard = bench.settle()?;
        bench.check("answers to a SYN again", heard.len(), 1);
        let same = heard.iter().all(|heard| heard.at == u32::MAX && heard.flags == Tcp::SYN | Tcp::ACK);
        bench.check("the same ISS", same, true);
    }
    bench.ack(0)?;
    bench.must("accept", "accepted")?;
    bench.close(0)
}

/// Case 3; what is unreachable behind a guest's own kernel has no counterpart.
pub fn a_refused_connect_is_a_reset_of_the_syn(bench: &mut Bench) -> Result<()> {
    bench.begin(9, &Offer::SCALED);
    bench.conn.ports.0 += 1000;
    bench.send_syn(&Offer::SCALED)?;
    let heard = bench.expect("reset", |_| true)?;
    bench.check("flags", heard.flags, Tcp::RST | Tcp::ACK);
    // Sequence number 0; ISN + 1 is acknowledged.
    bench.check("acknowledged", heard.acks, 0);
    bench.check("SEG.SEQ", heard.at, u32::MAX);
    Ok(())
}

/// Case 4.
pub fn any_mss_is_survived_and_obeyed(bench: &mut Bench) -> Result<()> {
    let default = if bench.family() == "IPv4" { 536 } else { 1220 };
    let largest = bench.mss();
    for (offered, mss) in
        [(None, default), (Some(0), default), (Some(1), 48), (Some(600), 600), (Some(65_535), largest)]
    {
        bench.open(&Offer { mss: offered, ..Offer::NONE })?;
        bench.must("write 4000", "wrote 4000")?;
        let heard = bench.expect("payload", |heard| heard.len > 0)?;
        bench.check(&format!("the first segment for an MSS of {offered:?}"), heard.len, mss);
        bench.conn.has = heard.len;
        bench.ack(0)?;
        bench.drain(0, 4000)?;
        bench.close(0)?;
    }
    Ok(())
}

/// Case 5.
pub fn broken_options_break_nothing(bench: &mut Bench) -> Result<()> {
    let broken: [&[u8]; 11] = [
        &[2, 0, 5, 180],
        &[2, 1, 5, 180],
        &[2, 3, 5, 1],
        &[2, 40, 5, 180],
        &[1, 1, 1, 3],
        &[8, 10, 1, 2, 3, 0, 0, 0],
        &[5, 9, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0],
        &[99, 2, 254, 4, 1, 1, 0, 0],
        &[0xff; 40],
        &[0; 40],
        &[1; 40],
    ];
    for raw in broken {
        let offer = Offer { raw: Some(raw.to_vec()), ..Offer::NONE };
        let port = bench.listen()?;
        bench.begin(port, &offer);
        bench.send_syn(&offer)?;
        let answered = bench.hear_syn_ack_within(seconds(1))?.is_some();
        let name = if raw.len() < 40 { format!("{raw:?}") } else { format!("40 times {}", raw[0]) };
        bench.check(&format!("a SYN with {name} is answered"), answered, true);
        if !answered {
            continue;
        }
        bench.ack(0)?;
        bench.must("accept", "accepted")?;
        bench.put_such(0, 100, |segment| segment.options = raw.to_vec())?;
        let heard = bench.expect("acknowledgment", |_| true)?;
        bench.check(&format!("acknowledged behind {name}"), heard.acks, 100);
        bench.must("read 100", "read 100")?;
        bench.close(100)?;
    }
    Ok(())
}

/// Case 6.
pub fn windows_are_scaled_by_at_most_14_and_never_negative(bench: &mut Bench) -> Result<()> {
    let mss = bench.mss();
    for (scale, window, bytes) in [(14, 1, 1 << 14), (15, 1, 1 << 14), (255, 1, 1 << 14), (0, 0x8000, 1 << 15)] {
        bench.open(&Offer { scale: Some(scale), ..Offer::MSS })?;
        bench.conn.window = window;
        bench.ack(0)?;
        bench.tell("write 200000")?;
        // Three bursts, so that a window of congestion is no longer the smaller one.
        let mut most = 0;
        for _ in 0..5 {
            let first = bench.expect("payload", |heard| heard.len > 0)?;
            let (_, end) = stretch(&[vec![first], bench.settle()?].concat());
            most = most.max(end - bench.conn.has);
            bench.ack_of(0, end)?;
        }
        bench.check(&format!("segments in a window of {window} << {scale}"), most / mss, bytes / mss);
        // RFC 9293 §3.8.6.2.1.
        bench.check("a sliver of window is used", most % mss > 0, false);
        bench.put(0, 0, Tcp::RST | Tcp::ACK)?;
        bench.answer()?;
        bench.ask("reset")?;
    }
    Ok(())
}

/// Case 23.
pub fn a_syn_on_a_connection_is_challenged_and_a_stray_ack_reset(bench: &mut Bench) -> Result<()> {
    bench.open(&Offer::SCALED)?;
    for at in [0u32.wrapping_sub(1), 0, 500, 5_000_000] {
        bench.put(at, 0, Tcp::SYN)?;
        let heard = bench.settle()?;
        bench.check(&format!("acknowledgments of a SYN at {at}"), acks(&heard), "0");
    }
    bench.data(0, 10)?;
    bench.must("read 10", "read 10")?;
    bench.close(10)?;
    bench.data(10, 10)?;
    let heard = bench.expect("reset", |_| true)?;
    bench.check("a reset where the stray acknowledges", (heard.flags, heard.at) == (Tcp::RST, 0), true);
    Ok(())
}
