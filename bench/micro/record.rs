//! The recorded figures: the rows of the table in `bench/results/micro.md`, and the tools they were recorded with.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

/// What the line with the tools begins with.
const TOOLS: &str = "Recorded with ";

/// The text of the record.
pub struct Record {
    path: PathBuf,
    lines: Vec<String>,
}

/// The first line that a program says about its version.
fn version(program: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output().with_context(|| program.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_string())
}

fn tools() -> Result<String> {
    let target = std::env::consts::ARCH;
    Ok(format!("{TOOLS}{}, {}, {target}.", version("rustc")?, version("valgrind")?))
}

impl Record {
    /// The record as it stands.
    pub fn read() -> Result<Record> {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../results/micro.md"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Record { path, lines: text.lines().map(String::from).collect() })
    }

    fn row(name: &str) -> String {
        format!("| {name} | ")
    }

    /// A recorded figure.
    pub fn figure(&self, name: &str) -> Option<f64> {
        let row = Record::row(name);
        let cell = self.lines.iter().find_map(|line| line.strip_prefix(&row))?;
        cell.trim_end_matches([' ', '|']).parse().ok()
    }

    /// Replaces a figure.
    ///
    /// # Errors
    /// The table has no such row.
    pub fn set(&mut self, name: &str, value: f64) -> Result<()> {
        let row = Record::row(name);
        let line = self.lines.iter_mut().find(|line| line.starts_with(&row));
        *line.with_context(|| format!("the record has no row for {name}"))? = format!("{row}{value:.1} |");
        Ok(())
    }

    /// Says so if the figures are another compiler's or another valgrind's.
    pub fn note_tools(&self) -> Result<()> {
        let now = tools()?;
        if !self.lines.contains(&now) {
            let recorded = self.lines.iter().find(|line| line.starts_with(TOOLS));
            println!("Other tools than recorded, part of a change may be theirs: {now} ({recorded:?})");
        }
        Ok(())
    }

    /// Writes the record with its new figures and the tools of today.
    pub fn write(mut self) -> Result<()> {
        let line = self.lines.iter_mut().find(|line| line.starts_with(TOOLS));
        *line.context("the record has no line for the tools")? = tools()?;
        fs::write(&self.path, self.lines.join("\n") + "\n")?;
        println!("recorded in {}", self.path.display());
        Ok(())
    }
}
