//! Every target over its corpus and its regression inputs, and then for `VONIC_FUZZ_SECONDS` (`make test` says how many) over mutations of
//! them. What is found is written down, and told by its path.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may fail, and tells"
)]

use std::cell::Cell;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use vonic_fuzz::{LEN_MAX, TARGETS, target};

#[path = "corpus/mutator.rs"]
mod mutator;
use mutator::Mutator;

/// An input that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Panics of threads that no input's own thread would hear of.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread is a test's, and hears of its own panics.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, in their order.
fn inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Counts panics of threads that are nobody's.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !OWN.get() {
                ELSEWHERE.fetch_add(1, Ordering::Relaxed);
            }
            before(info);
        }));
    });
}

/// Ends the process if an input hangs, once it is written down.
struct Watch {
    current: Arc<Mutex<(Instant, Vec<u8>)>>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    fn begin(name: &'static str) -> Watch {
        let current = Arc::new(Mutex::new((Instant::now(), Vec::new())));
        let over = Arc::new(AtomicBool::new(false));
        let (seen, ends) = (Arc::clone(&current), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
                let (since, input) = &*seen.lock().unwrap();
                if since.elapsed() > HANGS {
                    eprintln!("{name}: an input hangs: {}", keep(name, input).display());
                    std::process::abort();
                }
            }
        });
        Watch { current, over, thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Writes an input down.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let mut hash = DefaultHasher::new();
    input.hash(&mut hash);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{:016x}", hash.finish()));
    fs::write(&path, input).unwrap();
    path
}

fn seconds() -> Duration {
    let text = std::env::var("VONIC_FUZZ_SECONDS").unwrap_or_default();
    Duration::from_secs(if text.is_empty() { 0 } else { text.parse().unwrap() })
}

fn check(name: &'static str) {
    listen();
    OWN.set(true);
    let target = target(name).unwrap();
    let mut all = inputs(&root().join("corpus").join(name));
    assert!(!all.is_empty(), "{name} has no corpus");
    all.extend(inputs(&root().join("regressions").join(name)));
    let watch = Watch::begin(name);
    let run = |input: &[u8], whence: &dyn Fn() -> String| {
        *watch.current.lock().unwrap() = (Instant::now(), input.to_vec());
        let before = ELSEWHERE.load(Ordering::Relaxed);
        let good = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok();
        assert!(good && ELSEWHERE.load(Ordering::Relaxed) == before, "{name} fails: {}", whence());
    };
    for (path, input) in &all {
        run(input, &|| path.display().to_string());
    }
    let seeds: Vec<Vec<u8>> = all.into_iter().map(|(_, input)| input).collect();
    let dictionary = fs::read_to_string(root().join(format!("dictionaries/{name}.dict"))).unwrap_or_default();
    let mut mutator = Mutator::new(&seeds, &dictionary, LEN_MAX);
    let (end, mut count) = (Instant::now() + seconds(), 0u64);
    while Instant::now() < end {
        let input = mutator.next();
        run(&input, &|| format!("with an input that is not in its corpus: {}", keep(name, &input).display()));
        count += 1;
    }
    println!("{name}: {} inputs, {count} mutations", seeds.len());
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        /// Each target has its test here, its libFuzzer program, and its row in the documentation.
        #[test]
        fn no_target_is_forgotten() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let manifest = fs::read_to_string(root().join("libfuzzer/Cargo.toml")).unwrap();
            let page = fs::read_to_string(root().join("../../backend/docs/fuzzing.md")).unwrap();
            for name in names {
                let program = fs::read_to_string(root().join(format!("libfuzzer/targets/{name}.rs"))).unwrap();
                assert!(program.contains(&format!("target!(\"{name}\")")), "libfuzzer/targets/{name}.rs");
                assert!(manifest.contains(&format!("name = \"{name}\"")), "libfuzzer/Cargo.toml: {name}");
                assert!(page.contains(&format!("| {name} |")), "backend/docs/fuzzing.md: {name}");
            }
        }
    };
}

targets! { agent api checkpoint config decode filter frames guest leg reload resolvers ring segments stream vhost worker }
