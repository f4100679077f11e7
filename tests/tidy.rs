//! Do the house rules hold? What STYLE and ARCHITECTURE promise about the source, checked on the source.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which of the project's crates each may depend on: daemon → control → {front, session, datapath} → {queue, tcp, uplink, record} → frame.
/// The front holds no guest memory, so it must not see `queue`.
const ARROWS: &[(&str, &[&str])] = &[
    ("frame", &[]),
    ("record", &["frame"]),
    ("tcp", &["frame"]),
    ("queue", &["frame"]),
    ("uplink", &["frame", "queue"]),
    ("migration", &["record", "uplink"]),
    ("datapath", &["frame", "queue", "tcp", "uplink", "record", "migration"]),
    ("session", &["frame", "queue", "record"]),
    ("confinement", &[]),
    ("front", &["frame", "record", "confinement"]),
    (
        "control",
        &[
            "frame",
            "queue",
            "tcp",
            "uplink",
            "record",
            "migration",
            "datapath",
            "session",
            "front",
            "agent",
            "confinement",
        ],
    ),
    ("daemon", &["control", "front"]),
];

/// Crates that never hold unsafe code. (A crate without a `sys` says so to the compiler; these may have none.)
const NO_SYS: &[&str] = &["frame", "tcp", "migration", "datapath"];

/// Crates in which nothing is logged: they run per frame.
const SILENT: &[&str] = &["frame", "tcp", "queue", "datapath"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "target" {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The Rust files under `folders`, with their text.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in folders {
        rust_files(&root().join(folder), &mut found);
    }
    assert!(!found.is_empty());
    let named = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().display().to_string(), text)
    };
    found.into_iter().map(named).collect()
}

/// The lines of code, with their numbers: comments and what follows them cut off, texts emptied.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut kept = String::new();
        let (mut quoted, mut escaped) = (false, false);
        let line = line.replace("'\"'", "''");
        let mut characters = line.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ if quoted => {}
                '/' if characters.peek() == Some(&'/') => break,
                _ => kept.push(character),
            }
        }
        if !kept.trim().is_empty() {
            lines.push((number + 1, kept));
        }
    }
    lines
}

/// Whether `word` stands in `line` by itself.
fn has_word(line: &str, word: &str) -> bool {
    let edge =
        |character: Option<char>| !character.is_some_and(|character| character.is_alphanumeric() || character == '_');
    line.match_indices(word)
        .any(|(at, _)| edge(line[..at].chars().next_back()) && edge(line[at + word.len()..].chars().next()))
}

/// Every line of code in `folders` that `offends`, by file and line number.
fn offences(folders: &[&str], offends: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources(folders) {
        for (number, line) in code(&text) {
            if offends(&name, &line) {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn crates_depend_one_way() {
    for entry in std::fs::read_dir(root().join("backend")).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(manifest) = std::fs::read_to_string(folder.join("Cargo.toml")) else { continue };
        let name = folder.file_name().unwrap().to_str().unwrap().to_string();
        let (_, allowed) =
            ARROWS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} has no place in ARROWS"));
        let manifest: toml::Table = manifest.parse().unwrap();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        for dependency in dependencies.keys().filter_map(|key| key.strip_prefix("vonic-")) {
            assert!(allowed.contains(&dependency), "{name} must not depend on {dependency}");
        }
        let memory = ["vm-memory", "virtio-queue"].iter().any(|key| dependencies.contains_key(*key));
        assert!(!memory || ["queue", "session"].contains(&name.as_str()), "{name} must not map guest memory");
    }
}

#[test]
fn unsafe_code_lives_in_sys_only() {
    let in_sys = |name: &str| name.ends_with("/sys.rs") || name.contains("/sys/");
    let found = offences(&["backend", "guest-agent", "tests"], |name, line| has_word(line, "unsafe") && !in_sys(name));
    none("unsafe outside sys.rs and sys/", &found);
    for (name, _) in ARROWS {
        let source = root().join(format!("backend/{name}/src"));
        let has_sys = source.join("sys.rs").exists() || source.join("sys").exists();
        assert!(!has_sys || !NO_SYS.contains(name), "backend/{name} must hold no unsafe code");
        if let Ok(text) = std::fs::read_to_string(source.join("lib.rs")) {
            assert!(
                has_sys || text.contains("#![forbid(unsafe_code)]"),
                "backend/{name}/src/lib.rs must forbid unsafe code"
            );
        }
    }
}

/// At most 400 lines of code; up to 600 if the file's first comment says "Long because".
#[test]
fn files_are_short() {
    for (name, text) in sources(&["backend", "guest-agent", "tests"]) {
        let reason = text.lines().take_while(|line| line.starts_with("//")).any(|line| line.contains("Long because"));
        let (lines, limit) = (code(&text).len(), if reason { 600 } else { 400 });
        assert!(lines <= limit, "{name}: {lines} lines of code, {limit} are allowed");
    }
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    // Written in two parts, so that this file does not offend.
    // What takes too long is ignored with the reason, and how it is run.
    let words = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore]")];
    none(
        "left undone",
        &offences(&["backend", "guest-agent", "tests"], |_, line| words.iter().any(|word| line.contains(word))),
    );
}

#[test]
fn what_runs_per_frame_never_logs() {
    let folders: Vec<String> = SILENT.iter().map(|name| format!("backend/{name}/src")).collect();
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    let macros = ["error!(", "warn!(", "info!(", "debug!(", "trace!(", "println!(", "eprintln!("];
    let offends = |line: &str| line.contains("log::") || macros.iter().any(|word| line.contains(word));
    none("logging in a crate that runs per frame", &offences(&folders, |_, line| offends(line)));
}

#[test]
fn the_protocol_core_has_no_clock() {
    let clocks = ["Instant::now", "SystemTime", "std::time", "clock_gettime"];
    let folders = ["backend/frame/src", "backend/tcp/src"];
    none("a clock in a sans-I/O crate", &offences(&folders, |_, line| clocks.iter().any(|word| line.contains(word))));
}

/// Bytes of guest memory are moved by raw pointers in `backend/queue/src/sys/bulk.rs` and nowhere else; and of its callers, one alone,
/// `backend/queue/src/payload.rs`, moves payload between guests. (Slices over guest memory do not exist, so `copy_from_slice` cannot move it.)
#[test]
fn payload_is_copied_in_one_place() {
    const RAW: &[&str] = &[
        "copy_nonoverlapping",
        "ptr::copy",
        "copy_to_nonoverlapping",
        "copy_from_nonoverlapping",
        "memcpy",
        "memmove",
    ];
    const GUEST: &[&str] = &["write_slice", "read_slice", "write_obj", "read_obj", "from_raw_parts"];
    // Socket addresses, not guest memory: getifaddrs(3) hands out sockaddr of several lengths.
    const ELSEWHERE: &[&str] = &["backend/uplink/src/sys/"];
    let allowed =
        |name: &str| name == "backend/queue/src/sys/bulk.rs" || ELSEWHERE.iter().any(|place| name.starts_with(place));
    let shipped = |name: &str| name.contains("/src/") && !name.ends_with("/tests.rs");
    let found = offences(&["backend"], |name, line| {
        shipped(name) && !allowed(name) && RAW.iter().any(|word| line.contains(word))
    });
    none("bytes moved by raw pointer", &found);
    let found = offences(&["backend"], |name, line| {
        // The checkpoint is vonic's own memory, and so is what it keeps a while.
        let own = ["backend/session/", "backend/record/src/sys.rs", "backend/queue/src/sys/dumps.rs"];
        let elsewhere = own.iter().any(|place| name.starts_with(place));
        shipped(name) && !elsewhere && GUEST.iter().any(|word| line.contains(word))
    });
    none("guest memory touched past the queue", &found);
    // The burst passes it on, within the crate.
    let callers: BTreeSet<String> = offences(&["backend/queue/src"], |_, line| line.contains(".copy_to("))
        .iter()
        .map(|place| place.split(':').next().unwrap().to_string())
        .collect();
    assert_eq!(
        callers,
        BTreeSet::from(["backend/queue/src/burst.rs", "backend/queue/src/payload.rs"].map(String::from)),
        "who moves payload"
    );
    let found = offences(&["backend/queue/src"], |name, line| {
        line.contains(".fill(header") && name != "backend/queue/src/payload.rs"
    });
    none("payload moved elsewhere", &found);
}

/// Every path that ARCHITECTURE.md names in backquotes exists, from the root or from `backend/`.
#[test]
fn the_architecture_names_what_exists() {
    let text = std::fs::read_to_string(root().join("backend/docs/ARCHITECTURE.md")).unwrap();
    let is_path = |word: &&str| {
        let plain = word.chars().all(|character| character.is_ascii_alphanumeric() || "/._-".contains(character));
        plain && !word.starts_with('/') && (word.contains('/') || word.ends_with(".rs") || word.ends_with(".md"))
    };
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_path).collect();
    assert!(named.len() > 5, "ARCHITECTURE.md names hardly any path: {named:?}");
    for path in named {
        assert!(
            root().join(path).exists() || root().join("backend").join(path).exists(),
            "ARCHITECTURE.md names {path}"
        );
    }
}

/// The names of all tests, with those of other functions that could be tests'.
fn test_names() -> BTreeSet<String> {
    sources(&["backend", "guest-agent", "packaging", "tests"])
        .iter()
        .flat_map(|(_, text)| text.split("fn ").skip(1).filter_map(|rest| rest.split_once("(").map(|(name, _)| name)))
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .map(String::from)
        .collect()
}

/// Every requirement of RFC 9293, appendix B, has its row, and every test that a row names exists.
#[test]
fn requirements_are_met_by_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("backend/docs/rfc9293.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    for number in 1..=69 {
        let name = format!("| MUST-{number} |");
        assert_eq!(rows.iter().filter(|row| row.starts_with(&name)).count(), 1, "rows of MUST-{number}");
    }
    let is_test = |word: &&str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 80, "rfc9293.md names hardly any test: {named:?}");
    let known = test_names();
    let missing: Vec<&&str> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "rfc9293.md names tests that do not exist: {missing:?}");
}

/// Each row of the threat model names what shows it in its last cell: tests that exist. Files that it names anywhere exist, too.
#[test]
fn threats_are_met_by_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("backend/docs/threat-model.md")).unwrap();
    let known = test_names();
    let (mut shown, mut rows, mut missing) = (false, 0, Vec::new());
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            shown = false;
        } else if cells.contains(&"shown by") {
            shown = true;
        } else if shown && !line.contains("---") {
            rows += 1;
            let named: Vec<&str> = cells[cells.len() - 2].split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "no test shows this: {line}");
            missing.extend(named.into_iter().filter(|name| !known.contains(*name)));
        }
    }
    assert!(rows > 60 && missing.is_empty(), "{rows} rows; tests that do not exist: {missing:?}");
    for path in text.split('`').skip(1).step_by(2).filter(|word| word.contains(".rs") || word.starts_with("backend/")) {
        assert!(root().join(path).exists(), "threat-model.md names {path}");
    }
}

#[test]
fn the_checks_themselves_see_through_comments_and_texts() {
    let text = "let a = \"// unsafe\"; unsafe { b } // unsafe\n// unsafe\nlet unsafely = 1;\n\n";
    let lines = code(text);
    let numbers: Vec<usize> =
        lines.iter().filter(|(_, line)| has_word(line, "unsafe")).map(|(number, _)| *number).collect();
    assert_eq!((lines.len(), numbers), (2, vec![1]));
    assert!(!has_word("unsafely", "unsafe") && !has_word("not_unsafe", "unsafe") && has_word("unsafe{", "unsafe"));
}
