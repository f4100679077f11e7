//! The manual's list of decisions: of the ADRs that there are.
use std::fs;
use std::io;

/// The entry of `SUMMARY.md` behind which they stand.
const ENTRY: &str = "- [Decisions](adr/README.md)\n";

/// The page of all, and the table of contents with them.
///
/// # Errors
/// The file system's.
pub fn pages() -> io::Result<(String, String)> {
    let docs = crate::project().join("backend/docs");
    let mut decisions = Vec::new();
    for entry in fs::read_dir(docs.join("adr"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some((number, _)) = name.split_once('-').filter(|_| name.ends_with(".md")) else { continue };
        let text = fs::read_to_string(docs.join("adr").join(&name))?;
        let title = text.lines().next().unwrap_or_default().trim_start_matches("# ").trim_start_matches("ADR ");
        let title = title.trim_start_matches(number).trim_start_matches([':', '.', ' ']);
        decisions.push((number.to_string(), title.to_string(), name));
    }
    decisions.sort();
    let mut page = "# Decisions\n\nEach on one page: what was to be decided, what was, and what follows. The list is made by `make docs-reference`.\n\n".to_string();
    let contents = fs::read_to_string(docs.join("SUMMARY.md"))?;
    let before = contents.split_once(ENTRY).map_or(contents.as_str(), |(before, _)| before);
    let mut contents = format!("{before}{ENTRY}");
    for (number, title, name) in decisions {
        page.push_str(&format!("* [{number}]({name}): {title}\n"));
        contents.push_str(&format!("  - [{number}: {title}](adr/{name})\n"));
    }
    Ok((page, contents))
}
