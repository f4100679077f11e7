//! Checks of vonic's files: who may change them.
use std::path::Path;

use super::facts::{Facts, File};
use super::finding::Finding;

const CHECK: &str = "permissions";
/// Others may write; whoever made a file there may delete it alone.
const OTHERS_WRITE: u32 = 0o002;
const OTHERS: u32 = 0o007;
const STICKY: u32 = 0o1000;

/// Checks them all.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, file) in &facts.host.paths {
        if file.is_socket {
            found.extend(socket(path, file));
        } else if file.mode & OTHERS_WRITE != 0 && (!file.is_dir || file.mode & STICKY == 0) {
            let message = format!("everybody on this host can change {} (mode {:04o})", path.display(), file.mode);
            found.push(Finding::problem(CHECK, message, format!("chmod o-w {}", path.display())));
        }
    }
    if let Some(config) = &facts.config {
        found.extend(runtime_dir(facts, &config.service.runtime_dir));
        for vm in config.vms.keys() {
            let path = config.service.vm_socket(vm);
            if facts.host.paths.get(&path).is_some_and(|file| !file.is_socket) {
                let message = format!("{} is no socket, so {vm}'s VMM cannot connect", path.display());
                found.push(Finding::problem(CHECK, message, "take it away, and vonic reload"));
            }
        }
    }
    if found.is_empty() {
        let count = facts.host.paths.len();
        found.push(Finding::ok(CHECK, format!("of {count} files and folders none can be changed by everybody")));
    }
    found
}

fn socket(path: &Path, file: &File) -> Option<Finding> {
    let who = match path.file_name().is_some_and(|name| name == "api.sock") {
        true => "command vonicd",
        false => "be this VM's VMM",
    };
    let message = format!("everybody on this host can {who}: {} has mode {:04o}", path.display(), file.mode);
    (file.mode & OTHERS != 0).then(|| Finding::warning(CHECK, message, format!("chmod o= {}", path.display())))
}

fn runtime_dir(facts: &Facts, dir: &Path) -> Option<Finding> {
    match facts.host.paths.get(dir) {
        Some(file) if !file.is_dir => {
            let message = format!("the runtime_dir {} is no folder", dir.display());
            Some(Finding::problem(CHECK, message, "take it away, or write another runtime_dir"))
        }
        None if facts.service.is_none() => {
            let message = format!("there is no runtime_dir {} yet", dir.display());
            Some(Finding::note(
                CHECK,
                message,
                "nothing: vonicd makes it where it may (systemd: RuntimeDirectory=vonic)",
            ))
        }
        _ => None,
    }
}
