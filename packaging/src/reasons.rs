//! The manual's table of drop reasons: what `vonic doctor` says of them.
use std::fs;
use std::io;

use vonic_control::client::{DROP_MEANINGS, DropMeaning};

/// What the table begins with in `troubleshooting.md`; it ends the page.
const HEAD: &str = "| reason | what it means | what to do |\n|---|---|---|\n";

/// The page with it.
///
/// # Errors
/// The file system's.
pub fn page() -> io::Result<String> {
    let text = fs::read_to_string(crate::project().join("backend/docs/troubleshooting.md"))?;
    let (before, _) =
        text.split_once(HEAD).ok_or_else(|| io::Error::other("troubleshooting.md has no table of reasons"))?;
    Ok(format!("{before}{HEAD}{}", DROP_MEANINGS.iter().map(row).collect::<String>()))
}

fn row(DropMeaning { reason, what, mend, more, .. }: &DropMeaning) -> String {
    let name = reason.map_or("", |reason| reason.name());
    let more = more.map(|more| format!(" ([more]({more}))")).unwrap_or_default();
    format!("| `{name}` | {}. | {}{more}. |\n", begun(what), begun(mend))
}

/// A sentence with a capital in front, unless it begins with code.
fn begun(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
