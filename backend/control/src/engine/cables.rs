//! The cables of bridged networks, taps and packet sockets: made with their VMs, and looked after while interfaces of the host come and go.
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
use vonic_datapath::{Command, Negotiated, Way};
use vonic_frame::{DropReason, MacAddr, Offloads};
use vonic_queue::handover;
use vonic_record::Kind;
use vonic_uplink::{Cable, LinkWatch, Packet, Tap, UplinkError};

/// How long after a failure it is tried again at first, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// The shortest time between two looks at changed interfaces.
const LINK_PAUSE: Duration = Duration::from_millis(20);

/// One VM's way to its network's bridge or interface.
#[derive(Default)]
pub(super) struct VmUplink {
    /// Its cable, once it could be made.
    pub cable: Option<Arc<Cable>>,
    /// Why the guest reaches nobody there, if it does not.
    pub error: Option<String>,
    /// What else the operator should know.
    pub warnings: Vec<String>,
}

/// What an engine has left of a cable.
struct Left {
    kind: Kind,
    descriptor: RawFd,
    cookie: u64,
}

/// Every VM's way to a bridge or an interface, by the VM's name.
#[derive(Default)]
pub(super) struct Cables {
    pub by_vm: BTreeMap<String, VmUplink>,
    /// What was logged of each network that is degraded.
    degraded: BTreeMap<String, String>,
    /// What was logged of each network that is not.
    warned: BTreeMap<String, BTreeSet<String>>,
    /// Those of the engine before, by the VM's number, until everything is open.
    inherited: BTreeMap<u64, Left>,
    retry: Option<(Instant, Duration)>,
    watching: bool,
    /// Packet sockets are left to the next engine, which is about to go on: this one may not open any (ADR 0025).
    pub leaves_packets: bool,
}

impl Cables {
    /// A record of the engine before: the cable of the VM with this number.
    pub fn inherit(&mut self, vm: u64, kind: Kind, (descriptor, cookie): (RawFd, u64)) {
        self.inherited.insert(vm, Left { kind, descriptor, cookie });
    }

    /// Lets go of the cables that no VM has taken: they go.
    pub fn end_inheritance(&mut self) {
        std::mem::take(&mut self.inherited).into_values().for_each(Left::end);
    }

    /// The cable that a VM had with the engine before, if it leads where it is to lead.
    fn inherited(&mut self, vm: &Vm, uplink: &Uplink) -> Option<Arc<Cable>> {
        let left = self.inherited.remove(&succession::number(&vm.name))?;
        match left.resume(vm, uplink) {
            Ok(cable) => cable.map(Arc::new),
            Err(error) => {
                log::warn!("{}: its cable is made anew: {error}", vm.name);
                None
            }
        }
    }

    /// When to try again, if something is missing.
    pub fn retry_in(&self) -> Option<Duration> {
        self.retry.map(|(at, _)| at.saturating_duration_since(Instant::now()))
    }

    /// A VM's cable.
    pub fn cable(&self, vm: &str) -> Option<Arc<Cable>> {
        self.by_vm.get(vm)?.cable.clone()
    }

    /// Tells the kernel what a guest can take, by the features that its driver acknowledged; `None`: there is no driver.
    pub fn set_offloads(&self, vm: &str, features: Option<u64>) {
        let offloads = features.map_or(Offloads::default(), |bits| Negotiated::new(bits).to_guest);
        if let Some(Err(error)) = self.cable(vm).map(|cable| cable.set_offloads(offloads)) {
            log::warn!("{vm}: its tap's offloads cannot be set: {error}");
        }
    }

    /// Logs what is new about networks that are not degraded.
    fn note_warnings(&mut self, mut warnings: BTreeMap<String, BTreeSet<String>>) {
        for (network, texts) in &warnings {
            let known = self.warned.get(network);
            let is_new = |text: &&String| known.is_none_or(|known| !known.contains(*text));
            texts.iter().filter(is_new).for_each(|text| log::warn!("network {network}: {text}"));
        }
        self.warned.retain(|network, texts| {
            texts.extend(warnings.remove(network).unwrap_or_default());
            true
        });
        self.warned.extend(warnings);
    }
}

impl Left {
    fn resume(self, vm: &Vm, uplink: &Uplink) -> Result<Option<Cable>, UplinkError> {
        match (self.kind, uplink) {
            (Kind::Tap, Uplink::Tap(_)) => {
                let tap = Tap::resume((self.descriptor, self.cookie as u32), &vm.name, vm.mac)?;
                Ok(tap.map(Cable::Tap))
            }
            (Kind::Packet, Uplink::Packet(interface)) => {
                let socket = Packet::resume((self.descriptor, self.cookie), &vm.name, vm.mac, interface)?;
                Ok(socket.map(Cable::Packet))
            }
            _ => {
                self.end();
                Ok(None)
            }
        }
    }

    fn end(self) {
        match self.kind {
            Kind::Tap => drop(Tap::resume((self.descriptor, self.cookie as u32), "", MacAddr::default())),
            _ => Packet::close((self.descriptor, self.cookie)),
        }
    }
}

impl VmUplink {
    /// Makes what is missing; true if there is another cable than before. A tap that could not be made is made anew only `in
    /// time`: each try is itself a change of the host's interfaces, and so the reason of the next look.
    fn mend(&mut self, vm: &Vm, uplink: &Uplink, in_time: bool, leaves_packets: bool) -> bool {
        let lost = self.cable.take_if(|cable| !leads_to(cable, uplink) || !cable.exists()).is_some();
        let mut made = false;
        let is_packet = matches!(uplink, Uplink::Packet(_));
        if self.cable.is_none() && (lost || in_time || is_packet) && !(is_packet && leaves_packets) {
            match open(vm, uplink) {
                Ok(cable) => self.cable = cable.map(Arc::new),
                Err(error) => self.error = Some(error.to_string()),
            }
            made = self.cable.is_some();
        }
        if let Some(cable) = &self.cable {
            let looked = match (cable.as_ref(), uplink) {
                (Cable::Tap(tap), Uplink::Tap(bridge)) => tap.join(bridge).map(|()| Vec::new()),
                (Cable::Tap(_), _) => Ok(Vec::new()),
                (Cable::Packet(socket), _) => socket.look(vm.mtu),
            };
            (self.warnings, self.error) =
                looked.map_or_else(|error| (Vec::new(), Some(error.to_string())), |w| (w, None));
        }
        lost || made
    }
}

/// Whether a cable is of this kind, and, if it is a packet socket, at this interface. A tap moves to another bridge as it is.
fn leads_to(cable: &Cable, uplink: &Uplink) -> bool {
    match (cable, uplink) {
        (Cable::Tap(_), Uplink::Tap(_)) => true,
        (Cable::Packet(socket), Uplink::Packet(interface)) => socket.name() == interface,
        _ => false,
    }
}

fn open(vm: &Vm, uplink: &Uplink) -> Result<Option<Cable>, UplinkError> {
    match uplink {
        Uplink::None | Uplink::Sockets => Ok(None),
        Uplink::Tap(_) => Tap::create(&vm.name, vm.mac, vm.mtu).map(Cable::Tap).map(Some),
        Uplink::Packet(interface) => Packet::open(&vm.name, vm.mac, interface).map(Cable::Packet).map(Some),
    }
}

impl Registry {
    /// What a VM's cable leads to, if its network has cables.
    fn cable_uplink(&self, vm: &Vm) -> Option<Uplink> {
        Some(&self.config.networks.get(&vm.network)?.uplink).filter(|uplink| uplink.is_bridged()).cloned()
    }

    /// Counts the frames that have found no room in VMs' packet sockets so far.
    pub(super) fn count_overflows(&self) {
        self.cables.by_vm.keys().for_each(|vm| self.count_overflow(vm));
    }

    /// The same of one VM. The worker does not count these, so that there is one writer.
    pub(super) fn count_overflow(&self, vm: &str) {
        if let (Some(cable), Some(entry)) = (self.cables.cable(vm), self.vms.get(vm))
            && let Cable::Packet(socket) = cable.as_ref()
        {
            entry.stats.add_drops(Way::HostToGuest, DropReason::UplinkOverflow, socket.take_drops().into());
        }
    }

    /// Opens a VM's cable before the VM is attached, if its network has cables.
    pub(super) fn open_uplink(&mut self, vm: &Vm) {
        let Some(to) = self.cable_uplink(vm) else { return };
        self.watch_links();
        let mut uplink = VmUplink { cable: self.cables.inherited(vm, &to), ..VmUplink::default() };
        uplink.mend(vm, &to, true, self.cables.leaves_packets);
        let (error, warnings) = (uplink.error.clone(), uplink.warnings.iter().cloned().collect());
        self.cables.by_vm.insert(vm.name.clone(), uplink);
        self.cables.note_warnings(BTreeMap::from([(vm.network.clone(), warnings)]));
        if let Some(error) = error {
            self.note_degraded(BTreeMap::from([(vm.network.clone(), error)]));
        }
    }

    /// Looks whether every cable is there and leads where it is to lead, and makes so what is not.
    pub(super) fn mend_uplinks(&mut self) {
        let vms: Vec<Vm> = self.cables.by_vm.keys().filter_map(|name| Some(self.vms.get(name)?.vm.clone())).collect();
        let in_time = self.cables.retry_in().is_none_or(|time| time.is_zero());
        let leaves_packets = self.cables.leaves_packets;
        let (mut errors, mut warnings) = (BTreeMap::new(), BTreeMap::<String, BTreeSet<String>>::new());
        for vm in vms {
            let Some(to) = self.cable_uplink(&vm) else { continue };
            self.count_overflow(&vm.name);
            let Some(uplink) = self.cables.by_vm.get_mut(&vm.name) else { continue };
            // The worker may hold the old one until it has the new one: closed here, not there.
            let old = uplink.cable.clone();
            let changed = uplink.mend(&vm, &to, in_time, leaves_packets);
            if let Some(error) = &uplink.error {
                errors.entry(vm.network.clone()).or_insert_with(|| error.clone());
            }
            warnings.entry(vm.network.clone()).or_default().extend(uplink.warnings.iter().cloned());
            if changed {
                self.use_cable(&vm);
            }
            drop(old);
        }
        self.cables.note_warnings(warnings);
        let back: Vec<String> =
            self.cables.degraded.keys().filter(|name| !errors.contains_key(*name)).cloned().collect();
        for network in back {
            self.cables.degraded.remove(&network);
            let what = match self.config.networks.get(&network).map(|n| &n.uplink) {
                Some(Uplink::Packet(_)) => "interface",
                _ => "bridge",
            };
            log::info!("network {network}: its {what} is reached again");
        }
        if errors.is_empty() {
            self.cables.retry = None;
        }
        self.note_degraded(errors);
    }

    /// Gives the worker a VM's new cable, or tells it that there is none, and waits until it has let go of the old one.
    fn use_cable(&mut self, vm: &Vm) {
        let Some(entry) = self.vms.get(&vm.name) else { return };
        let (port, stats) = (entry.port, entry.stats.clone());
        self.cables.set_offloads(&vm.name, entry.session.as_ref().and_then(|s| s.features));
        // A bridged network has no forwards.
        let spec = self.spec(vm, port, &stats, Vec::new());
        let (done, applied) = handover();
        self.order(Command::Reconfigure { spec: Box::new(spec), done });
        applied.wait(super::registry::ROUND_LIMIT);
    }

    /// Logs what is new about networks whose bridge or interface cannot be reached, and sets the time of the next try.
    fn note_degraded(&mut self, errors: BTreeMap<String, String>) {
        if errors.is_empty() {
            return;
        }
        let pause = self.cables.retry.map_or(FIRST_RETRY, |(_, pause)| pause);
        if self.cables.retry.is_none_or(|(at, _)| at <= Instant::now()) {
            self.cables.retry = Some((Instant::now() + pause, (pause * 2).min(LAST_RETRY)));
        }
        for (network, error) in errors {
            if self.cables.degraded.get(&network) != Some(&error) {
                log::warn!("network {network}: degraded, and tried again: {error}");
                self.cables.degraded.insert(network, error);
            }
        }
    }

    /// Applies other uplinks of networks to the VMs that are in them, but for those that a reload has touched already.
    /// Returns the VMs whose VMMs have to connect again, since vonic was their gateway and is not, or the other way round.
    pub(super) fn change_uplinks(&mut self, old: &Config, touched: &BTreeSet<String>) -> Vec<String> {
        let kind =
            |config: &Config, network: &str| config.networks.get(network).map(|n| std::mem::discriminant(&n.uplink));
        let differs = |vm: &Vm| {
            let bridged = |config: &Config| config.networks.get(&vm.network).is_some_and(|n| n.uplink.is_bridged());
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
        if std::mem::replace(&mut self.cables.watching, true) {
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
