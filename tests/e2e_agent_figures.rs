//! Are the agent's figures the guest's, and do they agree with the host's to the byte when no traffic is under way?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::os::unix::net::UnixStream;

use serde_json::Value;
use vonic_tests::wire::{ask, metric};
use vonic_tests::*;

const BYTES: u64 = 16 << 20;

/// How the guest got its addresses, and by which way its agent reaches vonic.
struct Case {
    name: &'static str,
    number: u8,
    vmm: Vmm,
    ip4: Ip4,
    /// The agent's arguments.
    agent: &'static str,
}

fn cases() -> [Case; 3] {
    let none = Ip4::None;
    let fixed = GuestConfig::new("b", 3, std::path::Path::new("")).ip4;
    [
        Case { name: "a", number: 2, vmm: Vmm::Uml, ip4: Ip4::Dhcp, agent: "" },
        Case { name: "b", number: 3, vmm: Vmm::Qemu, ip4: fixed, agent: "--address [fe80::a9fe:a9fe%eth0]:80" },
        Case { name: "c", number: 4, vmm: Vmm::Uml, ip4: none, agent: "" },
    ]
}

fn bed() -> Bed {
    let mut config = TestConfig::both_families().vm("a", 2, "").vm("b", 3, "");
    config.vms.insert("c".into(), "mac = \"52:54:00:00:00:04\"\n".into());
    Bed::start(&config).unwrap()
}

/// The last message's place in time, by the guest's clock.
fn uptime(vm: &Value) -> u64 {
    vm["guest"]["uptime_seconds"].as_u64().unwrap_or(0)
}

/// Frames and bytes of both ways: by the host, and by the guest.
fn counts(vm: &Value) -> [[u64; 4]; 2] {
    let count = |who: &str, way: &str, what: &str| vm["guest"]["nic"][way][who][what].as_u64().unwrap();
    ["host", "guest"].map(|who| {
        let [sent, received] =
            ["guest_to_host", "host_to_guest"].map(|way| [count(who, way, "frames"), count(who, way, "bytes")]);
        [sent[0], sent[1], received[0], received[1]]
    })
}

/// Waits for a message after the one of `after`.
fn next(bed: &Bed, name: &str, after: u64) -> Value {
    wait_for("another message", seconds(20), || {
        let vm = bed.vonicd.vm(name)?;
        Ok((!vm["guest"]["nic"].is_null() && uptime(&vm) > after).then_some(vm))
    })
    .unwrap()
}

/// Both sides agree within a second of the traffic's end, and go on to.
fn agree(bed: &Bed, name: &str) -> Value {
    // The message under way, and the one a second later.
    let mut vm = next(bed, name, uptime(&bed.vonicd.vm(name).unwrap()));
    for _ in 0..3 {
        vm = next(bed, name, uptime(&vm));
        let [host, guest] = counts(&vm);
        assert_eq!(host, guest, "{name}, by the host and by the guest: {}", vm["guest"]["nic"]);
    }
    vm
}

/// Traffic of every form that the guest has addresses for.
fn load(guest: &mut Guest, case: &Case, server: &PeerServer) {
    if case.ip4 == Ip4::None {
        let curl = "curl -sS -g -m 5 -o /dev/null 'http://[fe80::a9fe:a9fe%eth0]/'";
        guest.must(&format!("for n in 1 2 3 4 5 6 7 8 9; do {curl} || exit 1; done"), seconds(60)).unwrap();
        return;
    }
    let port = server.address().port();
    for address in ["192.0.2.1", "[2001:db8::1]"] {
        guest.must(&format!("vonic-peer both {address}:{port} {BYTES} 1"), seconds(120)).unwrap();
    }
}

/// Gives a started guest its addresses, and starts a listener and the agent.
fn settle(guest: &mut Guest, case: &Case) {
    guest.wait_ready().unwrap();
    let addresses = match case.ip4 {
        Ip4::None => "ip link set eth0 up".to_string(),
        // No time is spent on duplicate address detection; busybox's ip has no word for it.
        _ => format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{}/64 dev eth0 && \
             ip -6 route add default via 2001:db8::1 dev eth0 metric 100",
            case.number
        ),
    };
    guest.must(&addresses, seconds(10)).unwrap();
    let listening = guest.spawn("vonic-peer serve [::]:7").unwrap();
    listening.wait_output(guest, "listening", seconds(10)).unwrap();
    guest.spawn(&format!("vonic-agent {}", case.agent)).unwrap();
}

/// What every guest's kernel here tells, and what only some do.
fn is_complete(vm: &Value, vmm: Vmm) {
    let guest = &vm["guest"];
    assert_eq!((&guest["source"], &guest["message_version"]), (&Value::from("guest"), &Value::from(2)));
    let eth0 = guest["interfaces"].as_array().unwrap().iter().find(|interface| interface["name"] == "eth0").unwrap();
    let device = &eth0["device"];
    assert_eq!((&device["driver"], &eth0["mtu"]), (&Value::from("virtio_net"), &Value::from(1500)), "{eth0}");
    assert_eq!(device["offloads"]["tx-tcp-segmentation"], true, "{device}");
    assert!(device["statistics"]["tx_kicks"].is_u64(), "{device}");
    for (group, counter) in [("tcp", "segments_sent"), ("cpu", "net_rx"), ("cpu", "busy_ms"), ("memory", "available")] {
        assert!(guest[group][counter].as_u64().is_some_and(|n| n > 0), "{group}.{counter}: {guest}");
    }
    assert_eq!(guest["listening"]["tcp"], serde_json::json!(["[::]:7"]), "{guest}");
    // No module for it, and no pressure stall information in user-mode Linux: absent.
    assert!(guest["conntrack"].is_null(), "{guest}");
    assert!(guest["memory"]["pressure"].is_null() || vmm != Vmm::Uml, "{guest}");
}

/// Prometheus sees what `vonic vm show` shows of the guest's word.
fn is_told(bed: &Bed, name: &str, vm: &Value) {
    let text = ask(UnixStream::connect(bed.socket("api")).unwrap(), "GET", "/v1/metrics").unwrap();
    let told =
        |of: &str, more: &str| metric(&text, &format!("vonic_guest_{of}{{vm=\"{name}\"{more},source=\"guest\"}}"));
    assert_eq!(told("memory_bytes", ""), vm["guest"]["memory"]["total"].as_u64(), "{text}");
    // It may have spoken again since, and by that sent more.
    let sent = vm["guest"]["nic"]["guest_to_host"]["guest"]["frames"].as_u64();
    assert!(sent > Some(0) && told("frames_total", ",direction=\"guest_to_host\"") >= sent, "{sent:?}: {text}");
}

#[test]
fn figures_of_both_sides_agree_to_the_byte() {
    let bed = bed();
    let started = cases().map(|case| {
        let config = GuestConfig::new(case.name, case.number, &bed.socket(case.name)).on(case.vmm);
        let programs = vec![agent_program().unwrap()];
        let config = GuestConfig { programs, ip4: case.ip4.clone(), ip6: true, ..config };
        (bed.start_configured(&config).unwrap(), case)
    });
    let server = PeerServer::start("server", bed.directory.path(), "[::]:0", None).unwrap();
    for (mut guest, case) in started {
        settle(&mut guest, &case);
        next(&bed, case.name, 0);
        load(&mut guest, &case, &server);
        let vm = agree(&bed, case.name);
        is_complete(&vm, case.vmm);
        is_told(&bed, case.name, &vm);
        if case.ip4 != Ip4::None {
            assert!(counts(&vm)[1].iter().skip(1).step_by(2).all(|bytes| *bytes > 2 * BYTES), "{vm}");
        }
        let table = bed.vonicd.vonic_text(&["vm", "show", case.name]).unwrap();
        for line in
            ["guest driver         eth0: virtio_net", "guest offloads on    eth0: ", "guest listens        tcp [::]:7"]
        {
            assert!(table.contains(line), "{line} is not in\n{table}");
        }
    }
}

#[test]
fn the_package_has_the_agent_and_its_unit() {
    let directory = TempDir::new().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/package.sh");
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let package =
        run("sh", &[script.as_ref(), "agent".as_ref(), agent_program().unwrap().as_ref(), directory.path().as_ref()]);
    let field = |name: &str| run("dpkg-deb", &["-f".as_ref(), package.as_ref(), name.as_ref()]);
    assert_eq!((field("Package"), field("Depends")), ("vonic-agent".to_string(), String::new()));
    let root = directory.path().join("root");
    run("dpkg-deb", &["-x".as_ref(), package.as_ref(), root.as_ref()]);
    let program = root.join("usr/bin/vonic-agent");
    assert_eq!(run(program.to_str().unwrap(), &["--version".as_ref()]), format!("vonic-agent {}", field("Version")));
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/vonic-agent.service")).unwrap();
    assert!(unit.contains("\nExecStart=vonic-agent\n") && unit.contains("\nDynamicUser=yes\n"), "{unit}");
    for document in ["agent.md", "copyright"] {
        assert!(root.join("usr/share/doc/vonic-agent").join(document).exists(), "{document}");
    }
}
