//! A hundred thousand terminated connections: vonic's own memory for each, and whether one that speaks is answered later as they grow.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::crowd::Crowd;
use vonic_tests::frames::Tcp;
use vonic_tests::mock::feature;
use vonic_tests::wire::{Conn, HOST, HandGuest};
use vonic_tests::{Bed, Context, Result, TestConfig, ensure, usage};

use crate::book::{Book, Stage};
use crate::machine;
use crate::row::{Case, Figures, Latency, Series, Target, median};

/// Descriptors of everybody: vonic's sockets, and their far ends in this process.
const DESCRIPTORS: u64 = 300_000;
const GUESTS: usize = 5;
/// Bytes that the kernel has to have for the two sockets of a connection, with some to spare.
const KERNEL: u64 = 16 << 10;
/// Questions of the probe in a talk.
const QUESTIONS: usize = 500;
/// Talks of which the quickest counts: others are disturbed.
const TALKS: usize = 5;
/// Connections of each guest that count as its port's, with which its tables and buffers come into being.
const FIRST: usize = 100;

static MEMORY: Case = Case {
    id: "connections-memory",
    load: "100,000 terminated connections of five guests: vonic's own memory for each",
    unit: "bytes",
    peer: "",
    target: Target::AtMost(1024.0),
};
static LATENCY: Case = Case {
    id: "connections-latency",
    load: "the same: a probe's median round trip at the worst step, over that with none",
    unit: "times",
    peer: "",
    target: Target::AtMost(1.5),
};

pub static STAGE: Stage = Stage { name: "connections", cases: || vec![&MEMORY, &LATENCY], run };

/// What is known after each step.
struct Step {
    connections: usize,
    memory: u64,
    /// Of the probe's round trips, in microseconds.
    percentiles: [f64; 3],
    /// Connections opened in a second.
    opened: f64,
}

/// How many connections.
struct Size {
    /// Of each guest.
    each: usize,
    /// After how many the probe asks.
    step: usize,
    /// Why they are fewer than they should be.
    but: String,
}

impl Size {
    fn all(&self) -> usize {
        GUESTS * self.each
    }

    /// Without the capability that it takes to raise the hard limit, as many as that allows: the last quarter of it is not for VMs that
    /// have more than their part.
    fn choose(quick: bool) -> Result<Size> {
        let raised = usage::allow_descriptors(DESCRIPTORS);
        let limit = usage::allow_descriptors(0).and_then(|()| usage::descriptor_limit())?;
        let most = if raised.is_ok() { 20_000 } else { (limit as usize * 7 / 10 / GUESTS).saturating_sub(FIRST) };
        let each = if quick { most.min(2000) } else { most };
        // The table's line and the plot's have a point for each ten thousand.
        let step = if each < 20_000 { (each / 4 / 100 * 100).max(1) } else { 10_000 };
        let each = each / step * step;
        let but = match (raised, quick) {
            (Ok(()), false) => String::new(),
            (Ok(()), true) => format!("with {} in a quick run", GUESTS * each),
            (Err(_), _) => {
                format!("with {}: {limit} files may be open, and raising that needs CAP_SYS_RESOURCE", GUESTS * each)
            }
        };
        Ok(Size { each, step, but })
    }
}

fn run(book: &mut Book<'_>) -> Result<()> {
    let size = Size::choose(book.plan.quick)?;
    let Size { each, step, .. } = size;
    let (needed, free) = (size.all() as u64 * KERNEL, machine::available());
    ensure!(free > needed, "{} connections need {} MiB, {} are free", size.all(), needed >> 20, free >> 20);
    // What connections cost is to be seen, not what it costs to wake a processor: all share one, and the worker leaves it to others.
    let config = TestConfig { service: "poll_us = 0".into(), ..TestConfig::default() };
    let config = (0..GUESTS).fold(config, |config, at| config.vm(&name(at), number(at), Crowd::LIMITS));
    let bed = Bed::start(&config.vm("probe", 200, ""))?;
    bind(&["-a", "-p", "-c", "0", &bed.vonicd.engine()?.to_string()])?;
    let thread = fs::read_link("/proc/thread-self")?;
    bind(&["-p", "-c", "0", &thread.file_name().context("this thread's number")?.to_string_lossy()])?;
    let mut probe = Probe::new(&bed)?;
    let crowds = (0..GUESTS).map(|at| Crowd::silent(&bed, &name(at), number(at), FIRST + each));
    let mut crowds = crowds.collect::<Result<Vec<_>>>()?;
    crowds.iter_mut().try_for_each(|crowd| crowd.open(FIRST))?;
    let mut steps = vec![look(&bed, &mut probe, 0, 0.0)?];
    for (at, crowd) in crowds.iter_mut().enumerate() {
        for part in 1..=each / step {
            let began = Instant::now();
            crowd.open(FIRST + part * step)?;
            let rate = step as f64 / began.elapsed().as_secs_f64();
            steps.push(look(&bed, &mut probe, at * each + part * step, rate)?);
        }
    }
    report(book, &steps, &size.but);
    drop(crowds);
    bed.vonicd.stop()
}

/// taskset(1).
fn bind(words: &[&str]) -> Result<()> {
    let done = Command::new("taskset").args(words).output()?;
    ensure!(done.status.success(), "taskset {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn name(at: usize) -> String {
    format!("crowd{at}")
}

fn number(at: usize) -> u8 {
    2 + at as u8
}

fn look(bed: &Bed, probe: &mut Probe, connections: usize, opened: f64) -> Result<Step> {
    let percentiles = probe.best()?;
    let memory = usage::private_dirty(bed.vonicd.master())? + usage::private_dirty(bed.vonicd.engine()?)?;
    eprintln!(
        "   {connections:>6} connections: {} KiB, round trip {:.1} / {:.1} / {:.1} µs, opened {opened:.0}/s",
        memory >> 10,
        percentiles[0],
        percentiles[1],
        percentiles[2]
    );
    Ok(Step { connections, memory, percentiles, opened })
}

fn report(book: &mut Book<'_>, steps: &[Step], but: &str) {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return };
    let line = |name: &str, of: &dyn Fn(&Step) -> f64| Series {
        name: name.into(),
        points: steps.iter().map(|step| (step.connections as f64, of(step))).collect(),
    };
    let each = last.memory.saturating_sub(first.memory) as f64 / last.connections as f64;
    let beside = vec![
        ("connections".to_string(), last.connections as f64),
        ("opened in a second".to_string(), median(&steps[1..].iter().map(|step| step.opened).collect::<Vec<_>>())),
    ];
    let series = vec![line("memory, MiB", &|step| step.memory as f64 / f64::from(1 << 20))];
    book.note(&MEMORY, Ok(Figures { series, beside, but: but.into(), ..Figures::one(each) }));

    let worst = steps.iter().map(|step| step.percentiles[0]).fold(0.0, f64::max);
    let at = |place: usize| move |step: &Step| step.percentiles[place];
    let series = vec![line("median", &at(0)), line("p90", &at(1)), line("p99", &at(2))];
    let latency = |who: &str, step: &Step| Latency { who: who.into(), percentiles: step.percentiles };
    let latencies = vec![latency("without", first), latency("with all", last)];
    let times = Figures::one(worst / first.percentiles[0]);
    book.note(&LATENCY, Ok(Figures { series, latencies, but: but.into(), ..times }));
}

/// A guest with one connection to an echo.
struct Probe {
    guest: HandGuest,
    talk: Conn,
}

impl Probe {
    fn new(bed: &Bed) -> Result<Probe> {
        let mut guest = HandGuest::start(bed, "probe", 200, feature::ALL)?;
        let (talk, mut host) = Conn::new(HOST, (4000, 0)).connect(&mut guest)?;
        host.set_nodelay(true)?;
        // Meanwhile ten thousand connections open.
        host.set_read_timeout(Some(Duration::from_secs(600)))?;
        // It ends with the connection.
        thread::spawn(move || {
            let mut byte = [0];
            while host.read_exact(&mut byte).is_ok() && host.write_all(&byte).is_ok() {}
        });
        Ok(Probe { guest, talk })
    }

    /// The talk of [`TALKS`] whose median is the least.
    fn best(&mut self) -> Result<[f64; 3]> {
        let talks = (0..TALKS).map(|_| self.talk()).collect::<Result<Vec<_>>>()?;
        let best = talks.into_iter().min_by(|a, b| a[0].total_cmp(&b[0]));
        best.context("no talk")
    }

    /// Round trips of one byte: of a hundred, 50, 90 and 99 take no longer than so many microseconds.
    fn talk(&mut self) -> Result<[f64; 3]> {
        let mut times = Vec::with_capacity(QUESTIONS);
        for at in 0..QUESTIONS {
            let began = Instant::now();
            self.talk.send(&mut self.guest, Tcp::PSH, &[at as u8])?;
            let (got, _) = self.talk.receive(&mut self.guest, 1)?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
            ensure!(got == [at as u8], "the echo of {at} is {got:?}");
        }
        times.sort_by(f64::total_cmp);
        Ok([50, 90, 99].map(|percent| times[(QUESTIONS * percent).div_ceil(100) - 1]))
    }
}
