//! From a directory to a [`Config`].
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors};
use super::service::{self, ServiceDraft};
use super::vm::{self, VmDraft};
use super::{Config, checks, name};

/// Reads `vonic.toml` and `vms.d/*.toml` in a directory. A `vonic.toml` or `vms.d` that is not there means defaults and
/// no VMs; files in `vms.d` that do not end in `.toml`, or begin with a dot, are no VMs'.
///
/// # Errors
/// Everything that is wrong in all of the files.
pub fn load(dir: &Path) -> Result<Config, ConfigErrors> {
    match load_lenient(dir) {
        (Some(config), errors, _) if errors.is_empty() => Ok(config),
        (_, errors, _) => Err(errors),
    }
}

/// Like [`load`], but gives what is good although something else is wrong: the configuration with the VMs that nothing
/// is wrong with, everything that is wrong, and the names of the VMs left out for it. There is no configuration if
/// `vonic.toml` has errors, or the VMs' files cannot be listed. Where two VMs claim the same, both are left out.
pub fn load_lenient(dir: &Path) -> (Option<Config>, ConfigErrors, BTreeSet<String>) {
    let mut errors = Vec::new();
    let service = read_service(dir, &mut errors);
    let drafts = read_vms(&dir.join("vms.d"), &mut errors);
    let whole = errors.is_empty();
    for draft in &drafts {
        checks::check_vm(draft, &service);
    }
    let mut bad: BTreeSet<String> = BTreeSet::new();
    for (first, second) in checks::check_pairs(&drafts) {
        bad.extend([first, second].map(|i| drafts[i].vm.name.clone()));
    }
    let mut vms = BTreeMap::new();
    for draft in drafts {
        let found = draft.source.into_errors();
        if !found.is_empty() {
            bad.insert(draft.vm.name.clone());
            errors.extend(found);
        }
        vms.insert(draft.vm.name.clone(), draft.vm);
    }
    vms.retain(|name, _| !bad.contains(name));
    let ServiceDraft { source, service, networks, .. } = service;
    let found = source.into_errors();
    let config = (whole && found.is_empty()).then(|| {
        let networks = networks.into_iter().map(|(name, draft)| (name, draft.network)).collect();
        Config { service, networks, vms }
    });
    errors.extend(found);
    (config, ConfigErrors::sorted(errors), bad)
}

/// Reads `vonic.toml`. What keeps it from being read at all goes to `errors`.
fn read_service(dir: &Path, errors: &mut Vec<ConfigError>) -> ServiceDraft {
    let file = dir.join("vonic.toml");
    match std::fs::read(&file) {
        Ok(bytes) => match decode(&file, bytes) {
            Ok(text) => return service::read(&file, Some(&text)),
            Err(error) => errors.push(error),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir.is_dir() => return service::read(&file, None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let message = "there is no such directory: create it, or name another one with --config-dir";
            errors.push(ConfigError::new(dir, None, message));
        }
        Err(e) => errors.push(unreadable(&file, &e)),
    }
    let mut draft = service::read(&file, None);
    draft.networks.clear();
    draft.networks_known = false;
    draft
}

/// Reads every VM's file, sorted by name. What keeps the files from being listed goes to `errors`.
fn read_vms(dir: &Path, errors: &mut Vec<ConfigError>) -> Vec<VmDraft> {
    let files = match vm_files(dir) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            errors.push(unreadable(dir, &e));
            return Vec::new();
        }
    };
    files.iter().map(|(name, file)| read_vm(name, file)).collect()
}

/// The VMs' names and files, sorted by name.
fn vm_files(dir: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if file.extension() == Some(OsStr::new("toml")) && !hidden {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(stem, file);
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

fn read_vm(name: &str, file: &Path) -> VmDraft {
    let draft = match std::fs::read(file).map(|bytes| decode(file, bytes)) {
        Ok(Ok(text)) => vm::read(name, file, &text),
        Ok(Err(error)) => VmDraft::unreadable(name, file, error),
        Err(e) => VmDraft::unreadable(name, file, unreadable(file, &e)),
    };
    if let Err(message) = name::check_vm(name) {
        draft.source.error(None, format!("a VM's name (the file's, without .toml): {message}"));
    }
    draft
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
