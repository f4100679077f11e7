//! The taps of bridged networks: made with their VMs, and looked after while interfaces of the host come and go.
//!
//! What cannot be had degrades that network only. It is tried again whenever an interface changes, and from time to time.
use super::Input;
use super::registry::Registry;
use super::succession;
use crate::config::{Config, Uplink, Vm};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use vonic_datapath::{Command, Negotiated};
use vonic_frame::{MacAddr, Offloads};
use vonic_queue::handover;
use vonic_uplink::{LinkWatch, Tap};

/// How long after a failure it is tried again at first, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// The shortest time between two looks at changed interfaces.
const LINK_PAUSE: Duration = Duration::from_millis(20);

/// One VM's way to its network's bridge.
#[derive(Default)]
pub(super) struct VmUplink {
    /// Its tap, once it could be made.
    pub tap: Option<Arc<Tap>>,
    /// Why the guest reaches no bridge, if it does not.
    pub error: Option<String>,
}

/// Every VM's way to a bridge, by the VM's name.
#[derive(Default)]
pub(super) struct Taps {
    pub by_vm: BTreeMap<String, VmUplink>,
    /// What was logged of each network that is degraded.
    degraded: BTreeMap<String, String>,
    /// Those of the engine before, by the VM's number, until everything is open.
    inherited: BTreeMap<u64, (RawFd, u32)>,
    retry: Option<(Instant, Duration)>,
    watching: bool,
}

impl Taps {
    /// The tap with this descriptor and interface was the VM's, which has this number, with the engine before.
    pub fn inherit(&mut self, vm: u64, place: (RawFd, u32)) {
        self.inherited.insert(vm, place);
    }

    /// Lets go of the taps that no VM has taken: they go.
    pub fn end_inheritance(&mut self) {
        for place in std::mem::take(&mut self.inherited).into_values() {
            drop(Tap::resume(place, "", MacAddr::default()));
        }
    }

    /// The tap that a VM had with the engine before.
    fn inherited(&mut self, vm: &Vm) -> Option<Arc<Tap>> {
        let place = self.inherited.remove(&succession::number(&vm.name))?;
        match Tap::resume(place, &vm.name, vm.mac) {
            Ok(tap) => tap.map(Arc::new),
            Err(error) => {
                log::warn!("{}: its tap is made anew: {error}", vm.name);
                None
            }
        }
    }

    /// When to try again, if something is missing.
    pub fn retry_in(&self) -> Option<Duration> {
        self.retry.map(|(at, _)| at.saturating_duration_since(Instant::now()))
    }

    /// A VM's tap.
    pub fn tap(&self, vm: &str) -> Option<Arc<Tap>> {
        self.by_vm.get(vm)?.tap.clone()
    }

    /// Tells a VM's tap what the guest can take, by the features that its driver acknowledged; `None`: there is no driver.
    pub fn set_offloads(&self, vm: &str, features: Option<u64>) {
        let offloads = features.map_or(Offloads::default(), |bits| Negotiated::new(bits).to_guest);
        if let Some(Err(error)) = self.tap(vm).map(|tap| tap.set_offloads(offloads)) {
            log::warn!("{vm}: its tap's offloads cannot be set: {error}");
        }
    }
}

impl VmUplink {
    /// Makes what is missing; true if there is another tap than before. A tap that could not be made is made anew only `in
    /// time`: each try is itself a change of the host's interfaces, and so the reason of the next look.
    fn mend(&mut self, vm: &Vm, bridge: &str, in_time: bool) -> bool {
        let lost = self.tap.take_if(|tap| !tap.exists()).is_some();
        let mut made = false;
        if self.tap.is_none() && (lost || in_time) {
            match Tap::create(&vm.name, vm.mac, vm.mtu) {
                Ok(tap) => self.tap = Some(Arc::new(tap)),
                Err(error) => self.error = Some(error.to_string()),
            }
            made = self.tap.is_some();
        }
        if let Some(tap) = &self.tap {
            self.error = tap.join(bridge).err().map(|error| error.to_string());
        }
        lost || made
    }
}

impl Registry {
    /// The bridge of a VM's network.
    fn bridge(&self, vm: &Vm) -> Option<String> {
        match &self.config.networks.get(&vm.network)?.uplink {
            Uplink::Tap(bridge) => Some(bridge.clone()),
            Uplink::None | Uplink::Sockets => None,
        }
    }

    /// Opens a VM's way to its bridge before the VM is attached, if its network has one.
    pub(super) fn open_uplink(&mut self, vm: &Vm) {
        let Some(bridge) = self.bridge(vm) else { return };
        self.watch_links();
        let mut uplink = VmUplink { tap: self.taps.inherited(vm), error: None };
        uplink.mend(vm, &bridge, true);
        let error = uplink.error.clone();
        self.taps.by_vm.insert(vm.name.clone(), uplink);
        if let Some(error) = error {
            self.note_degraded(BTreeMap::from([(vm.network.clone(), error)]));
        }
    }

    /// Looks whether every tap is there and at its bridge, and makes so what is not.
    pub(super) fn mend_uplinks(&mut self) {
        let vms: Vec<Vm> = self.taps.by_vm.keys().filter_map(|name| Some(self.vms.get(name)?.vm.clone())).collect();
        let in_time = self.taps.retry_in().is_none_or(|time| time.is_zero());
        let mut errors = BTreeMap::new();
        for vm in vms {
            let Some(bridge) = self.bridge(&vm) else { continue };
            let Some(uplink) = self.taps.by_vm.get_mut(&vm.name) else { continue };
            // The worker may hold the old one until it has the new one: closed here, not there.
            let old = uplink.tap.clone();
            let changed = uplink.mend(&vm, &bridge, in_time);
            if let Some(error) = &uplink.error {
                errors.entry(vm.network.clone()).or_insert_with(|| error.clone());
            }
            if changed {
                self.use_tap(&vm);
            }
            drop(old);
        }
        let back: Vec<String> = self.taps.degraded.keys().filter(|name| !errors.contains_key(*name)).cloned().collect();
        for network in back {
            self.taps.degraded.remove(&network);
            log::info!("network {network}: its bridge is reached again");
        }
        if errors.is_empty() {
            self.taps.retry = None;
        }
        self.note_degraded(errors);
    }

    /// Gives the worker a VM's new tap, or tells it that there is none, and waits until it has let go of the old one.
    fn use_tap(&mut self, vm: &Vm) {
        let Some(entry) = self.vms.get(&vm.name) else { return };
        let (port, stats) = (entry.port, entry.stats.clone());
        self.taps.set_offloads(&vm.name, entry.session.as_ref().and_then(|s| s.features));
        // A bridged network has no forwards.
        let spec = self.spec(vm, port, &stats, Vec::new());
        let (done, applied) = handover();
        self.order(Command::Reconfigure { spec: Box::new(spec), done });
        applied.wait(super::registry::ROUND_LIMIT);
    }

    /// Logs what is new about networks whose bridge cannot be reached, and sets the time of the next try.
    fn note_degraded(&mut self, errors: BTreeMap<String, String>) {
        if errors.is_empty() {
            return;
        }
        let pause = self.taps.retry.map_or(FIRST_RETRY, |(_, pause)| pause);
        if self.taps.retry.is_none_or(|(at, _)| at <= Instant::now()) {
            self.taps.retry = Some((Instant::now() + pause, (pause * 2).min(LAST_RETRY)));
        }
        for (network, error) in errors {
            if self.taps.degraded.get(&network) != Some(&error) {
                log::warn!("network {network}: degraded, and tried again: {error}");
                self.taps.degraded.insert(network, error);
            }
        }
    }

    /// Applies other uplinks of networks to the VMs that are in them, but for those that a reload has touched already.
    /// Returns the VMs whose VMMs have to connect again, since vonic was their gateway and is not, or the other way round.
    pub(super) fn change_uplinks(&mut self, old: &Config, touched: &BTreeSet<String>) -> Vec<String> {
        let kind =
            |config: &Config, network: &str| config.networks.get(network).map(|n| std::mem::discriminant(&n.uplink));
        let differs = |vm: &Vm| {
            let bridged = |config: &Config| matches!(config.networks.get(&vm.network), Some(n) if matches!(n.uplink, Uplink::Tap(_)));
            kind(old, &vm.network) != kind(&self.config, &vm.network) && (bridged(old) || bridged(&self.config))
        };
        let vms = self.vms.values().map(|e| &e.vm).filter(|vm| !touched.contains(&vm.name) && differs(vm));
        let vms: Vec<Vm> = vms.cloned().collect();
        let names = vms.iter().map(|vm| vm.name.clone()).collect();
        vms.into_iter().for_each(|vm| self.replace(vm));
        self.mend_uplinks();
        names
    }

    /// Starts to listen for changes of the host's interfaces, once.
    pub(super) fn watch_links(&mut self) {
        if std::mem::replace(&mut self.taps.watching, true) {
            return;
        }
        let to = self.sender();
        let watch = LinkWatch::open()
            .and_then(|watch| std::thread::Builder::new().name("links".into()).spawn(move || watch_links(&watch, &to)));
        if let Err(error) = watch {
            log::warn!("changes of the host's interfaces go unseen: {error}");
        }
    }
}

fn watch_links(watch: &LinkWatch, to: &Sender<Input>) {
    loop {
        if let Err(error) = watch.wait() {
            log::warn!("changes of the host's interfaces go unseen: {error}");
            return;
        }
        if to.send(Input::Links).is_err() {
            return;
        }
        std::thread::sleep(LINK_PAUSE);
    }
}
