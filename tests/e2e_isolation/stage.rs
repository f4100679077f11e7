//! The attacked service, its witnesses, and what is measured.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::witness::{Score, Witnesses};
use vonic_tests::*;

use super::{SLACK, STOPPED};

/// The attacker's VM and its number.
pub const MALLORY: &str = "mallory";
pub const NUMBER: u8 = 2;
/// What vonic's own memory may grow by under an attack, and what it may keep of it. What tables have grown to is kept, and the allocator's.
const GROWTH: u64 = 96 << 20;
const KEPT: u64 = 24 << 20;
/// Descriptors that an attack may take: its connections have a limit.
const DESCRIPTORS: usize = 17_000;
/// Lines that the log may have more after one run of an attack, however often it was repeated meanwhile: the 20 that the log
/// takes about one VM from each place in the program, of which a VMM that comes and goes passes six, and two for what is wrong with it.
const LINES: usize = 160;

/// What somebody does to everybody.
pub struct Attack {
    pub name: &'static str,
    /// Goes on until it is told to stop.
    pub act: fn(&Field<'_>) -> Result<()>,
    /// The drop reason under which it shows at the attacker's port; empty: it drops no frame.
    pub drops: &'static str,
}

/// Where it is done.
pub struct Field<'a> {
    pub bed: &'a Bed,
    /// A TCP and a UDP port of the host, where what comes is accepted and thrown away.
    pub world: u16,
    stop: &'a AtomicBool,
    done: &'a AtomicU64,
}

impl Field<'_> {
    /// Whether it is to go on; counts what was done.
    pub fn goes_on(&self) -> bool {
        self.done.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }

    /// A session on the attacker's socket. The one before may still be on its way out.
    pub fn session(&self, config: &MockConfig) -> Result<MockFrontend> {
        wait_for("a session of the attacker's", seconds(10), || {
            Ok(MockFrontend::start(&self.bed.socket(MALLORY), config.clone()).ok())
        })
    }
}

/// What one run cost.
struct Run {
    score: Score,
    /// How much of a processor the attacker took itself.
    share: f64,
    /// How often it did what it does.
    done: u64,
}

/// What vonic holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    memory: u64,
    descriptors: usize,
    lines: usize,
}

pub struct Stage {
    bed: Bed,
    witnesses: Witnesses,
    world: u16,
    before: Holdings,
    engine: u32,
    changes: u32,
}

fn long() -> bool {
    std::env::var_os("VONIC_LONG").is_some()
}

impl Stage {
    pub fn start() -> Stage {
        let bed = Bed::start(&Witnesses::vms(TestConfig::both_families().vm(MALLORY, NUMBER, ""))).unwrap();
        let world = world().unwrap();
        let witnesses = Witnesses::start(&bed).unwrap();
        let engine = bed.vonicd.engine().unwrap();
        let mut stage = Stage {
            bed,
            witnesses,
            world,
            before: Holdings { memory: 0, descriptors: 0, lines: 0 },
            engine,
            changes: 0,
        };
        // Whatever is made once is made.
        stage.witnesses.talk(Duration::from_millis(200)).unwrap();
        let gateway = stage.bed.mock(MALLORY, MockConfig::default()).unwrap().gateway_answers(NUMBER).unwrap();
        super::guest::prepare(gateway);
        stage.before = stage.holdings(true).unwrap();
        stage
    }

    fn holdings(&self, settled: bool) -> Result<Holdings> {
        let (master, engine) = (self.bed.vonicd.master(), self.bed.vonicd.engine()?);
        let look = if settled { usage::settled_descriptors } else { usage::descriptors };
        Ok(Holdings {
            memory: usage::private_dirty(master)? + usage::private_dirty(engine)?,
            descriptors: look(engine)?,
            lines: self.bed.vonicd.log().lines().count(),
        })
    }

    /// The witnesses talk for `time` while `act` runs in a thread of its own.
    fn beside(&mut self, time: Duration, act: impl FnOnce(&Field<'_>) -> Result<()> + Send) -> Result<Run> {
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let Stage { bed, witnesses, world, .. } = self;
        let field = Field { bed, world: *world, stop: &stop, done: &done };
        thread::scope(|scope| {
            let attacker = scope.spawn(|| -> Result<f64> {
                let (began, before) = (Instant::now(), usage::thread_time()?);
                act(&field)?;
                Ok((usage::thread_time()? - before).as_secs_f64() / began.elapsed().as_secs_f64())
            });
            // It has begun.
            thread::sleep(Duration::from_millis(20));
            let score = witnesses.talk(time);
            stop.store(true, Ordering::Relaxed);
            let share = attacker.join().map_err(|_| Error::msg("the attacker's thread"))?.context("the attacker")?;
            Ok(Run { score: score?, share, done: done.load(Ordering::Relaxed) })
        })
    }

    /// One pair: throughput and 99th percentile as ratios, and the longest wait.
    fn pair(&mut self, attack: &Attack, time: Duration) -> Result<(f64, f64, Duration)> {
        let attacked = self.beside(time, attack.act)?;
        let share = attacked.share;
        let calm = self.beside(time, |field| {
            let (began, before) = (Instant::now(), usage::thread_time()?);
            while field.goes_on() {
                let due = began.elapsed().mul_f64(share);
                while usage::thread_time()? - before < due {}
                thread::sleep(Duration::from_micros(500));
            }
            Ok(())
        })?;
        let ratios = (
            attacked.score.rate / calm.score.rate,
            attacked.score.p99.as_secs_f64() / calm.score.p99.as_secs_f64(),
            attacked.score.longest,
        );
        println!(
            "{}: {} times, {:.0} % of a processor; {:.1} MB/s of {:.1} ({:.2}), p99 {:?} of {:?} ({:.2}), longest {:?} of {:?}",
            attack.name,
            attacked.done,
            100.0 * share,
            attacked.score.rate / 1e6,
            calm.score.rate / 1e6,
            ratios.0,
            attacked.score.p99,
            calm.score.p99,
            ratios.1,
            ratios.2,
            calm.score.longest,
        );
        Ok(ratios)
    }

    /// The attack, and all that is asked of it.
    pub fn suffer(&mut self, attack: &Attack) -> Result<()> {
        let drops = |stage: &Stage| -> Result<u64> {
            if attack.drops.is_empty() { Ok(0) } else { stage.bed.vonicd.drops(MALLORY, attack.drops) }
        };
        let (dropped, lines) = (drops(self)?, self.bed.vonicd.log().lines().count());
        let (time, pairs) = if long() { (seconds(2), 5) } else { (Duration::from_millis(250), 4) };
        let (mut rates, mut latencies) = (Vec::new(), Vec::new());
        for pair in 1..=pairs {
            let (rate, latency, longest) = self.pair(attack, time)?;
            ensure!(longest < STOPPED, "a neighbour waited {longest:?}");
            rates.push(rate);
            latencies.push(latency);
            if !long() && rate >= 0.5 && latency < SLACK {
                break;
            }
            if !long() {
                ensure!(
                    pair < pairs,
                    "of their throughput {rates:.2?} is left, their latency is {latencies:.2?} times as long"
                );
            }
        }
        if long() {
            let (rate, latency) = (median(&mut rates), median(&mut latencies));
            println!("| {} | {rate:.2} | {latency:.2} |", attack.name);
            ensure!(rate >= 0.9, "{rate:.2} of their throughput is left: {rates:.2?}");
            ensure!(latency < 2.0, "their latency is {latency:.2} times as long: {latencies:.2?}");
        }
        ensure!(attack.drops.is_empty() || drops(self)? > dropped, "no drop for {}", attack.drops);
        let runs = rates.len();
        self.nothing_is_left(lines + runs * LINES)
    }

    /// The engine is the same, its memory and descriptors are bounded and come back, the log is short, and the attacker's port works.
    fn nothing_is_left(&mut self, lines: usize) -> Result<()> {
        let at_once = self.holdings(false)?;
        let before = self.before;
        ensure!(at_once.memory < before.memory + GROWTH, "{before:?}, then {at_once:?}");
        ensure!(at_once.descriptors < before.descriptors + DESCRIPTORS, "{before:?}, then {at_once:?}");
        ensure!(at_once.lines < lines, "the log has {} lines, and may have {lines}", at_once.lines);
        let log = self.bed.vonicd.log();
        ensure!(!log.contains("panicked"), "{log}");
        ensure!(self.bed.vonicd.engine()? == self.engine, "the engine has died:\n{log}");
        self.forgive()?;
        wait_for("the attacker's port", seconds(10), || {
            let next = self.bed.mock(MALLORY, MockConfig::default());
            Ok(next.and_then(|mut mock| mock.gateway_answers(NUMBER)).ok())
        })?;
        let mut now = at_once;
        wait_for("what vonic held before", seconds(15), || {
            now = self.holdings(true)?;
            let held = now.descriptors <= before.descriptors && now.memory < before.memory + KEPT;
            Ok(held.then_some(()))
        })
        .with_context(|| format!("{before:?}, now {now:?}"))
    }

    /// Whatever is held against the attacker's VMM is forgotten when the VM's file changes.
    fn forgive(&mut self) -> Result<()> {
        self.changes += 1;
        let file = format!("etc/vms.d/{MALLORY}.toml");
        let text = std::fs::read_to_string(self.bed.directory.path().join(&file))?;
        let text = text.split("limits").next().unwrap_or_default().to_string();
        self.bed.directory.write(&file, format!("{text}limits = {{ pending = {} }}\n", 512 + self.changes))?;
        self.bed.vonicd.vonic(&["reload", "--json"]).map(drop)
    }

    pub fn end(self) {
        drop(self.witnesses);
        self.bed.vonicd.stop().unwrap();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A port of the host, of TCP and UDP, at which everything is taken and nothing kept.
fn world() -> Result<u16> {
    let (listener, port) = wire::listen()?;
    let datagrams = std::net::UdpSocket::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(false)?;
    thread::spawn(move || listener.incoming().for_each(drop));
    thread::spawn(move || while datagrams.recv(&mut [0; 2048]).is_ok() {});
    Ok(port)
}
