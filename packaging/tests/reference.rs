//! Are the manual's pages that are made what the programs say of themselves now, and does what else names their parts name those that
//! there are?
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs;

use vonic_packaging::{project, reference};

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap()
}

#[test]
fn made_pages_are_as_they_would_be_made() {
    for (path, text) in reference().unwrap() {
        let found = fs::read_to_string(project().join("backend/docs").join(path)).unwrap_or_default();
        assert!(found == text, "backend/docs/{path} is stale: make docs-reference");
    }
}

/// What stands before a command in an example, if anything does.
const BEFORE: &[&str] = &["sudo", "$(", "|", "&&", "here$", "other$", "ssh other", "watch -d"];

/// The commands that the examples of a page begin with `vonic`, up to what is no word of them.
fn commands_in(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
        for (at, _) in line.match_indices("vonic ") {
            let before = line[..at].trim_end();
            if before.is_empty() || BEFORE.iter().any(|word| before.ends_with(word)) {
                found.insert(line[at..].split(['|', ')', '"', '#', ';', '>', '&']).next().unwrap().trim());
            }
        }
    }
    found
}

/// A manual that shows what does not exist, or a README that does not show what does, is wrong in the worst place.
#[test]
fn commands_that_the_documents_show_exist() {
    let (vonic, mut shown) = (vonic_control::client::definition(), 0);
    for path in [
        "README.md",
        "backend/docs/start.md",
        "backend/docs/recipes.md",
        "backend/docs/install.md",
        "backend/docs/troubleshooting.md",
    ] {
        let text = read(path);
        for line in commands_in(&text) {
            let mut below = &vonic;
            // Options may stand before the command; what comes behind it is its own.
            for word in line.split_ascii_whitespace().skip(1).filter(|word| !word.starts_with('-')) {
                match below.find_subcommand(word) {
                    Some(found) => below = found,
                    None if below.has_subcommands() => panic!("{path} shows `{line}`, but there is no {word}"),
                    None => break,
                }
            }
            shown += 1;
        }
    }
    assert!(shown > 20, "{shown}");
    let readme = read("README.md");
    for command in vonic.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        assert!(readme.contains(&format!("vonic {name}")), "README.md does not show vonic {name}");
    }
}
