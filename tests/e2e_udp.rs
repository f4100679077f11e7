//! Does a guest's UDP get out to the world, and only the answers to it back? Sizes, checksums, errors, limits and silence, with frames made by
//! hand in both families.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vonic_tests::datagram::{Datagram, UdpGuest};
use vonic_tests::frames::{self, ip4};
use vonic_tests::lies::ip6;
use vonic_tests::mock::{MockConfig, VnetHeader, feature};
use vonic_tests::*;

/// As long as nothing is to come, which is waited for in vain.
const SILENCE: Duration = Duration::from_millis(150);

/// A socket of the host's loopback, and how guests see it.
fn server(like: IpAddr) -> (UdpSocket, SocketAddr) {
    let (local, seen): (IpAddr, IpAddr) = match like {
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST.into(), ip4(1).into()),
        IpAddr::V6(_) => (Ipv6Addr::LOCALHOST.into(), ip6(1).into()),
    };
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.set_read_timeout(Some(seconds(5))).unwrap();
    let seen = SocketAddr::new(seen, socket.local_addr().unwrap().port());
    (socket, seen)
}

fn families() -> [IpAddr; 2] {
    [ip4(1).into(), ip6(1).into()]
}

/// What the socket gets, and from whom.
fn get(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut data = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut data).unwrap();
    data.truncate(length);
    (data, from)
}

/// Without a forwarder of names: the gateway's port 53 is the loopback's like any other.
fn both(more: &str) -> Bed {
    let mut config = TestConfig::both_families();
    config.network.push_str("dns = []\n");
    Bed::start(&config.vm("a", 2, more).vm("b", 3, "")).unwrap()
}

fn guest(bed: &Bed, features: u64) -> UdpGuest {
    UdpGuest::start(bed, "a", 2, MockConfig { features, ..MockConfig::default() }).unwrap()
}

fn count(bed: &Bed, counter: &str) -> u64 {
    bed.vonicd.vm("a").unwrap()["udp"][counter].as_u64().unwrap()
}

/// One datagram each way.
fn exchange(guest: &mut UdpGuest, port: u16, (socket, seen): (&UdpSocket, SocketAddr), data: &[u8]) -> SocketAddr {
    guest.send(port, seen, data).unwrap();
    let (got, from) = get(socket);
    assert!(got == data, "{} bytes of {}", got.len(), data.len());
    let back: Vec<u8> = data.iter().rev().copied().collect();
    assert_eq!(socket.send_to(&back, from).unwrap(), back.len());
    let heard = guest.expect().unwrap();
    assert_eq!((heard.from, heard.to), (seen, guest.end(seen, port)));
    assert!(heard.data == back, "{} bytes of {}", heard.data.len(), back.len());
    from
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

#[test]
fn every_size_passes_both_ways_in_both_families_and_is_not_copied() {
    let bed = both("mtu = 65520");
    let mut datagrams = 0;
    for features in [feature::ALL, feature::PLAIN] {
        let mut guest = guest(&bed, features);
        for family in families() {
            let (socket, seen) = server(family);
            let headers = if family.is_ipv4() { 28 } else { 48 };
            for length in [0, 1, 2, 7, 512, 1500 - headers, 1501 - headers, 9000, 65_520 - headers] {
                exchange(&mut guest, 4000, (&socket, seen), &pattern(length));
                datagrams += 1;
            }
            // A chain of many pieces; and a checksum that is left to the device.
            let data = pattern(1001);
            let datagram = Datagram::new(guest.end(seen, 4000), seen, &data);
            let frame = datagram.frame(guest.link);
            guest.mock.send_shaped(&VnetHeader::default(), &frame, &[12, 14, 20, 3, 5, 1, 200, 7], false).unwrap();
            assert!(get(&socket).0 == data);
            datagrams += 1;
            if features == feature::ALL {
                let (header, frame) = datagram.partial(guest.link);
                guest.mock.send_frame(&header, &frame).unwrap();
                assert!(get(&socket).0 == data);
                datagrams += 1;
            }
        }
        let opened = if features == feature::ALL { 2 } else { 4 };
        assert_eq!((count(&bed, "guest_opened"), count(&bed, "open")), (opened, 2), "one flow in each family");
        drop(guest);
        wait_until("the end of the guest's flows", seconds(5), || count(&bed, "open") == 0).unwrap();
    }
    assert_eq!((count(&bed, "datagrams_guest_to_host"), count(&bed, "datagrams_host_to_guest")), (datagrams, 36));
    for path in ["guest_to_host", "host_to_guest", "service"] {
        assert_eq!(bed.vonicd.copied(path).unwrap(), 0, "{path}");
    }
    bed.vonicd.stop().unwrap();
}

#[test]
fn what_is_no_good_datagram_goes_no_further() {
    let bed = both("");
    let mut guest = guest(&bed, feature::ALL);
    let drops = |reason: &str| bed.vonicd.drops("a", reason).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    let mut bad = |guest: &mut UdpGuest, what: &str, header: &VnetHeader, frame: &[u8], reason: &'static str| {
        guest.mock.send_frame(header, frame).unwrap();
        let wanted = counts.entry(reason).or_insert(0);
        *wanted += 1;
        wait_until(what, seconds(5), || drops(reason) == *wanted).unwrap();
    };
    for family in families() {
        let (socket, seen) = server(family);
        let start = if family.is_ipv4() { 34 } else { 54 };
        let datagram = Datagram::new(guest.end(seen, 4000), seen, b"data");
        let (good, plain) = (datagram.frame(guest.link), VnetHeader::default());
        let changed = |at: usize, bytes: &[u8]| {
            let mut frame = good.clone();
            frame[start + at..start + at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        bad(&mut guest, "a wrong checksum", &plain, &changed(9, b"x"), "bad_checksum");
        bad(&mut guest, "a length beyond the packet", &plain, &changed(4, &[0, 99]), "truncated");
        bad(&mut guest, "a length below the header's", &plain, &changed(4, &[0, 7]), "bad_header");
        let to_nobody = Datagram::new(datagram.from, SocketAddr::new(seen.ip(), 0), b"").frame(guest.link);
        bad(&mut guest, "port 0", &plain, &to_nobody, "bad_header");
        let (header, frame) = datagram.partial(guest.link);
        let elsewhere = VnetHeader { csum_offset: 16, ..header };
        bad(&mut guest, "a checksum elsewhere", &elsewhere, &frame, "bad_vnet_header");
        let large = VnetHeader { gso_type: VnetHeader::TCPV4, gso_size: 1, ..header };
        bad(&mut guest, "segmentation", &large, &frame, "bad_vnet_header");
        // RFC 768: 0 says that there is none. RFC 8200 §8.1: not in IPv6.
        if family.is_ipv4() {
            guest.mock.send_frame(&plain, &changed(6, &[0, 0])).unwrap();
            assert_eq!(get(&socket).0, b"data");
        } else {
            bad(&mut guest, "no checksum", &plain, &changed(6, &[0, 0]), "bad_checksum");
        }
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(socket.recv(&mut [0; 9]).is_err());
    }
    let never =
        ["127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.251", "192.0.2.9", "::1", "ff02::fb", "::ffff:1.2.3.4"];
    for to in never {
        let to = SocketAddr::new(to.parse().unwrap(), 7);
        let frame = Datagram::new(guest.end(to, 4000), to, b"data").frame(guest.link);
        bad(&mut guest, &to.to_string(), &VnetHeader::default(), &frame, "denied");
    }
    assert_eq!(count(&bed, "guest_opened"), 1);
    bed.vonicd.stop().unwrap();
}

#[test]
fn only_who_was_spoken_to_can_answer() {
    let bed = both("");
    let mut a = guest(&bed, feature::ALL);
    let mut b = UdpGuest::start(&bed, "b", 3, MockConfig::default()).unwrap();
    for family in families() {
        let ((socket, seen), (stranger, other)) = (server(family), server(family));
        let from = exchange(&mut a, 4000, (&socket, seen), b"question");
        stranger.send_to(b"answer of a third party", from).unwrap();
        socket.send_to(b"the right one", from).unwrap();
        assert_eq!(a.expect().unwrap(), Datagram::new(seen, a.end(seen, 4000), b"the right one"));
        assert_eq!(a.hear(SILENCE).unwrap(), None);
        // Spoken to from the same port of the guest, the third party has a flow of its own; another guest's is another one.
        assert_ne!(exchange(&mut a, 4000, (&stranger, other), b"question"), from);
        assert_ne!(exchange(&mut b, 4000, (&socket, seen), b"question"), from);
        assert_eq!(exchange(&mut a, 4000, (&socket, seen), b"again"), from);
    }
    let rows = bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
    let states = |state: &str| rows.as_array().unwrap().iter().filter(|row| row["state"] == state).count();
    assert_eq!((states("stream"), states("one-shot")), (2, 2), "{rows}");
    assert!(rows.as_array().unwrap().iter().all(|row| row["protocol"] == "udp" && row["direction"] == "guest_opens"));
    bed.vonicd.stop().unwrap();
}

#[test]
fn nobody_there_is_told_by_icmp_that_quotes_the_datagram() {
    let bed = both("");
    let mut guest = guest(&bed, feature::ALL);
    for family in families() {
        let (socket, seen) = server(family);
        let from = exchange(&mut guest, 4000, (&socket, seen), b"hello");
        drop(socket);
        let port_unreachable = if family.is_ipv4() { (3, 3) } else { (1, 4) };
        for data in [&b"anybody?"[..], b"", b"nobody"] {
            let sent = guest.send(4000, seen, data).unwrap();
            let told = guest.told().unwrap();
            assert_eq!((told.by, told.what, told.word), (seen.ip(), port_unreachable, 0));
            assert_eq!((told.about, told.quoted), ((sent.from.ip(), seen.ip()), sent.header()));
        }
        // The flow lives on, and somebody comes.
        let socket = UdpSocket::bind((if family.is_ipv4() { "127.0.0.1" } else { "::1" }, seen.port())).unwrap();
        socket.set_read_timeout(Some(seconds(5))).unwrap();
        assert_eq!(exchange(&mut guest, 4000, (&socket, seen), b"there you are"), from);
        // The guest's program goes: the host says so to whoever speaks to it.
        let before = count(&bed, "open");
        let refused = guest.refusal(seen, 4000);
        guest.mock.send_frame(&VnetHeader::default(), &refused).unwrap();
        wait_until("the flow's end", seconds(5), || count(&bed, "open") == before - 1).unwrap();
        socket.connect(from).unwrap();
        socket.send(b"late").unwrap();
        assert!(socket.recv(&mut [0; 9]).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused));
    }
    assert_eq!(count(&bed, "errors"), 6);
    // The service address speaks TCP only.
    let service: SocketAddr = "169.254.169.254:53".parse().unwrap();
    let sent = guest.send(4000, service, b"query").unwrap();
    let told = guest.told().unwrap();
    assert_eq!((told.by, told.what, told.quoted), (ip4(1).into(), (3, 3), sent.header()));
    bed.vonicd.stop().unwrap();
}

/// Without a host_loopback the gateway has no UDP at all.
#[test]
fn the_gateway_refuses_what_it_does_not_serve() {
    let mut config = TestConfig::both_families().vm("a", 2, "");
    config.network = config.network.lines().filter(|l| !l.starts_with("host_loopback")).collect::<Vec<_>>().join("\n");
    let bed = Bed::start(&config).unwrap();
    let mut guest = guest(&bed, feature::PLAIN);
    for (family, what) in families().into_iter().zip([(3, 3), (1, 4)]) {
        let sent = guest.send(4000, SocketAddr::new(family, 9), b"discarded").unwrap();
        let told = guest.told().unwrap();
        assert_eq!((told.by, told.what, told.quoted), (family, what, sent.header()));
    }
    assert_eq!((count(&bed, "errors"), count(&bed, "guest_opened")), (2, 0));
    assert_eq!(bed.vonicd.drops("a", "no_connection").unwrap(), 2);
    bed.vonicd.stop().unwrap();
}

/// What routers and the host's own routes say, with a hop between.
#[test]
fn errors_of_the_way_are_passed_on() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "mtu = 9000")).unwrap();
    let (router, far) = (Netns::new().unwrap(), Netns::new().unwrap());
    router.cable("near", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let between = || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        far.cable("far", "203.0.113.1/24", "203.0.113.2/24")?;
        ip("link set far mtu 1200")
    };
    router.run(between).unwrap();
    far.ip("route add default via 203.0.113.1").unwrap();
    ip("route add 203.0.113.0/24 via 198.51.100.2").unwrap();
    let mut guest = guest(&bed, feature::ALL);
    let (hop, gateway): (IpAddr, IpAddr) = ("198.51.100.2".parse().unwrap(), ip4(1).into());
    for (to, length, ttl, by, what, word) in [
        ("203.0.113.2:33434", 10, 1, hop, (11, 0), 0),
        ("203.0.113.2:33435", 10, 2, "203.0.113.2".parse().unwrap(), (3, 3), 0),
        ("192.88.99.1:9", 10, 64, gateway, (3, 0), 0),
        // The first is found on the way; then the host knows, as of its own line.
        ("203.0.113.2:9", 1400, 64, hop, (3, 4), 1200),
        ("203.0.113.2:9", 1400, 64, gateway, (3, 4), 1200),
        ("198.51.100.2:9", 3000, 64, gateway, (3, 4), 1500),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let datagram = Datagram::new(guest.end(to, 4000), to, &pattern(length));
        let mut frame = datagram.frame(guest.link);
        frame[22] = ttl;
        frame[24..26].fill(0);
        let sum = frames::checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
        let told = guest.told().with_context(|| to.to_string()).unwrap();
        assert_eq!((told.by, told.what, told.word), (by, what, word), "{to}");
        assert_eq!((told.about, told.quoted), ((datagram.from.ip(), to.ip()), datagram.header()), "{to}");
    }
    bed.vonicd.stop().unwrap();
}

/// Open descriptors of vonicd's two processes, which share one table.
fn descriptors(bed: &mut Bed) -> usize {
    usage::settled_descriptors(bed.vonicd.process().pid()).unwrap()
}

#[test]
fn a_guest_has_so_many_flows_and_questions_make_room_for_streams() {
    let mut bed = both("limits = { udp_flows = 8 }");
    let mut guest = guest(&bed, feature::ALL);
    let before = descriptors(&mut bed);
    let (socket, seen) = server(ip4(1).into());
    let dns = UdpSocket::bind("127.0.0.1:53").unwrap();
    dns.set_read_timeout(Some(seconds(5))).unwrap();
    let started = Instant::now();
    let resolver = SocketAddr::new(seen.ip(), 53);
    let stream = exchange(&mut guest, 1, (&socket, seen), b"one");
    assert_eq!(exchange(&mut guest, 1, (&socket, seen), b"two"), stream);
    exchange(&mut guest, 2, (&dns, resolver), b"a query");
    exchange(&mut guest, 2, (&dns, resolver), b"and another one");
    for port in 10..30 {
        exchange(&mut guest, port, (&socket, seen), b"question");
    }
    // The query was the first to go, then the questions in their order; the stream is as it was.
    assert_eq!((count(&bed, "guest_opened"), count(&bed, "evicted"), count(&bed, "open")), (22, 14, 8));
    assert_eq!(descriptors(&mut bed), before + 8);
    let rows = bed.vonicd.vonic(&["conns", "--json"]).unwrap();
    let mut guests: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["guest"].as_str().unwrap()).collect();
    guests.sort_unstable();
    let wanted: Vec<String> = [1].into_iter().chain(23..30).map(|port| format!("192.0.2.2:{port}")).collect();
    assert_eq!(guests, wanted);
    assert_eq!(exchange(&mut guest, 1, (&socket, seen), b"still there"), stream);
    // Ten seconds after the last word about names that flow is over, and no other.
    exchange(&mut guest, 3, (&dns, resolver), b"a query");
    let asked = Instant::now();
    assert_eq!(count(&bed, "open"), 8);
    wait_until("the end of the query", seconds(15), || count(&bed, "open") == 7).unwrap();
    let took = asked.elapsed();
    assert!(took > seconds(9) && started.elapsed() < seconds(28), "{took:?}");
    assert_eq!(exchange(&mut guest, 1, (&socket, seen), b"still there"), stream);
    bed.vonicd.stop().unwrap();
}

#[test]
fn new_flows_have_a_rate_and_the_rest_is_counted() {
    let bed = both("limits = { new_per_second = 5 }");
    let mut guest = guest(&bed, feature::ALL);
    let (_socket, seen) = server(ip4(1).into());
    (1..=30).for_each(|port| drop(guest.send(port, seen, b"").unwrap()));
    let (opened, dropped) = (count(&bed, "guest_opened"), bed.vonicd.drops("a", "limit").unwrap());
    assert!((5..=10).contains(&opened) && opened + dropped == 30, "{opened} opened, {dropped} dropped");
    bed.vonicd.stop().unwrap();
}

/// Without buffers answers wait in the kernel's queue, and come when there are some.
#[test]
fn answers_wait_for_buffers_and_one_too_long_is_dropped() {
    // Without IPv6, of which a router advertisement takes one of the two buffers at a time of its own.
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let config = MockConfig { posted: 2, ..MockConfig::default() };
    let mut guest = UdpGuest::start(&bed, "a", 2, config).unwrap();
    let (socket, seen) = server(ip4(1).into());
    let mut ends = Vec::new();
    for port in [1, 2] {
        guest.send(port, seen, b"go").unwrap();
        ends.push(get(&socket).1);
    }
    for i in 0..10u8 {
        ends.iter().for_each(|end| assert_eq!(socket.send_to(&[i; 100], end).unwrap(), 100));
    }
    wait_until("two answers", seconds(5), || count(&bed, "datagrams_host_to_guest") == 2).unwrap();
    let mut heard: Vec<(u16, u8)> =
        (0..20).map(|_| guest.expect().unwrap()).map(|d| (d.to.port(), d.data[0])).collect();
    heard.sort_unstable();
    assert_eq!(heard, [1, 2].into_iter().flat_map(|port| (0..10).map(move |i| (port, i))).collect::<Vec<_>>());
    assert_eq!(bed.vonicd.drops("a", "no_room").unwrap(), 0);
    // A packet beyond its MTU comes in fragments: more of them than it has buffers for do not.
    socket.send_to(&[7; 4000], ends[0]).unwrap();
    wait_until("a drop", seconds(5), || bed.vonicd.drops("a", "no_room").unwrap() == 1).unwrap();
    socket.send_to(&[7; 1472], ends[0]).unwrap();
    assert_eq!(guest.expect().unwrap().data, [7; 1472]);
    bed.vonicd.stop().unwrap();
}

#[test]
fn egress_rules_and_reloads_decide_about_running_flows_too() {
    let rule = |action: &str, port: u16| {
        format!("[[egress]]\naction = \"{action}\"\nto = \"192.0.2.1\"\nproto = \"udp\"\nports = \"{port}\"\n")
    };
    let ((kept, seen), (gone, elsewhere)) = {
        isolate().unwrap();
        (server(ip4(1).into()), server(ip4(1).into()))
    };
    let vm = |rules: &str| format!("mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\n{rules}");
    let open = [rule("allow", seen.port()), rule("allow", elsewhere.port())].concat();
    let mut config = TestConfig::default();
    config.vms.insert("a".into(), vm(&open));
    let bed = Bed::start_here(&config).unwrap();
    let mut guest = guest(&bed, feature::ALL);
    let stays = exchange(&mut guest, 1, (&kept, seen), b"one");
    exchange(&mut guest, 1, (&gone, elsewhere), b"other");
    guest.send(1, SocketAddr::new(seen.ip(), 9), b"no rule: no way").unwrap();
    let denied = || bed.vonicd.drops("a", "denied").unwrap();
    wait_until("a drop", seconds(5), || denied() == 1).unwrap();
    bed.directory.write("etc/vms.d/a.toml", vm(&rule("allow", seen.port()))).unwrap();
    let report: Value = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!((&report["errors"], count(&bed, "open")), (&json!([]), 1));
    guest.send(1, elsewhere, b"no more").unwrap();
    wait_until("a drop", seconds(5), || denied() == 2).unwrap();
    assert_eq!(exchange(&mut guest, 1, (&kept, seen), b"as before"), stays);
    bed.vonicd.stop().unwrap();
}
