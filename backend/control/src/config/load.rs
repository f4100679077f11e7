//! From the files' texts to a [`Config`].
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::error::{ConfigError, ConfigErrors};
use super::service::{self, ServiceDraft};
use super::source::{Files, Sources};
use super::vm::{self, VmDraft};
use super::{Config, account, checks, name};

/// Reads `vonic.toml` and `vms.d/*.toml` in a directory. A `vonic.toml` or `vms.d` that is not there means defaults and
/// no VMs; files in `vms.d` that do not end in `.toml`, or begin with a dot, are no VMs'.
///
/// # Errors
/// Everything that is wrong in all of the files.
pub fn load(dir: &Path) -> Result<Config, ConfigErrors> {
    whole(parse(Files::read(dir)))
}

/// As [`load`], and says also what this host lacks: the user that vonicd is to become. For programs that begin, not for an engine: to be told who is a user
/// may take other programs, which an engine may not ask.
///
/// # Errors
/// Everything that is wrong in all of the files.
pub fn load_for_host(dir: &Path) -> Result<Config, ConfigErrors> {
    whole(parse(Files { known: account::known, ..Files::read(dir) }))
}

/// Whether the directory's `vonic.toml` names this command, program and arguments, as a hook.
pub fn is_hook(dir: &Path, command: &[String]) -> bool {
    let hooks = service::hooks(&dir.join("vonic.toml"));
    [hooks.depart, hooks.arrive].iter().any(|hook| hook == command)
}

/// As [`load`], but of what the directory's files said when a running configuration was made from them.
///
/// # Errors
/// Everything that is wrong in it, to this version of vonic.
pub fn load_sources(dir: &Path, sources: &Sources) -> Result<Config, ConfigErrors> {
    whole(parse(Files::of(dir, sources)))
}

/// Like [`load`], but gives what is good although something else is wrong: the configuration with the VMs that nothing
/// is wrong with, everything that is wrong, and the names of the VMs left out for it. There is no configuration if
/// `vonic.toml` has errors, or the VMs' files cannot be listed. Where two VMs claim the same, both are left out.
pub fn load_lenient(dir: &Path) -> Lenient {
    parse(Files::read(dir))
}

/// What [`load_lenient`] gives.
pub type Lenient = (Option<Config>, ConfigErrors, BTreeSet<String>);

fn whole(parsed: Lenient) -> Result<Config, ConfigErrors> {
    match parsed {
        (Some(config), errors, _) if errors.is_empty() => Ok(config),
        (_, errors, _) => Err(errors),
    }
}

fn parse(files: Files) -> Lenient {
    let mut errors = Vec::new();
    let service = parse_service(&files, &mut errors);
    let drafts = parse_vms(&files, &mut errors);
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
        let texts = files.vms.into_iter().flatten().filter_map(|(name, text)| Some((name, text.ok()?)));
        let texts = texts.filter(|(name, _)| vms.contains_key(name)).collect();
        let sources = Sources { service: files.service.ok().flatten(), vms: texts };
        Config { service, networks, vms, sources }
    });
    errors.extend(found);
    (config, ConfigErrors::sorted(errors), bad)
}

/// Parses `vonic.toml`. What kept it from being read at all goes to `errors`.
fn parse_service(files: &Files, errors: &mut Vec<ConfigError>) -> ServiceDraft {
    let file = files.service_file();
    match &files.service {
        Ok(text) => service::read(&file, text.as_deref(), files.known),
        Err(error) => {
            errors.push(error.clone());
            let mut draft = service::read(&file, None, files.known);
            draft.networks.clear();
            draft.networks_known = false;
            draft
        }
    }
}

/// Parses every VM's file, sorted by name. What kept the files from being listed goes to `errors`.
fn parse_vms(files: &Files, errors: &mut Vec<ConfigError>) -> Vec<VmDraft> {
    match &files.vms {
        Ok(texts) => texts.iter().map(|(name, text)| parse_vm(files, name, text)).collect(),
        Err(error) => {
            errors.push(error.clone());
            Vec::new()
        }
    }
}

fn parse_vm(files: &Files, name: &str, text: &Result<String, ConfigError>) -> VmDraft {
    let file = files.vm_file(name);
    let draft = match text {
        Ok(text) => vm::read(name, &file, text),
        Err(error) => VmDraft::unreadable(name, &file, error.clone()),
    };
    if let Err(message) = name::check_vm(name) {
        draft.source.error(None, format!("a VM's name (the file's, without .toml): {message}"));
    }
    draft
}
