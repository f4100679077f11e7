//! Instructions per switched frame, as `make bench-micro` has recorded them.

use std::fs;

use vonic_tests::{Context, Result};

use crate::book::{Book, Stage};
use crate::row::{Case, Figures, Target};

/// What bench/micro calls it.
const NAME: &str = "switch, frame of 64 bytes";
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/micro.md");

static CASE: Case = Case {
    id: "instructions",
    load: "instructions per frame of 64 B through the switch (`make bench-micro`)",
    unit: "instructions",
    peer: "",
    target: Target::AtMost(150.0),
};

pub static STAGE: Stage = Stage { name: "instructions", cases: || vec![&CASE], run };

fn run(book: &mut Book<'_>) -> Result<()> {
    book.row(&CASE, |_| {
        let text = fs::read_to_string(RECORD).context(RECORD)?;
        let cell = text.lines().find_map(|line| line.strip_prefix(&format!("| {NAME} | ")));
        let figure = cell.and_then(|cell| cell.trim_end_matches([' ', '|']).parse().ok());
        figure.map(Figures::one).with_context(|| format!("{RECORD} has no row {NAME}"))
    });
    Ok(())
}
