//! Rates over one interval, as a table or as JSON.
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::command::Failure;
use super::super::layout::Table;
use super::super::view::state;
use super::model::{Model, Vm};
use super::rate::Rates;
use super::sample::look;

/// What one VM does.
#[derive(Serialize)]
struct Row<'a> {
    state: &'static str,
    /// Absent of a VM that was not there at the first look.
    #[serde(flatten)]
    rates: Option<Rates>,
    connections: u64,
    /// The agent's version, by its own word.
    agent: Option<&'a str>,
}

/// All of them.
#[derive(Serialize)]
struct Frame<'a> {
    seconds: f64,
    vms: BTreeMap<&'a str, Row<'a>>,
}

/// Looks twice and prints what happened in between.
pub(super) fn print(socket: &Path, interval: Duration, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let mut model = Model::default();
    let first = look(socket, None)?;
    let begin = first.at;
    model.take(Ok(Box::new(first)));
    thread::sleep(interval.saturating_sub(begin.elapsed()));
    let second = look(socket, None)?;
    let seconds = seconds(begin, second.at);
    model.take(Ok(Box::new(second)));
    if json {
        let vms = model.vms.iter().map(|(name, vm)| (name.as_str(), row(vm))).collect();
        serde_json::to_writer(&mut *out, &Frame { seconds, vms }).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    Ok(table(&model, seconds, out)?)
}

fn seconds(begin: Instant, end: Instant) -> f64 {
    end.saturating_duration_since(begin).as_secs_f64()
}

fn row(vm: &Vm) -> Row<'_> {
    let agent = vm.row.agent.as_ref().map(|agent| agent.version.as_str());
    Row { state: state(&vm.row), rates: vm.rates, connections: vm.row.connections, agent }
}

fn table(model: &Model, seconds: f64, out: &mut dyn Write) -> io::Result<()> {
    let headings =
        &["NAME", "STATE", ">SENDS b/s", ">f/s", ">RECEIVES b/s", ">f/s", ">DROPS/s", ">CONNECTIONS", "AGENT"];
    let mut table = Table::new(headings);
    for (name, vm) in &model.vms {
        let Row { state, rates, connections, agent } = row(vm);
        let rate = |of: fn(Rates) -> f64| rates.map_or_else(|| "-".to_string(), |rates| format!("{:.0}", of(rates)));
        table.row([
            name.clone(),
            state.to_string(),
            rate(|rates| rates.guest_to_host.bits),
            rate(|rates| rates.guest_to_host.frames),
            rate(|rates| rates.host_to_guest.bits),
            rate(|rates| rates.host_to_guest.frames),
            rate(|rates| rates.drops),
            connections.to_string(),
            agent.unwrap_or("-").to_string(),
        ]);
    }
    writeln!(out, "over {seconds:.1}s")?;
    if model.vms.is_empty() { writeln!(out, "no VMs") } else { table.print(out) }
}
