//! Where results go: figures as JSON, RESULTS.md with the tables, and plots. Every number in a document comes from here.

mod plots;
mod table;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vonic_tests::{Context, Lab, Result};

use crate::machine;
use crate::plan::variable;
use crate::row::Row;

/// What the file of figures holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Results {
    machine: String,
    versions: BTreeMap<String, String>,
    rows: Vec<Row>,
}

/// The results, old and new.
pub struct Report {
    results: Results,
    order: Vec<String>,
    /// Of RESULTS.md, and the path of everything else from there.
    folder: PathBuf,
    inner: &'static str,
}

impl Report {
    /// Goes on with what earlier runs have measured on this machine with the same peers: rows may be measured one by one. Everything
    /// goes into VONIC_BENCH_OUT if that is set, else to its place in the checkout that is the current directory.
    pub fn open(order: &[&str]) -> Result<Report> {
        let (folder, inner) = match variable::<PathBuf>("VONIC_BENCH_OUT")? {
            Some(folder) => (folder, ""),
            None => (PathBuf::from("."), "bench/results/"),
        };
        let lab = Lab::open()?;
        let now = Results { machine: machine::description(), versions: machine::versions(&lab), rows: Vec::new() };
        let before = fs::read_to_string(folder.join(inner).join(FIGURES)).ok();
        let before: Option<Results> = before.and_then(|text| serde_json::from_str(&text).ok());
        let same = before.filter(|old| (&old.machine, &old.versions) == (&now.machine, &now.versions));
        let order = order.iter().map(ToString::to_string).collect();
        let mut report = Report { results: now, order, folder, inner };
        report.take(&mut same.map(|old| old.rows).unwrap_or_default());
        Ok(report)
    }

    /// Takes rows in, each in place of what was measured before.
    pub fn take(&mut self, rows: &mut Vec<Row>) {
        let all = &mut self.results.rows;
        for row in rows.drain(..) {
            all.retain(|old| old.id != row.id);
            all.push(row);
        }
        let order = &self.order;
        all.retain(|row| order.contains(&row.id));
        all.sort_by_key(|row| order.iter().position(|id| *id == row.id));
    }

    /// Writes all files.
    pub fn write(&self) -> Result<()> {
        let inner = self.folder.join(self.inner);
        fs::create_dir_all(&inner).with_context(|| inner.display().to_string())?;
        let write = |path: &Path, text: String| fs::write(path, text).with_context(|| path.display().to_string());
        let figures = serde_json::to_string_pretty(&self.results)? + "\n";
        write(&inner.join(FIGURES), figures)?;
        let rows = &self.results.rows;
        let plots =
            [("ratios", plots::ratios(rows)), ("latency", plots::latencies(rows)), ("scale", plots::scale(rows))];
        for (name, plot) in &plots {
            write(&inner.join(format!("{name}.svg")), plot.clone())?;
        }
        write(&self.folder.join("RESULTS.md"), text::document(&self.results, self.inner))
    }

    /// The tables, for people in front of a terminal.
    pub fn table(&self) -> String {
        text::tables(&self.results.rows)
    }
}

/// The file with everything that was measured.
const FIGURES: &str = "bench.json";
