//! What a reload did, or would do.
use std::io::{self, Write};

use super::Arguments;
use super::command::{Failure, decode};
use crate::api::types::{Difference, FileError, ReloadReport};

/// Prints a report; one with errors is a failure.
pub(super) fn show(arguments: &Arguments, body: &[u8], out: &mut dyn Write) -> Result<(), Failure> {
    let report: ReloadReport = decode(body)?;
    if arguments.json {
        out.write_all(body)?;
        writeln!(out)?;
    } else {
        print(&report, out)?;
    }
    if report.errors.is_empty() { Ok(()) } else { Err(Failure::BadFiles(file_errors(&report.errors))) }
}

fn print(report: &ReloadReport, out: &mut dyn Write) -> io::Result<()> {
    let would = if report.dry_run { "would be " } else { "" };
    for (what, names) in [("added", &report.added), ("changed", &report.changed), ("removed", &report.removed)] {
        if !names.is_empty() {
            writeln!(out, "{would}{what}: {}", names.join(", "))?;
        }
    }
    for Difference { of, key, before, after } in &report.differences {
        let [before, after] = [before, after].map(|value| value.as_deref().unwrap_or("nothing"));
        writeln!(out, "  {of}: {key}: {before} -> {after}")?;
    }
    if !report.reconnects.is_empty() {
        let names = report.reconnects.join(", ");
        writeln!(
            out,
            "  another NIC, so the VMM {} connect again: {names}",
            if report.dry_run { "would" } else { "has to" }
        )?;
    }
    writeln!(out, "unchanged: {}", report.unchanged)
}

/// Each mistake as `FILE:LINE: message`.
pub(super) fn file_errors(errors: &[FileError]) -> Vec<String> {
    let line = |e: &FileError| match e.line {
        Some(line) => format!("{}:{line}: {}", e.file, e.message),
        None => format!("{}: {}", e.file, e.message),
    };
    errors.iter().map(line).collect()
}
