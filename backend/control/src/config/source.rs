//! The files' texts: as they lie in a directory, or as a running configuration was made from them.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::account::{self, KnowsUser};
use super::error::ConfigError;

/// The texts that a configuration was made from. They say the same to every later version of vonic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// That of `vonic.toml`; absent with the file.
    pub service: Option<String>,
    /// Those of the VMs' files, by the VMs' names.
    pub vms: BTreeMap<String, String>,
}

/// What there is to be parsed: a text, or why there is none.
pub(super) struct Files {
    pub dir: PathBuf,
    /// `vonic.toml`; absent if there is no such file.
    pub service: Result<Option<String>, ConfigError>,
    /// By the VMs' names.
    pub vms: Result<BTreeMap<String, Result<String, ConfigError>>, ConfigError>,
    /// Says whom there is on this host.
    pub known: KnowsUser,
}

impl Files {
    /// Reads a directory.
    pub(super) fn read(dir: &Path) -> Files {
        let (service, vms) = (read_service(dir), read_vms(&dir.join("vms.d")));
        Files { dir: dir.into(), service, vms, known: account::anybody }
    }

    /// What a directory once said.
    pub(super) fn of(dir: &Path, sources: &Sources) -> Files {
        let vms = sources.vms.iter().map(|(name, text)| (name.clone(), Ok(text.clone())));
        let (service, vms) = (Ok(sources.service.clone()), Ok(vms.collect()));
        Files { dir: dir.into(), service, vms, known: account::anybody }
    }

    pub(super) fn service_file(&self) -> PathBuf {
        self.dir.join("vonic.toml")
    }

    pub(super) fn vm_file(&self, name: &str) -> PathBuf {
        self.dir.join("vms.d").join(format!("{name}.toml"))
    }
}

fn read_service(dir: &Path) -> Result<Option<String>, ConfigError> {
    let file = dir.join("vonic.toml");
    match std::fs::read(&file) {
        Ok(bytes) => decode(&file, bytes).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir.is_dir() => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let message = "there is no such directory: create it, or name another one with --config-dir";
            Err(ConfigError::new(dir, None, message))
        }
        Err(e) => Err(unreadable(&file, &e)),
    }
}

/// Files that do not end in `.toml`, or begin with a dot, are no VMs'.
fn read_vms(dir: &Path) -> Result<BTreeMap<String, Result<String, ConfigError>>, ConfigError> {
    let mut files = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(e) => return Err(unreadable(dir, &e)),
    };
    for entry in entries {
        let file = entry.map_err(|e| unreadable(dir, &e))?.path();
        let hidden = file.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if file.extension() == Some(OsStr::new("toml")) && !hidden {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read(&file).map_err(|e| unreadable(&file, &e)).and_then(|bytes| decode(&file, bytes));
            files.insert(stem, text);
        } else if !hidden && !is_backup(&file) {
            log::warn!("{}: not read: the name of a VM's file ends in .toml", file.display());
        }
    }
    Ok(files)
}

/// Whether an editor or a package manager left the file behind.
fn is_backup(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let endings = ["~", "#", ".bak", ".orig", ".rej", ".swp", ".tmp", ".rpmnew", ".rpmsave", ".dpkg-dist", ".dpkg-old"];
    endings.iter().any(|ending| name.ends_with(ending))
}

/// A file's bytes as text; TOML is UTF-8.
fn decode(file: &Path, bytes: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        ConfigError::new(file, Some(line), "this is not UTF-8: save the file in that encoding")
    })
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError::new(path, None, format!("this cannot be read ({error}): make it readable for vonicd"))
}
