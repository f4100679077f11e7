//! Does what the guest's agent says arrive, beside what the host counts, and for whoever it is by its NIC and for nobody else?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_tests::*;

/// How long after the first failure an agent may take to come back: its pauses grow to at most fifteen seconds, a try may take three for
/// each of its addresses, and a slow machine may stand still in between.
const RETURN: Duration = seconds(90);

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

/// The guest's clock at its last message.
fn uptime(vm: &Value) -> u64 {
    vm["guest"]["uptime_seconds"].as_u64().unwrap()
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
    let settled = |vm: &Value| {
        ["guest_to_host", "host_to_guest"].iter().all(|way| {
            let counted = vm["guest"]["nic"][way]["guest"]["bytes"].as_u64().unwrap();
            counted > BYTES && difference(vm, way) == (0, 0)
        })
    };
    let vm = expect(&bed, "a", "counters of both sides that match", seconds(10), settled);
    assert_eq!(vm["guest"]["nic"]["interface"], "eth0");
    // Every second: the guest's clock goes on by about one with each message.
    let begin = Instant::now();
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

/// Posts a message of the service's form that claims to be VM `name` in every way there is; curl's options come before. Both families.
fn forge(name: &str, number: u8, options: &str) -> [String; 2] {
    let counters = r#"{"packets":1,"bytes":1,"errors":0,"dropped":0}"#;
    let forged = format!(
        r#"{{"version":2,"agent":"9.9.9","hostname":"{name}","kernel":"forged","uptime_seconds":1,"vm":"{name}","name":"{name}","port":1,"source":"host","interfaces":[{{"name":"eth0","mac":"52:54:00:00:00:{number:02x}","received":{counters},"sent":{counters}}}]}}"#
    );
    ["169.254.169.254", "[fe80::a9fe:a9fe%eth0]"].map(|address| {
        format!(
            "curl -sS -g -m 3 {options} -o /dev/null -w '%{{http_code}}' -H 'Host: {name}' -d '{forged}' 'http://{address}/v1/stats'"
        )
    })
}

#[test]
fn each_vm_has_its_own_agent_whatever_another_claims() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let boot = |name: &str, number| {
        let config = GuestConfig::new(name, number, &bed.socket(name));
        let programs = vec![agent_program().unwrap()];
        bed.start_configured(&GuestConfig { programs, ip6: true, ..config }).unwrap()
    };
    let (mut a, mut b) = (boot("a", 2), boot("b", 3));
    for guest in [&mut a, &mut b] {
        guest.wait_ready().unwrap();
        let settled = "until ip -6 addr show dev eth0 scope link -tentative | grep -q fe80; do sleep 0.1; done";
        guest.must(settled, seconds(30)).unwrap();
    }
    b.must("hostname real-b", seconds(5)).unwrap();
    b.spawn("vonic-agent").unwrap();
    expect(&bed, "b", "b's first message", seconds(20), is_fresh);
    assert_eq!(bed.vonicd.vm("a").unwrap()["agent"], Value::Null);
    for curl in forge("b", 3, "") {
        assert_eq!(a.must(&curl, seconds(10)).unwrap(), "204");
        let (vm_a, vm_b) = (bed.vonicd.vm("a").unwrap(), bed.vonicd.vm("b").unwrap());
        let own = (&vm_a["guest"]["kernel"], &vm_a["guest"]["source"], &vm_a["guest"]["nic"]);
        assert_eq!(own, (&Value::from("forged"), &Value::from("guest"), &Value::Null), "{vm_a}");
        let real = (&vm_b["guest"]["hostname"], &vm_b["agent"]["version"]);
        assert_eq!(real, (&Value::from("real-b"), &Value::from("0.1.0")), "{vm_b}");
    }
    // The other way round: b is heard as b alone, and goes on to be.
    for curl in forge("a", 2, "") {
        assert_eq!(b.must(&curl, seconds(10)).unwrap(), "204");
        assert_eq!(bed.vonicd.vm("a").unwrap()["guest"]["hostname"], "b", "what a said of itself");
        expect(&bed, "b", "b's own agent", seconds(20), |vm| vm["guest"]["hostname"] == "real-b");
    }
    // By the other's address it is dropped before it is read.
    for (guest, name, other, number) in [(&mut a, "a", "b", 3), (&mut b, "b", "a", 2)] {
        let [v4, v6] = [format!("192.0.2.{number}"), format!("fe80::5054:ff:fe00:{number}")];
        guest.must(&format!("ip addr add {v4}/32 dev eth0; ip addr add {v6}/64 dev eth0 nodad"), seconds(5)).unwrap();
        let [by4, _] = forge(other, number, &format!("--interface {v4}"));
        let [_, by6] = forge(other, number, &format!("--interface {v6}"));
        for curl in [by4, by6] {
            let spoofed = guest.run(&curl, seconds(10)).unwrap();
            assert!(spoofed.status != 0 && !spoofed.stdout.contains("204"), "{spoofed:?}");
        }
        let spoofed =
            ["spoofed_address", "spoofed_arp", "spoofed_ndp"].map(|reason| bed.vonicd.drops(name, reason).unwrap());
        assert!(spoofed.iter().sum::<u64>() > 1, "{spoofed:?}");
    }
    assert_eq!(bed.vonicd.vm("a").unwrap()["guest"]["hostname"], "b");
    expect(&bed, "b", "b's own agent", seconds(20), |vm| is_fresh(vm) && vm["guest"]["hostname"] == "real-b");
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
        // The new vonic knows nothing of what the guest told the old one: what it has came anew.
        let first = expect(&bed, "a", "a message to the new vonic", RETURN, |_| true);
        expect(&bed, "a", "and others after it", RETURN, |vm| uptime(vm) >= uptime(&first) + 3);
    }
    // A line for each change, not for each try: on a machine that stands still there may be more changes, but no two of a kind in a row.
    let said = agent.output(&mut guest).unwrap();
    let works: Vec<bool> = said.lines().map(|line| line == "vonic-agent: connected to vonic").collect();
    assert!(
        said.lines().all(|line| line.ends_with("connected to vonic") || line.ends_with("; trying again")),
        "{said}"
    );
    assert!(works.last() == Some(&true) && works.windows(2).all(|two| two[0] != two[1]), "{said}");
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
    expect(&bed, "a", "more of them", seconds(10), |vm| uptime(vm) >= uptime(&first) + 3);
    let answer = guest.must("curl -sS -m 5 http://169.254.169.254/ http://169.254.169.254/", seconds(10)).unwrap();
    assert_eq!(answer.matches("This is vonic").count(), 2, "{answer}");
    assert_eq!(bed.vonicd.vm("a").unwrap()["tcp"]["reset"], 0);
}
