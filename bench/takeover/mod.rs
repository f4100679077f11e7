//! How long connections wait when their engine dies: a guest with so many of them, the engine killed again and again, and the time until
//! the first, and until the last, has had a new byte. VONIC_BENCH_KILLS, and VONIC_BENCH_ROW with the names of
//! rows as the table has them, are for a first look.

mod phases;
mod plot;
mod report;

use std::time::Duration;

use vonic_tests::crowd::{Blow, Crowd};
use vonic_tests::{Bed, Context, Result, TestConfig};

use crate::machine;
use crate::plan::{Choice, variable};

use phases::Phases;
use report::{Report, Row};

/// Kills of each row, unless VONIC_BENCH_KILLS says otherwise.
const KILLS: usize = 200;
/// Between two: engines that live for less than a second count towards a storm.
const LIFE: Duration = Duration::from_millis(1100);

/// One row: connections, mebibytes of the guest's memory that the engine has touched when it ends, and how it ends.
#[derive(Clone, Copy)]
pub struct Case {
    connections: usize,
    touched: usize,
    blow: Blow,
}

const fn killed(connections: usize, touched: usize) -> Case {
    Case { connections, touched, blow: Blow::Kill }
}

const CASES: &[Case] = &[
    killed(1, 0),
    killed(100, 0),
    killed(1000, 0),
    killed(1000, 256),
    killed(1000, 512),
    killed(1000, 1024),
    killed(10_000, 0),
    killed(10_000, 1024),
    Case { connections: 1000, touched: 0, blow: Blow::Restart },
    Case { connections: 1000, touched: 0, blow: Blow::Upgrade },
];

/// Measures every case, prints the table, and writes it and its plot into the current directory's `bench/results`.
pub fn bench() -> Result<()> {
    let kills = variable("VONIC_BENCH_KILLS")?.unwrap_or(KILLS);
    let choice = Choice::from_environment()?;
    let names: Vec<String> = CASES.iter().map(report::name).collect();
    choice.check(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut report = Report::new(kills);
    for case in CASES.iter().filter(|case| choice.takes(&report::name(case))) {
        report.add(measure(*case, kills).with_context(|| report::name(case))?);
    }
    report.write()
}

fn measure(case: Case, kills: usize) -> Result<Row> {
    let mut bed = Bed::start(&TestConfig::default().vm("a", 2, Crowd::LIMITS))?;
    let bytes = (case.touched as u64) << 20;
    let mut crowd = Crowd::gather(&bed, "a", 2, case.connections, bytes)?;
    let mut row = Row::new(case);
    for _ in 0..kills {
        crowd.flood(case.touched << 20)?;
        crowd.serve(LIFE)?;
        let before = machine::stolen();
        let takeover = crowd.takeover(&mut bed.vonicd, case.blow)?;
        let disturbed = machine::stolen() != before;
        row.add(&takeover, &Phases::read(&bed.vonicd.log(), takeover.since), disturbed);
    }
    drop(crowd);
    bed.vonicd.stop()?;
    Ok(row)
}
