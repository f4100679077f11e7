//! What is measured, and what came of it: one description and one result for every row of every family.

use serde::{Deserialize, Serialize};

/// What a row has to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// vonic's figure over the peer's.
    Ratio { floor: f64, aim: f64 },
    /// vonic's figure itself, in the row's unit.
    AtMost(f64),
    /// Nothing: it is reported beside others.
    Beside,
}

/// A row of the table before it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// By which it is chosen, and known in the results.
    pub id: &'static str,
    pub load: &'static str,
    pub unit: &'static str,
    /// Whom vonic is held against; empty if nobody.
    pub peer: &'static str,
    pub target: Target,
}

/// A line of a plot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// How long answers took, in microseconds: of a hundred, 50, 90 and 99 no longer than this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub who: String,
    pub percentiles: [f64; 3],
}

/// Everything that was measured for one row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// vonic's, one of each round.
    pub ours: Vec<f64>,
    /// The peer's, of the same rounds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub theirs: Vec<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latencies: Vec<Latency>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Series>,
    /// What else is worth knowing of it, each with its name and unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<(String, f64)>,
    /// In what the measurement falls short of what the row says; empty if in nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub but: String,
}

impl Figures {
    /// One figure.
    pub fn one(value: f64) -> Figures {
        Figures { ours: vec![value], ..Figures::default() }
    }

    /// The median of what vonic reached.
    pub fn vonic(&self) -> f64 {
        median(&self.ours)
    }

    /// The median of what the peer reached.
    pub fn peer(&self) -> f64 {
        median(&self.theirs)
    }

    /// The ratios of the pairs: least, median, most. None without a peer.
    pub fn ratio(&self) -> Option<[f64; 3]> {
        let mut ratios: Vec<f64> = self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        Some([*ratios.first()?, median(&ratios), *ratios.last()?])
    }
}

/// Under what circumstances a row was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    pub commit: String,
    pub date: String,
    pub rounds: usize,
    pub seconds: u64,
    /// The machine's load average of a minute when the run began.
    pub load_average: f64,
}

/// What a failure says last.
fn last_lines(why: &str) -> String {
    let lines: Vec<&str> = why.trim().lines().collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

/// A measured row, or why it could not be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub id: String,
    pub load: String,
    pub unit: String,
    pub peer: String,
    pub target: Target,
    #[serde(flatten)]
    pub stamp: Stamp,
    pub outcome: Outcome,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured(Figures),
    Failed(String),
}

impl Row {
    pub fn new(case: &Case, stamp: Stamp, outcome: Outcome) -> Row {
        let outcome = match outcome {
            // Whole logs are for whoever runs it.
            Outcome::Failed(why) => Outcome::Failed(last_lines(&why)),
            measured => measured,
        };
        let [id, load, unit, peer] = [case.id, case.load, case.unit, case.peer].map(String::from);
        Row { id, load, unit, peer, target: case.target, stamp, outcome }
    }

    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured(figures) => Some(figures),
            Outcome::Failed(_) => None,
        }
    }

    /// Whether the target is met, in words.
    pub fn verdict(&self) -> String {
        let figures = match &self.outcome {
            Outcome::Failed(why) => return format!("FAILED: {}", why.lines().next().unwrap_or_default()),
            Outcome::Measured(figures) => figures,
        };
        let verdict = self.judge(figures);
        if figures.but.is_empty() { verdict } else { format!("{verdict}, but {}", figures.but) }
    }

    fn judge(&self, figures: &Figures) -> String {
        match (self.target, figures.ratio()) {
            (Target::Beside, _) => String::new(),
            (Target::AtMost(most), _) if figures.vonic() <= most => "met".into(),
            (Target::AtMost(most), _) => format!("missed by {}", number(figures.vonic() - most)),
            (Target::Ratio { .. }, None) => "no pairs".into(),
            (Target::Ratio { floor, aim }, Some([_, ratio, _])) => match ratio {
                _ if ratio >= aim && aim > floor => "aim met".into(),
                _ if ratio >= aim => "met".into(),
                _ if ratio >= floor => format!("floor met, aim missed by {:.2}", aim - ratio),
                _ => format!("missed by {:.2}", floor - ratio),
            },
        }
    }
}

/// The middle one; of an even number the upper of the two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// With about three digits that count.
pub fn number(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: Target, ours: &[f64], theirs: &[f64]) -> Row {
        let case = Case { id: "x", load: "x", unit: "x", peer: "y", target };
        let figures = Figures { ours: ours.to_vec(), theirs: theirs.to_vec(), ..Figures::default() };
        Row::new(&case, Stamp::default(), Outcome::Measured(figures))
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs_and_not_of_the_sides() {
        let row = row(Target::Beside, &[1.0, 9.0, 4.0], &[1.0, 3.0, 1.0]);
        assert_eq!(row.figures().and_then(Figures::ratio), Some([1.0, 3.0, 4.0]));
        assert_eq!(row.figures().map(Figures::vonic), Some(4.0));
    }

    #[test]
    fn verdicts_say_by_how_much() {
        let target = Target::Ratio { floor: 2.0, aim: 3.0 };
        assert_eq!(row(target, &[3.0], &[1.0]).verdict(), "aim met");
        assert_eq!(row(target, &[2.5], &[1.0]).verdict(), "floor met, aim missed by 0.50");
        assert_eq!(row(target, &[1.5], &[1.0]).verdict(), "missed by 0.50");
        assert_eq!(row(Target::Ratio { floor: 0.9, aim: 0.9 }, &[0.95], &[1.0]).verdict(), "met");
        assert_eq!(row(Target::AtMost(1024.0), &[1000.0], &[]).verdict(), "met");
        assert_eq!(row(Target::AtMost(1024.0), &[1030.0], &[]).verdict(), "missed by 6.00");
    }

    #[test]
    fn a_row_comes_back_as_it_was_written() {
        let row = row(Target::Ratio { floor: 2.0, aim: 3.0 }, &[3.0], &[1.0]);
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
    }
}
