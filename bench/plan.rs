//! Which rows, how often and how long, from the environment: VONIC_BENCH_ROW, VONIC_BENCH_QUICK, VONIC_BENCH_ROUNDS, VONIC_BENCH_SECONDS.

use std::env::{self, VarError};
use std::str::FromStr;

use vonic_tests::{Context, Error, Result, ensure};

use crate::row::{Figures, Latency, median};

/// One measurement on one side.
pub struct Sample {
    pub value: f64,
    /// See [`Latency`].
    pub percentiles: Option<[f64; 3]>,
}

impl From<f64> for Sample {
    fn from(value: f64) -> Sample {
        Sample { value, percentiles: None }
    }
}

/// Rows by their names, several separated by semicolons; all if none is given.
#[derive(Debug, Clone, Default)]
pub struct Choice(Vec<String>);

impl Choice {
    pub fn from_environment() -> Result<Choice> {
        Ok(Choice::of(&variable::<String>("VONIC_BENCH_ROW")?.unwrap_or_default()))
    }

    fn of(text: &str) -> Choice {
        Choice(text.split(';').map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect())
    }

    /// Whether the row of this name is wanted.
    pub fn takes(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|wanted| wanted == name)
    }

    /// # Errors
    /// If a wanted row does not exist; the message has those that do.
    pub fn check(&self, names: &[&str]) -> Result<()> {
        for wanted in &self.0 {
            ensure!(
                names.contains(&wanted.as_str()),
                "there is no row {wanted:?}, but these:\n  {}",
                names.join("\n  ")
            );
        }
        Ok(())
    }
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    pub choice: Choice,
    pub quick: bool,
    /// Pairs of each row.
    pub rounds: usize,
    /// Of each measurement.
    pub seconds: u64,
}

impl Plan {
    pub fn from_environment() -> Result<Plan> {
        let quick = variable::<String>("VONIC_BENCH_QUICK")?.is_some_and(|text| text == "1");
        let (rounds, seconds) = if quick { (1, 1) } else { (5, 3) };
        let rounds = variable("VONIC_BENCH_ROUNDS")?.unwrap_or(rounds).max(1);
        let seconds = variable("VONIC_BENCH_SECONDS")?.unwrap_or(seconds).max(1);
        Ok(Plan { choice: Choice::from_environment()?, quick, rounds, seconds })
    }

    /// Measures vonic and the peer in turn, A B A B, since machines drift.
    pub fn pairs<O: Into<Sample>>(
        &self,
        peer: &str,
        mut ours: impl FnMut() -> Result<O>,
        mut theirs: impl FnMut() -> Result<O>,
    ) -> Result<Figures> {
        let (mut figures, mut latencies) = (Figures::default(), [Vec::new(), Vec::new()]);
        for _ in 0..self.rounds {
            let ours: Sample = ours().context("vonic")?.into();
            let theirs: Sample = theirs().with_context(|| peer.to_string())?.into();
            ensure!(ours.value > 0.0 && theirs.value > 0.0, "nothing moved: {} and {}", ours.value, theirs.value);
            figures.ours.push(ours.value);
            figures.theirs.push(theirs.value);
            for (all, one) in latencies.iter_mut().zip([ours.percentiles, theirs.percentiles]) {
                all.extend(one);
            }
        }
        let who = ["vonic", peer];
        figures.latencies = who.iter().zip(&latencies).filter_map(|(who, all)| medians(who, all)).collect();
        Ok(figures)
    }
}

/// Each percentile's median over the rounds.
pub fn medians(who: &str, rounds: &[[f64; 3]]) -> Option<Latency> {
    let at = |place: usize| median(&rounds.iter().map(|round| round[place]).collect::<Vec<_>>());
    (!rounds.is_empty()).then(|| Latency { who: who.into(), percentiles: [at(0), at(1), at(2)] })
}

/// A variable of the environment, if it is set to something.
pub fn variable<T: FromStr>(name: &str) -> Result<Option<T>> {
    match env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|_| Error::msg(format!("{name}={text}: not a value of it"))),
        Err(VarError::NotPresent) => Ok(None),
        Err(error) => Err(Error::new(error).context(name.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_takes_what_it_names_and_an_empty_one_everything() {
        let some = Choice::of("1000, 256 MiB; 1");
        assert!(some.takes("1000, 256 MiB") && some.takes("1") && !some.takes("1000"));
        assert!(Choice::default().takes("anything"));
        assert!(some.check(&["1"]).is_err() && some.check(&["1", "1000, 256 MiB"]).is_ok());
    }

    #[test]
    fn sides_take_turns() {
        let plan = Plan { choice: Choice::default(), quick: true, rounds: 3, seconds: 1 };
        let order = std::cell::RefCell::new(String::new());
        let side = |name: char, value: f64| {
            order.borrow_mut().push(name);
            Ok(Sample { value, percentiles: Some([value; 3]) })
        };
        let figures = plan.pairs("b", || side('a', 2.0), || side('b', 1.0)).unwrap();
        assert_eq!((order.borrow().as_str(), figures.ratio()), ("ababab", Some([2.0; 3])));
        assert_eq!(figures.latencies.len(), 2);
        assert!(plan.pairs("b", || side('a', 2.0), || side('b', 0.0)).is_err(), "a peer that does nothing is no peer");
    }
}
