//! Instructions per frame and per segment, counted by callgrind on fixed traces, and compared with the recorded figures.
//! `make bench-micro` runs it; `bench/results/micro.md` says what is counted.
//!
//! Without arguments this program runs itself under valgrind, once for each figure; the arguments are one trace's name and size. With the
//! argument `workers` it measures time: how the switch scales over workers.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod callgrind;
mod leg;
mod memory;
mod record;
mod switch;
mod workers;

use std::env;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use callgrind::count;
use record::Record;

/// Frames of the shorter and of the longer switch trace. Their difference is frames alone: start and end of the worker are in both.
const FRAMES: [u16; 2] = [4096, 8192];
/// So much worse than recorded is a failure.
const WORSE: f64 = 0.10;
/// So much may two runs of the same binary differ.
const NOISE: f64 = 0.01;

/// One figure: its name in the record, and how it is counted.
struct Figure {
    name: &'static str,
    measure: fn() -> Result<f64>,
}

const FIGURES: [Figure; 5] = [
    Figure { name: "switch, frame of 64 bytes", measure: || switched(64) },
    Figure { name: "switch, frame of 1500 bytes", measure: || switched(1500) },
    Figure { name: "leg, handshake and both FINs", measure: || leg(&["measured_opening", "measured_closing"], 1) },
    Figure { name: "leg, data segment in", measure: || leg(&["measured_inward"], leg::COUNT) },
    Figure { name: "leg, data frame out", measure: || leg(&["measured_outward"], leg::COUNT) },
];

/// Instructions per switched frame.
fn switched(len: usize) -> Result<f64> {
    let total = |frames: u16| count(&["switch", &len.to_string(), &frames.to_string()], &["measured_worker"]);
    let [short, long] = FRAMES;
    let more = total(long)?.checked_sub(total(short)?).context("more frames took fewer instructions")?;
    Ok(more as f64 / f64::from(long - short))
}

/// Instructions of a part of the leg's life, for each of its `units`.
fn leg(functions: &[&str], units: u32) -> Result<f64> {
    Ok(count(&["leg"], functions)? as f64 / f64::from(units))
}

/// Measures everything twice, and compares or records.
fn measure() -> Result<()> {
    let mut record = Record::read()?;
    let recording = env::var("RECORD").is_ok_and(|value| value == "1");
    let mut complaints = Vec::new();
    println!("{:<30} {:>10} {:>10} {:>10} {:>9}", "instructions", "recorded", "first run", "second", "change");
    for figure in FIGURES {
        let (first, second) = ((figure.measure)()?, (figure.measure)()?);
        ensure!(first > 0.0, "{}: nothing was counted", figure.name);
        if (first - second).abs() / first >= NOISE {
            complaints.push(format!("{}: two runs differ by 1 % or more: {first:.1}, {second:.1}", figure.name));
        }
        let recorded = record.figure(figure.name);
        let change = recorded.map(|recorded| second / recorded - 1.0);
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_string());
        let before = text(recorded.map(|recorded| format!("{recorded:.1}")));
        let percent = text(change.map(|change| format!("{:+.1} %", 100.0 * change)));
        println!("{:<30} {before:>10} {first:>10.1} {second:>10.1} {percent:>9}", figure.name);
        match change {
            _ if recording => record.set(figure.name, second)?,
            Some(change) if change > WORSE => {
                complaints.push(format!("{}: {percent}, more than 10 % worse than recorded", figure.name));
            }
            Some(_) => {}
            None => complaints.push(format!("{}: not recorded", figure.name)),
        }
    }
    if !complaints.is_empty() {
        bail!("{}\nWhat is meant to be so is recorded by make bench-micro RECORD=1.", complaints.join("\n"));
    }
    if recording { record.write() } else { record.note_tools() }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(),
        ["leg"] => leg::run(),
        ["workers"] => workers::run(),
        ["switch", len, frames] => switch::run(len.parse()?, frames.parse()?),
        _ => bail!("vonic-bench-micro takes no arguments"),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}
