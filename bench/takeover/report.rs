//! The table of what was measured.

use std::time::Duration;

use vonic_tests::Result;
use vonic_tests::crowd::Takeover;

use super::phases::{MARKS, Phases};

/// Times of one thing, of all takeovers of a row.
#[derive(Default, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, time: Duration) {
        let place = self.0.partition_point(|t| *t < time);
        self.0.insert(place, time);
    }

    /// So much of a hundred are no longer than this, in milliseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    fn cell(&self) -> String {
        let [median, p99, most] = [50, 99, 100].map(|percent| self.percentile(percent));
        format!("{median:.1} / {p99:.1} / {most:.1}")
    }
}

/// One case's.
pub struct Row {
    pub connections: usize,
    pub touched: usize,
    pub first: Times,
    pub last: Times,
    dying: Times,
    phases: Vec<Times>,
}

impl Row {
    pub fn new(connections: usize, touched: usize) -> Row {
        let phases = vec![Times::default(); MARKS.len()];
        let (first, last, dying) = (Times::default(), Times::default(), Times::default());
        Row { connections, touched, first, last, dying, phases }
    }

    pub fn add(&mut self, takeover: &Takeover, phases: &Phases) {
        self.first.add(takeover.first());
        self.last.add(takeover.last());
        self.dying.add(takeover.dying);
        for (times, time) in self.phases.iter_mut().zip(&phases.0) {
            time.iter().for_each(|time| times.add(*time));
        }
    }
}

/// All of them.
pub struct Report {
    kills: usize,
    pub rows: Vec<Row>,
}

impl Report {
    pub fn new(kills: usize) -> Report {
        Report { kills, rows: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        println!("{} connections, {} MiB: first {}, last {}", row.connections, row.touched, row.first.cell(), row.last.cell());
        println!("    dying {}", row.dying.cell());
        for ((name, _), times) in MARKS.iter().zip(&row.phases) {
            println!("    {name} {}", times.cell());
        }
        self.rows.push(row);
    }

    pub fn write(&self) -> Result<()> {
        let _ = self.kills;
        Ok(())
    }
}
