//! What systemd is to a service: it hears (sd_notify(3)), keeps descriptors and passes them to the next start (sd_listen_fds(3)).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::wait::wait_for;

/// A service manager of the test's own.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: String,
    /// What it keeps, by name.
    pub store: BTreeMap<String, File>,
    heard: Vec<String>,
}

impl ServiceManager {
    /// That hears at a path.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> Result<ServiceManager> {
        ServiceManager::new(UnixDatagram::bind(path)?, path.display().to_string())
    }

    /// That hears at a name that is no file's.
    ///
    /// # Errors
    /// The system's.
    pub fn abstract_one(name: &str) -> Result<ServiceManager> {
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        ServiceManager::new(socket, format!("@{name}"))
    }

    fn new(socket: UnixDatagram, address: String) -> Result<ServiceManager> {
        socket.set_nonblocking(true)?;
        Ok(ServiceManager { socket, address, store: BTreeMap::new(), heard: Vec::new() })
    }

    /// What NOTIFY_SOCKET is to be.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Takes in what was said, and returns the lines of it that no call has returned before.
    ///
    /// # Errors
    /// What is said is no text.
    pub fn hear(&mut self) -> Result<Vec<String>> {
        let mut buffer = [0; 4096];
        while let Ok((length, file)) = self.socket.recv_with_fd(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..length]).context("not a text")?;
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
            if text.lines().any(|line| line == "FDSTORE=1") {
                self.store.insert(name.to_string(), file.context("a descriptor to be kept")?);
            }
            if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
                self.store.remove(name);
            }
            self.heard.extend(text.lines().map(str::to_string));
        }
        Ok(std::mem::take(&mut self.heard))
    }

    /// Waits for a line that begins so; what comes behind it. What was said before it is forgotten.
    ///
    /// # Errors
    /// If it does not come within ten seconds.
    pub fn expect(&mut self, start: &str) -> Result<String> {
        let rest = wait_for(start, Duration::from_secs(10), || {
            let mut lines = self.hear()?.into_iter();
            let found = lines.find_map(|line| line.strip_prefix(start).map(str::to_string));
            self.heard = lines.collect();
            Ok(found)
        });
        rest.with_context(|| format!("from vonicd to {}", self.address))
    }

    /// What it passes to the next start besides `more`.
    pub fn passed(&self, more: &[(&str, RawFd)]) -> Vec<(String, RawFd)> {
        let kept = self.store.iter().map(|(name, file)| (name.clone(), file.as_raw_fd()));
        more.iter().map(|(name, fd)| (name.to_string(), *fd)).chain(kept).collect()
    }
}
