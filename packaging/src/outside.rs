//! What the manual leads to that is no page of it: files of the project, put where its links find them.
//!
//! mdBook takes every link to a page of Markdown for one to a page of HTML, whether or not the page is the book's.
use std::fs;
use std::io;
use std::path::Path;

use pulldown_cmark::{Event, Options, Parser, Tag, html};

/// Files and folders, from the project's.
pub const PATHS: &[&str] = &[
    "README.md",
    "RESULTS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "deny.toml",
    "bench/results",
    "qemu-configs",
    "packaging",
    "guest-agent/vonic-agent.service",
];

/// Puts them into `folder`; pages of Markdown also as HTML.
///
/// # Errors
/// The file system's.
pub fn write(folder: &Path) -> io::Result<()> {
    PATHS.iter().try_for_each(|path| copy(&crate::project().join(path), &folder.join(path)))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if from.extension().is_some_and(|extension| extension == "md") {
        fs::write(to.with_extension("html"), html_page(&fs::read_to_string(from)?))?;
    }
    fs::copy(from, to).map(drop)
}

/// A page without any dress but what the reader's browser gives it.
fn html_page(markdown: &str) -> String {
    let mut page = "<!DOCTYPE html><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
        <style>body{max-width:60em;margin:2em auto;font-family:sans-serif}td,th{padding:.1em .6em;text-align:left}</style>\n"
        .to_string();
    html::push_html(&mut page, Parser::new_ext(markdown, Options::ENABLE_TABLES).map(to_html));
    page
}

/// Links of this project to pages of Markdown lead to those of HTML, as mdBook's own do.
fn to_html(event: Event<'_>) -> Event<'_> {
    let Event::Start(Tag::Link { link_type, dest_url, title, id }) = event else { return event };
    let (page, fragment) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
    let dest_url = match page.strip_suffix(".md").filter(|page| !page.contains("://")) {
        Some(page) if fragment.is_empty() => format!("{page}.html").into(),
        Some(page) => format!("{page}.html#{fragment}").into(),
        None => dest_url,
    };
    Event::Start(Tag::Link { link_type, dest_url, title, id })
}
