//! One port that sends as fast as it is told to, and seven others: what is left to these, beside a run in which the same processor time is burnt
//! without a frame.

use std::cell::{Cell, RefCell};

use vonic_tests::flood::{Load, Neighbours};
use vonic_tests::{Result, seconds};

use crate::book::{Book, Stage};
use crate::row::{Case, Target, median};

/// Frames a second.
const RATE: u64 = 100_000;

static CASE: Case = Case {
    id: "flood",
    load: "seven ports beside one that floods with 100,000 frames/s",
    unit: "frames/s",
    peer: "same CPU time burnt without a frame",
    target: Target::Ratio { floor: 0.9, aim: 0.9 },
};

pub static STAGE: Stage = Stage { name: "flood", cases: || vec![&CASE], run };

fn run(book: &mut Book<'_>) -> Result<()> {
    let neighbours = RefCell::new(Neighbours::start()?);
    let time = seconds(book.plan.seconds);
    let beside = |load| neighbours.borrow_mut().beside(load, time);
    let alone = beside(Load::None)?.rate;
    book.row(&CASE, |plan| {
        // How much sending so fast costs the flooder itself is known from the run before.
        let (share, sent) = (Cell::new(0.0), RefCell::new(Vec::new()));
        let flooded = || {
            let run = beside(Load::Frames(RATE))?;
            share.set(run.share);
            sent.borrow_mut().push(run.sent);
            Ok(run.rate)
        };
        let mut figures = plan.pairs(CASE.peer, flooded, || Ok(beside(Load::Burnt(share.get()))?.rate))?;
        figures.beside = vec![
            ("seven ports alone, frames/s".into(), alone),
            ("flood, frames/s".into(), median(&sent.into_inner())),
            ("CPU of the flooder, %".into(), 100.0 * share.get()),
        ];
        Ok(figures)
    });
    Ok(())
}
