//! The engine is killed: do flows of datagrams, listening sockets, taps, claimed addresses and counters go on with the next one?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use vonic_tests::datagram::{Datagram, UdpGuest};
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::lan::{self, BRIDGE};
use vonic_tests::lies::{self, ip6};
use vonic_tests::mock::{MockConfig, VnetHeader};
use vonic_tests::*;

/// Each round kills once; of engines that die so soon one after another the fourth would be waited for.
const ROUNDS: u8 = 3;

/// Ends the engine as a crash does; the next one is not there yet.
fn kill_engine(bed: &Bed) -> u32 {
    let old = bed.vonicd.engine().unwrap();
    let status = std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap();
    assert!(status.success());
    old
}

/// Ends the engine as a crash does, and after the first round the next one too, while it takes over; another one is to come.
fn kill_engines(bed: &Bed, round: u8) -> u32 {
    let old = kill_engine(bed);
    if round == 0 {
        return old;
    }
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
    // Somewhere among its first steps.
    std::thread::sleep(std::time::Duration::from_millis(2 * u64::from(round) - 2));
    kill_engine(bed)
}

/// Has another engine take its place in order.
fn replace_engine(bed: &Bed) -> u32 {
    let old = bed.vonicd.engine().unwrap();
    bed.vonicd.vonic_text(&["engine", "restart"]).unwrap();
    old
}

/// Waits for the engine that follows `old`.
fn wait_engine(bed: &Bed, old: u32) {
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
    wait_until("the API", seconds(10), || bed.vonicd.stats().is_ok()).unwrap();
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(seconds(5))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut data = [0; 100];
    let (length, from) = socket.recv_from(&mut data).unwrap();
    (String::from_utf8_lossy(&data[..length]).into_owned(), from)
}

fn open(bed: &Bed, vm: &str) -> u64 {
    bed.vonicd.vm(vm).unwrap()["udp"]["open"].as_u64().unwrap()
}

/// What comes while there is no engine waits in the sockets, and the world sees each flow by the same port.
#[test]
fn flows_keep_their_ports_and_what_waits_in_them() {
    isolate().unwrap();
    let config =
        TestConfig::both_families().vm("a", 2, "[[forward]]\nproto = \"udp\"\nlisten = \"*:7000\"\nport = 53\n");
    let mut bed = Bed::start_here(&config).unwrap();
    let mut guest = UdpGuest::start(&bed, "a", 2, MockConfig { posted: 200, ..MockConfig::default() }).unwrap();
    let families = [("127.0.0.1", IpAddr::V4(ip4(1))), ("[::1]", ip6(1).into())];
    let own = families.map(|(host, seen)| {
        let server = socket(&format!("{host}:0"));
        let seen = SocketAddr::new(seen, server.local_addr().unwrap().port());
        guest.send(4000, seen, b"hello").unwrap();
        let from = receive(&server).1;
        (server, seen, from)
    });
    let peers = families.map(|(host, seen)| {
        let peer = socket(&format!("{host}:0"));
        peer.connect(format!("{host}:7000")).unwrap();
        peer.send(b"from the world").unwrap();
        let seen = SocketAddr::new(seen, peer.local_addr().unwrap().port());
        assert_eq!(guest.expect().unwrap().from, seen);
        (peer, seen)
    });
    let (master, mut descriptors) = (bed.vonicd.process().pid(), None);
    for round in 0..ROUNDS {
        let old = kill_engines(&bed, round);
        for n in 0..20u8 {
            own.iter().for_each(|(server, _, from)| assert_eq!(server.send_to(&[n], from).unwrap(), 1));
            peers.iter().for_each(|(peer, _)| assert_eq!(peer.send(&[n]).unwrap(), 1));
        }
        wait_engine(&bed, old);
        let mut heard: Vec<Datagram> = (0..80).map(|_| guest.expect().unwrap()).collect();
        heard.sort_by_key(|datagram| (datagram.from.port(), datagram.from.ip(), datagram.data[0]));
        let from = |seen: &SocketAddr| heard.iter().filter(|d| d.from == *seen).map(|d| d.data[0]).collect::<Vec<_>>();
        let all: Vec<u8> = (0..20).collect();
        own.iter().for_each(|(_, seen, _)| assert_eq!(from(seen), all, "{seen} in round {round}"));
        peers.iter().for_each(|(_, seen)| assert_eq!(from(seen), all, "{seen} in round {round}"));
        for (server, seen, from) in &own {
            guest.send(4000, *seen, b"again").unwrap();
            assert_eq!(receive(server), ("again".into(), *from));
        }
        // The guest's word goes out by the forward: the peer hears nobody else.
        for (peer, seen) in &peers {
            guest.send(53, *seen, b"answer").unwrap();
            assert_eq!(receive(peer).0, "answer");
        }
        assert_eq!(open(&bed, "a"), 4);
        // What one engine leaves, the next one has once.
        let now = || usage::descriptors(master).unwrap();
        // What nobody waits for is closed a tenth of a second later.
        let settled = || {
            let mut last = 0;
            wait_until("no news of descriptors", seconds(10), || {
                std::thread::sleep(Duration::from_millis(300));
                now() == std::mem::replace(&mut last, now())
            })
            .unwrap();
            last
        };
        let before = *descriptors.get_or_insert_with(settled);
        wait_until("as many descriptors as before", seconds(5), || now() == before).unwrap();
    }
    // What ends is forgotten: no record keeps its socket open.
    bed.directory.write("etc/vms.d/a.toml", "mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\n").unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    let old = kill_engine(&bed);
    wait_engine(&bed, old);
    let (peer, _) = &peers[0];
    peer.send(b"nobody").unwrap();
    assert!(peer.recv(&mut [0; 9]).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused));
    bed.vonicd.stop().unwrap();
}

/// Listening never ends: who connects while there is no engine is served by the next one.
#[test]
fn a_guest_is_reached_and_reaches_out_while_engines_die() {
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7001\"\nport = 7\n";
    isolate().unwrap();
    let world = Netns::new().unwrap();
    world.cable("world", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let bed = Bed::start_here(&TestConfig::default().vm("a", 2, forward)).unwrap();
    let programs = vec![agent_program().unwrap()];
    let config = GuestConfig { programs, ..GuestConfig::new("a", 2, &bed.socket("a")) };
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    // Its connection leads into the engine, and ends with it.
    let agent = guest.spawn("vonic-agent").unwrap();
    let served = guest.spawn("vonic-peer echo 0.0.0.0:7").unwrap();
    served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    // It waits for as long as the guest takes.
    let reflector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = reflector.local_addr().unwrap().port();
    std::thread::spawn(move || vonic_peer::datagrams::reflect(&reflector));
    let pings = guest.spawn("ping -i 0.1 -c 60 -W 2 198.51.100.2").unwrap();
    let datagrams = guest.spawn(&format!("vonic-peer datagrams 192.0.2.1:{port} 1400 500 twice")).unwrap();
    for _ in 0..ROUNDS {
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let old = kill_engine(&bed);
        let mut streams: Vec<TcpStream> =
            (0..10).map(|_| TcpStream::connect("127.0.0.1:7001").expect("the port listens")).collect();
        wait_engine(&bed, old);
        for stream in &mut streams {
            stream.set_read_timeout(Some(seconds(10))).unwrap();
            stream.write_all(b"who comes while nobody is there").unwrap();
            stream.read_exact(&mut [0; 31]).unwrap();
        }
    }
    let pings = pings.wait(&mut guest, seconds(30)).unwrap();
    let lost = 60 - pings.stdout.matches("bytes from").count();
    assert!(lost <= usize::from(ROUNDS), "{lost} of 60 pings were lost: {}", pings.stdout);
    let datagrams = datagrams.wait(&mut guest, seconds(60)).unwrap();
    assert_eq!(datagrams.status, 0, "{}", datagrams.stdout);
    // What an engine had sent, and died before it could say so, the next one sends once more: one datagram for each at most.
    let done: serde_json::Value = serde_json::from_str(&datagrams.stdout).unwrap();
    assert!(done["again"] == 0 && done["doubled"].as_u64().unwrap() <= u64::from(ROUNDS), "{done}");
    let shown = bed.vonicd.vm("a").unwrap();
    assert_eq!((&shown["icmp"]["opened"], &shown["udp"]["guest_opened"]), (&1.into(), &1.into()), "{shown}");
    wait_until("the agent's word", seconds(5), || {
        bed.vonicd.vm("a").unwrap()["agent"]["seen_seconds"].as_u64() < Some(2)
    })
    .unwrap();
    let told = agent.output(&mut guest).unwrap();
    assert_eq!(told, "vonic-agent: connected to vonic", "each time the next engine was there at once");
    bed.vonicd.stop().unwrap();
}

/// A guest asks once whether an address is free, and never again: whoever has asked may use it, and nobody else may.
#[test]
fn claimed_addresses_stay_their_guests() {
    isolate().unwrap();
    let bed = Bed::start_here(&TestConfig::both_families().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut guests = [("a", 2), ("b", 3)].map(|(name, _)| bed.mock(name, MockConfig::default()).unwrap());
    let claimed: Ipv6Addr = "fe80::1234".parse().unwrap();
    let group: Ipv6Addr = "ff02::1:ff00:1234".parse().unwrap();
    let nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let all = ([0x33, 0x33, 0, 0, 0, 1], [0x33, 0x33, 0xff, 0, 0x12, 0x34]);
    let dad = |number: u8| {
        lies::icmp6(
            (mac(number), all.1),
            (Ipv6Addr::UNSPECIFIED, group),
            135,
            &[&[0; 4][..], &claimed.octets()].concat(),
        )
    };
    let word = |number: u8| lies::udp6((mac(number), all.0), claimed, nodes, (9, 9), b"word");
    let spoofed = |vm: &str| bed.vonicd.drops(vm, "spoofed_address").unwrap();
    let mut say = |number: u8, frame: Vec<u8>| {
        guests[usize::from(number - 2)].send_frame(&VnetHeader::default(), &frame).unwrap();
    };
    say(2, word(2));
    assert_eq!(spoofed("a"), 1, "not claimed yet");
    say(2, dad(2));
    for round in 0..ROUNDS {
        let old = kill_engines(&bed, round);
        wait_engine(&bed, old);
        let before = [spoofed("a"), spoofed("b")];
        say(2, word(2));
        say(3, dad(3));
        say(3, word(3));
        assert_eq!([spoofed("a"), spoofed("b")], [before[0], before[1] + 1], "round {round}");
    }
    bed.vonicd.stop().unwrap();
}

/// What has been counted of VM `a`, as names and numbers, without what tells the present.
fn counted(bed: &Bed) -> Vec<(String, u64)> {
    fn numbers(path: &str, value: &serde_json::Value, all: &mut Vec<(String, u64)>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| numbers(&format!("{path}/{k}"), v, all)),
            serde_json::Value::Array(list) => {
                list.iter().enumerate().for_each(|(i, v)| numbers(&format!("{path}/{i}"), v, all))
            }
            _ => all.extend(value.as_u64().map(|n| (path.to_string(), n))),
        }
    }
    let (mut all, shown) = (Vec::new(), bed.vonicd.vm("a").unwrap());
    for part in [
        "guest_to_host",
        "host_to_guest",
        "drops_by_reason",
        "copied_bytes",
        "udp",
        "egress",
        "denied_otherwise",
        "limits",
    ] {
        numbers(part, &shown[part], &mut all);
    }
    numbers("copied", &bed.vonicd.stats().unwrap()["copied_bytes"], &mut all);
    all
}

/// An operator's graph of a VM shows no engine's end: nothing falls back, and what is there now is told as it is.
#[test]
fn counters_go_on() {
    isolate().unwrap();
    let rules = "[[egress]]\naction = \"deny\"\nto = \"198.51.100.0/24\"\n[[egress]]\naction = \"allow\"\nto = \"192.0.2.0/24\"\n";
    let config = TestConfig::default().vm("a", 2, &format!("limits = {{ udp_flows = 2 }}\n{rules}")).vm("b", 3, "");
    let bed = Bed::start_here(&config).unwrap();
    let mut guest = UdpGuest::start(&bed, "a", 2, MockConfig::default()).unwrap();
    // Another VM's counters stay when it goes.
    let mut other = bed.mock("b", MockConfig::default()).unwrap();
    other.gateway_answers(3).unwrap();
    let server = socket("127.0.0.1:0");
    let there = SocketAddr::new(ip4(1).into(), server.local_addr().unwrap().port());
    let denied = "198.51.100.7:9".parse().unwrap();
    for port in 4000..4004 {
        guest.send(port, there, b"counted").unwrap();
        receive(&server);
        guest.send(port, denied, b"denied").unwrap();
    }
    guest.send(1, "203.0.113.1:1".parse().unwrap(), b"no rule").unwrap();
    wait_until("the drops", seconds(5), || bed.vonicd.drops("a", "denied").unwrap() == 5).unwrap();
    let mut before = counted(&bed);
    let value = |all: &[(String, u64)], name: &str| {
        all.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} in {all:?}")).1
    };
    for (name, count) in [
        ("udp/guest_opened", 4),
        ("udp/evicted", 2),
        ("udp/open", 2),
        ("egress/0/decided", 4),
        ("egress/1/decided", 4),
        ("denied_otherwise/no_rule", 1),
    ] {
        assert_eq!(value(&before, name), count, "{name}");
    }
    for round in 0..ROUNDS {
        let old = if round == 0 { replace_engine(&bed) } else { kill_engine(&bed) };
        wait_engine(&bed, old);
        assert_eq!(counted(&bed), before, "round {round}");
        guest.send(4003, there, b"one more").unwrap();
        receive(&server);
        guest.send(4003, denied, b"denied").unwrap();
        wait_until("one more", seconds(5), || {
            value(&counted(&bed), "egress/0/decided") == value(&before, "egress/0/decided") + 1
        })
        .unwrap();
        let now = counted(&bed);
        assert!(before.iter().zip(&now).all(|(old, new)| old.0 == new.0 && old.1 <= new.1), "{before:?} {now:?}");
        assert_eq!(value(&now, "guest_to_host/frames"), value(&before, "guest_to_host/frames") + 2);
        before = now;
    }
    // What a VM that is gone has copied is not forgotten; a VM of its name begins anew.
    let copied = bed.vonicd.stats().unwrap()["copied_bytes"].clone();
    std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/a.toml")).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    let old = kill_engine(&bed);
    wait_engine(&bed, old);
    assert_eq!(bed.vonicd.stats().unwrap()["copied_bytes"], copied);
    bed.directory.write("etc/vms.d/a.toml", "mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\n").unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!(value(&counted(&bed), "guest_to_host/frames"), 0);
    bed.vonicd.stop().unwrap();
}

/// What the kernel says of an interface, its number, its bridge and its port's state there among it, and last how often its carrier has
/// changed; empty if there is none.
fn device(name: &str) -> String {
    let show = |words: &[&str]| {
        let output = std::process::Command::new("ip").args(words).args(["link", "show", "dev", name]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (details, statistics) = (show(&["-d", "-o"]), show(&["-s", "-s", "-o"]));
    // Behind these words there are timers.
    let details = ["designated_port", "hello_timer"]
        .iter()
        .fold(&details[..], |text, word| text.split(word).next().unwrap_or_default());
    format!("{details}{}", statistics.split_whitespace().last().unwrap_or_default())
}

#[test]
fn a_tap_stays_with_its_frames_and_its_place_at_the_bridge() {
    let (bed, hosts) = lan::start(1500, "", "").unwrap();
    let mut a = bed.mock("a", MockConfig { posted: 200, ..MockConfig::default() }).unwrap();
    let address = ip4(hosts[0].number);
    let is_answer = |frame: &[u8]| frames::arp_answer(frame, address).is_some();
    wait_until("the machine", seconds(10), || {
        a.send_frame(&VnetHeader::default(), &frames::arp_request(2, address)).unwrap();
        a.expect_frame("answer", std::time::Duration::from_millis(500), is_answer).is_ok()
    })
    .unwrap();
    let names = ["vonic-a", "vonic-b", "vonic-c", "p10", BRIDGE];
    let before = names.map(device);
    assert!(before[0].contains("master br0") && before[0].contains("state forwarding"), "{before:?}");
    // The machine knows the guest, and speaks to it.
    hosts[0].netns.ip("neigh replace 192.0.2.2 lladdr 52:54:00:00:00:02 dev eth0").unwrap();
    let machine = hosts[0].netns.run(|| Ok(socket("0.0.0.0:0"))).unwrap();
    for round in 0..ROUNDS {
        let old = kill_engines(&bed, round);
        (0..20u8).for_each(|n| assert_eq!(machine.send_to(&[round, n], "192.0.2.2:9").unwrap(), 2));
        wait_engine(&bed, old);
        for n in 0..20u8 {
            // UDP, whose checksum the machine has left to the guest.
            let mine = |frame: &[u8]| frame.len() == 44 && frame[23] == 17 && frame[42..] == [round, n];
            a.expect_frame("datagram", seconds(5), mine).unwrap();
        }
        a.send_frame(&VnetHeader::default(), &frames::arp_request(2, address)).unwrap();
        a.expect_frame("answer", seconds(5), is_answer).unwrap();
        assert_eq!(names.map(device), before, "round {round}");
    }
    // A VM that goes takes its tap with it, also if its engine was not the one that made it.
    std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/c.toml")).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    wait_until("the tap's end", seconds(5), || device("vonic-c").is_empty()).unwrap();
    bed.vonicd.stop().unwrap();
    assert_eq!(device("vonic-a"), "", "taps go with vonicd");
}
