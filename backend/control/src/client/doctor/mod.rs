//! `vonic doctor`: looks at the host, at vonicd and at each VM, and says what to do. It changes nothing.
mod drops;
mod facts;
mod finding;
mod host;
mod paths;
mod probe;
mod service;
#[cfg(test)]
mod tests;
mod vm;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde::de::DeserializeOwned;

use super::command::{Failure, decode};
use super::connection;
use crate::api::types::{VmDetail, VmRow};
pub use drops::{MEANINGS, Meaning};
use facts::{Facts, Running};
use finding::{Finding, Report};

/// Between two looks at what rises.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where vonic.toml and vms.d are [default: where vonicd has them, or /etc/vonic]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Of this VM only, beside the host
    #[arg(value_name = "NAME")]
    vm: Option<String>,
}

/// Looks, judges and prints.
pub(super) fn run(arguments: &Arguments, socket: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let vm = arguments.vm.as_deref().map(super::command::checked).transpose()?;
    let service = match ask_service(socket, vm) {
        // A wrong name is the caller's mistake, nothing about the service.
        Err(Failure::Api(error)) if error.status == 404 => return Err(Failure::Api(error)),
        service => service.map_err(|failure| failure.to_string()),
    };
    let facts = facts::gather(arguments.config_dir.as_deref(), service);
    let report = Report::new(judge(&facts));
    if json {
        serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        report.print(out)?;
    }
    if report.problems == 0 { Ok(()) } else { Err(Failure::Problems(report.problems)) }
}

/// All checks, in the order in which they are printed.
fn judge(facts: &Facts) -> Vec<Finding> {
    let general = host::CHECKS.iter().chain(service::CHECKS).flat_map(|check| check(facts));
    let running = facts.service.iter();
    let vms = running.flat_map(|running| running.vms.iter().map(|vm| (vm, running.later.get(&vm.row.name))));
    general.chain(vms.flat_map(|(before, now)| vm::check(before, now))).collect()
}

/// Asks for everything, and for the VMs twice.
fn ask_service(socket: &Path, vm: Option<&str>) -> Result<Running, Failure> {
    let health = ask(socket, "/v1/health")?;
    let engine = ask(socket, "/v1/engine").ok();
    let vms = details(socket, vm)?;
    if !vms.is_empty() {
        thread::sleep(PAUSE);
    }
    let later = details(socket, vm)?.into_iter().map(|vm| (vm.row.name.clone(), vm)).collect();
    Ok(Running { health, engine, vms, later })
}

fn details(socket: &Path, vm: Option<&str>) -> Result<Vec<VmDetail>, Failure> {
    let names = match vm {
        Some(vm) => vec![vm.to_string()],
        None => ask::<Vec<VmRow>>(socket, "/v1/vms")?.into_iter().map(|row| row.name).collect(),
    };
    let mut details = Vec::new();
    for name in names {
        match ask(socket, &format!("/v1/vms/{name}")) {
            // Gone since the list was made.
            Err(Failure::Api(error)) if error.status == 404 && vm.is_none() => {}
            detail => details.push(detail?),
        }
    }
    Ok(details)
}

fn ask<T: DeserializeOwned>(socket: &Path, target: &str) -> Result<T, Failure> {
    decode(&connection::ask_for(socket, (Method::GET, target), None, LIMIT)?)
}
