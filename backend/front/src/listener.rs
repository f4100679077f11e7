//! Unix sockets at paths: taken over from the dead, never from the living.
use crate::handover::Door;
use crate::service::Passed;
use crate::sys;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why there is no listener. Displayed to the operator.
#[derive(Debug)]
pub(crate) enum ListenError {
    /// Somebody answers there.
    Served(PathBuf),
    /// There is a file that is no socket.
    NoSocket(PathBuf),
    /// What the system says.
    Io(PathBuf, io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::Served(path) => {
                write!(f, "{} is in use: end the process that serves it, or choose another runtime_dir", path.display())
            }
            ListenError::NoSocket(path) => {
                write!(f, "{} exists and is no socket: remove it, or choose another runtime_dir", path.display())
            }
            ListenError::Io(path, e) if e.kind() == io::ErrorKind::NotFound => {
                write!(f, "cannot listen at {}: its directory does not exist; create it", path.display())
            }
            ListenError::Io(path, e) => write!(f, "cannot listen at {}: {e}", path.display()),
        }
    }
}

/// A listening socket whose file goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode: the file is only removed if it is still this one.
    file: (u64, u64),
    /// Who started vonic made it, and removes it.
    lent: bool,
    /// Another master has it too: dropped here, it goes on there.
    pub(crate) shared: bool,
}

impl Listener {
    /// Listens at `path`, with permissions `mode` from the first instant; so many connections may wait.
    pub(crate) fn bind(path: &Path, mode: u32, waiting: i32) -> Result<Listener, ListenError> {
        let failed = |e| ListenError::Io(path.to_path_buf(), e);
        clear(path)?;
        let socket = UnixListener::from(sys::bind(path).map_err(failed)?);
        let file = fs::symlink_metadata(path).map_err(failed)?;
        let listener =
            Listener { socket, path: path.to_path_buf(), file: (file.dev(), file.ino()), lent: false, shared: false };
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777)).map_err(failed)?;
        sys::listen(listener.socket.as_fd(), waiting).map_err(failed)?;
        Ok(listener)
    }

    /// One that the service manager has passed, for its path.
    pub(crate) fn passed(passed: Passed, path: &Path) -> Result<Listener, ListenError> {
        let file = fs::symlink_metadata(path).map_err(|e| ListenError::Io(path.to_path_buf(), e))?;
        let Passed { socket, lent, .. } = passed;
        log::info!("{}: this socket is the service manager's", path.display());
        Ok(Listener { socket, path: path.to_path_buf(), file: (file.dev(), file.ino()), lent, shared: false })
    }

    /// Whether who started vonic made it, and removes it.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    pub(crate) fn save(&self) -> Door {
        let Listener { socket, path, file, lent, shared: _ } = self;
        Door::Listener { path: path.clone(), socket: socket.as_raw_fd(), file: *file, lent: *lent }
    }

    /// What another master has saved; it has it as well until it ends.
    pub(crate) fn restore(socket: OwnedFd, path: PathBuf, file: (u64, u64), lent: bool) -> Listener {
        Listener { socket: UnixListener::from(socket), path, file, lent, shared: true }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, non-blocking; None if none waits.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    return Ok(Some(stream));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.lent || self.shared {
            return;
        }
        let same = |file: fs::Metadata| (file.dev(), file.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(same) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody serves any more.
fn clear(path: &Path) -> Result<(), ListenError> {
    let failed = |e| ListenError::Io(path.to_path_buf(), e);
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(file) if !file.file_type().is_socket() => return Err(ListenError::NoSocket(path.to_path_buf())),
        Ok(_) => {}
    }
    match sys::is_served(path) {
        Ok(true) => return Err(ListenError::Served(path.to_path_buf())),
        Ok(false) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    log::info!("{}: nobody serves this socket any more; it is replaced", path.display());
    fs::remove_file(path).map_err(failed)
}

#[cfg(test)]
mod tests;
