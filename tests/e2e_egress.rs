//! What may a guest reach, and who says so? Rules and their counters over reloads, connections whose permission ends, addresses of the
//! host and networks that come and go.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use vonic_tests::frames::Tcp;
use vonic_tests::line::Line;
use vonic_tests::mock::feature;
use vonic_tests::wire::{Conn, HandGuest, accept};
use vonic_tests::*;

const QUIET: Duration = Duration::from_millis(200);
/// A machine beside the host.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn rule(action: &str, more: &str) -> String {
    format!("[[egress]]\naction = \"{action}\"\n{more}\n")
}

fn vm(more: &str) -> String {
    format!("mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\n{more}\n")
}

fn reload(bed: &Bed, more: &str) {
    bed.directory.write("etc/vms.d/a.toml", vm(more)).unwrap();
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!(report["errors"], json!([]), "{report}");
}

/// The rules' counters in their order, then what no rule has decided, then what none could.
fn counters(bed: &Bed) -> Vec<u64> {
    let shown = bed.vonicd.vm("a").unwrap();
    let rules = shown["egress"].as_array().unwrap().iter().map(|rule| rule["decided"].as_u64().unwrap());
    rules.chain(["no_rule", "never"].map(|name| shown["denied_otherwise"][name].as_u64().unwrap())).collect()
}

fn tcp(bed: &Bed, counter: &str) -> u64 {
    bed.vonicd.vm("a").unwrap()["tcp"][counter].as_u64().unwrap()
}

/// Sends a SYN, which reaches no further than vonic.
fn knock(guest: &mut HandGuest, to: [u8; 4], ports: (u16, u16)) {
    guest.send(to.into(), &Conn::new(to.into(), ports).syn(Tcp::SYN)).unwrap();
}

/// The host at 198.51.100.1, and a machine at 198.51.100.2 that listens on the port.
fn with_neighbour(config: &TestConfig) -> (Bed, Netns, TcpListener) {
    let bed = Bed::start(config).unwrap();
    let near = Netns::new().unwrap();
    near.cable("near", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let listener = near.run(|| Ok(TcpListener::bind((NEAR, 0))?)).unwrap();
    (bed, near, listener)
}

fn is_reset(conn: &mut Conn, guest: &mut HandGuest) {
    let answer = conn.expect_such(guest, "RST", |segment| segment.flags & Tcp::RST != 0).unwrap();
    assert_eq!(answer.sequence, conn.rcv_nxt, "a guest takes no other reset");
}

fn sees_reset(mut host: TcpStream) {
    assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn each_rule_counts_and_keeps_its_count_as_long_as_it_stands() {
    let web = rule("allow", "to = \"203.0.113.0/24\"\nproto = \"tcp\"\nports = \"443\"");
    let deny = rule("deny", "to = \"203.0.113.0/24\"");
    let udp = rule("deny", "to = \"0.0.0.0/0\"\nproto = \"udp\"");
    let bed = Bed::start(&TestConfig::default().vm("a", 2, &[&*web, &deny, &udp].concat())).unwrap();
    let mut a = HandGuest::start(&bed, "a", 2, feature::PLAIN).unwrap();
    for (at, (to, port)) in [
        ([203, 0, 113, 7], 443),
        ([203, 0, 113, 7], 80),
        ([203, 0, 113, 8], 80),
        ([203, 0, 114, 1], 443),
        ([127, 0, 0, 1], 443),
        ([169, 254, 170, 2], 443),
    ]
    .into_iter()
    .enumerate()
    {
        knock(&mut a, to, (40_000 + at as u16, port));
    }
    let expect = |wanted: &[u64]| {
        wait_until(&format!("{wanted:?}"), seconds(5), || counters(&bed) == wanted)
            .with_context(|| format!("{:?}", counters(&bed)))
            .unwrap();
    };
    expect(&[1, 2, 0, 1, 2]);
    assert_eq!(bed.vonicd.drops("a", "denied").unwrap(), 5);
    let text = bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap();
    for line in [
        "allow 203.0.113.0/24 tcp ports 443        1",
        "deny 203.0.113.0/24                       2",
        "deny 0.0.0.0/0 udp                        0",
        "no rule matched: deny                     1",
        "never a destination: deny                 2",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    // Another place changes nothing, another rule begins at nothing, and so does one that was away.
    let other = rule("deny", "to = \"203.0.114.0/24\"");
    reload(&bed, &[&*other, &deny, &web].concat());
    expect(&[0, 2, 1, 1, 2]);
    knock(&mut a, [203, 0, 114, 1], (41_000, 443));
    knock(&mut a, [203, 0, 113, 7], (41_001, 443));
    expect(&[1, 3, 1, 1, 2]);
    reload(&bed, &[&*deny, &udp].concat());
    expect(&[3, 0, 1, 2]);
    // Another device is another session; the counters stay.
    reload(&bed, &format!("mtu = 1400\n{deny}"));
    expect(&[3, 1, 2]);
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_connection_ends_with_its_permission_both_ways() {
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7001\"\nport = 1\n";
    let (bed, _near, listener) = with_neighbour(&TestConfig::default().vm("a", 2, forward));
    let port = listener.local_addr().unwrap().port();
    let mut a = HandGuest::start(&bed, "a", 2, feature::PLAIN).unwrap();
    let mut stays = Line::guest_opens(&mut a, 4000).unwrap();
    let mut of_the_world = Line::world_opens(&mut a, ([127, 0, 0, 1], 7001).into(), 1).unwrap();
    let mut goes = Conn::new(NEAR, (4001, port)).open(&mut a).unwrap();
    let host = accept(&listener).unwrap();
    // In the middle of a handshake as well: nobody answers there.
    ip("neigh replace 198.51.100.66 lladdr 02:00:00:00:00:66 dev near nud permanent").unwrap();
    let mut pending = Conn::new([198, 51, 100, 66].into(), (4002, 80));
    a.send(pending.remote, &pending.syn(Tcp::SYN)).unwrap();
    wait_until("the connects", seconds(5), || tcp(&bed, "open") == 4).unwrap();

    let rules =
        [rule("deny", "to = \"198.51.100.0/24\"\nproto = \"tcp\""), rule("allow", "to = \"0.0.0.0/0\"")].concat();
    reload(&bed, &format!("{forward}{rules}"));
    is_reset(&mut goes, &mut a);
    sees_reset(host);
    let answer = pending.expect_such(&mut a, "RST", |segment| segment.flags & Tcp::RST != 0).unwrap();
    assert_eq!(answer.acknowledgment, pending.iss.wrapping_add(1));
    stays.exchange(&mut a).unwrap();
    of_the_world.exchange(&mut a).unwrap();
    assert_eq!((tcp(&bed, "revoked"), tcp(&bed, "open")), (2, 2));
    // What the world opened is no matter of egress, whatever its rules are.
    reload(&bed, &format!("{forward}{}", rule("deny", "to = \"0.0.0.0/0\"")));
    of_the_world.exchange(&mut a).unwrap();
    stays.host_sees_reset().unwrap();
    // Counted once each, when they began: a look at what runs is no decision.
    assert_eq!(counters(&bed), [0, 0, 0]);
    bed.vonicd.stop().unwrap();
}

#[test]
fn an_address_that_the_host_gets_is_denied_at_once_and_allowed_when_it_has_gone() {
    let (bed, _near, listener) = with_neighbour(&TestConfig::default().vm("a", 2, "").vm("b", 3, ""));
    let port = listener.local_addr().unwrap().port();
    let mut a = HandGuest::start(&bed, "a", 2, feature::PLAIN).unwrap();
    let mut conn = Conn::new(NEAR, (4001, port)).open(&mut a).unwrap();
    let host = accept(&listener).unwrap();
    ip("addr add 198.51.100.2/32 dev lo").unwrap();
    is_reset(&mut conn, &mut a);
    drop(host);
    let own = TcpListener::bind((NEAR, 0)).unwrap();
    let mut refused = Conn::new(NEAR, (4002, own.local_addr().unwrap().port()));
    a.send(NEAR, &refused.syn(Tcp::SYN)).unwrap();
    assert!(refused.hear(&mut a, QUIET).unwrap().is_none(), "the host's own address answers");
    assert_eq!(counters(&bed), [0, 1]);
    ip("addr del 198.51.100.2/32 dev lo").unwrap();
    // The neighbour's address again, as soon as vonic has heard of it.
    let mut at = 4100;
    wait_until("the neighbour", seconds(5), || {
        at += 1;
        let mut conn = Conn::new(NEAR, (at, port));
        a.send(NEAR, &conn.syn(Tcp::SYN)).unwrap();
        conn.hear(&mut a, QUIET).unwrap().is_some()
    })
    .unwrap();
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_removed_networks_addresses_are_the_worlds_again() {
    let network =
        "[network.default]\nsubnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\nhost_loopback4 = \"192.0.2.1\"\n";
    let other = "[network.other]\nsubnet4 = \"198.51.100.0/24\"\ngateway4 = \"198.51.100.1\"\n";
    let config = TestConfig { service: format!("{network}{other}"), network: String::new(), ..TestConfig::default() };
    let (bed, _near, listener) = with_neighbour(&config.vm("a", 2, ""));
    let port = listener.local_addr().unwrap().port();
    let member = "mac = \"52:54:00:00:00:03\"\nnetwork = \"other\"\naddress4 = \"198.51.100.3\"\n";
    bed.directory.write("etc/vms.d/b.toml", member).unwrap();
    reload(&bed, "");
    let mut a = HandGuest::start(&bed, "a", 2, feature::PLAIN).unwrap();
    knock(&mut a, NEAR.octets(), (4000, port));
    wait_until("the denial", seconds(5), || counters(&bed) == [0, 1]).unwrap();
    let service = |text: &str| format!("runtime_dir = \"{}\"\n{text}", bed.directory.path().join("run").display());
    // Its member goes with it; then it comes back, and goes again.
    std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/b.toml")).unwrap();
    for (round, text) in [network.to_string(), format!("{network}{other}"), network.to_string()].iter().enumerate() {
        bed.directory.write("etc/vonic.toml", service(text)).unwrap();
        reload(&bed, "");
        let mut conn = Conn::new(NEAR, (4001 + round as u16, port));
        if text.contains("other") {
            a.send(NEAR, &conn.syn(Tcp::SYN)).unwrap();
            assert!(conn.hear(&mut a, QUIET).unwrap().is_none(), "round {round}");
        } else {
            conn.open(&mut a).with_context(|| format!("round {round}")).unwrap();
            drop(accept(&listener).unwrap());
        }
    }
    // The network that came back has ended what the round before had opened to its addresses.
    assert_eq!(tcp(&bed, "revoked"), 1);
    bed.vonicd.stop().unwrap();
}

/// Real clients of both families: the rules' word reaches them, and what they have open is in the list.
#[test]
fn a_guest_of_both_families_sees_the_rules_and_the_list_shows_what_it_has_open() {
    let rules = [
        rule("deny", "to = \"2001:db8::1\"\nproto = \"tcp\"\nports = \"7001\""),
        rule("deny", "to = \"192.0.2.1\"\nproto = \"tcp\"\nports = \"7001\""),
        rule("allow", "to = \"::/0\""),
        rule("allow", "to = \"0.0.0.0/0\""),
    ];
    let (bed, near, _listener) = with_neighbour(&TestConfig::both_families().vm("a", 2, &rules.concat()));
    ip("addr add 2001:db8:5::1/64 dev near nodad").unwrap();
    near.ip("addr add 2001:db8:5::2/64 dev near nodad").unwrap();
    let listeners = [7001, 7002].map(|port| TcpListener::bind(("::", port)).unwrap());
    let config = GuestConfig { ip6: true, ..GuestConfig::new("a", 2, &bed.socket("a")) };
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    guest
        .must("ip addr add 2001:db8::2/64 dev eth0 nodad; ip route replace default via 2001:db8::1", seconds(10))
        .unwrap();
    bed.directory.write("connect.py", CONNECT).unwrap();
    let said = guest
        .must("python3 /tmp/connect.py 2001:db8::1 7001 192.0.2.1 7001 2001:db8::1 7002 192.0.2.1 7002", seconds(30));
    assert_eq!(said.unwrap().split_ascii_whitespace().collect::<Vec<_>>(), ["timeout", "timeout", "ok", "ok"]);
    let counted = counters(&bed);
    assert!((1..5).contains(&counted[0]) && (1..5).contains(&counted[1]), "SYNs of two seconds: {counted:?}");
    assert_eq!(counted[2..], [1, 1, 0, 0]);
    let clients = guest.spawn("python3 /tmp/connect.py hold 2001:db8::1 7002 192.0.2.1 7002").unwrap();
    clients.wait_output(&mut guest, "ok ok", seconds(10)).unwrap();
    guest.must("ping -c 1 198.51.100.2 && ping -c 1 2001:db8:5::2", seconds(10)).unwrap();
    let rows = || bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
    let of = |rows: &Value, state: &str| {
        let rows = rows.as_array().unwrap().iter().filter(|row| row["state"] == state);
        rows.map(|row| (row["protocol"].as_str().unwrap().to_string(), row["remote"].as_str().unwrap().to_string()))
            .collect::<std::collections::BTreeSet<_>>()
    };
    let pair = |protocol: &str, remote: &str| (protocol.to_string(), remote.to_string());
    assert_eq!(
        of(&rows(), "ESTABLISHED"),
        [pair("tcp", "192.0.2.1:7002"), pair("tcp", "[2001:db8::1]:7002")].into(),
        "{}",
        rows()
    );
    let pings = of(&rows(), "echo");
    assert_eq!(pings, [pair("icmp", "198.51.100.2"), pair("icmp", "2001:db8:5::2")].into(), "{}", rows());
    clients.kill(&mut guest).unwrap();
    drop(listeners);
    bed.vonicd.stop().unwrap();
}

/// Connects to each address and port in turn, two seconds each, says what came of it, and with "hold" keeps what is open.
const CONNECT: &str = "import socket, sys, time
words = sys.argv[1:]
hold = words[0] == 'hold' and words.pop(0)
open, said = [], []
for address, port in zip(words[::2], words[1::2]):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    client = socket.socket(family)
    client.settimeout(2)
    try:
        client.connect((address, int(port)))
        said.append('ok')
    except TimeoutError:
        said.append('timeout')
    except OSError as error:
        said.append(str(error.errno))
    open.append(client)
print(*said, flush=True)
if hold:
    time.sleep(60)
";
