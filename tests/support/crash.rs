//! Ends of engines: at random times, and at the labelled points of a build that has them; and what may not be left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::directory::TempDir;
use crate::lab;
use crate::sys;
use crate::vonicd::Vonicd;
use crate::wait::wait_for;

/// How long an engine may go on after it was armed, and how long its successor may take. Some points are rare.
const PATIENCE: Duration = Duration::from_secs(40);
/// Several of the engine's looks at what it is to do.
pub const LOOKS: Duration = Duration::from_millis(20);
/// Words of 64 bits in the checkpoint's header and in a record, whose first is 0 if it is free.
const HEADER: usize = 512;
const RECORD: usize = 16;

/// The vonicd that is built with its crash points.
pub(crate) fn program() -> Result<PathBuf> {
    lab::built("VONIC_CRASH_BIN_DIR", "crash/debug", "vonicd")
}

/// Where that one looks what it is to do.
pub(crate) fn folder(directory: &TempDir) -> Result<PathBuf> {
    let folder = directory.path().join("crash");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Every labelled point; after how many passages at most an engine dies there.
pub const POINTS: &[(&str, u64)] = &[
    ("before-sendmsg", 200),
    ("after-sendmsg", 200),
    ("segment-half-taken", 3),
    ("published-to-guest", 500),
    ("before-publishing", 500),
    ("used-before-call", 500),
    ("before-discard", 200),
    ("after-discard", 200),
    ("after-peek", 200),
    ("frame-completed", 200),
    ("socket-opened", 5),
    ("connect-begun", 5),
    ("connect-error-due", 5),
    ("connect-error-taken", 5),
    ("connect-recorded", 5),
    ("after-connect", 5),
    ("after-accept", 5),
    ("accept-recorded", 5),
    ("before-synchronized", 5),
    ("after-synchronized", 5),
    ("before-established", 5),
    ("guest-fin-recorded", 5),
    ("after-shutdown", 5),
    ("host-failed", 2),
    ("abort-recorded", 2),
    ("before-conclusion", 2),
    ("after-conclusion", 2),
    ("socket-retired", 5),
    ("socket-retired-closed", 5),
    ("socket-retired-freed", 5),
    ("before-close", 5),
    ("after-close", 5),
    ("record-freed", 5),
];
/// Those that engines pass when they take over.
pub const TAKEOVER_POINTS: &[(&str, u64)] = &[
    ("before-resumption", 5),
    ("after-resumption", 5),
    ("command-applied", 6),
    ("message-heard", 5),
    ("message-taken", 5),
];

/// Those that are passed where a guest's frames go from one worker to another.
pub const WORKERS_POINTS: &[(&str, u64)] = &[("parcel-sent", 500), ("parcel-taken", 500), ("parcel-back", 500)];

/// How an engine is ended at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// SIGKILL.
    Kill,
    /// abort(3).
    Abort,
    /// A panic of the worker.
    Panic,
}

impl Manner {
    /// All.
    pub const ALL: [Manner; 3] = [Manner::Kill, Manner::Abort, Manner::Panic];
}

/// Ends engines of one vonicd.
#[derive(Debug, Clone)]
pub struct Killer {
    run: PathBuf,
    folder: PathBuf,
}

impl Killer {
    /// Of the vonicd that runs in this directory.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(directory: &TempDir) -> Result<Killer> {
        Ok(Killer { run: directory.path().join("run"), folder: folder(directory)? })
    }

    /// The engine's process; `None` while there is none.
    pub fn engine(&self) -> Option<u32> {
        fs::read_to_string(self.run.join("engine.pid")).ok()?.trim().parse().ok()
    }

    /// Sends the engine a signal.
    ///
    /// # Errors
    /// If it is not there.
    pub fn signal(&self, signal: i32) -> Result<u32> {
        let engine = self.engine().context("no engine")?;
        sys::kill(engine, signal).with_context(|| format!("signal {signal} to the engine {engine}"))?;
        Ok(engine)
    }

    /// Kills the engine, and waits for the next one's process; how long that took.
    ///
    /// # Errors
    /// If there is none after a while.
    pub fn kill(&self) -> Result<Duration> {
        let began = Instant::now();
        let old = self.signal(libc::SIGKILL)?;
        self.wait_successor(old)?;
        Ok(began.elapsed())
    }

    /// Arms a point for the `nth` time that it is reached.
    ///
    /// # Errors
    /// The file system's.
    pub fn arm(&self, point: &str, nth: u64, manner: Manner) -> Result<()> {
        let letter = match manner {
            Manner::Kill => "kill",
            Manner::Abort => "abort",
            Manner::Panic => "panic",
        };
        let (new, place) = (self.folder.join("point.new"), self.folder.join("point"));
        fs::write(&new, format!("{point}:{nth}:{letter}\n"))?;
        Ok(fs::rename(new, place)?)
    }

    /// Disarms what has not been reached.
    pub fn disarm(&self) {
        if fs::remove_file(self.folder.join("point")).is_ok() {
            // The engine looks every few milliseconds.
            std::thread::sleep(LOOKS);
        }
    }

    /// Whether nothing is armed any more: the engine has died of it.
    pub fn has_fired(&self) -> bool {
        !self.folder.join("point").exists()
    }

    /// Ends the engine at a point, and waits for the next one.
    ///
    /// # Errors
    /// If it is not reached for long.
    pub fn end_at(&self, point: &str, nth: u64, manner: Manner) -> Result<()> {
        let old = self.engine().context("no engine")?;
        self.arm(point, nth, manner)?;
        let reached = self.wait_successor(old);
        self.disarm();
        reached.with_context(|| format!("an end at {point}, time {nth}, by {manner:?}")).map(drop)
    }

    /// Kills the engine, and ends its successor at a point that it passes when it takes over.
    ///
    /// # Errors
    /// If it is not reached for long.
    pub fn end_in_takeover(&self, point: &str, nth: u64) -> Result<()> {
        self.arm(point, nth, Manner::Kill)?;
        // Some are passed by an engine that runs, too: it may be gone already.
        drop(self.signal(libc::SIGKILL));
        let fired = wait_for(&format!("an end at {point}"), PATIENCE, || Ok(self.has_fired().then_some(())));
        self.disarm();
        fired
    }

    /// What is left out of recovery from the next engine on; empty: nothing.
    ///
    /// # Errors
    /// The file system's.
    pub fn mutate(&self, names: &str) -> Result<()> {
        Ok(fs::write(self.folder.join("mutation"), names)?)
    }

    /// Waits until another engine than `old` is there.
    ///
    /// # Errors
    /// If there is none after a while.
    pub fn wait_successor(&self, old: u32) -> Result<u32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(engine) = self.engine().filter(|engine| *engine != old) {
                return Ok(engine);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        bail!("the engine {old} has no successor")
    }
}

/// xorshift64*: a seed's sequence is the same everywhere.
#[derive(Debug)]
pub struct Random(pub u64);

/// VONIC_SEED, or one of the clock's; printed, so that a run can be repeated.
#[allow(clippy::print_stdout, reason = "a test's output is shown when it fails")]
pub fn seed() -> u64 {
    let given = std::env::var("VONIC_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let seed = given.unwrap_or_else(clock);
    println!("VONIC_SEED={seed}");
    seed
}

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// What vonic holds for connections.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Holdings {
    /// Descriptors of the table that master and engine share.
    pub descriptors: usize,
    /// Records in the checkpoint.
    pub records: usize,
    /// How many descriptors of each kind: what they lead to without its numbers.
    pub kinds: BTreeMap<String, usize>,
}

impl Vonicd {
    /// What it holds now.
    ///
    /// # Errors
    /// If its descriptors cannot be read.
    pub fn holdings(&mut self) -> Result<Holdings> {
        let folder = format!("/proc/{}/fd", self.master());
        let (mut kinds, mut records) = (BTreeMap::new(), None);
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // One may go between the listing and the look.
            let Ok(target) = fs::read_link(&path) else { continue };
            let target = target.to_string_lossy();
            *kinds.entry(target.replace(|c: char| c.is_ascii_digit(), "")).or_default() += 1;
            if target.contains("memfd:vonic-checkpoint") {
                records = Some(live_records(&path)?);
            }
        }
        Ok(Holdings { descriptors: kinds.values().sum(), records: records.context("no checkpoint")?, kinds })
    }

    /// Waits until it holds no more than `before`.
    ///
    /// # Errors
    /// If it does not come to that, with what it holds.
    pub fn holds_again(&mut self, before: Holdings, limit: Duration) -> Result<()> {
        let mut now = before.clone();
        let waited = wait_for("what vonic held before", limit, || {
            now = self.holdings()?;
            Ok((now.descriptors <= before.descriptors && now.records <= before.records).then_some(()))
        });
        waited.with_context(|| format!("before {before:?}, now {now:?}"))
    }
}

/// The records of a checkpoint that are not free. Its end is a hole, which is not read.
fn live_records(path: &Path) -> Result<usize> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(HEADER as u64 * 8))?;
    // The lowest are used first.
    let mut bytes = Vec::new();
    file.take(20_000 * RECORD as u64 * 8).read_to_end(&mut bytes)?;
    Ok(bytes.chunks_exact(RECORD * 8).filter(|record| record[..8].iter().any(|byte| *byte != 0)).count())
}
