//! The table of what was measured, and where it goes.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use vonic_tests::crowd::{Blow, Takeover};
use vonic_tests::{Context, Result};

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
}

impl Row {
    pub fn new(case: Case) -> Row {
        let phases = vec![Times::default(); MARKS.len()];
        Row { case, first: Times::default(), last: Times::default(), dying: Times::default(), phases }
    }

    pub fn add(&mut self, takeover: &Takeover, phases: &Phases) {
        self.first.add(takeover.first());
        self.last.add(takeover.last());
        self.dying.add(takeover.dying);
        for (times, time) in self.phases.iter_mut().zip(&phases.0) {
            time.iter().for_each(|time| times.add(*time));
        }
    }

    fn text(&self) -> String {
        let phases = self.phases.iter().map(Times::cell);
        let cells = [self.dying.cell()].into_iter().chain(phases).chain([self.first.cell(), self.last.cell()]);
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
        let (machine, kills, head) = (machine(), self.kills, head());
        let text = format!(
            "# From an engine's death to the next byte

`make bench-takeover`, {machine}. {kills} kills a row, a second and more apart. A mock frontend has so many connections whose far ends, in the bench's
process, send 16 bytes in rounds; the engine is stopped, each far end sends once more, and the engine is killed. Milliseconds by the
mock's clock from when the engine's pidfd is readable, as median / p99 / longest. *MiB*: of the guest's memory, which the engine has
touched since it began. *Dying*: from the kill to that pidfd, in which the kernel unmaps that memory. Of `vonic engine restart` and `vonic upgrade`: from the old engine's last byte.

{head}
{rows}
![plot](takeover.svg)
"
        );
        fs::write(folder.join("takeover.md"), text).context("bench/results/takeover.md")?;
        fs::write(folder.join("takeover.svg"), plot::draw(&self.rows)).context("bench/results/takeover.svg")
    }
}

fn head() -> String {
    let names = MARKS.iter().map(|(name, _)| *name);
    let columns: Vec<&str> =
        ["connections", "dying"].into_iter().chain(names).chain(["first byte", "last byte"]).collect();
    format!("| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()))
}

/// What it was measured on: processors, kernel, load.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |m| m.1);
    let (release, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let release = release.split('-').next().unwrap_or_default().trim();
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write!(text, "{count} × {model}, Linux {release}, load {}", load.split(' ').next().unwrap_or_default());
    text
}
