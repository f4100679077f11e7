//! The private connection between the front and a daemon.
//!
//! The daemon wants a listener. It gets one in a directory that only this user can enter, connected to at once and
//! unlinked; who answered is checked, in case the path was swapped underneath.
use crate::SessionError;
use crate::sys::peer_pid;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use vhost::vhost_user::Listener;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A listener on which exactly one connection waits, and the other end of that connection.
pub fn pair(scratch_dir: &Path) -> Result<(Listener, OwnedFd), SessionError> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = scratch_dir.join(format!(".s{}-{number}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(SessionError::Connect)?;
    let connected = connect(&dir.join("s"));
    // Whatever happened, nothing stays on disk.
    let removed = fs::remove_dir_all(&dir);
    let (listener, stream) = connected.map_err(SessionError::Connect)?;
    removed.map_err(SessionError::Connect)?;
    if peer_pid(stream.as_fd()).map_err(SessionError::Connect)? != std::process::id().cast_signed() {
        return Err(SessionError::Stranger);
    }
    Ok((Listener::from(listener), stream.into()))
}

fn connect(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let listener = UnixListener::bind(path)?;
    let stream = UnixStream::connect(path)?;
    Ok((listener, stream))
}
