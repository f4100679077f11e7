//! How the switch scales over workers: the same frames with ports on one worker or two, by the clock.
//!
//! All frames and buffers are posted before the workers start, so no driver takes a processor; the time is that until each receiver has
//! got its last frame. The cases take turns, so that whatever slows the machine down slows down all of them.

use std::io::Read;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use vonic_datapath::{Command, Poll, PortId, PortStats, Worker, WorkerConfig};
use vonic_queue::handover;
use vonic_record::{Checkpoint, Shared};

use crate::memory::{Guest, RECEIVE, SIZE, TRANSMIT};
use crate::switch::{Control, frame, network, port};

/// Times that each case is measured.
const RUNS: usize = 41;
const LENGTHS: [usize; 2] = [64, 1500];

/// A case: what it is called, how many workers there are, and for each pair the workers of its sender and of its receiver.
type Case = (&'static str, usize, &'static [(usize, usize)]);

const CASES: [Case; 5] = [
    ("one pair on one worker", 1, &[(0, 0)]),
    ("one pair, a worker each", 2, &[(0, 1)]),
    ("two pairs on one worker", 1, &[(0, 0), (0, 0)]),
    ("two pairs, a worker for each pair", 2, &[(0, 0), (1, 1)]),
    ("two pairs, each across both workers", 2, &[(0, 1), (1, 0)]),
];

/// Prints the medians, with quartiles.
pub fn run() -> Result<()> {
    for len in LENGTHS {
        let mut times = [const { Vec::new() }; CASES.len()];
        for _ in 0..RUNS {
            for (case, times) in CASES.iter().zip(&mut times) {
                times.push(measure(len, case)?);
            }
        }
        println!("{len} bytes, {SIZE} frames of each pair, median and quartiles of {RUNS} runs");
        for ((name, _, pairs), times) in CASES.iter().zip(&mut times) {
            times.sort();
            let frames = f64::from(SIZE) * pairs.len() as f64;
            let rate = |time: &Duration| frames / time.as_secs_f64() / 1e6;
            let [slow, median, fast] = [3 * RUNS / 4, RUNS / 2, RUNS / 4].map(|at| rate(&times[at]));
            println!("{name:<36} {median:>6.2} million frames a second ({slow:.2} to {fast:.2})");
        }
    }
    Ok(())
}

fn measure(len: usize, (_, workers, pairs): &Case) -> Result<Duration> {
    let config = WorkerConfig {
        checkpoint: Arc::new(Checkpoint::create(16)?),
        takes_over: false,
        poll: Poll::For(1000),
        peek_mode: None,
        turn_us: vonic_datapath::TURN_US,
    };
    let (team, handles): (Vec<_>, Vec<_>) = Worker::team(*workers, &config, || Box::new(|_| {}))?.into_iter().unzip();
    let mut controls: Vec<Control> = handles.into_iter().map(Control::new).collect();
    for control in &mut controls {
        control.send(Command::Network(Box::new(network()?)))?;
    }
    let mut guests = Vec::new();
    let mut owned = Vec::new();
    for (pair, (sender, receiver)) in pairs.iter().enumerate() {
        let ids = [2 * pair as PortId + 1, 2 * pair as PortId];
        let ends = [Guest::new()?, Guest::new()?];
        ends[0].post(RECEIVE, SIZE, None)?;
        ends[1].post(TRANSMIT, SIZE, Some(&frame(len, ids[1], ids[0])))?;
        owned.extend([(ids[0], *receiver), (ids[1], *sender)]);
        guests.push(ends);
    }
    let stats: Vec<Shared<PortStats>> = owned.iter().map(|_| Shared::default()).collect();
    // Everybody knows of everybody, and the receivers are there, before the first sender's ring starts.
    for ((id, owner), stats) in owned.iter().zip(&stats) {
        let member = port(*id, stats).member(*owner);
        for (_, control) in controls.iter_mut().enumerate().filter(|(worker, _)| worker != owner) {
            control.send(Command::Member(Box::new(member.clone())))?;
        }
    }
    let mut calls = Vec::new();
    let (first, second) = owned.iter().enumerate().partition::<Vec<_>, _>(|(at, _)| at % 2 == 0);
    for (at, (id, owner)) in first.into_iter().chain(second) {
        calls.push(controls[*owner].attach(*id, &guests[at / 2][at % 2], &stats[at])?);
    }
    let gate = Arc::new(Barrier::new(team.len() + 1));
    let threads: Vec<_> = team
        .into_iter()
        .map(|worker| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                gate.wait();
                worker.run();
            })
        })
        .collect();
    gate.wait();
    let begun = Instant::now();
    for call in &mut calls[..pairs.len()] {
        // A ring's start is signalled, too.
        call.read_exact(&mut [0; 16])?;
    }
    let took = begun.elapsed();
    for control in &mut controls {
        control.send(Command::Stop { done: handover().0 })?;
    }
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a worker")))?;
    let used = guests.iter().map(|[receiver, _]| receiver.used(RECEIVE)).collect::<Result<Vec<_>>>()?;
    ensure!(used.iter().all(|used| *used == SIZE), "{SIZE} frames were sent, {used:?} came");
    Ok(took)
}
