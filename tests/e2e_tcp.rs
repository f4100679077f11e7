//! Does TCP through vonic carry every byte, both ways, in few long and many short connections, under each VMM?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::*;

/// Bytes of a long stream. Without KVM QEMU takes a minute for a quarter of them: all go in `make long-test`, and by `make demo`.
fn long(vmm: Vmm) -> u64 {
    match (std::env::var_os("VONIC_LONG"), vmm) {
        (Some(_), _) => 256 << 20,
        (None, Vmm::Qemu) => 24 << 20,
        (None, _) => 96 << 20,
    }
}

/// One guest on one vonicd; the host reaches the guest's port 7 at 127.0.0.1:7007.
struct Pair {
    guest: Guest,
    bed: Bed,
}

impl Pair {
    fn start(vmm: Vmm, more: &str) -> Pair {
        Pair::start_with(vmm, more, &[])
    }

    fn start_with(vmm: Vmm, more: &str, arguments: &[&str]) -> Pair {
        let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7007\"\nport = 7";
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let config = TestConfig { arguments, ..TestConfig::default() };
        let bed = Bed::start(&config.vm("a", 2, &format!("{more}\n{forward}"))).unwrap();
        let guest = bed.guest("a", 2, vmm).unwrap();
        Pair { guest, bed }
    }

    /// The guest as client of a server on the host; every session's report must be good as well.
    fn guest_opens(&mut self, arguments: &[&str], sessions: usize) -> serde_json::Value {
        let mut server = self.bed.server().unwrap();
        let address = format!("192.0.2.1:{}", server.address().port());
        let (operation, rest) = arguments.split_first().unwrap();
        let command = format!("vonic-peer {operation} {address} {}", rest.join(" "));
        let result: serde_json::Value =
            serde_json::from_str(&self.guest.must(&command, seconds(240)).unwrap()).unwrap();
        for _ in 0..sessions {
            let report = server.report(seconds(10)).unwrap();
            assert!(report["error"].is_null(), "{report}");
            assert!(report["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{report}");
        }
        result
    }

    /// The host as client of a server in the guest, through the forward.
    fn world_opens(&mut self, arguments: &[&str], sessions: usize) -> serde_json::Value {
        let job = self.guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
        job.wait_output(&mut self.guest, "listening", seconds(10)).unwrap();
        let (operation, rest) = arguments.split_first().unwrap();
        let all = [&[*operation, "127.0.0.1:7007"], rest].concat();
        let result = peer(&all, None, self.bed.directory.path(), seconds(240)).unwrap();
        assert_eq!(result["ok"], true, "{result}");
        // The client may be done before the server has read the end of its stream.
        let all_ended = |reports: &str| reports.matches("\"error\":null").count() == sessions;
        wait_until("a good report of each session", seconds(20), || all_ended(&job.output(&mut self.guest).unwrap()))
            .with_context(|| self.bed.vonicd.vonic_text(&["conns"]).unwrap_or_default())
            .unwrap();
        let reports = job.output(&mut self.guest).unwrap();
        // A loopback peer appears as the gateway.
        assert_eq!(reports.matches("\"peer\":\"192.0.2.1:").count(), sessions, "{reports}");
        job.kill(&mut self.guest).unwrap();
        result
    }

    /// Everything has been closed and freed.
    fn nothing_is_left(self) {
        let Pair { guest: _guest, bed } = self;
        wait_until("every connection's end", seconds(10), || {
            bed.vonicd
                .vonic(&["conns", "--json"])
                .unwrap()
                .as_array()
                .unwrap()
                .iter()
                .all(|row| row["state"] == "TIME-WAIT")
        })
        .unwrap();
        bed.vonicd.stop().unwrap();
    }
}

fn long_streams_both_ways(vmm: Vmm, more: &str) {
    long_streams_through(Pair::start(vmm, more), long(vmm));
}

fn long_streams_through(mut pair: Pair, bytes: u64) {
    let bytes = bytes.to_string();
    pair.guest_opens(&["send", &bytes, "1"], 1);
    pair.guest_opens(&["recv", &bytes, "2"], 1);
    pair.world_opens(&["send", &bytes, "3"], 1);
    pair.world_opens(&["recv", &bytes, "4"], 1);
    pair.guest_opens(&["both", &bytes, "5"], 1);
    pair.nothing_is_left();
}

fn two_thousand_short_connections(vmm: Vmm) {
    let mut pair = Pair::start(vmm, "");
    let result = pair.guest_opens(&["connections", "2000"], 2000);
    assert_eq!(result["connections"], 2000, "{result}");
    let result = pair.world_opens(&["connections", "2000"], 2000);
    assert_eq!(result["connections"], 2000, "{result}");
    pair.nothing_is_left();
}

fn thirty_two_parallel_streams(vmm: Vmm) {
    let mut pair = Pair::start(vmm, "");
    for (operation, seed) in [("send", "100"), ("recv", "200"), ("both", "300")] {
        pair.guest_opens(&[operation, "4000037", seed, "32"], 32);
        pair.world_opens(&[operation, "4000037", seed, "32"], 32);
    }
    pair.nothing_is_left();
}

#[test]
fn user_mode_linux_long_streams_both_ways() {
    long_streams_both_ways(Vmm::Uml, "");
}

#[test]
fn user_mode_linux_long_streams_with_jumbo_frames() {
    long_streams_both_ways(Vmm::Uml, "mtu = 65520");
}

#[test]
fn user_mode_linux_long_streams_without_offloads() {
    long_streams_both_ways(
        Vmm::Uml,
        "features = { tso = false, csum = false, guest_tso = false, guest_csum = false, mrg_rxbuf = false }",
    );
}

/// The way of kernels without SO_PEEK_OFF on TCP.
#[test]
fn user_mode_linux_long_streams_peeked_over_scratch_memory() {
    long_streams_through(Pair::start_with(Vmm::Uml, "", &["--peek", "scratch"]), long(Vmm::Uml));
}

#[test]
fn qemu_long_streams_both_ways() {
    long_streams_both_ways(Vmm::Qemu, "");
}

#[test]
fn user_mode_linux_two_thousand_short_connections() {
    two_thousand_short_connections(Vmm::Uml);
}

#[test]
fn qemu_two_thousand_short_connections() {
    two_thousand_short_connections(Vmm::Qemu);
}

#[test]
fn user_mode_linux_thirty_two_parallel_streams() {
    thirty_two_parallel_streams(Vmm::Uml);
}

#[test]
fn qemu_thirty_two_parallel_streams() {
    thirty_two_parallel_streams(Vmm::Qemu);
}

#[test]
fn a_refused_connection_is_refused_at_once_and_a_denied_one_fails() {
    let egress =
        "[[egress]]\naction = \"deny\"\nto = \"198.51.100.0/24\"\n[[egress]]\naction = \"allow\"\nto = \"0.0.0.0/0\"";
    let bed = Bed::start(&TestConfig::default().vm("a", 2, egress)).unwrap();
    let outside = Netns::new().unwrap();
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let server = PeerServer::start("outside", bed.directory.path(), "198.51.100.2:7", Some(&outside)).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let refused = guest.run("vonic-peer send 192.0.2.1:9 1 1", seconds(5)).unwrap();
    assert!(refused.status == 1 && refused.stdout.contains("refused"), "{refused:?}");
    let denied =
        guest.run(&format!("VONIC_PEER_TIMEOUT=3 vonic-peer send {} 1 1", server.address()), seconds(10)).unwrap();
    assert_eq!(denied.status, 1, "{denied:?}");
    assert!(bed.vonicd.drops("a", "denied").unwrap() > 0);
}

#[test]
fn a_destination_beyond_the_host_is_reached_with_its_own_address() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let outside = Netns::new().unwrap();
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let mut server = PeerServer::start("outside", bed.directory.path(), "198.51.100.2:7", Some(&outside)).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    guest.must(&format!("vonic-peer both {} 1000003 1 4", server.address()), seconds(60)).unwrap();
    for _ in 0..4 {
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null() && report["peer"].as_str().unwrap().starts_with("198.51.100.1:"), "{report}");
    }
    // The host itself is no destination without reach_host.
    let own = guest.run("VONIC_PEER_TIMEOUT=3 vonic-peer send 198.51.100.1:7 1 1", seconds(10)).unwrap();
    assert_eq!(own.status, 1, "{own:?}");
}

/// A peer's kernel takes a port again a second after it was closed (tcp_tw_reuse, the default on loopback); vonic's leg of the last
/// connection is still in TIME-WAIT then, and has to make room (RFC 9293 §3.6.1, RFC 6191).
#[test]
fn a_peers_port_can_be_used_again_soon() {
    let mut pair = Pair::start(Vmm::Uml, "");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
    for round in 0..3 {
        let result = pair.world_opens(&["connections", "2"], 2);
        assert_eq!(result["connections"], 2, "round {round}: {result}");
        std::thread::sleep(std::time::Duration::from_millis(1300));
    }
    pair.nothing_is_left();
}
