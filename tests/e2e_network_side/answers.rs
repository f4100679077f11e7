//! What vonic answers itself, to whom, and with how much; and what it shows of itself to the world.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use vonic_tests::datagram::UdpGuest;
use vonic_tests::frames::{self, BROADCAST, Tcp, ip4, mac};
use vonic_tests::lies::{self, Identity};
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader};
use vonic_tests::wire::{Conn, HOST, HandGuest, accept, listen};
use vonic_tests::*;

/// Silence that is one.
const QUIET: Duration = Duration::from_millis(300);

/// Questions to services, each with how many times larger than it all that answers it may be, both counted without the Ethernet header. An
/// answer goes to the port that asked and to nobody else, whatever the question says of its sender: none can be aimed.
fn questions(me: Identity, gateway: frames::Mac) -> Vec<(&'static str, f64, Vec<u8>)> {
    let (here, to) = ((me.mac, gateway), ip4(1));
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let mut discover = vec![1, 1, 6, 0];
    discover.resize(236, 0);
    discover[28..34].copy_from_slice(&me.mac);
    discover.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    // Options to the least length of a BOOTP message (RFC 1542 §2.1).
    discover.resize(300, 0);
    let mut solicit = vec![1, 0, 0, 1, 0, 1, 0, 10, 0, 3, 0, 1];
    solicit.extend(me.mac);
    solicit.extend([0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let syn = Tcp { ports: (1024, 9), flags: Tcp::SYN, window: 9000, ..Tcp::default() };
    let own = me.link_local();
    let broadcast = (me.mac, BROADCAST);
    let offered = frames::udp(broadcast, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, (68, 67), &discover);
    vec![
        ("ARP", 1.0, frames::arp_request(me.mac[5], to)),
        ("a ping", 1.0, frames::ping(here, me.ip4, to, 1, &[7; 56])),
        ("a large ping", 1.0, frames::ping(here, me.ip4, to, 1, &[7; 1400])),
        ("a ping over IPv6", 1.0, lies::icmp6(here, (me.ip6, six), 128, &[7; 56])),
        ("a SYN for a closed port", 1.0, syn.frame(here, me.ip4, to)),
        ("a datagram for a closed port", 2.0, frames::udp(here, me.ip4, to, (1024, 9), b"nobody")),
        ("a large datagram for a closed port", 1.0, frames::udp(here, me.ip4, to, (1024, 9), &[7; 1400])),
        ("a neighbour solicitation", 1.0, lies::neighbour(here, (me.ip6, six), 135, six, me.mac)),
        // Prefix, MTU and resolvers in answer to sixteen bytes; three of them in a row at most.
        (
            "a router solicitation",
            3.0,
            lies::icmp6(here, (own, routers), 133, &[0, 0, 0, 0, 1, 1, 82, 84, 0, 0, 0, me.mac[5]]),
        ),
        ("DHCP", 1.2, offered),
        ("DHCPv6", 2.0, lies::udp6(here, own, servers, (546, 547), &solicit)),
    ]
}

/// Bytes of IP or ARP that come within a while, and frames.
fn heard(mock: &mut MockFrontend) -> Result<usize> {
    let mut bytes = 0;
    while let Some((_, frame)) = mock.receive_frame(QUIET)? {
        bytes += frame.len() - 14;
    }
    Ok(bytes)
}

#[test]
fn no_service_amplifies_and_answers_go_to_who_asked() {
    let bed = Bed::start(&TestConfig::both_families().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut a = bed.mock("a", MockConfig { posted: 256, ..MockConfig::default() }).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    let gateway = a.gateway_answers(2).unwrap();
    b.gateway_answers(3).unwrap();
    // What the gateway says of its own accord has been said.
    heard(&mut a).unwrap();
    heard(&mut b).unwrap();
    let mut failures = Vec::new();
    for (what, most, question) in questions(Identity::of(2), gateway) {
        a.send_frame(&VnetHeader::default(), &question).unwrap();
        let answer = heard(&mut a).unwrap();
        let factor = answer as f64 / (question.len() - 14) as f64;
        println!("{what}: {} bytes, {answer} in answer: {factor:.2}", question.len() - 14);
        if answer == 0 || factor > most {
            failures.push(format!("{what}: {factor:.2} times as much, {most} is allowed"));
        }
        // Groups hear questions, but nobody else an answer.
        while let Some((_, frame)) = b.receive_frame(Duration::ZERO).unwrap() {
            assert_eq!(frame, question, "{what}: the neighbour heard another frame");
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    bed.vonicd.stop().unwrap();
}

/// Bytes of IP that a guest has sent, and that it was given, by what vonic counts.
fn counted(bed: &Bed) -> [u64; 2] {
    let vm = bed.vonicd.stats().unwrap()["vms"]["a"].clone();
    ["guest_to_host", "host_to_guest"].map(|way| {
        let of = |what: &str| vm[way][what].as_u64().unwrap();
        of("bytes") - 14 * of("frames")
    })
}

/// The service address: an answer is larger than its request, but only who has shown to hear answers by a handshake gets one, and it is about the asker alone.
/// Counted are whole connections, with handshake, acknowledgments and end.
#[test]
fn the_service_answers_with_no_more_than_it_has_to_say() {
    const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    let bed = Bed::start(&TestConfig::both_families().vm("a", 2, "")).unwrap();
    let mut guest = HandGuest::start(&bed, "a", 2, vonic_tests::mock::feature::ALL).unwrap();
    guest.mock.gateway_answers(2).unwrap();
    heard(&mut guest.mock).unwrap();
    let mut failures = Vec::new();
    let mut judge = |what: &str, most: f64, before: [u64; 2]| {
        let now = counted(&bed);
        let [question, answer] = [now[0] - before[0], now[1] - before[1]];
        let factor = answer as f64 / question as f64;
        println!("{what}: {question} bytes, {answer} in answer: {factor:.2}");
        if answer == 0 || factor > most {
            failures.push(format!("{what}: {factor:.2} times as much, {most} is allowed"));
        }
    };
    // Without a handshake there is the SYN-ACK, again and again; eight in all, should nobody ever answer.
    let before = counted(&bed);
    let silent = Conn::new(SERVICE, (4000, 80));
    guest.send(SERVICE, &silent.syn(Tcp::SYN)).unwrap();
    let until = Instant::now() + seconds(8);
    while Instant::now() < until {
        heard(&mut guest.mock).unwrap();
    }
    judge("a SYN that nothing follows, in eight seconds", 4.0, before);
    for (port, (path, most)) in (4001..).zip([("/v1/", 3.0), ("/v1/nic", 8.0), ("/v1/connections", 2.0), ("/", 3.0)]) {
        let before = counted(&bed);
        let mut conn = Conn::new(SERVICE, (port, 80)).open(&mut guest).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        conn.send(&mut guest, Tcp::PSH, request.as_bytes()).unwrap();
        assert!(conn.receive(&mut guest, 1 << 20).unwrap().1, "{path}: it does not end");
        conn.send(&mut guest, Tcp::FIN, &[]).unwrap();
        conn.expect_ack(&mut guest).unwrap();
        judge(&format!("GET {path}"), most, before);
    }
    assert!(failures.is_empty(), "{failures:#?}");
    bed.vonicd.stop().unwrap();
}

/// A question that names another as its sender gets no answer anywhere: reflection needs one.
#[test]
fn nobody_is_answered_in_anothers_name() {
    let bed = Bed::start(&TestConfig::both_families().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut a = bed.mock("a", MockConfig { posted: 256, ..MockConfig::default() }).unwrap();
    let mut b = bed.mock("b", MockConfig { posted: 256, ..MockConfig::default() }).unwrap();
    let gateway = a.gateway_answers(2).unwrap();
    b.gateway_answers(3).unwrap();
    heard(&mut a).unwrap();
    heard(&mut b).unwrap();
    let before = bed.vonicd.drops("a", "spoofed_address").unwrap();
    let victim = Identity { mac: mac(2), ..Identity::of(3) };
    let all = questions(victim, gateway);
    let aimed =
        ["a ping", "a large ping", "a ping over IPv6", "a SYN for a closed port", "a datagram for a closed port"];
    let aimed: Vec<_> = all.iter().filter(|(what, ..)| aimed.contains(what)).collect();
    for _ in 0..20 {
        for (.., question) in &aimed {
            a.send_frame(&VnetHeader::default(), question).unwrap();
        }
    }
    assert_eq!((heard(&mut a).unwrap(), heard(&mut b).unwrap()), (0, 0));
    assert_eq!(bed.vonicd.drops("a", "spoofed_address").unwrap() - before, 20 * aimed.len() as u64);
    bed.vonicd.stop().unwrap();
}

/// What guests are served is none of the world's: nothing of vonic listens at the host's own addresses.
#[test]
fn the_world_is_served_nothing() {
    let world = super::World::new();
    let bed = Bed::start_here(&TestConfig::both_families().vm("a", 2, "")).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    a.gateway_answers(2).unwrap();
    world
        .netns
        .run(|| {
            let socket = UdpSocket::bind("198.51.100.2:0")?;
            socket.set_read_timeout(Some(QUIET))?;
            for port in [53, 67, 68, 546, 547, 5353] {
                // Refused by the host's kernel, or silent.
                drop(socket.send_to(&[1; 300], (super::HERE, port)));
                let got = socket.recv(&mut [0; 2000]);
                ensure!(got.is_err(), "port {port} answers {got:?}");
            }
            for port in [53, 80, 443, 9100] {
                let got = std::net::TcpStream::connect_timeout(&(super::HERE, port).into(), seconds(2));
                ensure!(got.is_err(), "port {port} is open");
            }
            Ok(())
        })
        .unwrap();
    // What its router says of itself, by IPv6, is nobody's doing.
    while let Some((_, frame)) = a.receive_frame(QUIET).unwrap() {
        assert_ne!(frame[12..14], [8, 0], "the world's datagrams reach the guest");
    }
    bed.vonicd.stop().unwrap();
}

/// Whether a list is scattered as chance would: few alike, neighbours no closer to each other than others, up as often as down.
fn is_scattered(ports: &[u16]) -> Result<()> {
    let distinct: BTreeSet<u16> = ports.iter().copied().collect();
    // connect(2) takes ports of one parity: of 256 among 14,116, more than five are alike in 3 of 100 runs, and more than twelve in none of
    // 100,000.
    ensure!(distinct.len() * 100 >= ports.len() * 95, "{} of {} are distinct", distinct.len(), ports.len());
    let steps = || ports.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0]));
    let near = steps().filter(|step| step.abs() <= 16).count();
    ensure!(near * 20 < ports.len(), "{near} of {} lie beside the one before: {ports:?}", ports.len());
    let up = steps().filter(|step| *step > 0).count();
    ensure!((ports.len() * 35 / 100..ports.len() * 65 / 100).contains(&up), "{up} of {} go up", ports.len());
    // Eight classes between the least and the greatest, none of which has much more or less than its share.
    let (least, most) = (distinct.first().copied().unwrap_or(0), distinct.last().copied().unwrap_or(0));
    let mut classes = [0usize; 8];
    ports.iter().for_each(|port| classes[usize::from(port - least) * 8 / (usize::from(most - least) + 1)] += 1);
    let share = ports.len() / 8;
    ensure!(classes.iter().all(|count| (share / 3..share * 3).contains(count)), "{classes:?}");
    Ok(())
}

/// Ports that the world sees say nothing of the guest's own, nor of the next one.
#[test]
fn source_ports_cannot_be_guessed() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut udp = UdpGuest::start(&bed, "a", 2, MockConfig::default()).unwrap();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(seconds(5))).unwrap();
    let to = SocketAddr::new(IpAddr::from(ip4(1)), server.local_addr().unwrap().port());
    let mut seen = Vec::new();
    for own in 20_000..20_256 {
        udp.send(own, to, b"?").unwrap();
        seen.push(server.recv_from(&mut [0; 10]).unwrap().1.port());
    }
    is_scattered(&seen).context("UDP").unwrap();

    let mut tcp = HandGuest::start(&bed, "b", 3, mock_features()).unwrap();
    let mut seen = Vec::new();
    // One to each of many, as the kernel gives neighbours to connections to one place.
    for own in 20_000..20_256 {
        let (listener, port) = listen().unwrap();
        let conn = Conn::new(HOST, (own, port)).open(&mut tcp).unwrap();
        seen.push(accept(&listener).unwrap().peer_addr().unwrap().port());
        tcp.send(HOST, &conn.segment(Tcp::RST | Tcp::ACK, &[])).unwrap();
    }
    is_scattered(&seen).context("TCP").unwrap();
    bed.vonicd.stop().unwrap();
}

fn mock_features() -> u64 {
    vonic_tests::mock::feature::ALL
}

/// A guest that asks for names without end has as many sockets as it may, and its neighbour is answered.
#[test]
fn a_flood_of_questions_for_names_is_bounded() {
    isolate().unwrap();
    ip("addr add 198.51.100.53/32 dev lo").unwrap();
    let resolver = DnsServer::start("198.51.100.53", 1).unwrap();
    let network =
        "subnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\nuplink = \"sockets\"\ndns = [\"198.51.100.53\"]\n";
    let limits = "limits = { udp_flows = 64, new_per_second = 50 }";
    let config = TestConfig { network: network.into(), ..TestConfig::default() }.vm("a", 2, limits).vm("b", 3, "");
    let bed = Bed::start_here(&config).unwrap();
    let mut a = UdpGuest::start(&bed, "a", 2, MockConfig { posted: 256, ..MockConfig::default() }).unwrap();
    let mut b = UdpGuest::start(&bed, "b", 3, MockConfig::default()).unwrap();
    let to = SocketAddr::new(IpAddr::from(ip4(1)), 53);
    let question = |id: u16| {
        let header = [id.to_be_bytes(), [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]].concat();
        [&header[..], &[4], b"name", &[4], b"test", &[0, 0, 1, 0, 1]].concat()
    };
    let before = usage::settled_descriptors(bed.vonicd.engine().unwrap()).unwrap();
    let began = Instant::now();
    for round in 0..20u16 {
        for at in 0..100 {
            a.send(1024 + 100 * round + at, to, &question(at)).unwrap();
        }
        let id = 7000 + round;
        b.send(5000 + round, to, &question(id)).unwrap();
        let answer = b.expect().unwrap();
        assert_eq!(answer.data[..2], id.to_be_bytes());
        assert_eq!(answer.data[3] & 15, 0, "an error instead of an address");
    }
    let now = usage::descriptors(bed.vonicd.engine().unwrap()).unwrap();
    assert!(now <= before + 64 + 20 + 4, "{before} descriptors before, {now} now");
    // Fifty at once, and so many in each second; and the neighbour's.
    let (asked, _) = resolver.asked();
    let most = 50.0 * (1.0 + began.elapsed().as_secs_f64()) + 20.0;
    assert!(asked as f64 <= most, "{asked} questions were asked, {most:.0} may be");
    let stats = bed.vonicd.stats().unwrap();
    assert!(stats["vms"]["a"]["limits"]["new_per_second"].as_u64().unwrap() > 0, "{stats}");
    bed.vonicd.stop().unwrap();
}
