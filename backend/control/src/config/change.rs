//! What differs between two configurations.
use super::{Config, Network, Vm};

/// What happened to one VM.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is new.
    Added(Box<Vm>),
    /// It is gone.
    Removed(String),
    /// It has other settings; these are the new ones.
    Changed(Box<Vm>),
}

/// What happened to one network.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkChange {
    /// It is new.
    Added(Network),
    /// It is gone.
    Removed(String),
    /// It has other settings; these are the new ones.
    Changed(Network),
}

/// What differs in the VMs: first those that are gone, so that what they held is free, then those that changed, then
/// the new ones; each by name.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let gone = old.vms.keys().filter(|name| !new.vms.contains_key(*name)).map(|name| Change::Removed(name.clone()));
    let changed = new.vms.iter().filter(|(name, vm)| old.vms.get(*name).is_some_and(|before| before != *vm));
    let added = new.vms.iter().filter(|(name, _)| !old.vms.contains_key(*name));
    gone.chain(changed.map(|(_, vm)| Change::Changed(Box::new(vm.clone()))))
        .chain(added.map(|(_, vm)| Change::Added(Box::new(vm.clone()))))
        .collect()
}

/// What differs in the networks, in the order of [`diff`].
pub fn diff_networks(old: &Config, new: &Config) -> Vec<NetworkChange> {
    let (old, new) = (&old.networks, &new.networks);
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| NetworkChange::Removed(name.clone()));
    let changed = new.iter().filter(|(name, network)| old.get(*name).is_some_and(|before| before != *network));
    let added = new.iter().filter(|(name, _)| !old.contains_key(*name));
    gone.chain(changed.map(|(_, network)| NetworkChange::Changed(network.clone())))
        .chain(added.map(|(_, network)| NetworkChange::Added(network.clone())))
        .collect()
}
