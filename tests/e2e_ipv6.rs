//! Does IPv6 do what IPv4 does: TCP with every byte both ways under each VMM, forwards, refusals, egress, and pings?
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::{Value, json};
use vonic_tests::*;

const NO_OFFLOADS: &str =
    "features = { tso = false, csum = false, guest_tso = false, guest_csum = false, mrg_rxbuf = false }";

fn forward(listen: &str) -> String {
    format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{listen}\"\nport = 7\n")
}

/// A service, and guest `a` with the static addresses of its file.
struct Pair {
    guest: Guest,
    bed: Bed,
}

/// Starts a guest with IPv6; [`settle`] follows.
fn start_guest(bed: &Bed, name: &str, number: u8, vmm: Vmm) -> Guest {
    let plain = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    bed.start_configured(&GuestConfig { ip6: true, ..plain }).unwrap()
}

/// Gives a started guest its address and route, and starts a server on port 7 of both families.
fn settle(guest: &mut Guest, number: u8) -> Job {
    guest.wait_ready().unwrap();
    // No time is spent on duplicate address detection; busybox's ip has no word for it.
    let command = format!(
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{number}/64 dev eth0 && \
         ip -6 route add default via 2001:db8::1 dev eth0 metric 100"
    );
    guest.must(&command, seconds(10)).unwrap();
    let server = guest.spawn("vonic-peer serve [::]:7").unwrap();
    server.wait_output(guest, "listening", seconds(10)).unwrap();
    server
}

impl Pair {
    fn start(vmm: Vmm, config: TestConfig, more: &str) -> (Pair, Job) {
        let forwards = [forward("[::1]:7007"), forward("*:7008")].concat();
        let bed = Bed::start_here(&config.vm("a", 2, &format!("{more}\n{forwards}"))).unwrap();
        let mut guest = start_guest(&bed, "a", 2, vmm);
        let server = settle(&mut guest, 2);
        (Pair { guest, bed }, server)
    }

    /// The guest as client of `server`, which it reaches at `address`.
    fn guest_opens(&mut self, server: &mut PeerServer, address: &str, arguments: &str) {
        let (operation, rest) = arguments.split_once(' ').unwrap();
        let command = format!("vonic-peer {operation} [{address}]:{} {rest}", server.address().port());
        let result: Value = serde_json::from_str(&self.guest.must(&command, seconds(120)).unwrap()).unwrap();
        assert_eq!(result["failures"], json!([]), "{result}");
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
    }

    /// The host as client of the guest's server, by way of a forward.
    fn world_opens(&mut self, address: &str, arguments: &str) {
        let (operation, rest) = arguments.split_once(' ').unwrap();
        let words: Vec<&str> = [operation, address].into_iter().chain(rest.split(' ')).collect();
        let result = peer(&words, None, self.bed.directory.path(), seconds(120)).unwrap();
        assert_eq!(result["ok"], true, "{address}: {result}");
    }

    /// Good reports of the guest's server about sessions with `peer`, the beginning of its address.
    fn wait_sessions(&mut self, server: &Job, peer: &str, sessions: usize) {
        let good = |line: &&str| line.contains("\"error\":null") && line.contains(&format!("\"peer\":\"{peer}"));
        let guest = &mut self.guest;
        wait_until(&format!("{sessions} sessions with {peer}"), seconds(20), || {
            server.output(guest).unwrap().lines().filter(good).count() == sessions
        })
        .with_context(|| server.output(guest).unwrap_or_default())
        .unwrap();
    }
}

/// Both openers, both directions, byte by byte, under both families' `*`.
fn streams(vmm: Vmm, bytes: u64, more: &str) {
    isolate().unwrap();
    let (mut pair, job) = Pair::start(vmm, TestConfig::both_families(), more);
    let mut server = PeerServer::start("server", pair.bed.directory.path(), "[::1]:0", None).unwrap();
    for (operation, seed) in [("send", 1), ("recv", 2), ("both", 3)] {
        pair.guest_opens(&mut server, "2001:db8::1", &format!("{operation} {bytes} {seed}"));
        pair.world_opens("[::1]:7007", &format!("{operation} {bytes} {seed}"));
    }
    // A peer of the host's loopback is the gateway to the guest, in its own family.
    pair.wait_sessions(&job, "[2001:db8::1]:", 3);
    pair.world_opens("[::1]:7008", "both 100000 4");
    pair.wait_sessions(&job, "[2001:db8::1]:", 4);
    pair.world_opens("127.0.0.1:7008", "both 100000 5");
    pair.wait_sessions(&job, "[::ffff:192.0.2.1]:", 1);
    let shown = pair.bed.vonicd.vm("a").unwrap();
    assert_eq!((&shown["address6"], &shown["last_error"]), (&"2001:db8::2".into(), &Value::Null), "{shown}");
    pair.bed.vonicd.stop().unwrap();
}

#[test]
fn user_mode_linux_streams() {
    streams(Vmm::Uml, 64 << 20, "");
}

#[test]
fn user_mode_linux_streams_with_large_packets() {
    streams(Vmm::Uml, 64 << 20, "mtu = 9000");
}

#[test]
fn user_mode_linux_streams_without_offloads() {
    streams(Vmm::Uml, 64 << 20, NO_OFFLOADS);
}

#[test]
fn user_mode_linux_streams_with_large_packets_without_offloads() {
    streams(Vmm::Uml, 64 << 20, &format!("mtu = 9000\n{NO_OFFLOADS}"));
}

#[test]
fn qemu_streams() {
    streams(Vmm::Qemu, 8 << 20, "");
}

#[test]
fn qemu_streams_with_large_packets_without_offloads() {
    streams(Vmm::Qemu, 8 << 20, &format!("mtu = 9000\n{NO_OFFLOADS}"));
}

/// A machine of the world at 2001:db8:7::2; the host is 2001:db8:7::1.
fn world() -> Netns {
    isolate().unwrap();
    let far = Netns::new().unwrap();
    far.cable("far", "2001:db8:7::1/64 nodad", "2001:db8:7::2/64 nodad").unwrap();
    far
}

fn refusals_and_rules(vmm: Vmm) {
    let far = world();
    let rules = "[[egress]]\naction = \"deny\"\nto = \"2001:db8:7::2\"\nproto = \"tcp\"\nports = \"9\"\n\
                 [[egress]]\naction = \"allow\"\nto = \"2001:db8::/32\"\n";
    let (mut pair, _job) = Pair::start(vmm, TestConfig::both_families(), rules);
    let mut server = PeerServer::start("far", pair.bed.directory.path(), "[2001:db8:7::2]:0", Some(&far)).unwrap();
    pair.guest_opens(&mut server, "2001:db8:7::2", "both 1000000 1");
    // Nobody listens: the world's reset, and the host's own, become the guest's.
    for to in ["[2001:db8:7::2]:10", "[2001:db8::1]:10"] {
        let said = pair.guest.run(&format!("vonic-peer send {to} 1 1 2>&1"), seconds(10)).unwrap();
        assert!(said.status != 0 && said.stdout.contains("refused"), "{to}: {said:?}");
    }
    let denied = || pair.bed.vonicd.drops("a", "denied").unwrap();
    let before = denied();
    // By a rule; by no rule that would allow it; the host itself, without reach_host.
    for (n, to) in ["[2001:db8:7::2]:9", "[2001:4860::1]:80", "[2001:db8:7::1]:80"].into_iter().enumerate() {
        let said = pair.guest.run(&format!("vonic-peer send {to} 1 1 2>&1"), seconds(10)).unwrap();
        assert_ne!(said.status, 0, "{to}: {said:?}");
        assert!(denied() > before + n as u64, "{to}: {said:?}");
    }
    pair.bed.vonicd.stop().unwrap();
}

#[test]
fn user_mode_linux_refusals_and_rules() {
    refusals_and_rules(Vmm::Uml);
}

#[test]
fn qemu_refusals_and_rules() {
    refusals_and_rules(Vmm::Qemu);
}

/// The gateway, and one guest the other, under each VMM; and TCP between the two.
#[test]
fn pings() {
    isolate().unwrap();
    let bed = Bed::start_here(&TestConfig::both_families().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut guests = [(2, start_guest(&bed, "a", 2, Vmm::Uml)), (3, start_guest(&bed, "b", 3, Vmm::Qemu))];
    for (number, guest) in &mut guests {
        settle(guest, *number);
    }
    for (number, guest) in &mut guests {
        for to in ["2001:db8::1".to_string(), format!("2001:db8::{}", 5 - *number)] {
            for size in [0, 56, 1452] {
                let said = guest.must(&format!("ping -c 2 -W 5 -s {size} {to}"), seconds(20)).unwrap();
                assert!(said.contains(" 0% packet loss"), "{size} bytes from {number} to {to}: {said}");
            }
        }
    }
    let [(_, a), _] = &mut guests;
    let report = a.must("vonic-peer both [2001:db8::3]:7 1000000 1", seconds(30)).unwrap();
    assert!(report.contains("\"failures\":[]"), "{report}");
    bed.vonicd.stop().unwrap();
}
