//! Does a guest see the path that its packets take: its routers by traceroute, and the smallest MTU on it; and does what is larger
//! still arrive, by TCP and by UDP, in both families?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use vonic_tests::*;

/// What each router is known by, and the host behind the second one, on a line of 1280 bytes.
const PATH: [[&str; 3]; 2] =
    [["198.51.100.2", "203.0.113.2", "198.18.0.2"], ["2001:db8:51::2", "2001:db8:52::2", "2001:db8:53::2"]];
const MTU: u32 = 1280;

struct World {
    bed: Bed,
    _routers: [Netns; 2],
    far: Netns,
}

impl World {
    fn start() -> World {
        let bed = Bed::start(&TestConfig::both_families().vm("a", 2, "")).unwrap();
        let [first, second, far] = [(); 3].map(|()| Netns::new().unwrap());
        let line = |name: &str, to: &Netns, net4: &str, net6: &str| {
            to.cable(name, &format!("{net4}.1/24"), &format!("{net4}.2/24"))?;
            ip(&format!("addr add {net6}::1/64 dev {name} nodad"))?;
            to.ip(&format!("addr add {net6}::2/64 dev {name} nodad"))
        };
        let forwarding = || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            Ok(std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?)
        };
        line("near", &first, "198.51.100", "2001:db8:51").unwrap();
        first.run(|| forwarding().and_then(|()| line("middle", &second, "203.0.113", "2001:db8:52"))).unwrap();
        let last = || {
            forwarding()?;
            line("last", &far, "198.18.0", "2001:db8:53")?;
            ip(&format!("link set last mtu {MTU}"))
        };
        second.run(last).unwrap();
        far.ip(&format!("link set last mtu {MTU}")).unwrap();
        for route in ["198.18.0.0/24 via 198.51.100.2", "203.0.113.0/24 via 198.51.100.2"] {
            ip(&format!("route add {route}")).unwrap();
        }
        for route in ["2001:db8:53::/64 via 2001:db8:51::2", "2001:db8:52::/64 via 2001:db8:51::2"] {
            ip(&format!("-6 route add {route}")).unwrap();
        }
        first.ip("route add 198.18.0.0/24 via 203.0.113.2").unwrap();
        first.ip("-6 route add 2001:db8:53::/64 via 2001:db8:52::2").unwrap();
        second.ip("route add default via 203.0.113.1").unwrap();
        second.ip("-6 route add default via 2001:db8:52::1").unwrap();
        far.ip("route add default via 198.18.0.1").unwrap();
        far.ip("-6 route add default via 2001:db8:53::1").unwrap();
        World { bed, _routers: [first, second], far }
    }

    fn guest(&self) -> Guest {
        let config = GuestConfig::new("a", 2, &self.bed.socket("a")).on(Vmm::Uml);
        let mut guest = self.bed.start_configured(&GuestConfig { ip6: true, ..config }).unwrap();
        guest.wait_ready().unwrap();
        let settle = "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::2/64 dev eth0 && \
                      ip -6 route add default via 2001:db8::1 dev eth0 metric 100 && mount -t tmpfs none /mnt";
        guest.must(settle, seconds(10)).unwrap();
        guest
    }
}

/// The address of each hop that a traceroute of one probe a hop printed.
fn hops(said: &str) -> Vec<&str> {
    let lines = said.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    lines.filter_map(|line| line.split_whitespace().nth(1)).collect()
}

/// By UDP and by ICMP: each router by its own address, then the host.
fn traces(guest: &mut Guest) {
    for (family, path) in PATH.into_iter().enumerate() {
        let commands: &[&str] =
            if family == 0 { &["busybox traceroute", "busybox traceroute -I"] } else { &["busybox traceroute6"] };
        for command in commands {
            let said = guest.must(&format!("{command} -n -q 1 -w 5 -m 5 {}", path[2]), seconds(40)).unwrap();
            assert_eq!(hops(&said), path, "{command}: {said}");
        }
    }
    let ping = |ttl: usize, to: &str| format!("ping -c 1 -W 5 -t {ttl} {to}");
    for path in PATH {
        for (ttl, router) in [(1, path[0]), (2, path[1])] {
            let said = guest.run(&ping(ttl, path[2]), seconds(10)).unwrap().stdout;
            assert!(
                said.contains(&format!("From {router} icmp_seq=1 Time exceeded: Hop limit"))
                    || said.contains(&format!("From {router} icmp_seq=1 Time to live exceeded")),
                "{said}"
            );
        }
        guest.must(&ping(3, path[2]), seconds(10)).unwrap();
    }
}

/// Bulk TCP both ways and in both families past the narrow line.
fn streams(world: &World, guest: &mut Guest) {
    for path in PATH {
        let bracketed = if path[2].contains(':') { format!("[{}]", path[2]) } else { path[2].to_string() };
        let mut server =
            PeerServer::start("far", world.bed.directory.path(), &format!("{bracketed}:0"), Some(&world.far)).unwrap();
        let command = format!("vonic-peer both {bracketed}:{} 5000011 7", server.address().port());
        let result: Value = serde_json::from_str(&guest.must(&command, seconds(60)).unwrap()).unwrap();
        assert_eq!(result["failures"], json!([]), "{result}");
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
    }
}

/// The guest hears of the narrow line, from the router in front of it, and what it sends from then on arrives.
fn learns_mtu(world: &World, guest: &mut Guest) {
    for (family, path) in PATH.into_iter().enumerate() {
        let far: SocketAddr = SocketAddr::new(path[2].parse().unwrap(), 7);
        let socket = world.far.run(|| Ok(UdpSocket::bind(far)?)).unwrap();
        let to = if family == 0 { format!("UDP4:{}:7", path[2]) } else { format!("UDP6:[{}]:7", path[2]) };
        let mut send = |size: usize, options: &str, patience: Duration| {
            socket.set_read_timeout(Some(patience)).unwrap();
            let make = format!("head -c {size} /dev/zero | tr '\\0' v >/mnt/sent");
            // The socket of what is lost has to be there when the router's answer comes: a kernel drops an error that is nobody's. So it stays for a second.
            let (stays, open) = if patience < seconds(1) { ("-T 1 ", ",ignoreeof") } else { ("", "") };
            let command = format!("{make}; socat -u {stays}-b 65507 OPEN:/mnt/sent{open} {to}{options}");
            // It fails where the guest's kernel hears that the datagram was too long.
            guest.run(&command, seconds(10)).unwrap();
            let mut bytes = vec![0; 65_536];
            // socat ends what it sends by an empty datagram.
            let got = std::iter::from_fn(|| socket.recv(&mut bytes).ok()).find(|got| *got > 0);
            assert!(got.is_none_or(|got| got == size && bytes[..got].iter().all(|byte| *byte == b'v')), "{got:?}");
            got.is_some()
        };
        // Without "don't fragment" a router in IPv4 may do it, in IPv6 the sender does: it must know.
        if family == 0 {
            assert!(send(1400, ",setsockopt=0:10:x00000000", seconds(10)), "IP_PMTUDISC_DONT");
        }
        // Path MTU discovery is what a kernel does by itself: one datagram is lost.
        assert!(!send(1400, "", Duration::from_millis(700)), "lost");
        for size in [1400, 1200, 8000, 65_000] {
            assert!(send(size, "", seconds(10)), "{size} bytes to {to}");
        }
        let said = guest.must(&format!("ip route get {}", path[2]), seconds(10)).unwrap();
        assert!(said.contains(&format!("mtu {MTU}")), "{said}");
        let said = guest.run(&format!("ping -c 1 -W 5 -M do -s 1400 {}", path[2]), seconds(10)).unwrap();
        assert!(said.status != 0 && said.stdout.contains("Message too long"), "{said:?}");
    }
}

#[test]
fn a_guest_sees_its_path() {
    let world = World::start();
    let mut guest = world.guest();
    traces(&mut guest);
    streams(&world, &mut guest);
    learns_mtu(&world, &mut guest);
    assert_eq!(world.bed.vonicd.drops("a", "fragment").unwrap(), 0);
    world.bed.vonicd.stop().unwrap();
}
