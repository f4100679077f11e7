//! The newer vonicd that is to take over, as the running master sees it: its program, its process, and the channel to it.
use crate::handover::{self, MasterState, Offer};
use crate::sys;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// How long the newer vonicd may take to read what it is told of this one, while this one serves.
pub(crate) const PREPARE_LIMIT: Duration = Duration::from_secs(5);
/// How long the engine may take to lay everything down. A reload may be under way; then it is ended where it is.
pub(crate) const REST_LIMIT: Duration = Duration::from_secs(3);
/// How long everything may take from the old engine's end until the new one serves.
pub(crate) const SWITCH_LIMIT: Duration = Duration::from_secs(5);
/// The longest message of the channel.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;

/// What the newer one says. These are read by every older one: they never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromSuccessor {
    /// It can take over; its version.
    Ready(String),
    /// It cannot, or could not; why.
    Refused(String),
    /// Its engine serves.
    Serves,
}

/// What it is told behind the offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToSuccessor {
    /// With this comes a file of the sealed [`MasterState`].
    State,
    /// With this come the descriptors of these numbers.
    Descriptors(Vec<RawFd>),
    /// It is the master from here on.
    Go,
}

/// One end of the channel between the two: whole messages over a SOCK_SEQPACKET pair, with descriptors.
#[derive(Debug)]
pub(crate) struct Channel(UnixDatagram);

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Channel {
        Channel(UnixDatagram::from(socket))
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let sent = self.0.send_with_fds(&[bytes], fds).map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    pub(crate) fn send(&self, message: &impl Serialize, fds: &[RawFd]) -> io::Result<()> {
        self.send_bytes(&serde_json::to_vec(message)?, fds)
    }

    /// The next message, waited for until `limit`. `UnexpectedEof`: the other end is gone; `TimedOut`.
    pub(crate) fn recv_bytes(&self, limit: Instant) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (mut buffer, mut fds) = (vec![0; MAX_MESSAGE], Vec::new());
        let length = loop {
            let left = limit.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left))?;
            match sys::receive_many(self.0.as_fd(), &mut buffer, &mut fds) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break 0,
                read => break read?,
            }
        };
        buffer.truncate(length);
        if length == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok((buffer, fds)) }
    }

    /// As [`Channel::recv_bytes`], of a message that is one.
    pub(crate) fn recv<T: for<'a> Deserialize<'a>>(&self, limit: Instant) -> io::Result<(T, Vec<OwnedFd>)> {
        let (bytes, fds) = self.recv_bytes(limit)?;
        Ok((serde_json::from_slice(&bytes)?, fds))
    }

    pub(crate) fn move_off(self, numbers: &std::collections::BTreeSet<RawFd>) -> io::Result<Channel> {
        sys::move_off(self.0.into(), numbers).map(Channel::new)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What is run, and how.
#[derive(Clone, Debug, Default)]
pub struct Upgrade {
    /// The arguments with which a program takes over: standard input is the channel to the master.
    pub arguments: Vec<OsString>,
    /// The name of what the engine leaves that a newer one must be able to read ([`crate::EngineLink::keep`]): the configuration.
    pub essential: String,
}

/// A newer vonicd that has been started. Dropped, it is killed and reaped, unless it has taken over.
#[derive(Debug)]
pub(crate) struct Candidate {
    child: Child,
    pub(crate) channel: Channel,
    /// When it must have said that it is ready; of one that has, when the engine must have laid everything down.
    pub(crate) due: Instant,
    /// It has.
    pub(crate) is_ready: bool,
    took_over: bool,
}

impl Candidate {
    /// Starts the program and tells it who asks.
    pub(crate) fn start(
        path: &Path,
        with: &Upgrade,
        checkpoint: RawFd,
        essential: RawFd,
        now: Instant,
    ) -> Result<Candidate, String> {
        let program = examine(path)?;
        let (ours, theirs) = sys::seqpacket_pair().map_err(|e| format!("no channel to the new vonicd: {e}"))?;
        // Should it die when it has made an engine, that engine's end must be seen before this master makes one.
        sys::adopt_orphans(true).map_err(|e| format!("children of the new vonicd cannot be watched: {e}"))?;
        let mut command = Command::new(&program);
        command.args(&with.arguments).stdin(theirs);
        sys::close_on_exec(&mut command);
        let child = command.spawn().map_err(|e| format!("{} cannot be run: {e}", program.display()))?;
        let channel = Channel::new(ours);
        let candidate = Candidate { child, channel, due: now + PREPARE_LIMIT, is_ready: false, took_over: false };
        let offer = handover::seal(&Offer { vonic: env!("CARGO_PKG_VERSION").into() }).map_err(|e| e.to_string())?;
        // A program that is gone already is found out by its end.
        let _ = candidate.channel.send_bytes(&offer, &[checkpoint, essential]);
        Ok(candidate)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says, if it says anything; else why it is of no use.
    pub(crate) fn hear(&mut self, limit: Instant) -> Result<FromSuccessor, String> {
        match self.channel.recv(limit) {
            Ok((message, _)) => Ok(message),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(match self.wait(Duration::from_millis(100)) {
                Some(status) => format!("it ended ({status}); its messages are in vonicd's log"),
                None => "it closed its standard input: it is no vonicd that can take over".into(),
            }),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Err("it did not answer in time".into()),
            Err(e) => Err(format!("it is no vonicd that can take over: {e}")),
        }
    }

    /// Hands over everything, and waits until its engine serves.
    pub(crate) fn hand_over(&mut self, state: &MasterState, limit: Instant) -> Result<(), String> {
        self.tell(state).map_err(|e| format!("it cannot be told everything: {e}"))?;
        match self.hear(limit)? {
            FromSuccessor::Serves => {}
            FromSuccessor::Refused(why) => return Err(why),
            FromSuccessor::Ready(_) => return Err("it is no vonicd that can take over: it is ready twice".into()),
        }
        // One that is gone now is gone as any master: whatever of it was lost is lost.
        self.channel.send(&ToSuccessor::Go, &[]).map_err(|e| format!("it ended when it served: {e}"))?;
        self.took_over = true;
        Ok(())
    }

    fn tell(&self, state: &MasterState) -> io::Result<()> {
        let text = handover::seal(state).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        self.channel.0.set_write_timeout(Some(SWITCH_LIMIT))?;
        let file = sys::memory_file(&text)?;
        self.channel.send(&ToSuccessor::State, &[file.as_raw_fd()])?;
        let descriptors: Vec<RawFd> = state.descriptors.iter().copied().collect();
        for batch in descriptors.chunks(sys::SCM_MAX_FD) {
            self.channel.send(&ToSuccessor::Descriptors(batch.to_vec()), batch)?;
        }
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                _ => return None,
            }
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if !self.took_over {
            let _ = self.channel.0.shutdown(Shutdown::Both);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The program, if it is one that this service may run: what anybody could have written, root or this user would run.
fn examine(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!("{} is no absolute path", path.display()));
    }
    let program = fs::canonicalize(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = fs::metadata(&program).map_err(|e| format!("{}: {e}", path.display()))?;
    let name = program.display();
    if !file.is_file() {
        return Err(format!("{name} is no file"));
    }
    let mode = file.permissions().mode();
    if mode & 0o111 == 0 {
        return Err(format!("{name} is not executable: chmod +x it"));
    }
    if mode & 0o022 != 0 {
        return Err(format!("{name} can be written by others than its owner: chmod go-w it"));
    }
    // This process's own folder in /proc belongs to its user.
    let user = fs::metadata("/proc/self").map_err(|e| format!("/proc/self: {e}"))?.uid();
    if file.uid() != 0 && file.uid() != user {
        return Err(format!("{name} belongs to neither root nor vonicd's user: chown it"));
    }
    Ok(program)
}
