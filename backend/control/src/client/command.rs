//! What each command asks, and what it prints.
use std::fmt;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use serde::de::DeserializeOwned;

use super::{Arguments, Command, EngineCommand, VmCommand};
use super::{
    capture, completion, config, connection, conns, doctor, events, launch, migrate, reload, top, upgrade, view,
    vm_file,
};
use crate::api::types::{EngineStatus, Health, Stats};
use crate::api::{ApiError, ErrorBody};
use crate::config::name::check as check_name;

/// Where the engine's state is.
const ENGINE: &str = "/v1/engine";
/// How long the next engine is waited for: longer than the master makes one wait after deaths.
const NEXT_ENGINE: Duration = Duration::from_secs(10);
/// How long between two looks for it.
const LOOK: Duration = Duration::from_millis(10);

/// Why a command was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The API, or the way to it.
    Api(ApiError),
    /// Standard output.
    Output(io::Error),
    /// The reload left out these files; each is one line.
    BadFiles(Vec<String>),
    /// No VMM can be started so; why, and what to do.
    Launch(String),
    /// It is not to be had so; why, and what to do.
    Refused(String),
    /// It was done, and found so many problems.
    Problems(usize),
    /// The service does not do all that it is configured to; it was printed what.
    Degraded,
    /// There was as much of it as was wanted.
    Enough,
}

impl Failure {
    /// As JSON, in the API's form.
    pub fn json(&self) -> String {
        let error = match self {
            Failure::Api(error) => error.clone(),
            other => ApiError::internal(other.to_string()),
        };
        serde_json::to_string(&ErrorBody { error }).unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Api(error) => error.fmt(f),
            Failure::Launch(why) | Failure::Refused(why) => f.write_str(why),
            Failure::Enough => f.write_str("there was enough of it"),
            Failure::Degraded => f.write_str("not everything works as it is configured"),
            Failure::Output(error) => write!(f, "the output cannot be written: {error}"),
            Failure::Problems(1) => f.write_str("1 problem was found"),
            Failure::Problems(count) => write!(f, "{count} problems were found"),
            Failure::BadFiles(lines) => {
                let count = lines.len();
                write!(f, "{count} found wrong; what a wrong file describes stays as it runs:\n{}", lines.join("\n"))
            }
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

/// Does one command.
pub(super) fn execute(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    match &arguments.command {
        Command::Vm(VmCommand::List) => show(arguments, Method::GET, "/v1/vms", out, view::vms),
        Command::Vm(VmCommand::Show { name }) => {
            show(arguments, Method::GET, &format!("/v1/vms/{}", checked(name)?), out, view::vm)
        }
        Command::Vm(VmCommand::Command(wanted)) => launch::print(wanted, arguments.json, out),
        Command::Vm(VmCommand::Add(wanted)) => vm_file::add(arguments, wanted, out),
        Command::Vm(VmCommand::Rm { name }) => vm_file::remove(arguments, checked(name)?, out),
        Command::Conns(wanted) => show(arguments, Method::GET, &conns::target(wanted)?, out, view::connections),
        Command::Stats { over: Some(seconds), .. } => {
            show(arguments, Method::GET, &format!("/v1/rates?seconds={seconds}"), out, view::rates)
        }
        Command::Stats { name: None, .. } => show(arguments, Method::GET, "/v1/stats", out, view::stats),
        Command::Stats { name: Some(name), .. } => vm_stats(arguments, checked(name)?, out),
        Command::Events(wanted) => events::follow(arguments, wanted, out),
        Command::Health => health(arguments, out),
        Command::Reload { dry_run } => {
            let target = if *dry_run { "/v1/reload?dry_run=true" } else { "/v1/reload" };
            reload::show(arguments, &connection::ask(&arguments.socket, Method::POST, target)?, out)
        }
        Command::Top(wanted) => top::run(wanted, &arguments.socket, arguments.json, out),
        Command::Config(command) => config::execute(command, arguments.json, out),
        Command::Doctor(wanted) => doctor::run(wanted, &arguments.socket, arguments.json, out),
        Command::Engine(EngineCommand::Status) => show(arguments, Method::GET, ENGINE, out, view::engine),
        Command::Engine(EngineCommand::Restart) => restart_engine(arguments, out),
        Command::Capture(wanted) => capture::execute(arguments, wanted, out),
        Command::Migrate(command) => migrate::execute(arguments, command, out),
        Command::Completions { shell } => Ok(completion::print(*shell, out)?),
        Command::Upgrade { binary } => {
            let report = upgrade::upgrade(&arguments.socket, binary)?;
            if arguments.json {
                serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
                return Ok(writeln!(out)?);
            }
            Ok(view::upgrade(&report, out)?)
        }
    }
}

/// A name that can stand in a path; another one is no VM's anyway.
pub(super) fn checked(name: &str) -> Result<&str, Failure> {
    check_name(name).map(|()| name).map_err(|_| Failure::Api(ApiError::no_such_vm(name)))
}

/// Asks, and prints the answer: as it came with `--json`, else by `view`.
fn show<T: DeserializeOwned>(
    arguments: &Arguments,
    method: Method,
    target: &str,
    out: &mut dyn Write,
    view: fn(&T, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let body = connection::ask(&arguments.socket, method, target)?;
    if arguments.json {
        out.write_all(&body)?;
        return Ok(writeln!(out)?);
    }
    Ok(view(&decode(&body)?, out)?)
}

fn vm_stats(arguments: &Arguments, name: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let stats: Stats = decode(&connection::ask(&arguments.socket, Method::GET, "/v1/stats")?)?;
    let vm = stats.vms.get(name).ok_or_else(|| Failure::Api(ApiError::no_such_vm(name)))?;
    if arguments.json {
        serde_json::to_writer(&mut *out, vm).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    Ok(view::vm_stats(vm, out)?)
}

fn health(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let body = connection::ask(&arguments.socket, Method::GET, "/v1/health")?;
    let health: Health = decode(&body)?;
    if arguments.json {
        out.write_all(&body)?;
        writeln!(out)?;
    } else {
        view::health(&health, out)?;
    }
    if health.problems.is_empty() { Ok(()) } else { Err(Failure::Degraded) }
}

/// Asks for another engine, and waits until it serves every VMM. The connection to the old one may end before its answer has come.
fn restart_engine(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let ask = || connection::ask(&arguments.socket, Method::GET, ENGINE);
    let before: EngineStatus = decode(&ask()?)?;
    let restart = connection::ask(&arguments.socket, Method::POST, "/v1/engine/restart");
    let asked = Instant::now();
    loop {
        thread::sleep(LOOK);
        let status = ask().and_then(|body| Ok((decode::<EngineStatus>(&body)?, body)));
        let late = asked.elapsed() > NEXT_ENGINE;
        match (status, &restart) {
            (Ok((now, body)), _) if now.pid != before.pid && now.last_takeover != before.last_takeover => {
                if arguments.json {
                    out.write_all(&body)?;
                    return Ok(writeln!(out)?);
                }
                return Ok(view::restarted(before.pid, &now, out)?);
            }
            // Refused: there is still the same one.
            (Ok((now, _)), Err(_)) if now.pid == before.pid => return restart.map(drop),
            (Err(failure), _) if late => return Err(failure),
            (Ok(_), _) if late => {
                let message = format!("no other engine has taken over within {NEXT_ENGINE:?}");
                return Err(Failure::Api(ApiError::unavailable(message).mend("see vonicd's log")));
            }
            _ => {}
        }
    }
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| {
        let error = ApiError::internal(format!("the answer cannot be read: {e}"));
        Failure::Api(error.mend("use the vonic of the same version as vonicd, or --json"))
    })
}
