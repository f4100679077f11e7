//! Reading the configuration again while VMs run.
use super::difference::differences;
use super::registry::Registry;
use crate::api::types::{FileError, Happening, ReloadReport};
use crate::api::{Reply, Response};
use crate::config::{self, Change, Config, NetworkChange};
use std::collections::VecDeque;
use vonic_front::ToMaster;

/// Reloads that are done here, and wait for the master to have opened and closed the sockets that it was told.
#[derive(Default)]
pub(super) struct Reloads {
    /// Those that there were.
    count: u64,
    /// The oldest first.
    unanswered: VecDeque<Unanswered>,
}

struct Unanswered {
    mark: u64,
    report: ReloadReport,
    asker: Asker,
}

/// Who wants the configuration to be another one.
pub(super) enum Asker {
    /// A client of the API.
    Client(Reply),
    /// One that has said what this VM is to be.
    About(String, Reply),
    /// SIGHUP: nobody waits for the answer.
    Signal,
    /// The files have changed. That may be nothing to speak of.
    Change,
}

impl Registry {
    /// Reads the configuration again and applies what changed, VM by VM. What is wrong is logged and reported; the reply comes
    /// when everything is in force, the VMs' sockets too.
    pub(super) fn reload(&mut self, asker: Asker) {
        let (config, report) = self.read_again();
        report.errors.iter().for_each(log_error);
        self.put_in_force(config, report, asker);
    }

    /// What a reload would do now.
    pub(super) fn foretell(&self) -> ReloadReport {
        let (config, mut report) = self.read_again();
        report.dry_run = true;
        self.describe(&config, &mut report);
        for change in config::diff(&self.config, &config) {
            match change {
                Change::Added(vm) => report.added.push(vm.name),
                Change::Changed(vm) => report.changed.push(vm.name),
                Change::Removed(name) => report.removed.push(name),
            }
        }
        report.unchanged = config.vms.len() - report.added.len() - report.changed.len();
        report
    }

    /// The files as they are now, in view of what runs, and what is wrong with them.
    fn read_again(&self) -> (Config, ReloadReport) {
        let config::Reloaded { mut config, errors } = config::reload(&self.config_dir, &self.config);
        let mut report = ReloadReport { errors: errors.0.iter().map(FileError::from).collect(), ..Default::default() };
        let fixed = self.config.service.changed_to(&config.service);
        if config.service != fixed {
            let file = self.config_dir.join("vonic.toml").display().to_string();
            let message = "runtime_dir, user, workers, poll_us, heartbeat_ms and quarantine are read at the start only: restart vonicd to change them";
            report.errors.push(FileError { file, line: None, message: message.into() });
            config.service = fixed;
        }
        (config, report)
    }

    /// Says what differs from what runs.
    fn describe(&self, config: &Config, report: &mut ReloadReport) {
        report.differences = differences(&self.config, config);
        let changed = config.vms.iter().filter_map(|(name, vm)| Some((name, self.config.vms.get(name)?, vm)));
        let other_nics = changed.filter(|(_, before, after)| !before.is_same_nic(after));
        report.reconnects = other_nics.map(|(name, _, _)| name.clone()).collect();
    }

    /// Has a configuration run in the place of the one that does.
    pub(super) fn put_in_force(&mut self, config: Config, mut report: ReloadReport, asker: Asker) {
        self.describe(&config, &mut report);
        let changes = config::diff(&self.config, &config);
        let held = self.release_listeners(&config);
        let old = std::mem::replace(&mut self.config, config);
        self.leave_what_is_refused(&old);
        self.look_for_resolvers();
        self.listen_for_metrics();
        self.watch_files();
        let mut gone = Vec::new();
        for change in config::diff_networks(&old, &self.config) {
            match change {
                NetworkChange::Added(network) | NetworkChange::Changed(network) => self.set_network(&network),
                NetworkChange::Removed(name) => gone.push(name),
            }
        }
        for change in changes {
            self.apply(change, &mut report);
        }
        // Nobody is in them any more.
        gone.iter().for_each(|name| self.remove_network(name));
        let touched = report.added.iter().chain(&report.changed).cloned().collect();
        let replaced = self.change_uplinks(&old, &touched);
        report.reconnects.extend(replaced.iter().cloned());
        report.changed.extend(replaced);
        report.unchanged = self.vms.len() - report.added.len() - report.changed.len();
        self.mend_forwards();
        self.retry_sockets();
        self.wait_for_worker();
        drop(held);
        self.leave_config();
        self.reloads.count += 1;
        let mark = self.reloads.count;
        self.reloads.unanswered.push_back(Unanswered { mark, report, asker });
        self.tell(&ToMaster::Mark { number: mark });
        self.confine_anew();
    }

    /// Whether a reload is under way, or a VM's file is being written.
    pub(super) fn is_reloading(&self) -> bool {
        !self.reloads.unanswered.is_empty() || !self.edits.is_empty()
    }

    /// The master has done what it was told before this mark.
    pub(super) fn marked(&mut self, number: u64) {
        while self.reloads.unanswered.front().is_some_and(|reload| reload.mark <= number) {
            if let Some(Unanswered { report, asker, .. }) = self.reloads.unanswered.pop_front() {
                self.report(report, asker);
            }
        }
        self.rest_if_awaited();
    }

    fn report(&mut self, mut report: ReloadReport, asker: Asker) {
        let about = match &asker {
            Asker::About(vm, _) => Some(vm.as_str()),
            _ => None,
        };
        self.add_errors_of_vms(about, &mut report);
        let moot = report.differences.is_empty() && report.added.is_empty() && report.removed.is_empty();
        if about.is_none() && !(matches!(asker, Asker::Change) && moot && report.errors.is_empty()) {
            log_report(&report);
            self.tell_reload(&report);
        }
        if let Asker::Client(reply) | Asker::About(_, reply) = asker {
            reply.send(Response::Reload(report));
        }
    }

    fn tell_reload(&self, report: &ReloadReport) {
        if !report.errors.is_empty() {
            self.feed.tell(Happening::ConfigurationRefused { errors: report.errors.clone() });
        }
        self.feed.tell(Happening::ConfigurationReloaded {
            added: report.added.len(),
            changed: report.changed.len(),
            removed: report.removed.len(),
            unchanged: report.unchanged,
        });
    }

    /// Another engine goes on as soon as nothing of this kind is under way.
    pub(super) fn rest_if_awaited(&mut self) {
        if self.upgrades.waits_for_reload && !self.is_reloading() {
            self.rest();
        }
    }

    fn apply(&mut self, change: Change, report: &mut ReloadReport) {
        match change {
            Change::Added(vm) => {
                report.added.push(vm.name.clone());
                self.feed.tell(Happening::VmAdded { vm: vm.name.clone() });
                self.add(*vm);
            }
            Change::Removed(name) => {
                self.release(&name, "its file is gone");
                self.remove(&name);
                self.feed.tell(Happening::VmRemoved { vm: name.clone() });
                report.removed.push(name);
            }
            Change::Changed(vm) => {
                report.changed.push(vm.name.clone());
                self.release(&vm.name, "its file has changed");
                self.feed.tell(Happening::VmChanged { vm: vm.name.clone() });
                self.change(*vm);
            }
        }
    }

    /// Sockets and forwards that cannot be opened, of all VMs or of one; they are in the log already.
    fn add_errors_of_vms(&self, about: Option<&str>, report: &mut ReloadReport) {
        for (name, entry) in self.vms.iter().filter(|(name, _)| about.is_none_or(|about| about == *name)) {
            let file = self.config_dir.join("vms.d").join(format!("{name}.toml")).display().to_string();
            let error = |message: &String| FileError { file: file.clone(), line: None, message: message.clone() };
            report.errors.extend(entry.socket_error.iter().chain(&entry.forward_errors).map(error));
        }
    }
}

fn log_report(report: &ReloadReport) {
    log::info!(
        "reload: {} added, {} changed, {} removed, {} unchanged, {} errors",
        report.added.len(),
        report.changed.len(),
        report.removed.len(),
        report.unchanged,
        report.errors.len()
    );
}

fn log_error(error: &FileError) {
    match error.line {
        Some(line) => log::error!("{}:{line}: {}", error.file, error.message),
        None => log::error!("{}: {}", error.file, error.message),
    }
}
