//! The service manager that has started vonicd, if one has: what it is told (sd_notify(3)), what it passes (sd_listen_fds(3)) and keeps.
//!
//! It keeps listening sockets over vonicd's own end: a VMM or an operator who connects meanwhile waits instead of being refused. It keeps
//! nothing of a connection (ADR 0015).
use crate::sys;
use std::env;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The first descriptor that is passed (sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;
/// What the names begin with of sockets that vonic gave away to be kept; others are of a socket unit.
const KEPT: &str = "kept-";

/// Nothing in here waits, and nothing of it can fail vonicd.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Watchdog>,
    passed: Vec<Passed>,
    reloading: bool,
}

/// The manager kills a service that it has not heard from for an interval; half of it passes between two signs of life.
#[derive(Debug)]
struct Watchdog {
    half: Duration,
    next: Instant,
}

/// A listening socket that vonicd found open when it started.
#[derive(Debug)]
pub(crate) struct Passed {
    path: PathBuf,
    pub(crate) socket: UnixListener,
    /// Its file is not vonic's to remove.
    pub(crate) lent: bool,
}

impl ServiceManager {
    /// As the environment says. With `successor`, what the manager says about the process before is about this one.
    pub(crate) fn find(successor: bool) -> ServiceManager {
        let own = |variable| successor || number(variable).is_some_and(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC")
            .filter(|_| env::var_os("WATCHDOG_PID").is_none() || own("WATCHDOG_PID"))
            .map(|interval| Watchdog { half: Duration::from_micros(interval / 2), next: Instant::now() });
        let passed = if own("LISTEN_PID") && !successor { passed() } else { Vec::new() };
        ServiceManager { socket: notify_socket(), watchdog, passed, reloading: false }
    }

    /// Sockets that it passed and nobody has asked for yet.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.passed.iter().map(|passed| passed.socket.as_raw_fd())
    }

    /// The socket that it passed for a path, if there is one and its file is still there.
    pub(crate) fn take(&mut self, path: &Path) -> Option<Passed> {
        let place = self.passed.iter().position(|passed| passed.path == path)?;
        let passed = self.passed.swap_remove(place);
        path.exists().then_some(passed)
    }

    /// Gives it a socket to keep until [`ServiceManager::release`], or the service is stopped.
    pub(crate) fn keep(&self, name: &str, socket: RawFd) {
        // FDPOLL=0: it is not to look whether the socket has hung up.
        self.tell_with(&format!("FDSTORE=1\nFDNAME={KEPT}{name}\nFDPOLL=0"), &[socket]);
    }

    pub(crate) fn release(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={KEPT}{name}"));
    }

    /// The engine serves. What was passed and is of no use is closed.
    pub(crate) fn ready(&mut self) {
        for Passed { path, .. } in self.passed.drain(..) {
            log::warn!("{}: the service manager passes this socket, but no VM's is there", path.display());
        }
        self.tell("READY=1\nSTATUS=The engine serves");
    }

    /// The configuration is being read again.
    pub(crate) fn reloading(&mut self) {
        self.reloading = true;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", sys::monotonic().as_micros()));
    }

    /// It has been read.
    pub(crate) fn reloaded(&mut self) {
        if std::mem::take(&mut self.reloading) {
            self.tell("READY=1");
        }
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Resetting connections");
    }

    /// Another process is the service from here on.
    pub(crate) fn succeeded_by(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}\nSTATUS=Upgraded"));
    }

    /// One line for people.
    pub(crate) fn status(&self, text: &str) {
        self.tell(&format!("STATUS={text}"));
    }

    /// When a sign of life is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Gives a sign of life if one is due and all is well.
    pub(crate) fn tick(&mut self, now: Instant, well: bool) {
        let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) else { return };
        watchdog.next = now + watchdog.half;
        if well {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, text: &str) {
        self.tell_with(text, &[]);
    }

    fn tell_with(&self, text: &str, fds: &[RawFd]) {
        let Some(socket) = &self.socket else { return };
        if let Err(e) = socket.send_with_fds(&[text.as_bytes()], fds) {
            log::debug!("the service manager cannot be told {text:?}: {e}");
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// The socket of NOTIFY_SOCKET: a path, or an abstract name behind `@`.
fn notify_socket() -> Option<UnixDatagram> {
    let address = env::var_os("NOTIFY_SOCKET")?;
    let connect = || -> io::Result<UnixDatagram> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    connect().inspect_err(|e| log::warn!("NOTIFY_SOCKET cannot be used: {e}")).ok()
}

/// The sockets that were passed, from here on close-on-exec.
fn passed() -> Vec<Passed> {
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0);
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(""));
    (FIRST_PASSED..FIRST_PASSED.saturating_add(count))
        .zip(names)
        .filter_map(|(fd, name)| one_passed(fd, name))
        .collect()
}

fn one_passed(fd: RawFd, name: &str) -> Option<Passed> {
    let socket = || -> io::Result<UnixListener> {
        let copy: OwnedFd = sys::adopt(fd)?.try_clone()?;
        let socket = UnixListener::from(copy);
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = match socket() {
        Ok(socket) => socket,
        Err(e) => {
            log::warn!("descriptor {fd} ({name}), which the service manager passes, cannot be used: {e}");
            return None;
        }
    };
    let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_path_buf));
    if path.is_none() {
        log::warn!("descriptor {fd} ({name}), which the service manager passes, is no unix socket with a path");
    }
    Some(Passed { path: path?, socket, lent: !name.starts_with(KEPT) })
}

#[cfg(test)]
mod tests;
