//! As many ends of engines as it takes to believe it (`make crash-test`): thousands at random times, hundreds at each labelled point, with one,
//! 32 and 1,000 connections of guests of either VMM, over IPv4 and IPv6, with and without loss. What is done is noted in a file; the next run
//! goes on from there. e2e_crash.rs is the short form.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells how far it is")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vonic_tests::churn::{Load, Scene};
use vonic_tests::crash::{Killer, Manner, POINTS, Random, TAKEOVER_POINTS, seed};
use vonic_tests::*;

/// Ends in one scene, about: then everything is looked at.
const A_SCENE: u64 = 288;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|count| count.parse().unwrap())
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

/// Scenes one after the other, until enough is done, or the time is over (VONIC_FOR, in seconds). One that fails is told of with its logs, noted
/// as FAILED, and not counted; the next one begins anew.
struct Play {
    progress: Progress,
    random: Random,
    end: Option<Instant>,
    failures: Vec<String>,
}

/// Kinds of ends, with how many of each there were.
type Ends = Vec<(String, u64)>;

impl Play {
    fn begin() -> Play {
        let end = number("VONIC_FOR").map(|time| Instant::now() + Duration::from_secs(time));
        Play { progress: Progress::open(), random: Random(seed()), end, failures: Vec::new() }
    }

    fn time_is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// One scene, in a network and on a thread of its own, which `ends` engines.
    fn scene(&mut self, name: &str, load: Load, ends: impl FnOnce(&Killer, Random) -> Ends + Send + 'static) {
        let (began, seed) = (Instant::now(), self.random.below(u64::from(u32::MAX)));
        let told = format!("{name}, seed {seed}");
        let context = told.clone();
        let act = move || {
            let scene = Scene::start(load, seed).context(context.clone()).unwrap();
            let ends = ends(&scene.killer, Random(seed));
            (ends, scene.finish().context(context).unwrap())
        };
        let Ok((ends, sessions)) = std::thread::spawn(act).join() else {
            println!("FAILED: {told}");
            self.progress.add("FAILED", 1);
            return self.failures.push(told);
        };
        let all: u64 = ends.iter().map(|(_, count)| count).sum();
        println!("{told}: {all} ends, {sessions} sessions, in {:.0?}", began.elapsed());
        ends.iter().for_each(|(kind, count)| self.progress.add(kind, *count));
        self.progress.add("sessions", sessions);
    }

    fn end(self) {
        assert!(self.failures.is_empty(), "{:#?}", self.failures);
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
#[ignore = "hours: make crash-test"]
fn engines_end_at_random_times() {
    let kills = number("VONIC_KILLS").unwrap_or(2000);
    let (mut play, all) = (Play::begin(), circumstances());
    let share = kills.div_ceil(all.len() as u64);
    for (name, load) in all {
        while play.progress.done(&name) < share && !play.time_is_over() {
            let (kind, now) = (name.clone(), A_SCENE.min(share - play.progress.done(&name)));
            play.scene(&name, load, move |killer, mut random| {
                for _ in 0..now {
                    // Also so soon that the one before has not taken over yet.
                    std::thread::sleep(Duration::from_millis(random.below(200)));
                    killer.kill().unwrap();
                }
                vec![(kind, now)]
            });
            if play.failures.len() > 4 {
                return play.end();
            }
        }
    }
    play.end();
}

#[test]
#[ignore = "hours: make crash-test"]
fn engines_end_at_every_point() {
    let ends = number("VONIC_ENDS").unwrap_or(200);
    let mut play = Play::begin();
    let load = |loss| Load { vmms: &[Vmm::Uml], sessions: 4, held: 20, loss, cramped: true };
    let points = || POINTS.iter().chain(TAKEOVER_POINTS);
    let mut loss = false;
    while !play.time_is_over() && play.failures.len() < 5 {
        let left = points().filter(|(name, _)| play.progress.done(name) < ends).copied();
        let left: Vec<(&'static str, u64)> = left.collect();
        if left.is_empty() {
            break;
        }
        let rounds = (A_SCENE / left.len() as u64).max(1);
        let rounds = left.iter().map(|(name, _)| ends - play.progress.done(name)).fold(rounds, u64::min);
        let name = format!("points-{}", if loss { "loss" } else { "whole" });
        play.scene(&name, load(loss), move |killer, mut random| {
            for round in 0..rounds {
                for (i, (point, most)) in left.iter().enumerate() {
                    end_at(killer, (point, 1 + random.below(*most)), Manner::ALL[(i as u64 + round) as usize % 3]);
                }
            }
            left.iter().map(|(name, _)| ((*name).to_string(), rounds)).collect()
        });
        loss = !loss;
    }
    play.end();
}

/// Ends an engine, or the one that follows it, at a point.
fn end_at(killer: &Killer, (point, nth): (&str, u64), manner: Manner) {
    if TAKEOVER_POINTS.iter().any(|(other, _)| *other == point) {
        killer.end_in_takeover(point, nth).unwrap();
    } else {
        killer.end_at(point, nth, manner).unwrap();
    }
}
