//! vonic beside its peers in one run, on real frontends: `make bench` measures every row and writes RESULTS.md, figures and plots.
//! What each measurement is, is in the file of its stage; rows are chosen by VONIC_BENCH_ROW, and [`plan`] has the other variables.
//! `vonic-bench takeover` (`make bench-takeover`) measures something else: how long guests wait when an engine dies.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod book;
mod bridge;
mod coalesce;
mod instructions;
mod machine;
mod ovs;
mod packets;
mod passt;
mod plan;
mod polling;
mod report;
mod row;
mod scale;
mod sockets;
mod svg;
mod takeover;
mod traffic;

use std::process::ExitCode;

use vonic_tests::{Error, Result};

use book::{Book, Stage};
use plan::Plan;
use report::Report;

/// In the order of the table. What needs the most descriptors comes last: it raises the limit of what follows it.
fn stages() -> Vec<&'static Stage> {
    let first = sockets::STAGES.iter().chain([&bridge::STAGE, &packets::STAGE, &instructions::STAGE, &polling::STAGE]);
    first.chain(scale::STAGES).collect()
}

fn bench() -> Result<()> {
    let plan = Plan::from_environment()?;
    let stages = stages();
    let ids: Vec<&str> = stages.iter().flat_map(|stage| (stage.cases)()).map(|case| case.id).collect();
    plan.choice.check(&ids)?;
    let mut report = Report::open(&ids)?;
    let mut book = Book::new(&plan);
    for stage in stages {
        book.play(stage);
        // What there is stays if a later stage is interrupted.
        report.take(&mut book.rows);
        report.write()?;
    }
    println!("{}", report.table());
    book.verdict()
}

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        None => bench(),
        Some("coalesce") => coalesce::bench(),
        Some("takeover") => takeover::bench(),
        Some(other) => Err(Error::msg(format!("unknown bench {other}: none, coalesce or takeover"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}
