//! Commands of the operator's that move a guest's addresses from host to host.
use crate::config::{Hooks, Vm};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use vonic_front::{Ending, Errand, Runner};

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A guest leaves this host.
    Departure,
    /// A guest is about to run here.
    Arrival,
    /// A guest that was about to leave runs here again.
    Return,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Moment::Departure => "depart",
            Moment::Arrival => "arrive",
            Moment::Return => "return",
        }
    }
}

/// The commands, and who runs them.
#[derive(Clone)]
pub(super) struct Porter {
    pub hooks: Hooks,
    pub runner: Runner,
}

impl Porter {
    /// Has the hook for this moment run and waits for its end, at most as long as the configuration says, or until `cancelled`. What it
    /// says, and how it fails, is in the log; nothing depends on it.
    pub(super) fn run(&self, moment: Moment, vm: &Vm, cancelled: &AtomicBool) {
        let Porter { hooks, runner } = self;
        let command = if moment == Moment::Departure { &hooks.depart } else { &hooks.arrive };
        let Some(program) = command.first() else { return };
        let (name, event) = (&vm.name, moment.name());
        let begun = Instant::now();
        let errand = Errand { command: command.clone(), environment: environment(moment, vm), limit: hooks.limit };
        let ending = runner.run(&errand, cancelled);
        let took = begun.elapsed();
        match &ending {
            Ok(Ending::Ended(_, output)) => match ending.as_ref().ok().and_then(Ending::status) {
                Some(status) if !status.success() => {
                    log::error!("{name}: hook {event}: {program} ended with {status}{}", said(output));
                }
                _ => log::info!("{name}: hook {event} took {took:.1?}{}", said(output)),
            },
            Ok(Ending::Killed(output)) => {
                log::error!("{name}: hook {event}: {program} was killed after {took:.1?}{}", said(output));
            }
            Ok(Ending::NotStarted(why)) => {
                log::error!("{name}: hook {event}: {program} cannot be started: {why}");
            }
            Err(error) => log::error!("{name}: hook {event}: nobody can run {program}: {error}"),
        }
    }
}

fn environment(moment: Moment, vm: &Vm) -> Vec<(String, String)> {
    let address = |address: Option<String>| address.unwrap_or_default();
    let variables = [
        ("VONIC_EVENT", moment.name().to_string()),
        ("VONIC_VM", vm.name.clone()),
        ("VONIC_MAC", vm.mac.to_string()),
        ("VONIC_ADDRESS4", address(vm.address4.map(|a| a.to_string()))),
        ("VONIC_ADDRESS6", address(vm.address6.map(|a| a.to_string()))),
    ];
    variables.map(|(name, value)| (name.to_string(), value)).into()
}

/// What it has written, behind what is said of it.
fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {}", output.escape_debug()) }
}
