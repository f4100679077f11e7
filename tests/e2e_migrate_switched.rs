//! A guest moves from one vonicd to another, and what it says on a bridged network goes on: is its memory whole, and does the
//! bridge learn where it is?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::lan::{self, BRIDGE, Host, bridged, servers, settle};
use vonic_tests::mock::{MockConfig, code};
use vonic_tests::*;

/// Vonicds on one bridge, each with a VM of the same address.
fn hosts() -> ([Bed; 2], Host) {
    isolate().unwrap();
    lan::bridge(1500).unwrap();
    let host = Host::new(10, 1500).unwrap();
    let bed = |name| Bed::start_here(&bridged().vm(name, 2, "")).unwrap();
    ([bed("here"), bed("there")], host)
}

fn qemu(bed: &Bed, name: &str, incoming: bool) -> Guest {
    let config = GuestConfig::new(name, 2, &bed.socket(name)).on(Vmm::Qemu);
    let qemu = QemuConfig { incoming, ..QemuConfig::default() };
    bed.start_configured(&GuestConfig { ip6: true, qemu, ..config }).unwrap()
}

fn monitor(bed: &Bed, name: &str) -> Qmp {
    Qmp::connect(&bed.directory.path().join(format!("{name}.qmp"))).unwrap()
}

/// Behind which port of the bridge it has learnt that the guest is.
fn learnt() -> String {
    let output = std::process::Command::new("bridge").args(["fdb", "show", "br", BRIDGE]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("52:54:00:00:00:02 ")).unwrap_or_default();
    line.split_ascii_whitespace().nth(2).unwrap_or("nowhere").to_string()
}

/// A migration that fails leaves everything as it was, also the engine's log; one that succeeds takes the guest's connections along.
#[test]
fn a_guest_moves_under_load_and_its_memory_is_whole() {
    let (beds, host) = hosts();
    let [here, there] = &beds;
    let mut guest = qemu(here, "here", false);
    let mut arrived = qemu(there, "there", true);
    settle(&mut guest, 2).unwrap();
    let _server = PeerServer::start("host", here.directory.path(), "[::]:7", Some(&host.netns)).unwrap();
    let [server, _] = servers(10);
    let stream = guest.spawn(&format!("vonic-peer both {server} 15000003 1 4")).unwrap();
    let (mut source, mut target) = (monitor(here, "here"), monitor(there, "there"));
    source.migrate_in_vain().unwrap();
    assert_eq!(learnt(), "vonic-here");
    let sent = |bed: &Bed, name: &str| bed.vonicd.vm(name).unwrap()["guest_to_host"]["frames"].as_u64().unwrap();
    let before = sent(here, "here");
    wait_until("more frames", seconds(20), || sent(here, "here") > before).unwrap();

    source.migrate(&mut target, seconds(60)).unwrap();
    arrived.arrive(guest);
    let mut guest = arrived;
    let done = stream.wait(&mut guest, seconds(60)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    assert!(done.stdout.contains("\"failures\":[]"), "{}", done.stdout);
    assert_eq!(learnt(), "vonic-there");
    assert!(sent(there, "there") > sent(here, "here"), "the VM goes on counting where it left off");
    // Datagrams, behind whose sum no retransmission hides a page that was left behind.
    let reflector = guest.spawn("vonic-peer reflect 0.0.0.0:9").unwrap();
    reflector.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let echo =
        peer(&["datagrams", "192.0.2.2:9", "1400"], Some(&host.netns), here.directory.path(), seconds(60)).unwrap();
    assert!(echo["datagrams"].as_u64().unwrap() > 0, "{echo}");
    guest.must(&format!("vonic-peer both {server} 1000003 5 2"), seconds(60)).unwrap();
}

/// Of a guest that cannot say itself where it is, its VMM tells (VHOST_USER_SEND_RARP).
#[test]
fn the_bridge_learns_of_a_guest_that_does_not_speak() {
    let (beds, _host) = hosts();
    for (bed, name) in beds.iter().zip(["here", "there"]) {
        let mut mock = bed.mock(name, MockConfig::default()).unwrap();
        let mac = u64::from_le_bytes([0x52, 0x54, 0, 0, 0, 2, 0, 0]);
        let answer = mock.raw().ask(code::SEND_RARP, &mac.to_le_bytes(), &[]).unwrap();
        assert_eq!(answer.acknowledged(), Some(true));
        let place = format!("vonic-{name}");
        wait_until("the bridge to learn it", seconds(5), || learnt() == place).unwrap();
    }
}
