//! The rows of a run as they come, and the stages on which they are measured.

use std::thread;
use std::time::Instant;

use vonic_tests::{Error, Result, ensure};

use crate::machine;
use crate::plan::Plan;
use crate::row::{Case, Figures, Outcome, Row, Stamp, number};

/// Rows that share what has to be started for them.
pub struct Stage {
    pub name: &'static str,
    pub cases: fn() -> Vec<&'static Case>,
    /// Measures those that the book wants. It runs on a thread of its own, which it may move into another network, and with which
    /// everything ends that it has started.
    pub run: fn(&mut Book<'_>) -> Result<()>,
}

/// Where rows are written down.
pub struct Book<'a> {
    pub plan: &'a Plan,
    stamp: Stamp,
    wanted: Vec<&'static Case>,
    /// Since somebody took them.
    pub rows: Vec<Row>,
    /// Rows that failed, by name.
    failed: Vec<String>,
}

impl<'a> Book<'a> {
    pub fn new(plan: &'a Plan) -> Book<'a> {
        let stamp = Stamp {
            commit: machine::commit(),
            date: machine::date(),
            rounds: plan.rounds,
            seconds: plan.seconds,
            load_average: machine::load(),
        };
        Book { plan, stamp, wanted: Vec::new(), rows: Vec::new(), failed: Vec::new() }
    }

    /// Measures the chosen rows of a stage. What keeps the stage from being set up is the reason of all of them.
    pub fn play(&mut self, stage: &Stage) {
        self.wanted = (stage.cases)().into_iter().filter(|case| self.plan.choice.takes(case.id)).collect();
        if self.wanted.is_empty() {
            return;
        }
        eprintln!("-- {}: {} rows, load {:.1}", stage.name, self.wanted.len(), machine::load());
        let began = Instant::now();
        let result = thread::scope(|scope| scope.spawn(|| (stage.run)(self)).join());
        let why = match result.unwrap_or_else(|_| Err(Error::msg("its thread died"))) {
            Ok(()) => "the stage did not measure it".to_string(),
            Err(error) => format!("{error:#}"),
        };
        for case in std::mem::take(&mut self.wanted) {
            self.write(case, Outcome::Failed(why.clone()));
        }
        eprintln!("-- {}: {:.0} s", stage.name, began.elapsed().as_secs_f64());
    }

    /// Whether a row is to be measured.
    pub fn wants(&self, case: &Case) -> bool {
        self.wanted.iter().any(|wanted| wanted.id == case.id)
    }

    /// Measures a row if it is wanted. What fails in it is its own affair.
    pub fn row(&mut self, case: &'static Case, measure: impl FnOnce(&Plan) -> Result<Figures>) {
        if self.wants(case) {
            let result = measure(self.plan);
            self.note(case, result);
        }
    }

    /// Writes down what came of a row, if it is wanted.
    pub fn note(&mut self, case: &'static Case, result: Result<Figures>) {
        if let Some(place) = self.wanted.iter().position(|wanted| wanted.id == case.id) {
            self.wanted.remove(place);
            self.write(case, result.map_or_else(|error| Outcome::Failed(format!("{error:#}")), Outcome::Measured));
        }
    }

    fn write(&mut self, case: &Case, outcome: Outcome) {
        if let Outcome::Failed(why) = &outcome {
            eprintln!("   {why}");
            self.failed.push(case.id.to_string());
        }
        let row = Row::new(case, self.stamp.clone(), outcome);
        let figures = row.figures().map(|figures| match figures.ratio() {
            Some([_, ratio, _]) => {
                format!("{} against {}: {ratio:.2}", number(figures.vonic()), number(figures.peer()))
            }
            None => number(figures.vonic()),
        });
        eprintln!("   {:<26} {} {}", row.id, figures.unwrap_or_default(), row.verdict());
        self.rows.push(row);
    }

    /// # Errors
    /// If rows failed: which.
    pub fn verdict(&self) -> Result<()> {
        ensure!(self.failed.is_empty(), "these rows could not be measured: {}", self.failed.join(", "));
        Ok(())
    }
}
