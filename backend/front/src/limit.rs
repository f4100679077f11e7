//! Keeps guests, VMMs and peers from filling the log: whatever is written by vonic or by a library of its passes here.
//!
//! What a line is about stands before its first colon, a VM's name as a rule. Of one place in the code, about one thing, the log has so many
//! lines within a window; the next one behind it says how many are missing. So a VM that connects over and over, or whose
//! messages are refused, costs a few lines a second, and hides none about another VM.
use log::{Level, Log, Metadata, Record};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many lines per window, place and subject; the rest is counted.
const LINES: u32 = 20;
/// The same of what is about nobody in particular: vonic's own affairs, and what libraries say.
const LINES_OF_NOBODY: u32 = 200;
const WINDOW: Duration = Duration::from_secs(10);
/// So many subjects are told apart; beyond them all share what one of them has.
const SUBJECTS: usize = 4096;
/// What is longer, or has a space in it, is no VM's name.
const SUBJECT_MAX: usize = 64;

/// Gives a logger no more than 20 lines about the same within ten seconds, 200 about nobody; debug and trace, which somebody has asked for, pass as they
/// are.
#[derive(Debug)]
pub struct Limited<L> {
    inner: L,
    windows: Mutex<Windows>,
}

impl<L: Log> Limited<L> {
    /// What is written by `inner`, limited.
    pub fn new(inner: L) -> Limited<L> {
        Limited { inner, windows: Mutex::new(Windows { hasher: RandomState::new(), of: HashMap::new() }) }
    }
}

impl<L: Log> Log for Limited<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() > Level::Info || !self.inner.enabled(record.metadata()) {
            return self.inner.log(record);
        }
        let text = record.args().to_string();
        let place = (record.file().unwrap_or_else(|| record.target()), record.line());
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = windows.admit(place, subject(&text), Instant::now());
        drop(windows);
        match hidden {
            None => {}
            Some(0) => self.inner.log(record),
            Some(hidden) => self.inner.log(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .module_path(record.module_path())
                    .file(record.file())
                    .line(record.line())
                    .args(format_args!("{text} ({hidden} lines like this before were left out)"))
                    .build(),
            ),
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// Lines begin with these as well, which are vonic's own affairs.
const OWN: [&str; 2] = ["api", "reload"];

/// What a line is about.
fn subject(text: &str) -> &str {
    let before = text.split_once(": ").map_or("", |(before, _)| before);
    if before.len() <= SUBJECT_MAX && !before.contains(' ') && !OWN.contains(&before) { before } else { "" }
}

#[derive(Debug)]
struct Windows {
    hasher: RandomState,
    of: HashMap<u64, Window>,
}

impl Windows {
    /// Some: the line may be written, and so many like it before were not.
    fn admit(&mut self, place: (&str, Option<u32>), subject: &str, now: Instant) -> Option<u64> {
        let mut key = self.key((place, subject));
        if self.of.len() >= SUBJECTS && !self.of.contains_key(&key) {
            self.of.retain(|_, window| window.hidden > 0 || now.duration_since(window.start) < WINDOW);
            if self.of.len() >= SUBJECTS {
                key = self.key("all others");
            }
        }
        let most = if subject.is_empty() { LINES_OF_NOBODY } else { LINES };
        self.of.entry(key).or_insert(Window { start: now, lines: 0, hidden: 0 }).admit(most, now)
    }

    fn key(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }
}

#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
    hidden: u64,
}

impl Window {
    fn admit(&mut self, most: u32, now: Instant) -> Option<u64> {
        if now.duration_since(self.start) >= WINDOW {
            (self.start, self.lines) = (now, 0);
        }
        if self.lines >= most {
            self.hidden += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.hidden))
    }
}

/// The log's lines about one VM and what its VMM says: all of them are of one place, and so limited together.
#[derive(Clone, Debug)]
pub(crate) struct VmLog(Rc<str>);

impl VmLog {
    pub(crate) fn new(name: &str) -> VmLog {
        VmLog(Rc::from(name))
    }

    /// The VM's name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Writes a warning that begins with the VM's name.
    pub(crate) fn warn(&self, text: &str) {
        log::warn!("{}: {text}", self.0);
    }

    /// The same of what is not abnormal.
    pub(crate) fn info(&self, text: &str) {
        log::info!("{}: {text}", self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is given.
    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Log for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            self.0.lock().unwrap().push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    fn written(lines: impl IntoIterator<Item = (Level, u32, String)>) -> Vec<String> {
        let limited = Limited::new(Kept::default());
        for (level, line, text) in lines {
            let mut record = Record::builder();
            limited.log(&record.level(level).file(Some("a.rs")).line(Some(line)).args(format_args!("{text}")).build());
        }
        limited.inner.0.into_inner().unwrap()
    }

    #[test]
    fn a_flood_of_one_vm_hides_no_line_about_another() {
        let flood = (0..1000).map(|i| (Level::Warn, 1, format!("a: refused: {i}")));
        let others = [(1, "b: refused: 1"), (2, "a: something else"), (1, "nobody's own: 1")];
        let kept = written(flood.chain(others.map(|(line, text)| (Level::Error, line, text.into()))));
        assert_eq!(kept.len(), 20 + 3);
        assert_eq!(kept[20..], others.map(|(_, text)| text));
    }

    #[test]
    fn what_somebody_asked_for_is_not_limited() {
        assert_eq!(written((0..1000).map(|i| (Level::Debug, 1, format!("a: {i}")))).len(), 1000);
    }

    #[test]
    fn what_is_missing_is_counted() {
        let start = Instant::now();
        let mut window = Window { start, lines: 0, hidden: 0 };
        let written = (0..1000).filter(|_| window.admit(LINES, start).is_some()).count();
        assert_eq!(written, 20);
        assert_eq!(window.admit(LINES, start + WINDOW), Some(980), "the next line says how many are missing");
        assert_eq!(window.admit(LINES, start + WINDOW), Some(0));
    }

    #[test]
    fn subjects_without_end_take_no_memory_without_end() {
        let (mut windows, start) = (Windows { hasher: RandomState::new(), of: HashMap::new() }, Instant::now());
        let admitted =
            (0..10_000).filter(|i| windows.admit(("a.rs", Some(1)), &format!("vm{i}"), start).is_some()).count();
        assert_eq!(admitted, SUBJECTS + LINES as usize, "the others share one window");
        assert_eq!(windows.of.len(), SUBJECTS + 1);
        assert_eq!(windows.admit(("a.rs", Some(1)), "later", start + WINDOW), Some(0), "who is silent makes room");
        assert!(windows.of.len() <= 3);
    }

    #[test]
    fn a_line_is_about_what_stands_before_its_colon() {
        let subjects =
            ["web1: refused: no", "network default: gone", "it ends", "vms.d/a.toml:3: mtu", "a:b", "reload: 1"]
                .map(subject);
        assert_eq!(subjects, ["web1", "", "", "vms.d/a.toml:3", "", ""]);
    }
}
