//! Tables and numbers for people.
use std::io::{self, Write};

/// A table that is aligned when it is printed. A column whose heading begins with `>` is aligned to the right.
pub(super) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &'static [&'static str]) -> Self {
        Table { headings, rows: Vec::new() }
    }

    /// Adds a row; what is not [`plain`] in it does not reach the terminal.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.headings.len());
        self.rows.push(cells.map(|cell| plain(&cell)).to_vec());
    }

    /// Prints headings and rows, or nothing if there are no rows.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let headings: Vec<String> = self.headings.iter().map(|h| h.trim_start_matches('>').to_string()).collect();
        let width = |column: usize| {
            let rows = self.rows.iter().chain([&headings]);
            rows.map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        for row in [&headings].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, heading), &width) in row.iter().zip(self.headings).zip(&widths) {
                let aligned =
                    if heading.starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
                line.push_str(&aligned);
                line.push_str("  ");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A text without what moves a terminal's cursor or turns the direction of writing (Unicode's bidirectional controls): whoever named it
/// may have meant harm.
pub(super) fn plain(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '?' } else { c }).collect()
}

/// Bytes with a binary unit and three or four digits.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let power = (n.ilog2() / 10).min(6);
    let whole = n >> (10 * power);
    let unit = UNITS[power as usize - 1];
    if whole >= 100 {
        return format!("{whole} {unit}");
    }
    let tenths = (n >> (10 * (power - 1))) % 1024 * 10 / 1024;
    format!("{whole}.{tenths} {unit}")
}

/// Seconds as days, hours, minutes and seconds: the two largest that are not zero.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_clean() {
        let mut table = Table::new(&["NAME", ">N", "LAST"]);
        let mut printed = Vec::new();
        table.print(&mut printed).unwrap();
        assert!(printed.is_empty());
        table.row(["a".into(), "1000".into(), "x\u{1b}[2J".into()]);
        table.row(["bä-long".into(), "1".into(), String::new()]);
        table.print(&mut printed).unwrap();
        let expected = "NAME        N  LAST\na        1000  x?[2J\nbä-long     1\n";
        assert_eq!(String::from_utf8(printed).unwrap(), expected);
    }

    #[test]
    fn numbers_for_people() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_400, "100 KiB"),
            (1_048_575, "1023 KiB"),
            (1_048_576, "1.0 MiB"),
            (5_368_709_120, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(n), text, "{n}");
        }
        for (n, text) in [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3600, "1h 0m"), (90_061, "1d 1h")] {
            assert_eq!(duration(n), text, "{n}");
        }
    }
}
