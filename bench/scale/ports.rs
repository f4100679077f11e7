//! 256 connected ports: what they cost while nothing happens, and how much memory of vonic's own each has.

use vonic_tests::fleet::Fleet;
use vonic_tests::mock::feature;
use vonic_tests::{Result, seconds};

use crate::book::{Book, Stage};
use crate::row::{Case, Figures, Target};

const PORTS: usize = 256;

static IDLE: Case = Case {
    id: "ports-idle",
    load: "256 connected ports, idle",
    unit: "% of a processor",
    peer: "",
    target: Target::AtMost(0.5),
};
static MEMORY: Case = Case {
    id: "ports-memory",
    load: "256 connected ports after traffic: vonic's own memory for each",
    unit: "KiB",
    peer: "",
    target: Target::AtMost(1024.0),
};

pub static STAGE: Stage = Stage { name: "ports", cases: || vec![&IDLE, &MEMORY], run };

fn run(book: &mut Book<'_>) -> Result<()> {
    let mut fleet = Fleet::start(PORTS, [feature::ALL; 2])?;
    fleet.burst()?;
    let window = seconds(2 * book.plan.seconds);
    let shares: Result<Vec<f64>> =
        (0..book.plan.rounds).map(|_| Ok(100.0 * fleet.idle(window)?.as_secs_f64() / window.as_secs_f64())).collect();
    book.note(&IDLE, shares.map(|ours| Figures { ours, ..Figures::default() }));
    // What there would be with one port counts, too.
    book.note(&MEMORY, fleet.memory().map(|bytes| Figures::one(bytes as f64 / 1024.0 / PORTS as f64)));
    fleet.bed.vonicd.stop()
}
