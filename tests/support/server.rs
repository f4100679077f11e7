//! The host's side of checked traffic: `vonic-peer serve` in a process of its own, and its reports.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::wait::wait_for;

/// A server of checked streams.
#[derive(Debug)]
pub struct PeerServer {
    process: Process,
    address: SocketAddr,
    seen: usize,
}

impl PeerServer {
    /// Starts one on `address` (port 0: any free one), in `netns` or the current namespace; its reports go to a log in `directory`.
    ///
    /// # Errors
    /// If it does not listen within ten seconds.
    pub fn start(name: &str, directory: &Path, address: &str, netns: Option<&Netns>) -> Result<PeerServer> {
        let mut command = Command::new(lab::peer_program()?);
        // A client says first that it has waited too long: a slow guest may read for long what its server has said and waits to have
        // confirmed.
        command.args(["serve", address]).env("VONIC_PEER_TIMEOUT", "120");
        // A test may start several of one name, one after the other: each has its own log.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = directory.join(format!("{name}-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut process = Process::start(name, &mut command, netns, &log)?;
        let address = wait_for("the peer server", Duration::from_secs(10), || {
            let log = process.log();
            if let Some(status) = process.ended() {
                anyhow::bail!("it ended with {status}: {log}");
            }
            let Some((line, _)) = log.split_once('\n') else { return Ok(None) };
            let report: Value = serde_json::from_str(line)?;
            let address = report["listening"].as_str().context("the address")?;
            Ok(Some(address.parse()?))
        })?;
        Ok(PeerServer { process, address, seen: 1 })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The reports of all sessions that did not end well, so far.
    pub fn failures(&self) -> Vec<String> {
        let log = self.process.log();
        log.lines().skip(1).filter(|line| !line.contains("\"error\":null")).map(ToString::to_string).collect()
    }

    /// The next session's report: `peer`, `operation`, `bytes`, `error` (null if it ended well).
    ///
    /// # Errors
    /// If none comes within `limit`.
    pub fn report(&mut self, limit: Duration) -> Result<Value> {
        let report = wait_for("a report of the peer server", limit, || {
            let log = self.process.log();
            let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole.lines().nth(self.seen).map(|line| serde_json::from_str(line).context("a report")).transpose()
        })?;
        self.seen += 1;
        Ok(report)
    }
}

/// Runs `vonic-peer ARGUMENTS` on the host, in `netns` or the current namespace, for at most `limit`; its JSON result with the member
/// `ok` added.
///
/// # Errors
/// If it does not end in time or prints no result.
pub fn peer(arguments: &[&str], netns: Option<&Netns>, directory: &Path, limit: Duration) -> Result<Value> {
    let mut command = Command::new(lab::peer_program()?);
    command.args(arguments);
    let log = directory.join(format!("peer-{}.log", arguments.join("-").replace('/', "_")));
    drop(std::fs::remove_file(&log));
    let mut process = Process::start("vonic-peer", &mut command, netns, &log)?;
    let status = process.wait(limit)?;
    let text = process.log();
    let mut result: Value = serde_json::from_str(&text).with_context(|| format!("vonic-peer {arguments:?}: {text}"))?;
    result["ok"] = Value::Bool(status.success());
    Ok(result)
}
