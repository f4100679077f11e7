//! Crash points: labelled places at which an engine that was built for it (feature `crash-points`) dies on demand, so that tests
//! can show that nothing is lost there. Other builds have nothing of this.
//!
//! The environment's `VONIC_CRASH` names a folder. A file `point` in it, `NAME:NTH[:kill|abort|panic]`, arms a point for the NTH time
//! that it is reached from then on; when the engine dies of it the file is gone, so that a successor is not its next victim. A file
//! `mutation` names rules of recovery to be left out (see `vonic_uplink::mutation`), from the next engine on. Nobody has to tell
//! the engine of either: it looks.

/// A place at which the engine may be told to die.
#[cfg(not(feature = "crash-points"))]
#[doc(hidden)]
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {};
}

/// A place at which the engine may be told to die.
#[cfg(feature = "crash-points")]
#[doc(hidden)]
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {{
        const ID: u64 = $crate::crash::id($name);
        if $crate::crash::is_armed(ID) {
            $crate::crash::reach($name);
        }
    }};
}

pub use crate::crash_point;

#[cfg(feature = "crash-points")]
pub(crate) use armed::watch;
#[cfg(feature = "crash-points")]
pub use armed::{id, is_armed, reach};

#[cfg(feature = "crash-points")]
mod armed {
    use rustix::process::{Signal, getpid, kill_process};
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    use std::time::Duration;

    /// How often the folder is looked at.
    const LOOK: Duration = Duration::from_millis(2);

    /// The armed point; 0: none.
    static ARMED: AtomicU64 = AtomicU64::new(0);
    /// How often it is still to be passed.
    static LEFT: AtomicU64 = AtomicU64::new(0);
    /// The first letter of the manner.
    static MANNER: AtomicU8 = AtomicU8::new(b'k');
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();

    /// A point's number: FNV-1a of its name.
    pub const fn id(name: &str) -> u64 {
        let (bytes, mut hash, mut i) = (name.as_bytes(), 0xcbf2_9ce4_8422_2325_u64, 0);
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x100_0000_01b3);
            i += 1;
        }
        hash
    }

    /// Whether this is the armed one.
    pub fn is_armed(id: u64) -> bool {
        ARMED.load(Ordering::Relaxed) == id
    }

    /// The armed point is reached: the end, if it was to be passed no more.
    #[cold]
    pub fn reach(name: &str) {
        if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
            // What is looked at when the file is gone says nothing of the manner any more.
            let manner = MANNER.load(Ordering::Relaxed);
            if let Some(folder) = FOLDER.get() {
                let _ = fs::remove_file(folder.join("point"));
            }
            die(name, manner);
        }
    }

    #[allow(clippy::panic, reason = "this is what was asked for")]
    fn die(name: &str, manner: u8) {
        match manner {
            b'p' => panic!("crash point {name}"),
            b'a' => std::process::abort(),
            _ => {
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
    }

    /// Begins to look at the folder; what lies there holds before this returns.
    pub(crate) fn watch() {
        let Some(folder) = std::env::var_os("VONIC_CRASH").map(PathBuf::from) else { return };
        let folder = FOLDER.get_or_init(|| folder);
        if let Ok(names) = fs::read_to_string(folder.join("mutation")) {
            vonic_uplink::mutation::set(names.trim());
        }
        let mut last = String::new();
        look(folder, &mut last);
        std::thread::spawn(move || {
            loop {
                #[allow(clippy::disallowed_methods, reason = "this thread is none of the worker's")]
                std::thread::sleep(LOOK);
                look(folder, &mut last);
            }
        });
    }

    /// Arms what the file says, once each time that it says something else.
    fn look(folder: &Path, last: &mut String) {
        let text = fs::read_to_string(folder.join("point")).unwrap_or_default();
        // Who writes ends with a line feed: without it there is more to come.
        if *last == text || !(text.is_empty() || text.ends_with('\n')) {
            return;
        }
        let mut words = text.trim().split(':');
        let (name, nth) = (words.next().unwrap_or_default(), words.next().and_then(|nth| nth.parse().ok()));
        MANNER.store(words.next().map_or(b'k', |manner| manner.as_bytes()[0]), Ordering::Relaxed);
        LEFT.store(nth.unwrap_or(1), Ordering::Relaxed);
        ARMED.store(if name.is_empty() { 0 } else { id(name) }, Ordering::Relaxed);
        *last = text;
    }
}
