//! As many ends of engines as it takes to believe it (`make crash-test`): thousands at random times, hundreds at each labelled point, with one,
//! 32 and 1,000 connections of guests of either VMM, over IPv4 and IPv6, with and without loss. What is done is noted in a file; the next run
//! goes on from there. Without VONIC_LONG=1 nothing is done: e2e_crash.rs is the short form.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells how far it is")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use vonic_tests::churn::{Load, Scene};
use vonic_tests::crash::{Manner, POINTS, Random, TAKEOVER_POINTS, seed};
use vonic_tests::*;

/// Ends in one scene: then everything is looked at.
const A_SCENE: u64 = 100;

/// How many of what there shall be: by the environment in the long form.
fn wanted(variable: &str, usual: u64) -> Option<u64> {
    std::env::var_os("VONIC_LONG")?;
    Some(std::env::var(variable).map_or(usual, |count| count.parse().unwrap()))
}

/// The file of what is done, and what it says of one kind.
struct Progress(PathBuf);

impl Progress {
    fn open() -> Progress {
        let place = std::env::var_os("VONIC_CRASH_PROGRESS").map(PathBuf::from);
        Progress(place.unwrap_or_else(|| Vonicd::program(true).unwrap().with_file_name("progress")))
    }

    fn done(&self, kind: &str) -> u64 {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let counts = text.lines().filter_map(|line| line.split_once(' ').filter(|(name, _)| *name == kind));
        counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
    }

    fn add(&self, kind: &str, count: u64) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        writeln!(file, "{kind} {count}").unwrap();
    }
}

/// The circumstances, each with its name.
fn circumstances() -> Vec<(String, Load)> {
    let mut all = Vec::new();
    for (name, vmms) in [("uml", &[Vmm::Uml][..]), ("qemu", &[Vmm::Qemu]), ("both", &Vmm::ALL)] {
        for (connections, sessions, held) in [(1, 1, 0), (32, 8, 0), (1000, 1, 1000)] {
            for loss in [false, true] {
                let load = Load { vmms, sessions, held, loss, cramped: false };
                all.push((format!("{name}-{connections}-{}", if loss { "loss" } else { "whole" }), load));
            }
        }
    }
    all
}

#[test]
fn engines_end_at_random_times() {
    let Some(kills) = wanted("VONIC_KILLS", 2000) else { return };
    let (progress, seed, all) = (Progress::open(), seed(), circumstances());
    let mut random = Random(seed);
    let share = kills.div_ceil(all.len() as u64);
    for (name, load) in all {
        let mut done = progress.done(&name);
        while done < share {
            let now = A_SCENE.min(share - done);
            let scene = Scene::start(load, random.below(u64::from(u32::MAX))).unwrap();
            for _ in 0..now {
                // Also so soon that the one before has not taken over yet.
                std::thread::sleep(Duration::from_millis(random.below(250)));
                scene.killer.kill().unwrap();
            }
            let sessions = scene.finish().context(format!("{name}, VONIC_SEED={seed}")).unwrap();
            progress.add(&name, now);
            done += now;
            println!("{name}: {done} of {share}, {sessions} sessions");
        }
    }
}

#[test]
fn engines_end_at_every_point() {
    let Some(ends) = wanted("VONIC_ENDS", 200) else { return };
    let (progress, seed) = (Progress::open(), seed());
    let mut random = Random(seed);
    let load = |loss| Load { vmms: &[Vmm::Uml], sessions: 4, held: 20, loss, cramped: true };
    let in_takeover = |name: &str| TAKEOVER_POINTS.iter().any(|(other, _)| *other == name);
    for (name, most) in POINTS.iter().chain(TAKEOVER_POINTS) {
        let mut done = progress.done(name);
        while done < ends {
            let now = A_SCENE.min(ends - done);
            let scene = Scene::start(load(done % 2 == 1), random.below(u64::from(u32::MAX))).unwrap();
            for i in 0..now {
                let nth = 1 + random.below(*most);
                if in_takeover(name) {
                    scene.killer.end_in_takeover(name, nth).unwrap();
                } else {
                    scene.killer.end_at(name, nth, Manner::ALL[i as usize % 3]).unwrap();
                }
            }
            let sessions = scene.finish().context(format!("{name}, VONIC_SEED={seed}")).unwrap();
            progress.add(name, now);
            done += now;
            println!("{name}: {done} of {ends}, {sessions} sessions");
        }
    }
}
