//! Everything at once, for as long as one likes (`make soak`, FOR seconds): real guests' connections open, talk and end in four ways, each byte
//! of them checked, while engines are killed, restarted and upgraded, VMs' files change, guests come and go, VMMs crash in their handshakes,
//! truncate what they share, and flood; and beside it a guest moves to and fro between two hosts with its connections. After each step vonic's
//! memory, descriptors, threads and records are below their ceilings; in the end they are what they were.
//!
//! Without VONIC_SOAK, which says how many seconds, it is over after a few steps.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells how far it is")]

#[allow(dead_code, reason = "the tests of migrations need more of it")]
#[path = "../e2e_migrate/hosts.rs"]
mod hosts;
mod moving;
mod steps;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use steps::{STEPS, Step};
use vonic_tests::churn::{Load, Scene};
use vonic_tests::crash::{Random, seed};
use vonic_tests::*;

/// How long it takes without VONIC_SOAK.
const SHORT: Duration = seconds(0);
/// How much more than at the start there may be at any time: bytes of memory that only vonic has, descriptors, threads, records.
const CEILING: Holdings = Holdings { memory: 96 << 20, descriptors: 5000, threads: 16, records: 5000 };

/// What vonic holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    memory: u64,
    descriptors: usize,
    threads: usize,
    records: usize,
}

impl Holdings {
    fn of(scene: &mut Scene) -> Result<Holdings> {
        let vonicd = &mut scene.bed.vonicd;
        let held = vonicd.holdings()?;
        let (master, engine) = (vonicd.master(), vonicd.engine()?);
        Ok(Holdings {
            memory: usage::private_dirty(master)? + usage::private_dirty(engine)?,
            descriptors: held.descriptors,
            threads: usage::threads(master)?.len() + usage::threads(engine)?.len(),
            records: held.records,
        })
    }

    /// The largest of each.
    fn or(self, other: Holdings) -> Holdings {
        Holdings {
            memory: self.memory.max(other.memory),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
            records: self.records.max(other.records),
        }
    }

    fn is_below(self, start: Holdings) -> bool {
        self.memory <= start.memory + CEILING.memory
            && self.descriptors <= start.descriptors + CEILING.descriptors
            && self.threads <= start.threads + CEILING.threads
            && self.records <= start.records + CEILING.records
    }
}

/// An engine may be gone between two looks.
fn look(scene: &mut Scene) -> Holdings {
    wait_for("an engine to look at", seconds(20), || Ok(Holdings::of(scene).ok())).unwrap()
}

fn time() -> Duration {
    std::env::var("VONIC_SOAK").map_or(SHORT, |time| Duration::from_secs(time.parse().unwrap()))
}

#[test]
fn everything_at_once_loses_nothing_and_leaves_nothing() {
    let (seed, time, over) = (seed(), time(), AtomicBool::new(false));
    thread::scope(|scope| {
        let moving = scope.spawn(|| moving::go_to_and_fro(seed, &over));
        let result = std::panic::catch_unwind(|| play(seed, time));
        over.store(true, Ordering::Relaxed);
        let crossings = moving.join().unwrap();
        println!("a guest moved {crossings} times with its connections");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn play(seed: u64, time: Duration) {
    let load = Load { vmms: &[Vmm::Uml, Vmm::Uml], sessions: 3, held: 40, loss: false, cramped: false };
    let mut scene = Scene::start_with(load, seed, steps::config).unwrap();
    let (began, mut random, mut done) = (Instant::now(), Random(seed), BTreeMap::<&str, u64>::new());
    let start = look(&mut scene);
    let (mut most, mut told) = (start, Instant::now());
    println!("at the start: {start:?}");
    // Each kind once, then any.
    for at in 0.. {
        let Step { name, act } = STEPS[if at < STEPS.len() { at } else { random.below(STEPS.len() as u64) as usize }];
        let step =
            act(&mut scene, &mut random).with_context(|| format!("{name}, {:.0?} after the start", began.elapsed()));
        step.unwrap();
        *done.entry(name).or_default() += 1;
        let now = look(&mut scene);
        most = most.or(now);
        assert!(now.is_below(start), "after {name}: {now:?}, at the start {start:?}");
        assert!(!scene.bed.vonicd.log().contains("panicked"), "{}", scene.bed.vonicd.log());
        if told.elapsed() > seconds(60) {
            told = Instant::now();
            println!("{:.0?}: {} steps, {now:?}", began.elapsed(), done.values().sum::<u64>());
        }
        if began.elapsed() > time && at + 1 >= STEPS.len() {
            break;
        }
    }
    let log = scene.bed.vonicd.log().len();
    let sessions = scene.finish().unwrap();
    println!("{:.0?}: {sessions} sessions, every byte checked; {done:?}", began.elapsed());
    println!("at most {most:?}; the log has {log} bytes");
}
