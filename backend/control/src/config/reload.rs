//! Reading the configuration again while VMs run.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::error::{ConfigError, ConfigErrors};
use super::{Config, checks, load_lenient, load_sources};

/// What a reload should arrive at, and what is wrong with the files.
#[derive(Clone, Debug, PartialEq)]
pub struct Reloaded {
    /// The configuration to run from now on; its difference to the running one is what to do.
    pub config: Config,
    /// What was left as it runs, and why.
    pub errors: ConfigErrors,
}

/// Reads a directory in view of what runs: a bad file changes nothing of what it describes. With a bad `vonic.toml`
/// everything stays; a VM with a bad file stays as it runs, and so does a good one that claims what such a VM still
/// has (its MAC, its address or a listener).
pub fn reload(dir: &Path, running: &Config) -> Reloaded {
    let (read, ConfigErrors(mut errors), mut kept) = load_lenient(dir);
    let Some(mut config) = read else {
        return Reloaded { config: running.clone(), errors: ConfigErrors(errors) };
    };
    let file = |name: &str| dir.join("vms.d").join(format!("{name}.toml"));
    keep(&mut config, running, &kept);
    // Each round keeps at least one more VM; what runs contradicts itself nowhere, so this ends.
    while let Some((name, message)) = contradiction(&config, running, &kept) {
        errors.push(ConfigError::new(&file(&name), None, message));
        kept.insert(name);
        keep(&mut config, running, &kept);
    }
    for name in kept.iter().filter(|name| running.vms.contains_key(*name)) {
        let network = &running.vms[name].network;
        if config.networks.get(network) != running.networks.get(network) {
            let message = format!(
                "network '{network}' changes while '{name}' runs in it with a bad file: mend {} first",
                file(name).display()
            );
            errors.push(ConfigError::new(&dir.join("vonic.toml"), None, message));
            config = running.clone();
            break;
        }
    }
    Reloaded { config, errors: ConfigErrors::sorted(errors) }
}

/// What runs, but for one VM, whose file is to say this, or not to be. The files themselves are not looked at.
///
/// # Errors
/// Everything that is wrong with it, beside what runs.
pub fn with_vm(dir: &Path, running: &Config, name: &str, text: Option<&str>) -> Result<Config, ConfigErrors> {
    let mut sources = running.sources.clone();
    put(&mut sources.vms, name, text.map(str::to_string).as_ref());
    let Config { vms, sources, .. } = load_sources(dir, &sources)?;
    // The service's own settings may be older than their text, which is as it was.
    Ok(Config { vms, sources, ..running.clone() })
}

/// Sets the kept VMs to what runs; those that do not run are left out.
fn keep(config: &mut Config, running: &Config, kept: &BTreeSet<String>) {
    for name in kept {
        put(&mut config.vms, name, running.vms.get(name));
        put(&mut config.sources.vms, name, running.sources.vms.get(name));
    }
}

fn put<T: Clone>(map: &mut BTreeMap<String, T>, name: &str, value: Option<&T>) {
    match value {
        Some(value) => drop(map.insert(name.into(), value.clone())),
        None => drop(map.remove(name)),
    }
}

/// A VM that may not become what its file says, since a kept one has the same.
fn contradiction(config: &Config, running: &Config, kept: &BTreeSet<String>) -> Option<(String, String)> {
    let fixed = || config.vms.values().filter(|vm| kept.contains(&vm.name));
    for vm in config.vms.values().filter(|vm| running.vms.get(&vm.name) != Some(*vm)) {
        for other in fixed().filter(|other| other.name != vm.name) {
            if let Some(what) = checks::claimed_by_both(vm, other) {
                let message =
                    format!("{what} is still that of '{}', whose file is bad: mend that one first", other.name);
                return Some((vm.name.clone(), message));
            }
        }
    }
    None
}
