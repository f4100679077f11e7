use super::headers::{ARP, IPV4, IPV6};
use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}

/// A frame of a packet, as its fields say.
fn packet(ends: [IpAddr; 2], protocol: u8, ports: [u16; 2], fragment: u16) -> Vec<u8> {
    let mut out = [mac(3), mac(2)].concat();
    match ends {
        [IpAddr::V4(from), IpAddr::V4(to)] => {
            out.extend([8, 0, 0x45, 0, 0, 40, 0, 1]);
            out.extend(fragment.to_be_bytes());
            out.extend([64, protocol, 0, 0]);
            out.extend([from.octets(), to.octets()].concat());
        }
        [IpAddr::V6(from), IpAddr::V6(to)] => {
            // Through a hop-by-hop header of eight bytes, and a fragment header if it is one.
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, 0, 64]);
            out.extend([from.octets(), to.octets()].concat());
            out.extend([if fragment == 0 { protocol } else { 44 }, 0, 1, 4, 0, 0, 0, 0]);
            if fragment != 0 {
                out.extend([protocol, 0]);
                out.extend((fragment << 3).to_be_bytes());
                out.extend([0; 4]);
            }
        }
        _ => unreachable!("one family"),
    }
    out.extend(ports.map(u16::to_be_bytes).concat());
    out.extend([0; 16]);
    out
}

fn ip4(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

fn ip6(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()
}

#[test]
fn expressions_pick_frames() {
    let http = packet([ip4(2), ip4(3)], 6, [40_000, 80], 0);
    let dns = packet([ip6(2), ip6(3)], 17, [40_000, 53], 0);
    let rest = packet([ip4(2), ip4(3)], 6, [40_000, 80], 5);
    let rest6 = packet([ip6(2), ip6(3)], 17, [40_000, 53], 5);
    let mut arp = [[0xff; 6], mac(2)].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9]);
    let tagged = [&http[..12], &[0x81, 0, 0, 7], &http[12..]].concat();
    let frames = [&http, &dns, &rest, &rest6, &arp, &tagged];
    for (text, expected) in [
        ("tcp", [1, 0, 1, 0, 0, 1]),
        ("udp", [0, 1, 0, 1, 0, 0]),
        ("ip", [1, 0, 1, 0, 0, 1]),
        ("ip6", [0, 1, 0, 1, 0, 0]),
        ("arp", [0, 0, 0, 0, 1, 0]),
        ("tcp port 80", [1, 0, 0, 0, 0, 1]),
        ("port 80 or port 53", [1, 1, 0, 0, 0, 1]),
        ("src port 80", [0; 6]),
        ("dst port 80 || dst portrange 50-60", [1, 1, 0, 0, 0, 1]),
        ("host 192.0.2.2", [1, 0, 1, 0, 1, 1]),
        ("src host 192.0.2.3", [0; 6]),
        ("dst 2001:db8::3", [0, 1, 0, 1, 0, 0]),
        ("net 192.0.2.8/29", [0, 0, 0, 0, 1, 0]),
        ("net 2001:db8::/32 and not port 53", [0, 0, 0, 1, 0, 0]),
        ("ether host 52:54:00:00:00:03", [1, 1, 1, 1, 0, 1]),
        ("ether src 52:54:00:00:00:02 && !arp", [1, 1, 1, 1, 0, 1]),
        ("ether dst ff:ff:ff:ff:ff:ff", [0, 0, 0, 0, 1, 0]),
        ("ether proto 0x0806", [0, 0, 0, 0, 1, 0]),
        ("broadcast", [0, 0, 0, 0, 1, 0]),
        ("multicast", [0, 0, 0, 0, 1, 0]),
        ("proto 17", [0, 1, 0, 1, 0, 0]),
        ("icmp or icmp6", [0; 6]),
        ("tcp port 80 and host 192.0.2.2 or arp", [1, 0, 0, 0, 1, 1]),
        ("tcp and (port 80 or port 81)", [1, 0, 0, 0, 0, 1]),
        ("!(tcp||udp)", [0, 0, 0, 0, 1, 0]),
    ] {
        let (filter, expected) = (filter(text), expected.map(|wanted| wanted == 1));
        assert_eq!(frames.map(|frame| filter.matches(frame)), expected, "{text}: {filter}");
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_write() {
    for (text, said) in [
        ("", "says nothing"),
        ("   ", "says nothing"),
        ("tcp and", "behind 'and'"),
        ("and tcp", "'and' is nothing to ask for"),
        ("tcp udp", "'udp' follows without 'and' or 'or'"),
        ("(tcp", "'(' without its ')'"),
        ("tcp)", "')' without its '('"),
        ("port", "behind 'port' a port is missing"),
        ("port http", "'http' is not a port: write a number from 0 to 65535"),
        ("port 65536", "from 0 to 65535"),
        ("port +80", "is not a port"),
        ("portrange 9-3", "as 6000-6010"),
        ("host web1", "an address as 192.0.2.2"),
        ("net 192.0.2.1/24", "write 192.0.2.0/24"),
        ("ether 52:54:00:00:00:02", "host, src, dst or proto"),
        ("ether host 52:54", "52:54:00:00:00:02"),
        ("ether proto ip", "0x0800"),
        ("src tcp", "nothing to ask for"),
        ("proto 256", "from 0 to 255"),
        ("vlan", "ask for host, net"),
        ("tcp & udp", "without 'and' or 'or'"),
    ] {
        let error = Filter::parse(text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
    let deep = |depth: usize| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&deep(DEPTH_MAX)).is_ok());
    assert!(Filter::parse(&deep(DEPTH_MAX + 1)).unwrap_err().contains("within each other"));
    assert!(Filter::parse(&"not ".repeat(1000)).is_err());
    assert!(Filter::parse(&" ".repeat(LENGTH_MAX + 1)).unwrap_err().contains("longer"));
}

fn test() -> impl Strategy<Value = Test> {
    let end = || prop::sample::select(vec![End::Either, End::Source, End::Destination]);
    let net4 = (any::<u32>(), 0u8..=32).prop_map(|(bits, prefix)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Subnet { address: Ipv4Addr::from_bits(bits & mask).into(), prefix }
    });
    let net6 = any::<u128>().prop_map(|bits| Subnet::of(Ipv6Addr::from_bits(bits).into()));
    prop_oneof![
        any::<u16>().prop_map(Test::EtherType),
        any::<u8>().prop_map(Test::Protocol),
        prop::sample::select(vec![Test::Over(IPV4, 1), Test::Over(IPV6, 58), Test::EtherType(ARP)]),
        (end(), any::<[u8; 6]>()).prop_map(|(end, mac)| Test::Ether(end, MacAddr(mac))),
        (end(), net4).prop_map(|(end, net)| Test::Net(end, net)),
        (end(), net6).prop_map(|(end, net)| Test::Net(end, net)),
        (end(), any::<(u16, u16)>()).prop_map(|(end, (a, b))| Test::Port(end, a.min(b), a.max(b))),
        Just(Test::Broadcast),
        Just(Test::Multicast),
    ]
}

fn expression() -> impl Strategy<Value = Filter> {
    test().prop_map(Filter::Is).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|one| Filter::Not(Box::new(one))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::All),
            prop::collection::vec(inner, 2..4).prop_map(Filter::Any),
        ]
    })
}

/// A packet's fields, few enough that questions hit.
fn fields() -> impl Strategy<Value = ([IpAddr; 2], u8, [u16; 2], u16)> {
    let ends = prop_oneof![
        any::<[bool; 2]>().prop_map(|[a, b]| [ip4(2 + u8::from(a)), ip4(2 + u8::from(b))]),
        any::<[bool; 2]>().prop_map(|[a, b]| [ip6(2 + u16::from(a)), ip6(2 + u16::from(b))]),
    ];
    let protocol = prop::sample::select(vec![6u8, 17, 1, 58, 47]);
    (ends, protocol, any::<[u16; 2]>().prop_map(|ports| ports.map(|port| port % 3)), 0u16..2)
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same(expression in expression()) {
        let text = expression.to_string();
        prop_assume!(text.len() <= LENGTH_MAX);
        prop_assert_eq!(Filter::parse(&text), Ok(expression));
    }

    #[test]
    fn questions_are_answered_by_the_packets_fields((ends, protocol, ports, fragment) in fields()) {
        let frame = packet(ends, protocol, ports, fragment);
        let has_ports = matches!(protocol, 6 | 17) && fragment == 0;
        for n in 0..3u16 {
            prop_assert_eq!(filter(&format!("src port {n}")).matches(&frame), has_ports && ports[0] == n);
            prop_assert_eq!(filter(&format!("dst port {n}")).matches(&frame), has_ports && ports[1] == n);
            prop_assert_eq!(filter(&format!("port {n}")).matches(&frame), has_ports && ports.contains(&n));
            prop_assert_eq!(filter(&format!("proto {}", 5 + n)).matches(&frame), u16::from(protocol) == 5 + n);
        }
        for address in [ip4(2), ip4(3), ip6(2), ip6(3)] {
            prop_assert_eq!(filter(&format!("host {address}")).matches(&frame), ends.contains(&address));
            prop_assert_eq!(filter(&format!("src {address}")).matches(&frame), ends[0] == address);
        }
        let both = filter("ip and tcp").matches(&frame);
        prop_assert_eq!(both, filter("ip").matches(&frame) && filter("tcp").matches(&frame));
        prop_assert_eq!(filter("not (ip and tcp)").matches(&frame), !both);
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,60}", words in prop::collection::vec(prop::sample::select(vec!["tcp", "(", ")", "not", "and",
        "or", "port", "80", "src", "host", "192.0.2.2", "ether", "net", "!", "&&", "|"]), 0..12), frame in prop::collection::vec(any::<u8>(), 0..120),
        kind in prop::sample::select(vec![[8u8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]), expression in expression()) {
        let _ = Filter::parse(&text);
        let _ = Filter::parse(&words.join(" "));
        let mut frame = frame;
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&kind);
        }
        for end in 0..=frame.len() {
            expression.matches(&frame[..end]);
        }
    }
}
