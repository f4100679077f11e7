//! A guest moves from one vonicd to another, and what it says on a bridged network goes on: is its memory whole, and does the
//! bridge learn where it is?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::lan::{self, BRIDGE, Host, bridged, servers, settle};
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

#[test]
fn a_guest_moves_under_load_and_its_memory_is_whole() {
    let (beds, host) = hosts();
    let [here, there] = &beds;
    let mut guest = qemu(here, "here", false);
    settle(&mut guest, 2).unwrap();
    let arrived = qemu(there, "there", true);
    let _server = PeerServer::start("host", here.directory.path(), "[::]:7", Some(&host.netns)).unwrap();
    let [server, _] = servers(10);
    let stream = guest.spawn(&format!("vonic-peer both {server} 40000003 1 4")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (mut source, mut target) = (monitor(here, "here"), monitor(there, "there"));
    let outcome = source.migrate(&mut target, seconds(60));
    println!("{outcome:?}\nSOURCE {}\nTARGET {}", here.vonicd.log(), there.vonicd.log());
    outcome.unwrap();
    let mut guest = arrived;
    println!("{}", there.vonicd.vm("there").unwrap());
    println!("{:?}", ip(&format!("link show master {BRIDGE}")));
    let done = stream.wait(&mut guest, seconds(60)).unwrap();
    println!("{done:?}");
    assert_eq!(done.status, 0, "{}", done.stdout);
}
