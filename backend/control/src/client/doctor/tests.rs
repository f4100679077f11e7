//! Each check by itself, on facts that are made up.
use std::path::{Path, PathBuf};

use serde_json::json;

use super::facts::{Facts, File, Host, Link, Process, Running};
use super::finding::{Finding, Level, Report};
use super::{host, judge, paths, vm};
use crate::api::types::{AgentRow, EngineStatus, GuestReport, Health, VmDetail};
use crate::config::{Sources, load_sources};

const VM: &str = "mac = '52:54:00:00:00:02'\naddress4 = '192.0.2.2'\n";
const OWN: &str = env!("CARGO_PKG_VERSION");

/// A host that has everything, with this vonic.toml and the VM `a`.
fn facts(service: &str, vm: &str) -> Facts {
    let vms = [("a".to_string(), format!("{VM}{vm}"))].into();
    let sources = Sources { service: Some(service.to_string()), vms };
    let config = load_sources(Path::new("/etc/vonic"), &sources).unwrap();
    let sysctls = [
        ("net/core/somaxconn", "4096"),
        ("net/core/rmem_max", "4194304"),
        ("net/core/wmem_max", "4194304"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ("net/ipv4/ip_unprivileged_port_start", "1024"),
        ("net/ipv4/ping_group_range", "0\t2147483647"),
    ];
    let host = Host {
        kernel: "6.12.1".into(),
        process: Process { files: Some(1 << 20), capabilities: Some(u64::MAX), user: Some(990), replaced: false },
        of_vonicd: true,
        sysctls: sysctls.map(|(name, value)| (name, value.to_string())).into(),
        shm_free: Some(8 << 30),
        memory: [("MemAvailable".to_string(), 1 << 22)].into(),
        resolvers: vec![(([127, 0, 0, 53], 53).into(), None)],
        paths: [("/run/vonic".into(), folder(0o755))].into(),
        ..Host::default()
    };
    Facts { config_dir: "/etc/vonic".into(), config: Some(config), host, service: Some(running()), ..Facts::default() }
}

fn folder(mode: u32) -> File {
    File { is_dir: true, is_socket: false, mode, user: 990 }
}

fn running() -> Running {
    let health = Health { status: "ok".into(), version: OWN.into(), vms: 1, vms_connected: 1, ..Health::default() };
    let engine = EngineStatus { pid: 7, standby: true, ..EngineStatus::default() };
    Running { health, engine: Some(engine), vms: vec![detail()], later: [("a".to_string(), detail())].into() }
}

/// VM `a`, of which nothing bad is known.
fn detail() -> VmDetail {
    let features = ["csum", "tso", "guest_csum", "guest_tso", "mrg_rxbuf", "event_idx"].map(String::from).to_vec();
    let ring = |index: u16, way: &str| json!({ "index": index, "direction": way, "size": 256, "enabled": true, "state": "running" });
    let mut detail = VmDetail {
        mtu: 1500,
        features_offered: features.clone(),
        features_negotiated: features,
        rings: serde_json::from_value(json!([ring(0, "host_to_guest"), ring(1, "guest_to_host")])).unwrap(),
        ..VmDetail::default()
    };
    let row = &mut detail.row;
    (row.name, row.mac) = ("a".into(), "52:54:00:00:00:02".into());
    (row.connected, row.driver_ready) = (true, true);
    row.agent = Some(AgentRow { version: OWN.into(), seen_seconds: 1, silent: false });
    detail
}

/// That one finding has this level and these words, in its message or in what to do.
fn finds(findings: &[Finding], level: Level, words: &str) {
    let has = |f: &Finding| {
        f.level == level && (f.message.contains(words) || f.mend.as_ref().is_some_and(|mend| mend.contains(words)))
    };
    assert!(findings.iter().any(has), "no {level:?} with '{words}' in {findings:#?}");
}

fn on_host(facts: &Facts, level: Level, words: &str) {
    let findings: Vec<Finding> = host::CHECKS.iter().flat_map(|check| check(facts)).collect();
    finds(&findings, level, words);
}

#[test]
fn a_good_host_with_a_good_vm_has_nothing_to_say() {
    let findings = judge(&facts("", ""));
    assert!(findings.iter().all(|finding| finding.level == Level::Ok && finding.mend.is_none()), "{findings:#?}");
    for check in [
        "kernel",
        "files",
        "privileges",
        "ports",
        "memory",
        "resolvers",
        "permissions",
        "service",
        "configuration",
        "engine",
        "state",
    ] {
        assert!(findings.iter().any(|finding| finding.check == check), "{check}");
    }
    let mut printed = Vec::new();
    Report::new(findings).print(&mut printed).unwrap();
    let printed = String::from_utf8(printed).unwrap();
    assert!(printed.starts_with("ok       host    kernel: 6.12.1 has what vonic uses\n"), "{printed}");
    assert!(printed.ends_with("\n0 problems, 0 warnings, 0 notes\n"), "{printed}");
}

#[test]
fn root_is_more_than_it_takes() {
    let mut facts = facts("", "");
    facts.host.process.user = Some(0);
    on_host(&facts, Level::Warning, "vonicd runs as root");
    // This program may be root's: that says nothing.
    facts.host.of_vonicd = false;
    let found: Vec<Finding> = host::CHECKS.iter().flat_map(|check| check(&facts)).collect();
    assert!(!found.iter().any(|finding| finding.message.contains("as root")), "{found:#?}");
}

#[test]
fn kernels_and_what_they_give() {
    let with = |kernel: &str, service: &str| {
        let mut facts = facts(service, "");
        facts.host.kernel = kernel.into();
        facts
    };
    on_host(&with("5.15.0-91-generic", ""), Level::Note, "no SO_PEEK_OFF for TCP:");
    let v6 = "[network.default]\nsubnet6 = '2001:db8::/64'\ngateway6 = '2001:db8::1'\nsubnet4 = '192.0.2.0/24'\ngateway4 = '192.0.2.1'\n";
    on_host(&with("6.10.3", v6), Level::Note, "over IPv6");
    on_host(&with("6.10.3", ""), Level::Ok, "6.10.3");
    let mut facts = with("4.19.0", "");
    facts.host.no_pidfd = Some("Function not implemented".into());
    on_host(&facts, Level::Problem, "pidfds (Linux 5.3)");
    facts.host.no_sealing = Some("Function not implemented".into());
    on_host(&facts, Level::Problem, "sealed memory");
}

#[test]
fn files_beside_the_limits_of_vms() {
    let with = |files: Option<u64>| {
        let mut facts = facts("", "");
        facts.host.process.files = files;
        facts
    };
    on_host(&with(Some(1024)), Level::Warning, "one VM alone may have 20480");
    on_host(&with(Some(u64::MAX)), Level::Ok, "may be open");
    on_host(&with(None), Level::Note, "not known");
    let mut two = with(Some(30_000));
    let config = two.config.as_mut().unwrap();
    let second = config.vms["a"].clone();
    config.vms.insert("b".into(), second);
    on_host(&two, Level::Note, "together may have 40960");
}

#[test]
fn privileges_that_the_configuration_needs() {
    let with = |service: &str, vm: &str, capabilities: u64| {
        let mut facts = facts(service, vm);
        facts.host.process.capabilities = Some(capabilities);
        facts.host.links = [("br0".to_string(), Link { mtu: Some(1500), is_bridge: true, up: true })].into();
        facts
    };
    let tap = "[network.default]\nuplink = 'tap:br0'\n";
    on_host(&with(tap, "", 0), Level::Problem, "CAP_NET_ADMIN");
    on_host(&with(tap, "", 1 << 12), Level::Ok, "vonicd has what");
    let mut no_tun = with(tap, "", u64::MAX);
    no_tun.host.no_tun = Some("No such file".into());
    on_host(&no_tun, Level::Problem, "modprobe tun");
    let packet = "[network.default]\nuplink = 'packet:br0'\n";
    let mut raw = with(packet, "", 1 << 12);
    on_host(&raw, Level::Problem, "CAP_NET_RAW");
    raw.host.process.capabilities = Some(1 << 13);
    raw.host.sysctls.insert("net/core/rmem_max", "212992".into());
    on_host(&raw, Level::Warning, "net.core.rmem_max=4194304");
    on_host(&with("", "", 0), Level::Note, "do not go along with guests");
    let low = "[[forward]]\nproto = 'tcp'\nlisten = '*:80'\nport = 80\n";
    on_host(&with("", low, 0), Level::Problem, "ip_unprivileged_port_start=80");
    on_host(&with("", low, 1 << 10), Level::Note, "CAP_NET_ADMIN");
    let mut other = with(tap, "", 0);
    other.host.of_vonicd = false;
    on_host(&other, Level::Problem, "this user (vonicd's rights are not known)");
}

#[test]
fn ports_listeners_memory_and_resolvers() {
    let mut facts = facts("", "[[forward]]\nproto = 'tcp'\nlisten = '*:8080'\nport = 80\n");
    on_host(&facts, Level::Ok, "28232 ports");
    on_host(&facts, Level::Ok, "4096 connections may wait");
    facts.host.sysctls.insert("net/ipv4/ip_local_port_range", "50000 50999".into());
    facts.host.sysctls.insert("net/core/somaxconn", "128".into());
    facts.host.sysctls.insert("net/ipv4/ping_group_range", "1 0".into());
    on_host(&facts, Level::Note, "1000 ports for connections to one destination");
    on_host(&facts, Level::Note, "net.core.somaxconn=4096");
    facts.service = None;
    on_host(&facts, Level::Warning, "cannot ping the world");
    facts.host.shm_free = Some(1 << 20);
    facts.host.memory = [("MemAvailable", 1024), ("HugePages_Total", 8), ("HugePages_Free", 0)]
        .map(|(name, n)| (name.into(), n))
        .into();
    on_host(&facts, Level::Warning, "/dev/shm has 1.0 MiB left");
    on_host(&facts, Level::Warning, "1.0 MiB of memory are left");
    on_host(&facts, Level::Note, "all 8 huge pages are taken");
    facts.host.resolvers[0].1 = Some("nothing came within 2 s".into());
    facts.host.resolv_conf = vec!["nameserver x: this is no address".into()];
    on_host(&facts, Level::Warning, "127.0.0.53 does not answer: nothing came");
    on_host(&facts, Level::Note, "/etc/resolv.conf: nameserver x");
    facts.host.resolvers.clear();
    on_host(&facts, Level::Warning, "names no resolver (nameserver x: this is no address)");
}

#[test]
fn bridges_interfaces_and_their_mtus() {
    let with = |link: Option<Link>| {
        let mut facts = facts("[network.default]\nuplink = 'tap:br0'\n", "mtu = 9000\n");
        facts.host.links = link.map(|link| ("br0".to_string(), link)).into_iter().collect();
        facts
    };
    let link = Link { mtu: Some(9000), is_bridge: true, up: true };
    on_host(&with(Some(link.clone())), Level::Ok, "bridge 'br0' with an MTU of 9000");
    on_host(&with(None), Level::Problem, "ip link add br0 type bridge");
    on_host(&with(Some(Link { is_bridge: false, ..link.clone() })), Level::Problem, "is no bridge");
    on_host(&with(Some(Link { up: false, ..link.clone() })), Level::Problem, "ip link set br0 up");
    on_host(&with(Some(Link { mtu: Some(1500), ..link })), Level::Warning, "ip link set br0 mtu 9000");
}

#[test]
fn who_may_change_what() {
    let with = |path: &str, file: File| {
        let mut facts = facts("", "");
        facts.host.paths = [(PathBuf::from(path), file)].into();
        paths::check(&facts)
    };
    let socket = |mode| File { is_dir: false, is_socket: true, mode, user: 0 };
    let file = |mode| File { is_dir: false, is_socket: false, mode, user: 0 };
    finds(&with("/etc/vonic/vms.d", folder(0o777)), Level::Problem, "chmod o-w /etc/vonic/vms.d");
    finds(&with("/run/vonic", folder(0o1777)), Level::Ok, "none can be changed");
    finds(&with("/etc/vonic/vonic.toml", file(0o646)), Level::Problem, "mode 0646");
    finds(&with("/run/vonic/api.sock", socket(0o666)), Level::Warning, "command vonicd");
    finds(&with("/run/vonic/a.sock", socket(0o606)), Level::Warning, "be this VM's VMM");
    finds(&with("/run/vonic/api.sock", socket(0o660)), Level::Ok, "none can be changed");
    finds(&with("/run/vonic/a.sock", file(0o600)), Level::Problem, "is no socket");
    finds(&with("/run/vonic", file(0o600)), Level::Problem, "is no folder");
    let mut facts = facts("", "");
    facts.service = None;
    facts.host.paths.clear();
    finds(&paths::check(&facts), Level::Note, "there is no runtime_dir /run/vonic yet");
}

#[test]
fn vonicd_its_version_its_engines_and_its_files() {
    let with = |change: fn(&mut Facts)| {
        let mut facts = facts("", "");
        change(&mut facts);
        judge(&facts)
    };
    fn now(facts: &mut Facts) -> &mut Running {
        facts.service.as_mut().unwrap()
    }
    let silent =
        with(|facts| (facts.service, facts.silence) = (None, Some("vonicd is not running: nothing answers".into())));
    finds(&silent, Level::Problem, "vonicd is not running");
    finds(&silent, Level::Problem, "systemctl start vonicd");
    finds(&with(|facts| now(facts).health.version = "9.9.9".into()), Level::Warning, "vonicd is of version 9.9.9");
    finds(&with(|facts| facts.host.process.replaced = true), Level::Note, "program was replaced");
    finds(&with(|facts| now(facts).health.status = "degraded".into()), Level::Problem, "vonicd says: degraded");
    let hint = with(|facts| now(facts).health.hints = vec!["guests cannot ping; as root: sysctl x".into()]);
    finds(&hint, Level::Warning, "as root: sysctl x");
    finds(
        &with(|facts| facts.config_errors = vec!["/etc/vonic/vms.d/b.toml:1: mac".into()]),
        Level::Problem,
        "b.toml:1",
    );
    finds(&with(|facts| now(facts).vms[0].row.name = "old".into()), Level::Warning, "does not serve: a");
    finds(&with(|facts| now(facts).vms[0].row.name = "old".into()), Level::Warning, "that vonicd serves: old");
    let engine = with(|facts| {
        let engine = now(facts).engine.as_mut().unwrap();
        (engine.deaths, engine.standby, engine.next_was_delayed_ms) = (3, false, 100);
    });
    finds(&engine, Level::Warning, "died since vonicd was started: 3");
    finds(&engine, Level::Warning, "wait for 100 ms");
    finds(&engine, Level::Note, "stands ready");
}

/// What is found of a VM after a change to it, and of a second look after another.
fn of_vm(change: impl Fn(&mut VmDetail), then: impl Fn(&mut VmDetail)) -> Vec<Finding> {
    let mut before = detail();
    change(&mut before);
    let mut now = before.clone();
    then(&mut now);
    vm::check(&before, Some(&now))
}

#[test]
fn vms_that_wait_and_vms_that_are_left_alone() {
    let absent = of_vm(
        |vm| {
            (vm.row.connected, vm.row.driver_ready, vm.session_seconds) = (false, false, Some(90));
            vm.features_negotiated.clear();
        },
        |_| {},
    );
    finds(&absent, Level::Note, "no VMM is connected for 1m 30s at least");
    finds(&absent, Level::Note, "vonic vm command a");
    assert!(absent.iter().all(|finding| finding.subject == "vm a" && finding.check != "features"), "{absent:#?}");
    finds(&of_vm(|vm| vm.row.driver_ready = false, |_| {}), Level::Note, "driver has not started");
    let quarantined = of_vm(|vm| vm.row.quarantined = true, |_| {});
    finds(&quarantined, Level::Problem, "in quarantine");
}

#[test]
fn features_rings_and_errors_of_a_vm() {
    let slow = of_vm(|vm| vm.features_negotiated.retain(|name| name != "tso" && name != "event_idx"), |_| {});
    finds(&slow, Level::Warning, "tso was not taken");
    finds(&slow, Level::Note, "event_idx was not taken");
    let off = of_vm(
        |vm| {
            vm.features_offered.retain(|name| name != "guest_tso");
            vm.features_negotiated.retain(|name| name != "guest_tso");
        },
        |_| {},
    );
    finds(&off, Level::Note, "guest_tso is switched off");
    let broken = of_vm(|vm| vm.rings[1].state = "the available index is 300 ahead of 256".into(), |_| {});
    finds(&broken, Level::Problem, "ring 1 (guest to host) is stopped: the available index");
    finds(&of_vm(|vm| vm.rings[0].enabled = false, |_| {}), Level::Note, "has disabled its first rings");
    let errors = of_vm(
        |vm| {
            vm.uplink.error = Some("there is no bridge 'br0'".into());
            vm.uplink.warnings = vec!["'eth0' is promiscuous".into()];
            vm.last_error = Some("memory cannot be mapped".into());
        },
        |_| {},
    );
    finds(&errors, Level::Problem, "no bridge 'br0'");
    finds(&errors, Level::Warning, "promiscuous");
    finds(&errors, Level::Warning, "memory cannot be mapped");
    let forwards = of_vm(|vm| vm.forward_errors = vec!["cannot listen on port 80".into()], |_| {});
    finds(&forwards, Level::Problem, "cannot listen on port 80");
}

#[test]
fn drops_and_limits_that_rise() {
    let count =
        |n: u64| json!({ "no_room": { "host_to_guest": n, "guest_to_host": 0 }, "new_reason": { "guest_to_host": n } });
    let set = move |n: u64| move |vm: &mut VmDetail| vm.drops_by_reason = serde_json::from_value(count(n)).unwrap();
    let rising = of_vm(set(5), set(8));
    finds(
        &rising,
        Level::Warning,
        "3 frames dropped just now, host to guest, as no room: the receiving guest posts no receive buffers",
    );
    finds(&rising, Level::Note, "as new reason: a reason of a later version");
    let standing = of_vm(set(5), |_| {});
    assert!(standing.iter().all(|finding| finding.check != "drops"), "{standing:#?}");
    assert!(of_vm(set(5), set(2)).iter().all(|finding| finding.check != "drops"), "counted from the beginning again");
    let limit = |n: u64| {
        move |vm: &mut VmDetail| {
            vm.limits = serde_json::from_value(json!([{ "name": "pending", "most": 512, "reached": n }])).unwrap();
        }
    };
    finds(&of_vm(limit(1), limit(4)), Level::Warning, "the limit of 512 pending was reached 3 times");
}

#[test]
fn agents_and_what_guests_say() {
    finds(&of_vm(|vm| vm.row.agent = None, |_| {}), Level::Note, "no agent has spoken");
    let agent = |version: &str, silent| Some(AgentRow { version: version.into(), seen_seconds: 75, silent });
    finds(&of_vm(|vm| vm.row.agent = agent(OWN, true), |_| {}), Level::Warning, "silent for 1m 15s");
    finds(&of_vm(|vm| vm.row.agent = agent("0.0.1", false), |_| {}), Level::Note, "its agent is of version 0.0.1");
    let says = |count: u64, mtu: u32| {
        let counters = json!({ "packets": 0, "bytes": 0, "errors": 0, "dropped": 0 });
        let guest: GuestReport = serde_json::from_value(json!({
            "hostname": "a", "kernel": "6.12", "uptime_seconds": 1, "nic": null,
            "interfaces": [{ "name": "eth0", "mac": "52:54:00:00:00:02", "received": counters, "sent": counters, "mtu": mtu }],
            "conntrack": { "count": count, "most": 1000 },
        }))
        .unwrap();
        of_vm(|vm| vm.guest = Some(guest.clone()), |_| {})
    };
    finds(&says(950, 1500), Level::Warning, "tracks 950 of at most 1000");
    finds(&says(1, 9000), Level::Warning, "ip link set eth0 mtu 1500 in the guest");
    assert!(says(1, 1500).iter().all(|finding| finding.level == Level::Ok));
    assert!(says(u64::MAX, u32::MAX).len() == 2, "any number may be anything");
}
