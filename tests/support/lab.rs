//! The lab root: a Debian tree with user-mode Linux, QEMU and the peers in it, made by `make testbed`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::directory::TempDir;
use crate::process::{Place, Process};
use crate::sys;

/// The test bed's cache folder.
#[derive(Debug, Clone)]
pub struct Lab {
    cache: PathBuf,
}

impl Lab {
    /// Finds it at `$VONIC_TESTBED`, by default /var/cache/vonic-testbed.
    ///
    /// # Errors
    /// If it is not there or not whole.
    pub fn open() -> Result<Lab> {
        let cache = std::env::var_os("VONIC_TESTBED").map_or(PathBuf::from("/var/cache/vonic-testbed"), PathBuf::from);
        for part in ["lab/usr/bin/linux.uml", "boot/vmlinuz", "boot/initramfs.cpio", "kvm"] {
            if !cache.join(part).exists() {
                bail!("no test bed in {} ({part} is missing): run `make testbed`", cache.display());
            }
        }
        Ok(Lab { cache })
    }

    /// The root that guests and peers run in.
    pub fn root(&self) -> PathBuf {
        self.cache.join("lab")
    }

    /// A file of the `boot` folder.
    pub fn boot(&self, name: &str) -> PathBuf {
        self.cache.join("boot").join(name)
    }

    /// Whether QEMU should use KVM: `$VONIC_KVM` (1 or 0), else what the set-up found by booting the test kernel once.
    pub fn kvm(&self) -> bool {
        match std::env::var("VONIC_KVM") {
            Ok(choice) => choice == "1",
            Err(_) => std::fs::read_to_string(self.cache.join("kvm")).is_ok_and(|found| found.starts_with("yes")),
        }
    }

    /// Starts a program of the lab, in the lab root with `directory` as /tmp; output goes to `NAME.log` in `directory`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, name: &str, directory: &TempDir, command: &mut Command) -> Result<Process> {
        command.stdin(std::process::Stdio::null());
        let log = directory.path().join(format!("{name}.log"));
        Process::start_in(name, command, self.place(directory)?, &log)
    }

    pub(crate) fn place(&self, directory: &TempDir) -> Result<Place<'static>> {
        Ok(Place { netns: None, root: Some(sys::Root::new(&self.root(), directory.path())?) })
    }
}

/// Finds a program that the Makefile builds before the tests: in the folder that `variable` names, else under the target folder that the
/// running test lies in.
pub(crate) fn built(variable: &str, folder: &str, name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os(variable) {
        Some(folder) => PathBuf::from(folder),
        None => target_folder()?.join(folder),
    };
    let path = folder.join(name);
    if !path.exists() {
        bail!("{} is missing: run `make build`", path.display());
    }
    Ok(path)
}

fn target_folder() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let found = test.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    found.map(Path::to_path_buf).context("the test does not lie in a cargo target folder")
}

/// The static `vonic-agent`.
///
/// # Errors
/// If it has not been built.
pub fn agent_program() -> Result<PathBuf> {
    built("VONIC_AGENT_DIR", "guest/x86_64-unknown-linux-gnu/guest", "vonic-agent")
}

/// The static `vonic-peer`.
///
/// # Errors
/// If it has not been built.
pub fn peer_program() -> Result<PathBuf> {
    built("VONIC_PEER_DIR", "guest/x86_64-unknown-linux-gnu/release", "vonic-peer")
}
