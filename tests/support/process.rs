//! Processes that end with the test that started them.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::sys;
use crate::wait::wait_for;

/// A child process in its own process group. It is killed and reaped on drop, and by the kernel (PR_SET_PDEATHSIG) if the thread that
/// started it ends in any other way. Start processes from the test's own thread, therefore, never from a short-lived one.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
}

/// Where a process runs.
#[derive(Default)]
pub(crate) struct Place<'a> {
    pub(crate) netns: Option<&'a Netns>,
    pub(crate) root: Option<sys::Root>,
}

impl Process {
    /// Starts `command` in the current network namespace or `netns`. Output goes to `log`, which is shown if the test fails.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command, netns: Option<&Netns>, log: &Path) -> Result<Process> {
        command.stdin(Stdio::null());
        Process::start_in(name, command, Place { netns, root: None }, log)
    }

    /// As [`Process::start`]; standard output is left to the caller if it was set to a pipe with `stdin`.
    pub(crate) fn start_in(name: &str, command: &mut Command, place: Place<'_>, log: &Path) -> Result<Process> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        command.stdout(file.try_clone()?);
        Process::spawn(name, command, place, log, file)
    }

    /// For a process whose standard output is its console: the caller has set stdin and stdout.
    pub(crate) fn start_console(name: &str, command: &mut Command, place: Place<'_>, log: &Path) -> Result<Process> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        Process::spawn(name, command, place, log, file)
    }

    fn spawn(name: &str, command: &mut Command, place: Place<'_>, log: &Path, errors: File) -> Result<Process> {
        let netns: Option<RawFd> = place.netns.map(|netns| netns.fd().as_raw_fd());
        sys::prepare(command, netns, place.root);
        let child = command.stderr(errors).spawn().with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Process { name: name.to_string(), child, status: None, log: log.to_path_buf() })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its process id, also the id of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_for(&what, limit, || Ok(self.ended()))
    }

    /// Sends a signal, if it still runs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        if self.ended().is_none() {
            sys::kill(self.pid(), signal).with_context(|| format!("signal {signal} to {}", self.name))?;
        }
        Ok(())
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            drop(self.child.kill());
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let before = self.ended();
        self.kill();
        if std::thread::panicking() {
            show(&format!("{} ({before:?})", self.name), &self.log());
        }
    }
}

/// Prints the end of a log, for a test that fails.
#[allow(clippy::print_stderr, reason = "the test harness captures it and shows it with the failure")]
pub(crate) fn show(title: &str, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.len().saturating_sub(60);
    eprintln!("---- {title}, {} lines{}", lines.len(), if tail > 0 { ", the last 60:" } else { ":" });
    for line in &lines[tail..] {
        eprintln!("| {line}");
    }
}
