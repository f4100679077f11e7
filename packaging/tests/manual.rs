//! Is the manual whole: is every page in its table of contents, and does every link of the project's pages lead somewhere, anchors too?
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use vonic_packaging::{outside, project};

/// What one page has.
#[derive(Default)]
struct Page {
    /// Where its links and pictures lead.
    links: Vec<String>,
    /// What can be led to in it.
    anchors: BTreeSet<String>,
}

/// An anchor as GitHub and mdBook make it of a heading: letters and digits in lower case, hyphens for blanks, `-1` behind the second.
fn anchor(heading: &str, taken: &BTreeSet<String>) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    let plain: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
    let numbered = (1..).map(|number| format!("{plain}-{number}"));
    std::iter::once(plain.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap()
}

fn read(path: &Path) -> Page {
    let text = fs::read_to_string(path).unwrap();
    let (mut page, mut heading) = (Page::default(), None::<String>);
    for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let name = anchor(&heading.take().unwrap(), &page.anchors);
                page.anchors.insert(name);
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.to_string())
            }
            _ => {}
        }
    }
    page
}

/// Every page of the project, by its path from there.
fn pages() -> BTreeMap<PathBuf, Page> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![project()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.insert(path.strip_prefix(project()).unwrap().to_path_buf(), read(&path));
            }
        }
    }
    found
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leads out of the project", path.display()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    assert!(pages.len() > 30);
    let mut wrong = Vec::new();
    for (path, page) in &pages {
        for link in page.links.iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { path.clone() } else { plain(&path.parent().unwrap().join(file)) };
            let there = project().join(&target).exists();
            let anchored =
                anchor.is_none_or(|anchor| pages.get(&target).is_some_and(|page| page.anchors.contains(anchor)));
            if !there || !anchored {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_page_of_the_manual_is_in_its_contents() {
    let docs = Path::new("backend/docs");
    let pages = pages();
    let listed: Vec<PathBuf> = pages[&docs.join("SUMMARY.md")].links.iter().map(|link| docs.join(link)).collect();
    for path in &listed {
        assert!(pages.contains_key(path), "SUMMARY.md lists {}", path.display());
    }
    let once: BTreeSet<&PathBuf> = listed.iter().collect();
    assert_eq!(once.len(), listed.len(), "each once");
    let missing =
        pages.keys().filter(|path| path.starts_with(docs) && !once.contains(path) && !path.ends_with("SUMMARY.md"));
    assert_eq!(
        missing.collect::<Vec<_>>(),
        Vec::<&PathBuf>::new(),
        "not in SUMMARY.md (decisions: make docs-reference)"
    );
    let book: toml::Table = fs::read_to_string(project().join(docs).join("book.toml")).unwrap().parse().unwrap();
    assert_eq!(book["book"]["src"].as_str(), Some("."));
}

/// What is no page of the book is put beside it by `make manual`.
#[test]
fn what_the_manual_leads_to_goes_along() {
    let docs = Path::new("backend/docs");
    for (path, page) in pages().iter().filter(|(path, _)| path.starts_with(docs)) {
        for link in page.links.iter().filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let target = plain(&path.parent().unwrap().join(link.split('#').next().unwrap()));
            let along = target.starts_with(docs) || outside::PATHS.iter().any(|known| target.starts_with(known));
            assert!(along, "{} leads to {}, which outside.rs leaves behind", path.display(), target.display());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    outside::write(folder.path()).unwrap();
    let page = fs::read_to_string(folder.path().join("RESULTS.html")).unwrap();
    assert!(page.contains("<table>") && folder.path().join("qemu-configs/vonic.service").exists(), "{page}");
    // Its links lead to the book's pages.
    let page = fs::read_to_string(folder.path().join("README.html")).unwrap();
    assert!(
        page.contains("href=\"backend/docs/config.html#what-the-host-may-refuse\"") && !page.contains(".md\""),
        "{page}"
    );
}

#[test]
fn anchors_are_made_as_readers_make_them() {
    let mut taken = BTreeSet::new();
    for (heading, expected) in [
        ("uplink = \"tap:BRIDGE\"", "uplink--tapbridge"),
        ("[network.NAME]", "networkname"),
        ("[[forward]]", "forward"),
        ("systemd, and upgrades", "systemd-and-upgrades"),
        ("[[forward]]", "forward-1"),
    ] {
        let name = anchor(heading, &taken);
        assert_eq!(name, expected);
        taken.insert(name);
    }
}
