//! Does what the guest's agent says arrive, beside what the host counts, and for whoever it is by its NIC and for nobody else?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_tests::*;

/// How long after the first failure an agent may take to come back: its pauses grow to at most fifteen seconds.
const RETURN: Duration = seconds(40);

/// A guest with the agent in its /tmp; under QEMU it connects again when the service was away.
fn guest_with_agent(bed: &Bed, name: &str, number: u8, vmm: Vmm) -> Guest {
    let config = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    start(bed, GuestConfig { reconnect: true, ..config })
}

fn start(bed: &Bed, config: GuestConfig) -> Guest {
    let programs = vec![agent_program().unwrap()];
    let guest = bed.start_configured(&GuestConfig { programs, ..config }).unwrap();
    guest.wait_ready().unwrap();
    guest
}

/// Waits until `vm show` says of the VM's agent what `wanted` accepts.
fn expect(bed: &Bed, name: &str, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, limit, || {
        let vm = bed.vonicd.vm(name)?;
        Ok((!vm["agent"].is_null() && wanted(&vm)).then_some(vm))
    })
    .with_context(|| bed.vonicd.vm(name).map(|vm| vm.to_string()).unwrap_or_default())
    .unwrap()
}

fn is_fresh(vm: &Value) -> bool {
    vm["agent"]["silent"] == false && vm["agent"]["seen_seconds"].as_u64().unwrap() <= 2
}

/// What the host had counted of one direction when the guest's message came, less what the guest had: frames and bytes.
fn difference(vm: &Value, way: &str) -> (i64, i64) {
    let count = |who: &str, what: &str| vm["guest"]["nic"][way][who][what].as_i64().unwrap();
    (count("host", "frames") - count("guest", "frames"), count("host", "bytes") - count("guest", "bytes"))
}

fn counters_arrive_every_second_and_match(vmm: Vmm) {
    const BYTES: u64 = 16 << 20;
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let mut guest = guest_with_agent(&bed, "a", 2, vmm);
    assert_eq!(bed.vonicd.vm("a").unwrap()["agent"], Value::Null);
    let agent = guest.spawn("vonic-agent").unwrap();
    expect(&bed, "a", "the first message", seconds(20), is_fresh);
    let server = bed.server().unwrap();
    guest.must(&format!("vonic-peer both 192.0.2.1:{} {BYTES} 1", server.address().port()), seconds(120)).unwrap();
    // One message is under way when it is counted, and with it its acknowledgements and the answer.
    let settled = |vm: &Value| {
        ["guest_to_host", "host_to_guest"].iter().all(|way| {
            let (frames, bytes) = difference(vm, way);
            let counted = vm["guest"]["nic"][way]["guest"]["bytes"].as_u64().unwrap();
            counted > BYTES && (0..=8).contains(&frames) && (0..=4096).contains(&bytes)
        })
    };
    let vm = expect(&bed, "a", "counters of both sides that match", seconds(10), settled);
    assert_eq!(vm["guest"]["nic"]["interface"], "eth0");
    // Every second: the guest's clock goes on by about one with each message.
    let begin = Instant::now();
    let uptime = |vm: &Value| vm["guest"]["uptime_seconds"].as_u64().unwrap();
    let mut seen = vec![uptime(&vm)];
    while begin.elapsed() < seconds(6) {
        let vm = expect(&bed, "a", "a message of the last seconds", seconds(5), is_fresh);
        if uptime(&vm) != seen[seen.len() - 1] {
            seen.push(uptime(&vm));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(seen.len() >= 5 && seen.windows(2).all(|two| two[0] < two[1]), "{seen:?}");
    // All over one connection, by the leg that copies nothing.
    let vm = bed.vonicd.vm("a").unwrap();
    assert_eq!((&vm["tcp"]["guest_opened"], &vm["tcp"]["reset"]), (&Value::from(2), &Value::from(0)), "{vm}");
    assert!(vm["copied_bytes"].as_object().unwrap().values().all(|bytes| bytes == 0), "{vm}");
    let table = bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap();
    assert!(table.contains("guest agent          0.1.0, seen ") && table.contains("guest to host, bytes"), "{table}");
    let resident = guest.must("awk '/VmRSS/ {print $2}' /proc/$(pidof vonic-agent)/status", seconds(5)).unwrap();
    assert!(resident.trim().parse::<u32>().unwrap() < 4096, "{resident} KiB resident");
    // It ends when it is asked, says so by its status, and has said hardly anything else.
    guest.must("kill $(pidof vonic-agent)", seconds(5)).unwrap();
    let ended = agent.wait(&mut guest, seconds(10)).unwrap();
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "vonic-agent: connected to vonic"));
    let silent = |vm: &Value| vm["agent"]["silent"] == true;
    expect(&bed, "a", "silence, seen as such", seconds(20), silent);
    let list = bed.vonicd.vonic_text(&["vm", "list"]).unwrap();
    assert!(list.contains("silent for 1"), "{list}");
    guest.must("vonic-agent --once", seconds(10)).unwrap();
    expect(&bed, "a", "the agent that is back", seconds(5), is_fresh);
}

#[test]
fn user_mode_linux_counters_arrive_every_second_and_match() {
    counters_arrive_every_second_and_match(Vmm::Uml);
}

#[test]
fn qemu_counters_arrive_every_second_and_match() {
    counters_arrive_every_second_and_match(Vmm::Qemu);
}

/// A message of the service's form that claims to be VM `b` in every way there is.
const FORGED: &str = r#"{"version":1,"agent":"9.9.9","hostname":"b","kernel":"forged","uptime_seconds":1,"vm":"b","name":"b","port":1,"interfaces":[{"name":"eth0","mac":"52:54:00:00:00:03","received":{"packets":1,"bytes":1,"errors":0,"dropped":0},"sent":{"packets":1,"bytes":1,"errors":0,"dropped":0}}]}"#;

#[test]
fn each_vm_has_its_own_agent_whatever_another_claims() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut b = guest_with_agent(&bed, "b", 3, Vmm::Uml);
    let mut a = guest_with_agent(&bed, "a", 2, Vmm::Uml);
    b.must("hostname real-b", seconds(5)).unwrap();
    b.spawn("vonic-agent").unwrap();
    expect(&bed, "b", "b's first message", seconds(20), is_fresh);
    assert_eq!(bed.vonicd.vm("a").unwrap()["agent"], Value::Null);
    let curl = format!(
        "curl -sS -m 5 -o /dev/null -w '%{{http_code}}' -H 'Host: b' -d '{FORGED}' http://169.254.169.254/v1/stats"
    );
    assert_eq!(a.must(&curl, seconds(10)).unwrap(), "204");
    let (vm_a, vm_b) = (bed.vonicd.vm("a").unwrap(), bed.vonicd.vm("b").unwrap());
    assert_eq!((&vm_a["guest"]["kernel"], &vm_a["guest"]["nic"]), (&Value::from("forged"), &Value::Null), "{vm_a}");
    assert_eq!(
        (&vm_b["guest"]["hostname"], &vm_b["agent"]["version"]),
        (&Value::from("real-b"), &Value::from("0.1.0"))
    );
    // By b's address it is dropped before it is read.
    a.must("ip addr add 192.0.2.3/32 dev eth0", seconds(5)).unwrap();
    let spoofed = a.run(&curl.replace("-m 5", "-m 2 --interface 192.0.2.3"), seconds(10)).unwrap();
    assert_ne!(spoofed.status, 0, "{spoofed:?}");
    assert!(bed.vonicd.drops("a", "spoofed_address").unwrap() + bed.vonicd.drops("a", "spoofed_arp").unwrap() > 0);
    assert_eq!(bed.vonicd.vm("b").unwrap()["guest"]["hostname"], "real-b");
}

/// The host has that address too, with a server on it: no guest gets there, and it gets to no guest by it.
#[test]
fn the_service_address_is_vonics_own_and_never_the_hosts() {
    let egress = "[[forward]]\nproto = \"tcp\"\nlisten = \"*:7007\"\nport = 7\n[[egress]]\naction = \"deny\"\nto = \"0.0.0.0/0\"";
    let network = "subnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\nuplink = \"sockets\"\nreach_host = true\n";
    let config = TestConfig { network: network.into(), ..TestConfig::default() }.vm("a", 2, egress).vm("b", 3, "");
    let bed = Bed::start(&config).unwrap();
    ip("addr add 169.254.169.254/32 dev lo").unwrap();
    let mut server = PeerServer::start("host", bed.directory.path(), "169.254.169.254:80", None).unwrap();
    let _other = PeerServer::start("host", bed.directory.path(), "169.254.169.254:81", None).unwrap();
    let mut a = guest_with_agent(&bed, "a", 2, Vmm::Uml);
    let mut b = guest_with_agent(&bed, "b", 3, Vmm::Uml);
    for guest in [&mut a, &mut b] {
        let answer = guest.must("curl -sS -m 5 http://169.254.169.254/", seconds(10)).unwrap();
        assert!(answer.starts_with("This is vonic"), "{answer}");
        guest.must("vonic-agent --once", seconds(10)).unwrap();
        guest.must("ping -c 1 -W 2 169.254.169.254", seconds(5)).unwrap();
        let other = guest.run("vonic-peer send 169.254.169.254:81 1 1", seconds(5)).unwrap();
        assert!(other.status == 1 && other.stdout.contains("refused"), "{other:?}");
    }
    let message = server.report(Duration::from_millis(500)).unwrap_err().to_string();
    assert!(message.contains("not within"), "the host's own server heard of it: {message}");
    // b may reach the host otherwise, a nothing else.
    assert_eq!(a.run("VONIC_PEER_TIMEOUT=2 vonic-peer send 198.51.100.9:9 1 1", seconds(10)).unwrap().status, 1);
    assert!(bed.vonicd.drops("a", "denied").unwrap() > 0);
    // From the host's network nobody reaches the service, and nobody speaks to a guest from its address.
    let listening = a.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    listening.wait_output(&mut a, "listening", seconds(10)).unwrap();
    let (forged, honest) = ("169.254.169.254:7007", "127.0.0.1:7007");
    let ends_at_once = |address: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(seconds(2))).unwrap();
        std::io::Read::read(&mut stream, &mut [0; 1]).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
    };
    assert!(ends_at_once(forged), "a guest was reached from the service address");
    assert!(!ends_at_once(honest));
}

/// No uplink and no gateway: the address is on the link, and the agent gets there by a route of its own.
#[test]
fn a_network_without_uplink_and_addresses_has_the_service_too() {
    let config = TestConfig { network: "uplink = \"none\"\n".into(), ..TestConfig::default() };
    let config = TestConfig { vms: [("a".to_string(), "mac = \"52:54:00:00:00:02\"\n".to_string())].into(), ..config };
    let bed = Bed::start(&config).unwrap();
    let ip4 = Ip4::Static("192.0.2.2/24".into(), String::new());
    let mut guest = start(&bed, GuestConfig { ip4, ..GuestConfig::new("a", 2, &bed.socket("a")) });
    let unreachable = guest.run("vonic-agent --once", seconds(15)).unwrap();
    assert!(unreachable.status == 1 && unreachable.stdout.contains("nreachable"), "{unreachable:?}");
    guest.must("ip route add 169.254.169.254 dev eth0", seconds(5)).unwrap();
    guest.must("vonic-agent --once", seconds(10)).unwrap();
    let vm = expect(&bed, "a", "the message", seconds(5), is_fresh);
    assert_eq!(vm["guest"]["nic"]["interface"], "eth0");
    assert_eq!(vm["drops"], 0, "{vm}");
}

#[test]
fn the_agent_comes_back_when_vonic_does() {
    let config = TestConfig::default().vm("a", 2, "");
    let mut bed = Bed::start(&config).unwrap();
    let mut guest = guest_with_agent(&bed, "a", 2, Vmm::Qemu);
    let agent = guest.spawn("vonic-agent").unwrap();
    expect(&bed, "a", "the first message", seconds(20), is_fresh);
    for round in 0..2 {
        if round == 0 {
            bed.vonicd.kill()
        } else {
            bed.vonicd.process().signal(15).unwrap()
        }
        if round == 1 {
            bed.vonicd.process().wait(seconds(10)).unwrap();
        }
        std::thread::sleep(seconds(2));
        bed.vonicd = Vonicd::start(&bed.directory, &config).unwrap();
        expect(&bed, "a", "a message to the new vonic", RETURN, is_fresh);
        std::thread::sleep(seconds(2));
        expect(&bed, "a", "and another one", seconds(3), is_fresh);
    }
    let said = agent.output(&mut guest).unwrap();
    assert!(said.lines().count() <= 5, "a line for each change, not for each try:\n{said}");
    guest.must("pidof vonic-agent", seconds(5)).unwrap();
}

/// The way of kernels without SO_PEEK_OFF on TCP, which the service's connections take too.
#[test]
fn messages_arrive_when_vonic_peeks_over_scratch_memory() {
    let arguments = ["--peek", "scratch"].map(String::from).to_vec();
    let bed = Bed::start(&TestConfig { arguments, ..TestConfig::default() }.vm("a", 2, "")).unwrap();
    let mut guest = guest_with_agent(&bed, "a", 2, Vmm::Uml);
    guest.spawn("vonic-agent").unwrap();
    let first = expect(&bed, "a", "the first message", seconds(20), is_fresh);
    let uptime = |vm: &Value| vm["guest"]["uptime_seconds"].as_u64().unwrap();
    expect(&bed, "a", "more of them", seconds(10), |vm| uptime(vm) >= uptime(&first) + 3);
    let answer = guest.must("curl -sS -m 5 http://169.254.169.254/ http://169.254.169.254/", seconds(10)).unwrap();
    assert_eq!(answer.matches("This is vonic").count(), 2, "{answer}");
    assert_eq!(bed.vonicd.vm("a").unwrap()["tcp"]["reset"], 0);
}
