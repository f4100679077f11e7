//! Reading the configuration again while VMs run.
use super::registry::Registry;
use crate::api::types::{FileError, ReloadReport};
use crate::api::{Reply, Response};
use crate::config::{self, Change, NetworkChange, Service};
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
    /// Nobody waits for the answer to a signal.
    reply: Option<Reply>,
}

impl Registry {
    /// Reads the configuration again and applies what changed, VM by VM. What is wrong is logged and reported; the reply comes
    /// when everything is in force, the VMs' sockets too.
    pub(super) fn reload(&mut self, reply: Option<Reply>) {
        let config::Reloaded { mut config, errors } = config::reload(&self.config_dir, &self.config);
        let changes = config::diff(&self.config, &config);
        let mut report = ReloadReport { errors: errors.0.iter().map(FileError::from).collect(), ..Default::default() };
        let Service { resolv_conf, migration, .. } = config.service.clone();
        let fixed = Service { resolv_conf, migration, ..self.config.service.clone() };
        if config.service != fixed {
            let file = self.config_dir.join("vonic.toml").display().to_string();
            let message = "runtime_dir, workers, poll_us, heartbeat_ms and quarantine are read at the start only: restart vonicd to change them";
            report.errors.push(FileError { file, line: None, message: message.into() });
            config.service = fixed;
        }
        report.errors.iter().for_each(log_error);
        let held = self.release_listeners(&config);
        let old = std::mem::replace(&mut self.config, config);
        self.look_for_resolvers();
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
        report.changed.extend(self.change_uplinks(&old, &touched));
        report.unchanged = self.vms.len() - report.added.len() - report.changed.len();
        self.mend_forwards();
        self.retry_sockets();
        self.wait_for_worker();
        drop(held);
        self.leave_config();
        self.reloads.count += 1;
        let mark = self.reloads.count;
        self.reloads.unanswered.push_back(Unanswered { mark, report, reply });
        self.tell(&ToMaster::Mark { number: mark });
    }

    /// Whether a reload is under way.
    pub(super) fn is_reloading(&self) -> bool {
        !self.reloads.unanswered.is_empty()
    }

    /// The master has done what it was told before this mark.
    pub(super) fn marked(&mut self, number: u64) {
        while self.reloads.unanswered.front().is_some_and(|reload| reload.mark <= number) {
            if let Some(Unanswered { mut report, reply, .. }) = self.reloads.unanswered.pop_front() {
                self.add_errors_of_vms(&mut report);
                log_report(&report);
                if let Some(reply) = reply {
                    reply.send(Response::Reload(report));
                }
            }
        }
        if self.upgrades.waits_for_reload && !self.is_reloading() {
            self.rest();
        }
    }

    fn apply(&mut self, change: Change, report: &mut ReloadReport) {
        match change {
            Change::Added(vm) => {
                report.added.push(vm.name.clone());
                self.add(*vm);
            }
            Change::Removed(name) => {
                self.release(&name, "its file is gone");
                self.remove(&name);
                report.removed.push(name);
            }
            Change::Changed(vm) => {
                report.changed.push(vm.name.clone());
                self.release(&vm.name, "its file has changed");
                self.change(*vm);
            }
        }
    }

    /// Sockets and forwards that cannot be opened; they are in the log already.
    fn add_errors_of_vms(&self, report: &mut ReloadReport) {
        for (name, entry) in &self.vms {
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
