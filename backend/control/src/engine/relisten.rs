//! Forwards that could not be opened, or whose interface has gone: they are tried again from time to time, and whenever the
//! host's addresses or interfaces change.
use super::forwards::uses_interface;
use super::registry::Registry;
use crate::config::Vm;
use std::time::{Duration, Instant};
use vonic_datapath::{Command, ForwardSpec};
use vonic_queue::handover;

/// How long after a failure it is tried again at first, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// When to try again, and how long to wait after that.
#[derive(Default)]
pub(super) struct Retry(Option<(Instant, Duration)>);

impl Retry {
    /// How long until then, if there is something to try.
    pub fn due_in(&self) -> Option<Duration> {
        self.0.map(|(at, _)| at.saturating_duration_since(Instant::now()))
    }

    /// Sets the time of the next try; `missing`: there is something.
    fn set(&mut self, missing: bool) {
        self.0 = match self.0 {
            _ if !missing => None,
            Some((at, pause)) if at > Instant::now() => Some((at, pause)),
            Some((_, pause)) => Some((Instant::now() + pause, (pause * 2).min(LAST_RETRY))),
            None => Some((Instant::now() + FIRST_RETRY, FIRST_RETRY * 2)),
        };
    }
}

impl Registry {
    /// Opens what a VM's forwards need; see [`Forwards::open`](super::forwards::Forwards::open).
    pub(super) fn open_forwards(&mut self, vm: &Vm) -> (Vec<ForwardSpec>, Vec<String>) {
        if uses_interface(vm) {
            self.watch_links();
        }
        let (forwards, errors) = self.forwards.open(vm);
        if !errors.is_empty() {
            self.relisten.set(true);
        }
        (forwards, errors)
    }

    /// Tries again what is missing, and opens anew what an interface has taken with it.
    pub(super) fn mend_forwards(&mut self) {
        let broken = self.vms.values().filter(|e| !e.forward_errors.is_empty() || self.forwards.is_stale(&e.vm));
        let names: Vec<String> = broken.map(|entry| entry.vm.name.clone()).collect();
        names.iter().for_each(|name| self.listen_again(name));
        let missing = self.vms.values().any(|entry| !entry.forward_errors.is_empty());
        self.relisten.set(missing);
    }

    fn listen_again(&mut self, name: &str) {
        let Some(entry) = self.vms.get(name) else { return };
        let (vm, port, stats) = (entry.vm.clone(), entry.port, entry.stats.clone());
        let stale = self.forwards.is_stale(&vm);
        let (forwards, errors) = self.forwards.open(&vm);
        if !stale && entry.forward_errors == errors {
            return;
        }
        let spec = self.spec(&vm, port, &stats, forwards);
        let (done, _) = handover();
        self.order(Command::Reconfigure { spec: Box::new(spec), done });
        if let Some(entry) = self.vms.get_mut(name) {
            entry.last_error = report(name, &entry.forward_errors, &errors);
            entry.forward_errors = errors;
        }
    }
}

/// Logs what is new about a VM's forwards; returns what is wrong with them.
pub(super) fn report(vm: &str, before: &[String], errors: &[String]) -> Option<String> {
    for error in errors.iter().filter(|error| !before.contains(error)) {
        log::error!("{vm}: {error}; tried again from time to time");
    }
    for error in before.iter().filter(|error| !errors.contains(error)) {
        log::info!("{vm}: no longer: {error}");
    }
    if errors.is_empty() && !before.is_empty() {
        log::info!("{vm}: every forward listens now");
    }
    (!errors.is_empty()).then(|| errors.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_become_rarer_and_end_with_the_cause() {
        let mut retry = Retry::default();
        retry.set(false);
        assert_eq!(retry.due_in(), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            retry.set(true);
            let (at, _) = retry.0.unwrap();
            assert!(retry.due_in().is_some_and(|due| due <= Duration::from_secs(seconds)));
            assert!(retry.due_in().is_some_and(|due| due > Duration::from_millis(1000 * seconds - 500)), "{seconds}");
            // Another reason to look does not put it off.
            retry.set(true);
            assert_eq!(retry.0.map(|(at, _)| at), Some(at));
            retry.0 = retry.0.map(|(_, pause)| (Instant::now(), pause));
        }
        retry.set(false);
        assert_eq!(retry.due_in(), None);
    }
}
