//! What each command asks, and what it prints.
use std::fmt;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use serde::de::DeserializeOwned;

use super::{Arguments, Command, EngineCommand, VmCommand, connection, launch, migrate, upgrade, view};
use crate::api::types::{EngineStatus, ReloadReport, Stats};
use crate::api::{ApiError, ErrorBody};
use crate::config::name;

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
            Failure::Launch(why) => f.write_str(why),
            Failure::Output(error) => write!(f, "the output cannot be written: {error}"),
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
        Command::Conns { vm: None } => show(arguments, Method::GET, "/v1/connections", out, view::connections),
        Command::Conns { vm: Some(vm) } => {
            show(arguments, Method::GET, &format!("/v1/connections?vm={}", checked(vm)?), out, view::connections)
        }
        Command::Stats { name: None } => show(arguments, Method::GET, "/v1/stats", out, view::stats),
        Command::Stats { name: Some(name) } => vm_stats(arguments, checked(name)?, out),
        Command::Reload => reload(arguments, out),
        Command::Engine(EngineCommand::Status) => show(arguments, Method::GET, ENGINE, out, view::engine),
        Command::Engine(EngineCommand::Restart) => restart_engine(arguments, out),
        Command::Migrate(command) => migrate::execute(arguments, command, out),
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
    name::check(name).map(|()| name).map_err(|_| Failure::Api(ApiError::no_such_vm(name)))
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

fn reload(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let body = connection::ask(&arguments.socket, Method::POST, "/v1/reload")?;
    let report: ReloadReport = decode(&body)?;
    if arguments.json {
        out.write_all(&body)?;
        writeln!(out)?;
    } else {
        view::reload(&report, out)?;
    }
    if report.errors.is_empty() { Ok(()) } else { Err(Failure::BadFiles(view::file_errors(&report.errors))) }
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
