//! The table of what was measured, and where it goes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use vonic_tests::crowd::{Blow, Takeover};
use vonic_tests::{Context, Result};

use crate::machine;

use super::phases::{MARKS, Phases};
use super::{Case, plot};

/// Times of one thing, of all takeovers of a row, the shortest first.
#[derive(Default, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, time: Duration) {
        let place = self.0.partition_point(|t| *t < time);
        self.0.insert(place, time);
    }

    /// So many of a hundred are no longer than this, in milliseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    fn cell(&self) -> String {
        if self.0.is_empty() {
            return "–".into();
        }
        let [median, p99, most] = [50, 99, 100].map(|percent| self.percentile(percent));
        format!("{median:.1} / {p99:.1} / {most:.1}")
    }
}

/// One case's.
pub struct Row {
    pub case: Case,
    pub first: Times,
    pub last: Times,
    dying: Times,
    phases: Vec<Times>,
    /// First and last byte of those takeovers during which no processor was given to another machine.
    undisturbed: [Times; 2],
}

impl Row {
    pub fn new(case: Case) -> Row {
        let phases = vec![Times::default(); MARKS.len()];
        let undisturbed = [Times::default(), Times::default()];
        Row { case, first: Times::default(), last: Times::default(), dying: Times::default(), phases, undisturbed }
    }

    pub fn add(&mut self, takeover: &Takeover, phases: &Phases, disturbed: bool) {
        self.first.add(takeover.first());
        self.last.add(takeover.last());
        self.dying.add(takeover.dying);
        for (times, time) in self.phases.iter_mut().zip(&phases.0) {
            time.iter().for_each(|time| times.add(*time));
        }
        if !disturbed {
            self.undisturbed[0].add(takeover.first());
            self.undisturbed[1].add(takeover.last());
        }
    }

    fn text(&self) -> String {
        let phases = self.phases.iter().map(Times::cell);
        let [first, last] = &self.undisturbed;
        let rest = [self.first.cell(), self.last.cell(), first.0.len().to_string(), first.cell(), last.cell()];
        let cells = [self.dying.cell()].into_iter().chain(phases).chain(rest);
        format!("| {} | {} |", name(&self.case), cells.collect::<Vec<_>>().join(" | "))
    }
}

/// What a case is called.
pub fn name(case: &Case) -> String {
    let how = match case.blow {
        Blow::Kill => "",
        Blow::Restart => ", `vonic engine restart`",
        Blow::Upgrade => ", `vonic upgrade`",
    };
    match case.touched {
        0 => format!("{}{how}", case.connections),
        touched => format!("{}, {touched} MiB{how}", case.connections),
    }
}

/// All of them.
pub struct Report {
    kills: usize,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(kills: usize) -> Report {
        Report { kills, rows: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        if self.rows.is_empty() {
            println!("{}", head());
        }
        println!("{}", row.text());
        self.rows.push(row);
    }

    /// Writes `takeover.md` and `takeover.svg`.
    pub fn write(&self) -> Result<()> {
        let folder = Path::new("bench/results");
        let rows: String = self.rows.iter().fold(String::new(), |all, row| all + &row.text() + "\n");
        let machine = format!("{}, load {}", machine::description(), machine::load());
        let (kills, head) = (self.kills, head());
        let text = format!(
            "# From an engine's death to the next byte

`make bench-takeover`, {machine}. {kills} kills a row, a second and more apart. A mock frontend has so many connections whose far ends, in the bench's
process, send 16 bytes in rounds; the engine is stopped, each far end sends once more, and the engine is killed. Milliseconds by the
mock's clock from when the engine's pidfd is readable, as median / p99 / longest. *MiB*: of the guest's memory, which the engine has
touched since it began. *Dying*: from the kill to that pidfd, in which the kernel unmaps that memory. Of `vonic engine restart` and `vonic upgrade`: from the old engine's last byte.
*Undisturbed*: takeovers during which the hypervisor gave no processor of this machine to another one, by the kernel's account of stolen time.

{head}
{rows}
![plot](takeover.svg)
"
        );
        fs::write(folder.join("takeover.md"), text).context("bench/results/takeover.md")?;
        fs::write(folder.join("takeover.svg"), plot::draw(&self.rows)).context("bench/results/takeover.svg")
    }
}

/// The last columns.
const LAST: [&str; 5] = ["first byte", "last byte", "undisturbed", "their first byte", "their last byte"];

fn head() -> String {
    let names = MARKS.iter().map(|(name, _)| *name);
    let columns: Vec<&str> = ["connections", "dying"].into_iter().chain(names).chain(LAST).collect();
    format!("| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()))
}
