//! What a check found, and how findings are printed.
use std::io::{self, Write};

use serde::Serialize;

use crate::client::layout::plain;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// Something is slower, or less safe, than it could be, or will not work one day.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub level: Level,
    /// `host`, `vonicd`, or a VM's name after `vm `.
    pub subject: String,
    /// Which check found it.
    pub check: &'static str,
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, subject: "host".to_string(), check, message: message.into(), mend: None }
    }

    pub fn note(check: &'static str, message: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { level: Level::Note, mend: Some(mend.into()), ..Finding::ok(check, message) }
    }

    pub fn warning(check: &'static str, message: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { level: Level::Warning, ..Finding::note(check, message, mend) }
    }

    pub fn problem(check: &'static str, message: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { level: Level::Problem, ..Finding::note(check, message, mend) }
    }

    pub fn of(self, subject: &str) -> Finding {
        Finding { subject: subject.to_string(), ..self }
    }
}

/// All of them.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub problems: usize,
    pub warnings: usize,
    pub notes: usize,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn new(findings: Vec<Finding>) -> Report {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let (problems, warnings, notes) = (count(Level::Problem), count(Level::Warning), count(Level::Note));
        Report { problems, warnings, notes, findings }
    }

    /// One line for each finding, and one for what to do about it.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = self.findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
        for Finding { level, subject, check, message, mend } in &self.findings {
            let (subject, message) = (plain(subject), plain(message));
            writeln!(out, "{:<7}  {subject:<width$}  {check}: {message}", level.name())?;
            if let Some(mend) = mend {
                writeln!(out, "{:7}  {:width$}  -> {}", "", "", plain(mend))?;
            }
        }
        let Report { problems, warnings, notes, .. } = self;
        let plural = |n: &usize, what: &str| format!("{n} {what}{}", if *n == 1 { "" } else { "s" });
        let (problems, warnings, notes) =
            (plural(problems, "problem"), plural(warnings, "warning"), plural(notes, "note"));
        writeln!(out, "\n{problems}, {warnings}, {notes}")
    }
}
