//! Directories that go away with the test.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// A new directory under /tmp, removed with all its content on drop.
///
/// Its path is short, since a socket's may have 107 bytes at most (unix(7)). Guests and peers of the lab see it as /tmp.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// # Errors
    /// If /tmp takes no directory.
    pub fn new() -> Result<TempDir> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_leftovers);
        let path = PathBuf::from(format!("/tmp/vonic-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        // Peers that drop their privileges put sockets here too.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
        Ok(TempDir { path })
    }

    /// The directory on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it, executable if it is a script, and returns its path.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, &content).with_context(|| format!("writing {}", path.display()))?;
        if content.as_ref().starts_with(b"#!") {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        }
        Ok(path)
    }

    /// Where a process in the lab root finds `path`, a path in this directory.
    ///
    /// # Errors
    /// If it lies elsewhere.
    pub fn lab_path(&self, path: &Path) -> Result<PathBuf> {
        let inside = path
            .strip_prefix(&self.path)
            .with_context(|| format!("{} is not in {}", path.display(), self.path.display()))?;
        Ok(Path::new("/tmp").join(inside))
    }
}

/// Removes directories of test processes that were killed before they could.
fn remove_leftovers() {
    for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix("vonic-")?.split_once('-')?.0.parse::<u32>().ok());
        if process.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_the_dead_go_and_directories_of_the_living_stay() {
        let mine = TempDir::new().unwrap();
        // No process has this number: PID_MAX_LIMIT is 2^22.
        let leftover = Path::new("/tmp/vonic-99999999-0");
        std::fs::create_dir_all(leftover.join("run")).unwrap();
        remove_leftovers();
        assert!(mine.path().exists() && !leftover.exists());
    }
}
