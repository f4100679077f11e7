//! Guests on a bridge of the host, by taps: do they and the bridge's other machines reach each other, byte for byte, both families?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::lan::{self, BRIDGE, Host, ip6};
use vonic_tests::*;

/// A network `default` on the bridge; the VMs' files follow.
fn bridged() -> TestConfig {
    TestConfig { network: format!("uplink = \"tap:{BRIDGE}\"\n"), ..TestConfig::default() }
}

/// The bridge, two machines on it, and the service with three VMs.
fn start(mtu: u16, more: &str) -> (Bed, [Host; 2]) {
    isolate().unwrap();
    lan::bridge(mtu).unwrap();
    let hosts = [10, 11].map(|number| Host::new(number, mtu).unwrap());
    let lines = format!("mtu = {mtu}\n{more}");
    let config = [("a", 2), ("b", 3), ("c", 4)].into_iter().fold(bridged(), |c, (name, n)| c.vm(name, n, &lines));
    (Bed::start_here(&config).unwrap(), hosts)
}

/// A guest with addresses of both families and a server on port 7.
fn guest(bed: &Bed, name: &str, number: u8, vmm: Vmm) -> Guest {
    let config = GuestConfig { ip6: true, ..GuestConfig::new(name, number, &bed.socket(name)) }.on(vmm);
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    guest.must(&format!("ip addr add {}/64 dev eth0 nodad", ip6(number)), seconds(5)).unwrap();
    let server = guest.spawn("vonic-peer serve [::]:7").unwrap();
    server.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    guest
}

/// Where the server of `number` listens, in both families.
fn servers(number: u8) -> [String; 2] {
    [format!("{}:7", frames::ip4(number)), format!("[{}]:7", ip6(number))]
}

fn nothing_was_copied(bed: &Bed) {
    for path in ["guest_to_uplink", "uplink_to_guest"] {
        assert_eq!(bed.vonicd.copied(path).unwrap(), 0, "{path}");
    }
}

/// Streams between guest `a` and the first host, both openers, both families.
fn streams(bed: &Bed, hosts: &[Host], guest: &mut Guest, number: u8, bytes: u32) {
    let host = &hosts[0];
    let _server = PeerServer::start("host", bed.directory.path(), "[::]:7", Some(&host.netns)).unwrap();
    for server in servers(host.number) {
        guest.must(&format!("vonic-peer both {server} {bytes} 1 2"), seconds(120)).unwrap();
    }
    for server in servers(number) {
        let words = ["both", &server, &bytes.to_string(), "2", "2"];
        let done = peer(&words, Some(&host.netns), bed.directory.path(), seconds(120)).unwrap();
        assert_eq!(done["ok"], true, "{done}");
    }
    nothing_was_copied(bed);
}

#[test]
fn a_guest_and_a_machine_talk() {
    let (bed, hosts) = start(1500, "");
    let mut a = guest(&bed, "a", 2, Vmm::Uml);
    streams(&bed, &hosts, &mut a, 2, 20_000_003);
    println!("{}", bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
}
