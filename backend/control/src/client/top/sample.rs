//! One look at the service, and the thread that looks again and again.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde::de::DeserializeOwned;

use super::super::command::{Failure, decode};
use super::super::connection;
use crate::api::types::{ConnectionRow, EngineStatus, Health, VmDetail, VmRow};

/// How long an answer may take. The picture says so before.
const LIMIT: Duration = Duration::from_secs(5);

/// What was seen at one time.
#[derive(Debug)]
pub(super) struct Sample {
    /// When, by the clock that never goes back.
    pub at: Instant,
    /// The same in seconds since 1970, for what the API says in these.
    pub time: u64,
    pub vms: Vec<VmRow>,
    pub health: Health,
    /// Absent where an engine is alone.
    pub engine: Option<EngineStatus>,
    /// The VM that was asked for.
    pub page: Option<PageSample>,
}

/// One VM.
#[derive(Debug)]
pub(super) struct PageSample {
    pub name: String,
    /// Absent if there is none by this name.
    pub vm: Option<Box<VmDetail>>,
    pub connections: Vec<ConnectionRow>,
}

/// Looks once; at `page` more closely.
pub(super) fn look(socket: &Path, page: Option<&str>) -> Result<Sample, Failure> {
    let vms = ask(socket, "/v1/vms")?;
    // The counters are as old as this answer.
    let at = Instant::now();
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let health = ask(socket, "/v1/health")?;
    let engine = ask(socket, "/v1/engine").ok();
    let page = page.map(|name| look_at(socket, name)).transpose()?;
    Ok(Sample { at, time, vms, health, engine, page })
}

fn look_at(socket: &Path, name: &str) -> Result<PageSample, Failure> {
    let vm = match ask(socket, &format!("/v1/vms/{name}")) {
        Err(Failure::Api(error)) if error.status == 404 => None,
        answer => Some(Box::new(answer?)),
    };
    let connections = match &vm {
        Some(_) => ask(socket, &format!("/v1/connections?vm={name}"))?,
        None => Vec::new(),
    };
    Ok(PageSample { name: name.to_string(), vm, connections })
}

fn ask<T: DeserializeOwned>(socket: &Path, target: &str) -> Result<T, Failure> {
    decode(&connection::ask_for(socket, (Method::GET, target), None, LIMIT)?)
}

/// What a look gives: why nothing, if so.
pub(super) type Seen = Result<Box<Sample>, String>;

/// Starts the thread that looks once in each interval, and at once when it is told which VM to look at. It ends with the sender.
///
/// # Errors
/// No thread.
pub(super) fn start(socket: PathBuf, interval: Duration) -> io::Result<(Sender<Option<String>>, Receiver<Seen>)> {
    let (pages, wanted) = channel::<Option<String>>();
    let (sender, samples) = channel();
    let work = move || {
        let mut page = None;
        loop {
            let began = Instant::now();
            let seen = look(&socket, page.as_deref()).map(Box::new).map_err(|failure| failure.to_string());
            if sender.send(seen).is_err() {
                return;
            }
            match wanted.recv_timeout(interval.saturating_sub(began.elapsed())) {
                Ok(next) => page = wanted.try_iter().last().unwrap_or(next),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    thread::Builder::new().name("samples".into()).spawn(work)?;
    Ok((pages, samples))
}
