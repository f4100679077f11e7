//! Checks of vonicd and of what it has read.
use std::collections::BTreeSet;

use super::facts::{Facts, Running};
use super::finding::Finding;

/// All of them.
pub(super) static CHECKS: &[fn(&Facts) -> Vec<Finding>] = &[runs, configuration, engine];

fn runs(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "service";
    let Some(Running { health, .. }) = &facts.service else {
        let why = facts.silence.as_deref().unwrap_or("it was not asked");
        let mend = format!("systemctl start vonicd, or vonicd --config-dir {}", facts.config_dir.display());
        return vec![Finding::problem(CHECK, why, mend).of("vonicd")];
    };
    let mut found = Vec::new();
    let own = env!("CARGO_PKG_VERSION");
    if health.version != own {
        let message = format!("vonicd is of version {}, this vonic of {own}", health.version);
        found.push(Finding::warning(CHECK, message, "vonic upgrade /path/to/vonicd puts the newer one in its place"));
    }
    if facts.host.of_vonicd && facts.host.process.replaced {
        let mend = "vonic upgrade /path/to/vonicd puts the new one in its place; VMs notice nothing";
        found.push(Finding::note(CHECK, "vonicd's program was replaced since it was started", mend));
    }
    if health.status != "ok" {
        found.push(Finding::problem(CHECK, format!("vonicd says: {}", health.status), "see vonicd's log"));
    }
    for hint in &health.hints {
        // What to do stands behind the last of them.
        let (message, mend) = hint.rsplit_once("; ").unwrap_or((hint.as_str(), "see vonicd's log"));
        found.push(Finding::warning(CHECK, message, mend));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            CHECK,
            format!("vonicd {} runs, {} of {} VMs are connected", own, health.vms_connected, health.vms),
        ));
    }
    found.into_iter().map(|finding| finding.of("vonicd")).collect()
}

/// The files, by themselves and beside what runs.
fn configuration(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let mut found: Vec<Finding> = facts
        .config_errors
        .iter()
        .map(|error| Finding::problem(CHECK, error, "mend the file; vonic config check says whether it is good"))
        .collect();
    if let (Some(config), Some(running)) = (&facts.config, &facts.service) {
        let names = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(", ");
        let files: BTreeSet<&str> = config.vms.keys().map(String::as_str).collect();
        let run: BTreeSet<&str> = running.vms.iter().map(|vm| vm.row.name.as_str()).collect();
        let (new, gone) = (&files - &run, &run - &files);
        if !new.is_empty() {
            let message = format!("VMs with a file that vonicd does not serve: {}", names(&new));
            found.push(Finding::warning(CHECK, message, "vonic reload"));
        }
        if !gone.is_empty() && facts.config_errors.is_empty() {
            let message =
                format!("VMs without a file in {} that vonicd serves: {}", facts.config_dir.display(), names(&gone));
            found.push(Finding::warning(CHECK, message, "vonic reload; or name vonicd's folder with --config-dir"));
        }
    }
    if let (Some(config), true) = (&facts.config, found.is_empty()) {
        let (networks, vms) = (config.networks.len(), config.vms.len());
        found.push(Finding::ok(
            CHECK,
            format!("{} is good: {networks} networks, {vms} VMs", facts.config_dir.display()),
        ));
    }
    found.into_iter().map(|finding| finding.of("vonicd")).collect()
}

fn engine(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "engine";
    let Some(engine) = facts.service.as_ref().and_then(|running| running.engine.as_ref()) else { return Vec::new() };
    let mut found = Vec::new();
    if engine.deaths > 0 {
        let last =
            engine.last_death.as_ref().map(|death| format!("; the last one {}", death.reason)).unwrap_or_default();
        let message = format!("engines have died since vonicd was started: {}{last}", engine.deaths);
        found.push(Finding::warning(
            CHECK,
            message,
            "see vonicd's log, and report it: no guest should be able to do that",
        ));
    }
    if engine.next_was_delayed_ms > 0 {
        let message = format!("they died so fast that the next was made to wait for {} ms", engine.next_was_delayed_ms);
        found.push(Finding::warning(CHECK, message, "see vonicd's log"));
    }
    if !engine.standby {
        found.push(Finding::note(
            CHECK,
            "no other engine stands ready: a death heals more slowly",
            "see vonicd's log, if it stays so",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, format!("process {} runs, none has died, another one stands ready", engine.pid)));
    }
    found.into_iter().map(|finding| finding.of("vonicd")).collect()
}
