//! Checks of one VM.
use super::drops::Meaning;
use super::finding::{Finding, Level};
use crate::api::types::{GuestReport, VmDetail};
use crate::client::layout::duration;

/// Features without which traffic costs more: how much that matters, and what.
const FAST: &[(&str, Level, &str)] = &[
    ("csum", Level::Warning, "the guest computes every checksum itself"),
    ("tso", Level::Warning, "the guest cuts every TCP segment itself"),
    ("guest_csum", Level::Warning, "vonic finishes every checksum for the guest"),
    ("guest_tso", Level::Warning, "the guest takes TCP segment by segment"),
    ("mrg_rxbuf", Level::Warning, "each receive buffer of the guest must hold the largest frame"),
    ("event_idx", Level::Note, "guest and vonic notify each other more often"),
    ("mq", Level::Note, "the guest uses one pair of queues only"),
];
/// Of so many tracked connections, in percent of the most, the guest's firewall is nearly full.
const CONNTRACK: u64 = 90;

/// Everything about a VM, and about what happened between two looks at it.
pub(super) fn check(before: &VmDetail, now: Option<&VmDetail>) -> Vec<Finding> {
    let mut found = Vec::new();
    connection(before, &mut found);
    features(before, &mut found);
    rings(before, &mut found);
    errors(before, &mut found);
    if let Some(now) = now {
        rising(before, now, &mut found);
    }
    agent(before, &mut found);
    if found.iter().all(|finding| finding.level <= Level::Note) && before.row.driver_ready {
        found.insert(0, Finding::ok("state", "running"));
    }
    let subject = format!("vm {}", before.row.name);
    found.into_iter().map(|finding| finding.of(&subject)).collect()
}

fn connection(vm: &VmDetail, found: &mut Vec<Finding>) {
    const CHECK: &str = "connection";
    let since = vm.session_seconds.map(|seconds| format!(" for {} at least", duration(seconds))).unwrap_or_default();
    if vm.row.quarantined {
        let message = "in quarantine: engines died of what this guest sends, so its rings are left alone";
        let mend = "look at the guest: it is broken or hostile; vonic vm show says what ends the quarantine (quarantine = false: none)";
        found.push(Finding::problem("quarantine", message, mend));
    } else if !vm.row.connected {
        let mend = format!("start the VM with its NIC at {} (vonic vm command {} --vmm …)", vm.socket, vm.row.name);
        found.push(Finding::note(CHECK, format!("no VMM is connected{since}"), mend));
    } else if !vm.row.driver_ready {
        let message = format!("a VMM is connected, but the guest's driver has not started{since}");
        found.push(Finding::note(
            CHECK,
            message,
            "if it stays so: look at the guest's console, and whether it has virtio_net",
        ));
    }
}

/// What was offered and not taken.
fn features(vm: &VmDetail, found: &mut Vec<Finding>) {
    if vm.features_negotiated.is_empty() {
        return;
    }
    let has = |list: &[String], name: &str| list.iter().any(|known| known == name);
    for (name, level, costs) in FAST.iter().filter(|(name, ..)| !has(&vm.features_negotiated, name)) {
        if has(&vm.features_offered, name) {
            let mend = "the driver or the VMM has left it out: see the VMM's options of the device, and the guest's ethtool -k";
            let finding = Finding::note("features", format!("{name} was not taken: {costs}"), mend);
            found.push(Finding { level: *level, ..finding });
        } else if *name != "mq" {
            let mend = "nothing, if that is meant; else take it out of features in the VM's file";
            found.push(Finding::note("features", format!("{name} is switched off: {costs}"), mend));
        }
    }
}

fn rings(vm: &VmDetail, found: &mut Vec<Finding>) {
    const CHECK: &str = "rings";
    for ring in &vm.rings {
        let of = format!("ring {} ({})", ring.index, ring.direction.replace('_', " "));
        match ring.state.as_str() {
            "running" | "stopped" => {}
            broken => {
                let mend = "the guest's driver has broken it: restart the guest, or unload and load virtio_net in it";
                found.push(Finding::problem(CHECK, format!("{of} is stopped: {broken}"), mend));
            }
        }
    }
    let data =
        |ring: &&crate::api::types::RingRow| ["guest_to_host", "host_to_guest"].contains(&ring.direction.as_str());
    let mut first_pair = vm.rings.iter().filter(data).take(2);
    if vm.row.driver_ready && first_pair.any(|ring| !ring.enabled) {
        let mend = "nothing while the VMM pauses or moves the guest; else look at the VMM";
        found.push(Finding::note(CHECK, "the driver has started, and the VMM has disabled its first rings", mend));
    }
}

fn errors(vm: &VmDetail, found: &mut Vec<Finding>) {
    if let Some(error) = &vm.uplink.error {
        found.push(Finding::problem("uplink", format!("{}: {error}", vm.uplink.kind), "it is tried again by itself"));
    }
    for warning in &vm.uplink.warnings {
        found.push(Finding::warning("uplink", warning, "see above; vonic vm show has it too"));
    }
    for error in &vm.forward_errors {
        found.push(Finding::problem("forwards", error, "it is tried again by itself"));
    }
    if let Some(error) = vm.last_error.as_ref().filter(|_| vm.forward_errors.is_empty() && !vm.row.quarantined) {
        found.push(Finding::warning("last error", error, "see vonicd's log for when"));
    }
}

/// What was counted between the two looks.
fn rising(before: &VmDetail, now: &VmDetail, found: &mut Vec<Finding>) {
    for (name, ways) in &now.drops_by_reason {
        for (way, count) in ways {
            let old = before.drops_by_reason.get(name).and_then(|ways| ways.get(way)).copied().unwrap_or(0);
            let more = count.saturating_sub(old);
            if more == 0 {
                continue;
            }
            let Meaning { level, what, mend, .. } = Meaning::of(name);
            let [name, way] = [name, way].map(|text| text.replace('_', " "));
            // The manual shows code as such; here are words alone.
            let [what, mend] = [what, mend].map(|text| text.replace('`', ""));
            let message = format!("{more} frames dropped just now, {way}, as {name}: {what}");
            found.push(Finding { level: *level, ..Finding::note("drops", message, mend) });
        }
    }
    for limit in &now.limits {
        let old = before.limits.iter().find(|old| old.name == limit.name).map_or(0, |old| old.reached);
        let more = limit.reached.saturating_sub(old);
        if more > 0 {
            let most = limit.most.map(|most| format!(" of {most}")).unwrap_or_default();
            let message = format!("the limit{most} {} was reached {more} times just now", limit.name);
            found.push(Finding::warning(
                "limits",
                message,
                "raise it under limits in the VM's file, if the guest may have more",
            ));
        }
    }
}

/// The agent, and what the guest says.
fn agent(vm: &VmDetail, found: &mut Vec<Finding>) {
    const CHECK: &str = "guest";
    let Some(agent) = &vm.row.agent else {
        if vm.row.driver_ready {
            let mend = "nothing, or install vonic-agent in it, to see the network from inside";
            found.push(Finding::note(CHECK, "no agent has spoken", mend));
        }
        return;
    };
    let own = env!("CARGO_PKG_VERSION");
    if agent.silent {
        let message = format!("its agent has been silent for {}", duration(agent.seen_seconds));
        found.push(Finding::warning(CHECK, message, "see whether the guest still runs, and vonic-agent in it"));
    } else if agent.version != own {
        let message = format!("its agent is of version {}, vonic of {own}", agent.version);
        found.push(Finding::note(CHECK, message, "install this version's vonic-agent, to see all that it can tell"));
    }
    if let Some(guest) = &vm.guest {
        said(vm, guest, found);
    }
}

fn said(vm: &VmDetail, guest: &GuestReport, found: &mut Vec<Finding>) {
    const CHECK: &str = "guest";
    let own = guest.interfaces.iter().find(|interface| interface.mac.as_deref() == Some(&vm.row.mac));
    if let Some(mtu) = own.and_then(|interface| interface.mtu).filter(|mtu| *mtu > u32::from(vm.mtu)) {
        let message = format!("it says that its NIC has an MTU of {mtu}, the VM's file one of {}", vm.mtu);
        found.push(Finding::warning(
            CHECK,
            message,
            format!("ip link set {} mtu {} in the guest", interface_name(own), vm.mtu),
        ));
    }
    let tracked = guest.conntrack.as_ref().and_then(|tracked| Some((tracked.count?, tracked.most?)));
    if let Some((count, most)) =
        tracked.filter(|(count, most)| *most > 0 && count / most.div_ceil(100).max(1) >= CONNTRACK)
    {
        let message =
            format!("it says that its firewall tracks {count} of at most {most} connections: new ones will be dropped");
        found.push(Finding::warning(CHECK, message, "sysctl net.netfilter.nf_conntrack_max=… in the guest"));
    }
}

fn interface_name(interface: Option<&crate::api::types::Interface>) -> &str {
    interface.map_or("eth0", |interface| interface.name.as_str())
}
