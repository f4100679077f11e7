//! Network namespaces: each test has its own loopback, ports, interfaces and packet filter.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Output};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::sys;

/// A network namespace without a name, gone with its last user.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

fn current() -> Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net").context("opening the network namespace")?.into())
}

/// Moves the calling thread, and whatever it starts from now on, into a new namespace with only a loopback interface, on which ping
/// sockets work. The first thing an end-to-end test does: ports cannot collide, and its traffic cannot get out.
///
/// # Errors
/// Without root.
pub fn isolate() -> Result<()> {
    if sys::user() != 0 {
        bail!("the end-to-end tests need root (make test uses sudo)");
    }
    sys::unshare_network().context("a network namespace of our own")?;
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").context("ping_group_range")?;
    ip("link set lo up")
}

impl Netns {
    /// A new one, with loopback up, beside the caller's.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Netns> {
        let made = thread::spawn(|| isolate().and_then(|()| current())).join();
        let fd = made.map_err(|_| anyhow::anyhow!("the thread that makes a namespace died"))??;
        Ok(Netns { fd })
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Runs `work` on a thread in the namespace. Do not start processes in it: they would end with that thread.
    ///
    /// # Errors
    /// If the namespace cannot be entered, and those of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter = || sys::set_network(&self.fd).context("entering a namespace").and_then(|()| work());
        thread::scope(|scope| scope.spawn(enter).join())
            .map_err(|_| anyhow::anyhow!("the work in a namespace panicked"))?
    }

    /// `ip ARGUMENTS` in the namespace, arguments separated by blanks.
    ///
    /// # Errors
    /// If ip fails; its message is in the error.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.run(|| ip(arguments))
    }

    /// A cable without addresses between the calling thread's namespace, where its end is named `here`, and this one, both ends up.
    ///
    /// # Errors
    /// If ip fails.
    pub fn plug(&self, here: &str, there: &str) -> Result<()> {
        let fd = format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd());
        ip(&format!("link add {here} type veth peer name {there} netns {fd}"))?;
        ip(&format!("link set {here} up"))?;
        self.ip(&format!("link set {there} up"))
    }

    /// A cable between the calling thread's namespace and this one, both ends named `name`, up, with an address ("198.51.100.1/24").
    ///
    /// # Errors
    /// If ip fails.
    pub fn cable(&self, name: &str, here: &str, there: &str) -> Result<()> {
        self.plug(name, name)?;
        ip(&format!("addr add {here} dev {name}"))?;
        self.ip(&format!("addr add {there} dev {name}"))
    }
}

/// `ip ARGUMENTS` in the calling thread's namespace.
///
/// # Errors
/// If ip fails; its message is in the error.
pub fn ip(arguments: &str) -> Result<()> {
    let output: Output = Command::new("ip").args(arguments.split_ascii_whitespace()).output().context("running ip")?;
    if !output.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
