//! Does the world's UDP reach a guest by its forwards, and do the answers leave from where the peer had sent to? By frames made by hand, in both
//! families.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use vonic_tests::datagram::{Datagram, UdpGuest};
use vonic_tests::frames::ip4;
use vonic_tests::lies::ip6;
use vonic_tests::mock::{MockConfig, VnetHeader};
use vonic_tests::*;

/// As long as nothing is to come, which is waited for in vain.
const SILENCE: Duration = Duration::from_millis(150);

fn forward(listen: &str, port: u16) -> String {
    format!("[[forward]]\nproto = \"udp\"\nlisten = \"{listen}\"\nport = {port}\n")
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(seconds(5))).unwrap();
    socket
}

/// A socket that hears one peer only: an answer from another address is none.
fn connected(from: &str, to: &str) -> UdpSocket {
    let socket = socket(from);
    socket.connect(to).unwrap();
    socket
}

fn silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let silent = socket.recv(&mut [0; 9]).is_err();
    socket.set_read_timeout(Some(seconds(5))).unwrap();
    silent
}

fn start(network: &TestConfig, more: &str) -> (Bed, UdpGuest) {
    let bed = Bed::start_here(&network.clone().vm("a", 2, more)).unwrap();
    let guest = UdpGuest::start(&bed, "a", 2, MockConfig::default()).unwrap();
    (bed, guest)
}

fn count(bed: &Bed, counter: &str) -> u64 {
    bed.vonicd.vm("a").unwrap()["udp"][counter].as_u64().unwrap()
}

/// The peer speaks, the guest hears it at `port` from `seen`, and answers.
fn exchange(guest: &mut UdpGuest, peer: &UdpSocket, seen: SocketAddr, port: u16) {
    let data = format!("to port {port}");
    peer.send(data.as_bytes()).unwrap();
    let heard = guest.expect().unwrap();
    assert_eq!(heard, Datagram::new(seen, guest.end(seen, port), data.as_bytes()));
    let mut got = [0; 100];
    for answer in ["first answer", "", "and another one"] {
        guest.send(port, seen, answer.as_bytes()).unwrap();
        let length = peer.recv(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got[..length]), answer);
    }
}

fn seen(address: impl Into<IpAddr>, peer: &UdpSocket) -> SocketAddr {
    SocketAddr::new(address.into(), peer.local_addr().unwrap().port())
}

#[test]
fn a_wildcard_answers_from_the_address_that_was_spoken_to() {
    isolate().unwrap();
    let world = Netns::new().unwrap();
    world.cable("world", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    for line in ["198.51.100.9/24", "2001:db8:1::1/64 nodad", "2001:db8:1::9/64 nodad"] {
        ip(&format!("addr add {line} dev world")).unwrap();
    }
    world.ip("addr add 2001:db8:1::2/64 dev world nodad").unwrap();
    let wide = [forward("*:7000-7002", 53), forward("*:7100", 80)].concat();
    let (bed, mut guest) = start(&TestConfig::both_families(), &wide);
    // Real peers are seen as they are; each address of the host answers for itself, though the routes prefer the first.
    for (from, to) in [
        ("198.51.100.2:0", "198.51.100.9:7000"),
        ("198.51.100.2:0", "198.51.100.1:7002"),
        ("[2001:db8:1::2]:0", "[2001:db8:1::9]:7001"),
        ("[2001:db8:1::2]:0", "[2001:db8:1::1]:7100"),
    ] {
        let peer = world.run(|| Ok(connected(from, to))).unwrap();
        let at: SocketAddr = to.parse().unwrap();
        let port = if at.port() == 7100 { 80 } else { at.port() - 7000 + 53 };
        let seen = seen(peer.local_addr().unwrap().ip(), &peer);
        exchange(&mut guest, &peer, seen, port);
    }
    // The host itself is known by the address by which guests reach it.
    for (from, to, host) in
        [("127.0.0.1:0", "127.0.0.2:7001", IpAddr::from(ip4(1))), ("[::1]:0", "[::1]:7001", ip6(1).into())]
    {
        let peer = connected(from, to);
        let seen = seen(host, &peer);
        exchange(&mut guest, &peer, seen, 54);
    }
    // A peer whose address is on a link of the host's only.
    let link_local = |ns: &dyn Fn() -> Result<String>| {
        wait_for("a link-local address", seconds(10), || {
            let text = ns()?;
            let line = text.lines().find(|line| line.contains("fe80") && !line.contains("tentative"));
            Ok(line.and_then(|line| line.split_whitespace().nth(1)).map(|a| a.split('/').next().unwrap().to_string()))
        })
        .unwrap()
    };
    let shown = || {
        let output = std::process::Command::new("ip").args(["-6", "addr", "show", "dev", "world"]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let here = link_local(&shown);
    let peer = world
        .run(|| {
            link_local(&shown);
            let index = std::fs::read_to_string("/sys/class/net/world/ifindex").ok();
            let index = index.map_or_else(|| sys_index("world"), |text| text.trim().parse().unwrap());
            let socket = socket("[::]:0");
            socket.connect(std::net::SocketAddrV6::new(here.parse().unwrap(), 7001, 0, index))?;
            Ok(socket)
        })
        .unwrap();
    let from = seen(ip6(1), &peer);
    exchange(&mut guest, &peer, from, 54);
    // What is for everybody is nobody's.
    let shouting = world.run(|| Ok(socket("198.51.100.2:0"))).unwrap();
    shouting.set_broadcast(true).unwrap();
    shouting.send_to(b"hello, all", "198.51.100.255:7000").unwrap();
    wait_until("a drop", seconds(5), || bed.vonicd.drops("a", "denied").unwrap() == 1).unwrap();
    assert_eq!(guest.hear(SILENCE).unwrap(), None);
    let rows = bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), count(&bed, "world_opened")), (7, 7), "{rows}");
    assert!(rows.as_array().unwrap().iter().all(|r| r["direction"] == "world_opens" && r["protocol"] == "udp"));
    for path in ["guest_to_host", "host_to_guest"] {
        assert_eq!(bed.vonicd.copied(path).unwrap(), 0, "{path}");
    }
    bed.vonicd.stop().unwrap();
}

/// The interface's number in the calling thread's namespace, whatever /sys shows.
fn sys_index(name: &str) -> u32 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev_snmp6/".to_string() + name).unwrap();
    text.lines().find_map(|l| l.strip_prefix("ifIndex")).unwrap().trim().parse().unwrap()
}

#[test]
fn an_interface_and_an_address_take_what_is_theirs() {
    isolate().unwrap();
    let world = Netns::new().unwrap();
    world.cable("world", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let more = [forward("world:7000", 1), forward("198.51.100.1:7001", 2), forward("127.0.0.1:7002", 3)].concat();
    let (bed, mut guest) = start(&TestConfig::default(), &more);
    for (to, port) in [("198.51.100.1:7000", 1), ("198.51.100.1:7001", 2)] {
        let peer = world.run(|| Ok(connected("198.51.100.2:0", to))).unwrap();
        let seen = seen(peer.local_addr().unwrap().ip(), &peer);
        exchange(&mut guest, &peer, seen, port);
    }
    let near = connected("127.0.0.1:0", "127.0.0.1:7002");
    let host = seen(ip4(1), &near);
    exchange(&mut guest, &near, host, 3);
    for to in ["127.0.0.1:7000", "127.0.0.1:7001"] {
        let peer = connected("127.0.0.1:0", to);
        peer.send(b"not here").unwrap();
        assert!(peer.recv(&mut [0; 9]).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused), "{to}");
    }
    // By the host's loopback no guest reaches vonic's own sockets.
    guest.send(9, SocketAddr::new(ip4(1).into(), 7002), b"round about").unwrap();
    wait_until("a drop", seconds(5), || bed.vonicd.drops("a", "denied").unwrap() == 1).unwrap();
    assert_eq!(guest.hear(SILENCE).unwrap(), None);
    bed.vonicd.stop().unwrap();
}

#[test]
fn each_end_hears_that_the_other_has_gone() {
    isolate().unwrap();
    let (bed, mut guest) = start(&TestConfig::both_families(), &forward("*:7000", 53));
    for (from, to, host, what) in [
        ("127.0.0.1:0", "127.0.0.1:7000", IpAddr::from(ip4(1)), (3, 3)),
        ("[::1]:0", "[::1]:7000", ip6(1).into(), (1, 4)),
    ] {
        let (peer, other) = (connected(from, to), connected(from, to));
        let (of_peer, of_other) = (seen(host, &peer), seen(host, &other));
        exchange(&mut guest, &peer, of_peer, 53);
        exchange(&mut guest, &other, of_other, 53);
        drop(peer);
        let sent = guest.send(53, of_peer, b"are you there?").unwrap();
        let told = guest.told().unwrap();
        assert_eq!((told.by, told.what, told.quoted), (host, what, sent.header()));
        assert_eq!(told.about, (sent.from.ip(), host));
        // What one peer's host says is no other peer's affair.
        exchange(&mut guest, &other, of_other, 53);
        // The guest's program goes: its flow ends, and begins again with the peer's next word.
        let open = count(&bed, "open");
        let refused = guest.refusal(of_other, 53);
        guest.mock.send_frame(&VnetHeader::default(), &refused).unwrap();
        wait_until("the flow's end", seconds(5), || count(&bed, "open") == open - 1).unwrap();
        exchange(&mut guest, &other, of_other, 53);
        assert_eq!(count(&bed, "open"), open);
    }
    bed.vonicd.stop().unwrap();
}

/// A guest speaks to a peer, which then speaks to the guest's forward: answers go where the peer has spoken to.
#[test]
fn a_peer_that_comes_by_the_forward_is_answered_by_the_forward() {
    isolate().unwrap();
    let (bed, mut guest) = start(&TestConfig::default(), &forward("127.0.0.1:7000", 51820));
    let peer = socket("127.0.0.1:0");
    let host = seen(ip4(1), &peer);
    guest.send(51820, host, b"the guest begins").unwrap();
    let mut data = [0; 100];
    let (_, own) = peer.recv_from(&mut data).unwrap();
    assert_ne!(own.port(), 7000);
    peer.connect("127.0.0.1:7000").unwrap();
    exchange(&mut guest, &peer, host, 51820);
    assert_eq!((count(&bed, "open"), count(&bed, "guest_opened"), count(&bed, "world_opened")), (1, 1, 0));
    bed.vonicd.stop().unwrap();
}

#[test]
fn strangers_cannot_crowd_out_whoever_the_guest_speaks_with() {
    isolate().unwrap();
    let more = ["limits = { udp_flows = 16 }\n", &forward("*:7000", 53)].concat();
    let (bed, mut guest) = start(&TestConfig::default(), &more);
    let friend = connected("127.0.0.1:0", "127.0.0.1:7000");
    let host = seen(ip4(1), &friend);
    exchange(&mut guest, &friend, host, 53);
    // Each stays, so that none has the port of another.
    let strangers: Vec<UdpSocket> = (0..100).map(|_| connected("127.0.0.1:0", "127.0.0.1:7000")).collect();
    for stranger in &strangers {
        stranger.send(b"stranger").unwrap();
        assert_eq!(guest.expect().unwrap().data, b"stranger");
    }
    assert_eq!((count(&bed, "open"), count(&bed, "world_opened"), count(&bed, "evicted")), (16, 101, 85));
    guest.send(53, host, b"still there").unwrap();
    let mut data = [0; 100];
    assert_eq!(friend.recv(&mut data).unwrap(), 11);
    // A guest's address is nobody's in the world.
    let world = Netns::new().unwrap();
    world.cable("world", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    world.ip("addr add 192.0.2.77/32 dev world").unwrap();
    for from in ["198.51.100.2:0", "192.0.2.77:0"] {
        world.run(|| Ok(connected(from, "198.51.100.1:7000").send(b"hello, neighbour")?)).unwrap();
    }
    assert_eq!(guest.expect().unwrap().data, b"hello, neighbour");
    wait_until("a drop", seconds(5), || bed.vonicd.drops("a", "spoofed_address").unwrap() == 1).unwrap();
    assert_eq!(guest.hear(SILENCE).unwrap(), None);
    bed.vonicd.stop().unwrap();
}

fn reload(bed: &Bed, more: &str) -> Value {
    let text = format!("mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\n{more}");
    bed.directory.write("etc/vms.d/a.toml", text).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap()
}

#[test]
fn forwards_come_and_go_and_a_taken_port_is_told() {
    isolate().unwrap();
    let taken = socket("127.0.0.1:7001");
    // TCP's port is another one.
    let tcp = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7000\"\nport = 1\n";
    let both = [tcp, &forward("127.0.0.1:7000-7001", 1)].concat();
    let (bed, mut guest) = start(&TestConfig::default(), &both);
    let peer = connected("127.0.0.1:0", "127.0.0.1:7000");
    let host = seen(ip4(1), &peer);
    exchange(&mut guest, &peer, host, 1);
    let errors = bed.vonicd.vm("a").unwrap()["forward_errors"].clone();
    let words = "forward 127.0.0.1:7000-7001: cannot listen on udp port 7001: Address already in use";
    assert!(errors[0].as_str().unwrap().contains(words) && errors.as_array().unwrap().len() == 1, "{errors}");
    drop(taken);
    assert_eq!(reload(&bed, &both)["errors"], json!([]));
    let second = connected("127.0.0.1:0", "127.0.0.1:7001");
    let of_second = seen(ip4(1), &second);
    exchange(&mut guest, &second, of_second, 2);
    // What stays keeps its flows; what leads elsewhere, or nowhere, ends them.
    exchange(&mut guest, &peer, host, 1);
    assert_eq!(count(&bed, "world_opened"), 2);
    let moved = [forward("127.0.0.1:7000", 1), forward("127.0.0.1:7001", 22)].concat();
    assert_eq!(reload(&bed, &moved)["errors"], json!([]));
    assert_eq!(count(&bed, "open"), 1);
    exchange(&mut guest, &second, of_second, 22);
    assert_eq!(reload(&bed, "")["errors"], json!([]));
    assert_eq!(count(&bed, "open"), 0);
    peer.send(b"nobody").unwrap();
    assert!(peer.recv(&mut [0; 9]).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused));
    bed.vonicd.stop().unwrap();
}

/// What waits for buffers is not lost; what comes for a guest that is off is.
#[test]
fn datagrams_wait_for_buffers_but_not_for_a_guest() {
    isolate().unwrap();
    let bed = Bed::start_here(&TestConfig::default().vm("a", 2, &forward("127.0.0.1:7000", 1))).unwrap();
    let peer = connected("127.0.0.1:0", "127.0.0.1:7000");
    peer.send(b"too early").unwrap();
    wait_until("a drop", seconds(5), || bed.vonicd.drops("a", "port_down").unwrap() == 1).unwrap();
    let config = MockConfig { posted: 2, ..MockConfig::default() };
    let mut guest = UdpGuest::start(&bed, "a", 2, config.clone()).unwrap();
    (0..20u8).for_each(|i| assert_eq!(peer.send(&[i; 50]).unwrap(), 50));
    wait_until("two datagrams", seconds(5), || count(&bed, "datagrams_host_to_guest") == 2).unwrap();
    let heard: Vec<u8> = (0..20).map(|_| guest.expect().unwrap().data[0]).collect();
    assert_eq!(heard, (0..20).collect::<Vec<u8>>());
    // Two fill the buffers, and the third waits for a guest that goes.
    (0..3u8).for_each(|i| assert_eq!(peer.send(&[i; 50]).unwrap(), 50));
    wait_until("two more", seconds(5), || count(&bed, "datagrams_host_to_guest") == 22).unwrap();
    drop(guest);
    wait_until("a drop", seconds(5), || bed.vonicd.drops("a", "port_down").unwrap() == 2).unwrap();
    let mut guest = UdpGuest::start(&bed, "a", 2, config).unwrap();
    assert_eq!(guest.hear(SILENCE).unwrap(), None);
    let host = seen(ip4(1), &peer);
    exchange(&mut guest, &peer, host, 1);
    assert!(silent(&peer));
    bed.vonicd.stop().unwrap();
}
