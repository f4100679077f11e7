use super::*;
use crate::spec::NetworkSpec;
use crate::switch::tests::{member, network};
use vonic_frame::PROTOCOL_UDP;
use vonic_record::Shared;

fn decide(change: impl Fn(&mut NetworkSpec), port: &PortSpec, to: &str) -> Result<Route, DropReason> {
    decide_of(PROTOCOL_TCP, change, port, to)
}

fn decide_of(protocol: u8, change: impl Fn(&mut NetworkSpec), port: &PortSpec, to: &str) -> Result<Route, DropReason> {
    let mut net = network(false);
    change(&mut net.spec);
    let mut other = network(false);
    other.spec.v4.subnet = Some("198.51.100.0/24".parse().unwrap());
    other.spec.v6.subnet = Some("2001:db8:77::/64".parse().unwrap());
    let mut own = network(false);
    change(&mut own.spec);
    let networks = [Some(Box::new(own)), Some(Box::new(other))];
    let addresses = ["203.0.113.9", "2001:db8:9::9"].map(|a| a.parse().unwrap()).into();
    let host = HostView { addresses, metrics: Some("0.0.0.0:9477".parse().unwrap()) };
    let listeners = [(PROTOCOL_TCP, "127.0.0.1:8080"), (PROTOCOL_TCP, "0.0.0.0:8081"), (PROTOCOL_UDP, "0.0.0.0:8082")]
        .map(|(protocol, at)| (protocol, at.parse().unwrap()));
    let world = World { host: &host, networks: &networks, listeners: &listeners };
    super::decide(&world, &net, port, protocol, to.parse().unwrap()).counted()
}

/// Each range of addresses that no guest reaches, by its first and last address and one in between.
const NEVER: [(&str, [&str; 3]); 19] = [
    ("0.0.0.0/8", ["0.0.0.0", "0.1.2.3", "0.255.255.255"]),
    ("127.0.0.0/8", ["127.0.0.0", "127.0.0.1", "127.255.255.255"]),
    ("169.254.0.0/16", ["169.254.0.0", "169.254.170.2", "169.254.255.255"]),
    ("224.0.0.0/4", ["224.0.0.0", "239.255.255.250", "239.255.255.255"]),
    ("broadcast", ["255.255.255.255"; 3]),
    ("the network's own", ["192.0.2.0", "192.0.2.77", "192.0.2.255"]),
    ("another network's", ["198.51.100.0", "198.51.100.4", "198.51.100.255"]),
    ("the host's own", ["203.0.113.9", "2001:db8:9::9", "203.0.113.9"]),
    ("::/96", ["::", "::1", "::ffff:ffff"]),
    ("::ffff:0:0/96", ["::ffff:0.0.0.0", "::ffff:203.0.113.7", "::ffff:255.255.255.255"]),
    ("ff00::/8", ["ff00::", "ff02::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
    ("fe80::/10", ["fe80::", "fe80::1", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
    ("networks of IPv6", ["2001:db8::", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:77::1"]),
    ("NAT64 to what is never", ["64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::224.0.0.1"]),
    ("NAT64 to the host and to guests", ["64:ff9b::203.0.113.9", "64:ff9b::192.0.2.2", "64:ff9b::198.51.100.4"]),
    ("NAT64 of one's own", ["64:ff9b:1::127.0.0.1", "64:ff9b:1:fffe::192.0.2.1", "64:ff9b:1::203.0.113.9"]),
    ("6to4 to what is never", ["2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:e000:1::1"]),
    ("6to4 to the host and to guests", ["2002:cb00:7109::1", "2002:c000:202::1", "2002:c633:6404::1"]),
    ("Teredo's clients", ["2001:0:4136:e378:8000:63bf:80ff:fffe", "2001::34ff:8ef6", "2001::3fff:fdfd"]),
];

#[test]
fn some_addresses_are_never_a_destination_whatever_rules_and_protocol_say() {
    let mut port = member(2, true);
    let allow = |to: &str| EgressRule {
        action: Action::Allow,
        to: to.parse().unwrap(),
        protocol: None,
        ports: None,
        decided: Shared::default(),
    };
    for rules in [vec![], vec![allow("0.0.0.0/0"), allow("::/0")]] {
        port.egress = rules;
        for (range, addresses) in NEVER {
            for address in addresses {
                for (protocol, to_port) in [(PROTOCOL_TCP, 80), (PROTOCOL_UDP, 53), (PROTOCOL_ICMP, 0)] {
                    let to = SocketAddr::new(address.parse().unwrap(), to_port).to_string();
                    let decided = decide_of(protocol, |_| (), &port, &to);
                    assert_eq!(decided, Err(DropReason::Denied), "{range}: {to}, protocol {protocol}");
                }
            }
        }
    }
    assert!(port.egress.iter().all(|rule| rule.decided.get() == 0), "a rule claims what it did not decide");
    assert_eq!(port.stats.egress.never.get(), 2 * 3 * 19 * 3);
}

#[test]
fn what_is_next_to_a_forbidden_range_is_a_destination() {
    let port = member(2, true);
    for to in [
        "1.0.0.0:80",
        "126.255.255.255:80",
        "128.0.0.0:80",
        "169.253.255.255:80",
        "169.255.0.0:80",
        "223.255.255.255:80",
        "203.0.113.7:80",
        "[::1:0:0]:80",
        "[::fffe:cb00:7107]:80",
        "[fec0::1]:80",
        "[fd00::1]:80",
        "[2001:db8:0:1::1]:80",
        "[64:ff9b::203.0.113.7]:80",
        "[2002:cb00:7107::1]:80",
        "[2001:0:4136:e378:8000:63bf:34ff:8ef8]:80",
    ] {
        assert_eq!(decide(|_| (), &port, to), Ok(Route::To(to.parse().unwrap())), "{to}");
    }
    assert_eq!(decide(|_| (), &port, "192.0.2.1:80"), Ok(Route::Refuse));
    for host in ["203.0.113.9:80", "[2001:db8:9::9]:80", "[64:ff9b::203.0.113.9]:80"] {
        assert!(decide(|n| n.reach_host = true, &port, host).is_ok());
    }
    assert_eq!(decide(|n| n.uplink = Uplink::None, &port, "203.0.113.7:80"), Err(DropReason::Unsupported));
}

#[test]
fn a_rule_that_denies_ipv4_denies_the_way_there_by_ipv6() {
    let mut port = member(2, true);
    let rule = |action, to: &str| EgressRule {
        action,
        to: to.parse().unwrap(),
        protocol: None,
        ports: None,
        decided: Shared::default(),
    };
    port.egress = vec![rule(Action::Deny, "10.0.0.0/8"), rule(Action::Allow, "::/0"), rule(Action::Allow, "0.0.0.0/1")];
    for denied in ["10.1.2.3:80", "[64:ff9b::10.1.2.3]:80", "[64:ff9b:1::10.1.2.3]:80", "[2002:a01:203::1]:80"] {
        assert_eq!(decide(|_| (), &port, denied), Err(DropReason::Denied), "{denied}");
    }
    assert!(decide(|_| (), &port, "[64:ff9b::11.1.2.3]:80").is_ok());
    // What allows IPv4 allows nothing of IPv6.
    port.egress.remove(1);
    assert_eq!(decide(|_| (), &port, "[64:ff9b::11.1.2.3]:80"), Err(DropReason::Denied));
    assert!(decide(|_| (), &port, "11.1.2.3:80").is_ok());
}

#[test]
fn each_rule_counts_what_it_decided() {
    let mut port = member(2, true);
    let rule = |action, to: &str| EgressRule {
        action,
        to: to.parse().unwrap(),
        protocol: None,
        ports: None,
        decided: Shared::default(),
    };
    port.egress = vec![rule(Action::Deny, "203.0.113.0/25"), rule(Action::Allow, "203.0.113.0/24")];
    for to in
        ["203.0.113.7:80", "203.0.113.200:80", "203.0.113.201:80", "203.0.114.1:80", "127.0.0.1:80", "203.0.113.7:81"]
    {
        let _ = decide(|_| (), &port, to);
    }
    let decided: Vec<u64> = port.egress.iter().map(|rule| rule.decided.get()).collect();
    assert_eq!((decided, port.stats.egress.no_rule.get(), port.stats.egress.never.get()), (vec![2, 2], 1, 1));
}

#[test]
fn the_service_is_reached_whatever_the_network_and_egress_say() {
    let mut port = member(2, true);
    port.egress = vec![EgressRule {
        action: Action::Deny,
        to: format!("0.0.0.0/{}", 0).parse().unwrap(),
        protocol: None,
        ports: None,
        decided: Shared::default(),
    }];
    for to in ["169.254.169.254:80", "[fe80::a9fe:a9fe]:80"] {
        assert_eq!(decide(|n| (n.uplink, n.v4.gateway) = (Uplink::None, None), &port, to), Ok(Route::Service), "{to}");
    }
    for to in ["169.254.169.254:81", "[fe80::a9fe:a9fe]:443"] {
        assert_eq!(decide(|_| (), &port, to), Ok(Route::Refuse), "never forwarded: {to}");
    }
    for to in ["169.254.169.254:0", "169.254.169.254:80"] {
        assert_eq!(decide_of(PROTOCOL_ICMP, |_| (), &port, to), Ok(Route::Refuse), "it speaks TCP: {to}");
    }
}

#[test]
fn the_hosts_loopback_has_its_own_address_and_spares_vonics_listeners() {
    let port = member(2, true);
    let to = |to| decide(|n| n.v4.host_loopback = Some([192, 0, 2, 1].into()), &port, to);
    assert_eq!(to("192.0.2.1:80"), Ok(Route::To("127.0.0.1:80".parse().unwrap())));
    assert_eq!(to("192.0.2.1:8080"), Err(DropReason::Denied));
    assert_eq!(to("192.0.2.1:8081"), Err(DropReason::Denied));
    let loopback = |n: &mut NetworkSpec| n.v4.host_loopback = Some([192, 0, 2, 1].into());
    for (protocol, open, own) in [(PROTOCOL_TCP, 8082, 8081), (PROTOCOL_UDP, 8081, 8082)] {
        let to = |at| decide_of(protocol, loopback, &port, &format!("192.0.2.1:{at}"));
        assert_eq!(to(own), Err(DropReason::Denied), "{protocol}");
        assert_eq!(to(open), Ok(Route::To(SocketAddr::new([127, 0, 0, 1].into(), open))), "{protocol}");
    }
}

#[test]
fn the_first_egress_rule_decides_and_no_match_denies() {
    let mut port = member(2, true);
    let rule = |action, len, ports| EgressRule {
        action,
        to: format!("203.0.113.0/{}", len).parse().unwrap(),
        protocol: Some(PROTOCOL_TCP),
        ports,
        decided: Shared::default(),
    };
    port.egress = vec![rule(Action::Deny, 24, Some((1, 1023))), rule(Action::Allow, 24, None)];
    assert_eq!(decide(|_| (), &port, "203.0.113.7:80"), Err(DropReason::Denied));
    assert!(decide(|_| (), &port, "203.0.113.7:8000").is_ok());
    assert_eq!(decide(|_| (), &port, "203.0.114.7:8000"), Err(DropReason::Denied));
}

#[test]
fn egress_rules_tell_protocols_apart() {
    let mut port = member(2, true);
    let to = "203.0.113.0/24".parse().unwrap();
    let rule = |action, protocol, ports| EgressRule { action, to, protocol, ports, decided: Shared::default() };
    let ping = |port: &PortSpec, to: &str| decide_of(PROTOCOL_ICMP, |_| (), port, &format!("{to}:0"));
    assert_eq!(ping(&port, "203.0.113.7"), Ok(Route::To("203.0.113.7:0".parse().unwrap())));
    assert_eq!(ping(&port, "203.0.113.9"), Err(DropReason::Denied), "the host's own");
    assert_eq!(ping(&port, "127.0.0.1"), Err(DropReason::Denied));
    port.egress = vec![rule(Action::Allow, Some(PROTOCOL_TCP), None)];
    assert_eq!(ping(&port, "203.0.113.7"), Err(DropReason::Denied));
    port.egress = vec![rule(Action::Deny, None, Some((0, 65535))), rule(Action::Allow, None, None)];
    assert!(ping(&port, "203.0.113.7").is_ok(), "a rule with ports is about TCP and UDP");
    port.egress = vec![rule(Action::Deny, Some(PROTOCOL_ICMP), None), rule(Action::Allow, None, None)];
    assert_eq!(ping(&port, "203.0.113.7"), Err(DropReason::Denied));
    assert!(decide(|_| (), &port, "203.0.113.7:80").is_ok());
}

#[test]
fn the_gateway_answers_for_names_whatever_egress_says() {
    let mut port = member(2, true);
    port.egress = vec![EgressRule {
        action: Action::Deny,
        to: format!("0.0.0.0/{}", 0).parse().unwrap(),
        protocol: None,
        ports: None,
        decided: Shared::default(),
    }];
    let serves = |n: &mut NetworkSpec| {
        n.names.resolvers = Some([].into());
        n.v4.host_loopback = n.v4.gateway;
    };
    for to in ["192.0.2.1:53", "[2001:db8::1]:53"] {
        assert_eq!(decide(serves, &port, to), Ok(Route::Names), "{to}");
        assert_eq!(decide_of(PROTOCOL_UDP, serves, &port, to), Ok(Route::Names), "{to}");
        assert_eq!(decide(|_| (), &member(2, true), to), Ok(Route::Refuse), "{to}");
    }
    assert_eq!(decide_of(PROTOCOL_ICMP, serves, &port, "192.0.2.1:53"), Err(DropReason::Denied));
    assert_eq!(decide(serves, &port, "192.0.2.1:54"), Err(DropReason::Denied));
    assert_eq!(decide(serves, &port, "198.51.100.1:53"), Err(DropReason::Denied));
    let nowhere = |n: &mut NetworkSpec| (n.names.resolvers, n.uplink) = (Some([].into()), Uplink::None);
    assert_eq!(decide(nowhere, &member(2, true), "192.0.2.1:53"), Err(DropReason::Unsupported));
}

#[test]
fn nobody_reaches_the_metrics_not_even_by_a_host_that_may_be_reached() {
    let port = member(2, true);
    let open = |net: &mut NetworkSpec| {
        net.reach_host = true;
        net.v4.host_loopback = Some([192, 0, 2, 1].into());
    };
    let to = |address: &str| Ok(Route::To(address.parse().unwrap()));
    for (asked, answer) in [
        ("203.0.113.9:9477", Err(DropReason::Denied)),
        ("203.0.113.9:9478", to("203.0.113.9:9478")),
        ("192.0.2.1:9477", Err(DropReason::Denied)),
        ("192.0.2.1:9478", to("127.0.0.1:9478")),
        ("203.0.113.7:9477", to("203.0.113.7:9477")),
    ] {
        assert_eq!(decide(open, &port, asked), answer, "{asked}");
    }
    assert_eq!(decide_of(PROTOCOL_UDP, open, &port, "203.0.113.9:9477"), to("203.0.113.9:9477"));
}
