//! How long the worker looks for work before it sleeps (`poll_us`): what that gives in latency and throughput, and takes in processor time.

use std::thread;
use std::time::{Duration, Instant};

use vonic_tests::{Bed, Guest, GuestConfig, Netns, Result, TestConfig, isolate, seconds, usage};

use crate::book::{Book, Stage};
use crate::plan::{Plan, medians};
use crate::row::{Case, Figures, Target, median};
use crate::traffic::{HOST, Streams, Way, stream_server, transaction_server, transactions};

const fn case(id: &'static str, load: &'static str) -> Case {
    Case { id, load, unit: "TCP_RR/s", peer: "", target: Target::Beside }
}

static CASES: [(Case, &str); 3] = [
    (case("polling-0", "poll_us = 0"), "0"),
    (case("polling-50", "poll_us = 50, the default"), "50"),
    (case("polling-always", "poll_us = \"always\""), "\"always\""),
];

pub static STAGE: Stage = Stage { name: "polling", cases: || CASES.iter().map(|(case, _)| case).collect(), run };

fn run(book: &mut Book<'_>) -> Result<()> {
    isolate()?;
    let outside = Netns::new()?;
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24")?;
    for (case, poll) in &CASES {
        book.row(case, |plan| measure(plan, poll));
    }
    Ok(())
}

fn measure(plan: &Plan, poll: &str) -> Result<Figures> {
    let config = TestConfig { service: format!("poll_us = {poll}"), ..TestConfig::default() };
    let bed = Bed::start_here(&config.vm("a", 2, "mtu = 1500"))?;
    let plain = GuestConfig::new("a", 2, &bed.socket("a"));
    let mut guest = bed.start_configured(&GuestConfig { memory: 512, ..plain })?;
    guest.wait_ready()?;
    let _servers = [stream_server(&bed.lab, &bed.directory, 5201)?, transaction_server(&bed.lab, &bed.directory)?];
    let mut meter = Meter::new(&bed)?;
    let mut all: [Vec<f64>; 7] = Default::default();
    let mut percentiles = Vec::new();
    for _ in 0..plan.rounds {
        let (asked, busy) = meter.of(|| transactions(&mut guest, "TCP_RR", plan.seconds))?;
        percentiles.extend(asked.percentiles);
        let mut stream = |guest: &mut Guest, way| meter.of(|| Streams::one(way).run(guest, HOST, 5201, plan.seconds));
        let (out, out_busy) = stream(&mut guest, Way::ToHost)?;
        let (back, back_busy) = stream(&mut guest, Way::FromHost)?;
        let idle = meter.of(|| {
            thread::sleep(seconds(plan.seconds));
            Ok(())
        })?;
        let round = [asked.value, busy, out.value, out_busy, back.value, back_busy, idle.1];
        all.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
    }
    let names = [
        "CPU at TCP_RR, %",
        "guest to host, Gbit/s",
        "CPU at it, %",
        "host to guest, Gbit/s",
        "CPU at it, %",
        "CPU when idle, %",
    ];
    let beside = names.iter().zip(&all[1..]).map(|(name, all)| (name.to_string(), median(all))).collect();
    let latencies = medians("vonic", &percentiles).into_iter().collect();
    let [asked, ..] = all;
    Ok(Figures { ours: asked, latencies, beside, ..Figures::default() })
}

/// Processor time of master and engine.
struct Meter {
    processes: [u32; 2],
}

impl Meter {
    fn new(bed: &Bed) -> Result<Meter> {
        Ok(Meter { processes: [bed.vonicd.master(), bed.vonicd.engine()?] })
    }

    fn taken(&self) -> Result<Duration> {
        self.processes.iter().map(|pid| usage::processor_time(*pid)).sum()
    }

    /// What `work` comes to, and the share of one processor that vonic took meanwhile, in percent.
    fn of<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let (began, before) = (Instant::now(), self.taken()?);
        let result = work()?;
        let taken = self.taken()?.saturating_sub(before);
        Ok((result, 100.0 * taken.as_secs_f64() / began.elapsed().as_secs_f64()))
    }
}
