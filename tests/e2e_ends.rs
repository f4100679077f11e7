//! What is left when one side goes in mid-transfer? A VM killed: its connections are reset, nobody else notices, its socket takes the next
//! VM. vonicd told to stop: guests and peers get clean resets.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use vonic_tests::frames::Tcp;
use vonic_tests::mock::MockConfig;
use vonic_tests::wire::{Conn, HOST, HandGuest};
use vonic_tests::*;

const ENDLESS: u64 = 1 << 40;

/// Waits until both directions of VM `vm` have carried a few megabytes, over `count` connections.
fn wait_until_flowing(vonicd: &Vonicd, vm: &str, count: usize) {
    wait_until("traffic in full flow", seconds(30), || {
        let rows = vonicd.vonic(&["conns", "--vm", vm, "--json"]).unwrap();
        let carried = |row: &serde_json::Value| {
            let bytes = |key: &str| row[key].as_u64().unwrap();
            bytes("bytes_guest_to_host") + bytes("bytes_host_to_guest") > 4 << 20
        };
        rows.as_array().unwrap().iter().filter(|row| carried(row)).count() == count
    })
    .unwrap();
}

fn endless(guest: &mut Guest, server: &PeerServer) -> [Job; 2] {
    let port = server.address().port();
    ["send", "recv"]
        .map(|operation| guest.spawn(&format!("vonic-peer {operation} 192.0.2.1:{port} {ENDLESS} 1")).unwrap())
}

fn a_killed_vm(vmm: Vmm) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut a = bed.start_guest("a", 2, vmm).unwrap();
    let mut b = bed.guest("b", 3, Vmm::Uml).unwrap();
    a.wait_ready().unwrap();
    let mut for_a = bed.server().unwrap();
    let mut for_b = PeerServer::start("for-b", bed.directory.path(), "127.0.0.1:0", None).unwrap();
    endless(&mut a, &for_a);
    let bystander = b.spawn(&format!("vonic-peer both 192.0.2.1:{} 536870912 7", for_b.address().port())).unwrap();
    wait_until_flowing(&bed.vonicd, "a", 2);
    a.kill();
    for _ in 0..2 {
        let report = for_a.report(seconds(10)).unwrap();
        assert!(report["error"].as_str().unwrap().contains("reset"), "{report}");
    }
    wait_until("the end of a's connections", seconds(10), || {
        let rows = bed.vonicd.vonic(&["vm", "list", "--json"]).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "a").unwrap().clone();
        row["connected"] == false && row["connections"] == 0
    })
    .unwrap();

    let done = bystander.wait(&mut b, seconds(120)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    assert!(for_b.report(seconds(10)).unwrap()["error"].is_null());

    let mut again = bed.guest("a", 2, vmm).unwrap();
    again.must(&format!("vonic-peer both 192.0.2.1:{} 4000003 9", for_b.address().port()), seconds(60)).unwrap();
    bed.vonicd.stop().unwrap();
}

fn a_stopped_service(vmm: Vmm) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let mut guest = bed.guest("a", 2, vmm).unwrap();
    let mut server = bed.server().unwrap();
    let jobs = endless(&mut guest, &server);
    wait_until_flowing(&bed.vonicd, "a", 2);
    let socket = bed.socket("a");
    assert!(socket.exists());
    bed.vonicd.stop().unwrap();
    assert!(!socket.exists(), "the VM's socket is left behind");
    for job in jobs {
        let output = job.wait(&mut guest, seconds(10)).unwrap();
        assert!(output.status == 1 && output.stdout.contains("reset"), "{output:?}");
    }
    for _ in 0..2 {
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].as_str().unwrap().contains("reset"), "{report}");
    }
}

#[test]
fn a_killed_user_mode_linux_vm_harms_nobody() {
    a_killed_vm(Vmm::Uml);
}

#[test]
fn a_killed_qemu_vm_harms_nobody() {
    a_killed_vm(Vmm::Qemu);
}

#[test]
fn a_stopped_vonicd_resets_a_user_mode_linux_guest() {
    a_stopped_service(Vmm::Uml);
}

#[test]
fn a_stopped_vonicd_resets_a_qemu_guest() {
    a_stopped_service(Vmm::Qemu);
}

/// vonicd is told to stop while the receive ring of the guest is full; the host's side of its connection is reset by then.
fn stop_with_a_full_ring() -> (Bed, HandGuest, Conn) {
    let mut bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let config = MockConfig { posted: 1, buffer: vec![1600], ..MockConfig::default() };
    let mut guest = HandGuest::start_configured(&bed, "a", 2, config).unwrap();
    let (conn, mut host) = Conn::new(HOST, (40_000, 0)).connect(&mut guest).unwrap();
    host.write_all(&[7; 4000]).unwrap();
    wait_until("a full ring", seconds(5), || bed.vonicd.vm("a").unwrap()["tcp"]["starved"] != 0).unwrap();
    bed.vonicd.process().signal(libc::SIGTERM).unwrap();
    assert_eq!(host.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    (bed, guest, conn)
}

#[test]
fn a_guest_that_is_behind_is_reset_too() {
    let (mut bed, mut guest, mut conn) = stop_with_a_full_ring();
    std::thread::sleep(Duration::from_millis(20));
    conn.expect_such(&mut guest, "reset", |segment| segment.flags & Tcp::RST != 0).unwrap();
    assert!(bed.vonicd.process().wait(seconds(10)).unwrap().success());
}

#[test]
fn a_guest_that_takes_nothing_does_not_keep_vonicd_from_its_end() {
    let (mut bed, _guest, _conn) = stop_with_a_full_ring();
    assert!(bed.vonicd.process().wait(seconds(10)).unwrap().success());
    let log = bed.vonicd.log();
    assert!(!log.contains("did not finish"), "it went on waiting:\n{log}");
}
