//! Does UDP work for real guests? Datagrams of every size with checked answers, opened by either side, in both families, and iperf3.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::Command;

use serde_json::Value;
use vonic_tests::*;

/// VM a under user-mode Linux with the usual MTU, b under QEMU with the largest.
const VMS: [(&str, u8, Vmm, u16); 2] = [("a", 2, Vmm::Uml, 1500), ("b", 3, Vmm::Qemu, 65_520)];

fn boot(bed: &Bed) -> Vec<Guest> {
    let mut guests = Vec::new();
    for (name, number, vmm, mtu) in VMS {
        let plain = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
        guests.push(bed.start_configured(&GuestConfig { ip6: true, mtu: Some(mtu), ..plain }).unwrap());
    }
    for (guest, (_, number, ..)) in guests.iter_mut().zip(VMS) {
        guest.wait_ready().unwrap();
        let command = format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{number}/64 dev eth0 && \
             ip -6 route add default via 2001:db8::1 dev eth0 metric 100"
        );
        guest.must(&command, seconds(10)).unwrap();
    }
    guests
}

/// A reflector of the host's.
fn reflector(bed: &Bed, address: &str) -> Process {
    let mut command = Command::new(peer_program().unwrap());
    command.args(["reflect", address]);
    let log = bed.directory.path().join(format!("reflect-{}.log", address.len()));
    let process = Process::start("reflect", &mut command, None, &log).unwrap();
    wait_until("the reflector", seconds(10), || process.log().contains("listening")).unwrap();
    process
}

fn config() -> TestConfig {
    let mut config = TestConfig::both_families();
    for (i, (name, number, _, mtu)) in VMS.into_iter().enumerate() {
        let forward = format!("[[forward]]\nproto = \"udp\"\nlisten = \"*:{}\"\nport = 7", 7001 + i);
        config = config.vm(name, number, &format!("mtu = {mtu}\n{forward}\n"));
    }
    config
}

#[test]
fn datagrams_of_every_size_are_answered_byte_by_byte_whoever_begins() {
    let bed = Bed::start(&config()).unwrap();
    let _servers = ["127.0.0.1:7", "[::1]:7"].map(|address| reflector(&bed, address));
    let mut guests = boot(&bed);
    for (i, (guest, (name, _, _, mtu))) in guests.iter_mut().zip(VMS).enumerate() {
        let served = guest.spawn("vonic-peer reflect [::]:7").unwrap();
        served.wait_output(guest, "listening", seconds(10)).unwrap();
        for (family, by_guest, by_host) in [(28, "192.0.2.1:7", "127.0.0.1"), (48, "[2001:db8::1]:7", "[::1]")] {
            let largest = usize::from(mtu) - family;
            let said = guest.must(&format!("vonic-peer datagrams {by_guest} {largest}"), seconds(60)).unwrap();
            let said: Value = serde_json::from_str(&said).unwrap();
            let all = said["datagrams"].as_u64().unwrap();
            assert!(all > 20 && said["again"] == 0, "{name} {by_guest}: {said}");
            let to = format!("{by_host}:{}", 7001 + i);
            let words = ["datagrams", &to, &largest.to_string()];
            let said = peer(&words, None, bed.directory.path(), seconds(60)).unwrap();
            assert!(said["datagrams"] == all && said["again"] == 0, "{name} {to}: {said}");
        }
        let udp = bed.vonicd.vm(name).unwrap()["udp"].clone();
        assert_eq!((&udp["guest_opened"], &udp["world_opened"], &udp["errors"]), (&2.into(), &2.into(), &0.into()));
        let refused = guest.run("vonic-peer datagrams 192.0.2.1:9 0", seconds(20)).unwrap();
        assert!(refused.status != 0 && refused.stdout.contains("refused"), "{name}: {refused:?}");
    }
    for path in ["guest_to_host", "host_to_guest"] {
        assert_eq!(bed.vonicd.copied(path).unwrap(), 0, "{path}");
    }
    iperf(&bed, &mut guests[0]);
    bed.vonicd.stop().unwrap();
}

/// A stream each way at a rate that any host takes, in one of three tries: a host that stops for a moment loses some of one.
fn iperf(bed: &Bed, guest: &mut Guest) {
    // iperf3 writes its buffer to a file, and the guest's root cannot be written to.
    guest.must("mount -t tmpfs tmpfs /mnt", seconds(10)).unwrap();
    for direction in ["", "-R"] {
        let lost: Vec<f64> =
            (0..3).map_while(|_| Some(iperf_lost(bed, guest, direction)).filter(|lost| *lost > 0.05)).collect();
        assert!(lost.len() < 3, "{direction}: these shares were lost: {lost:?}");
    }
}

/// The share of its datagrams that a stream of a second lost.
fn iperf_lost(bed: &Bed, guest: &mut Guest, direction: &str) -> f64 {
    let mut command = Command::new("iperf3");
    command.args(["-s", "-1", "--forceflush", "-p", "5201", "-B", "127.0.0.1"]);
    let mut server = bed.lab.start("iperf3", &bed.directory, &mut command).unwrap();
    wait_until("iperf3", seconds(10), || server.log().contains("listening")).unwrap();
    let command = format!("TMPDIR=/mnt iperf3 -u -c 192.0.2.1 -p 5201 -b 8M -l 1400 -t 1 -J {direction}");
    let said: Value = serde_json::from_str(&guest.must(&command, seconds(30)).unwrap()).unwrap();
    server.wait(seconds(10)).unwrap();
    let sum = &said["end"]["sum"];
    assert!(sum["packets"].as_u64().unwrap() > 500, "{direction}: {sum}");
    sum["lost_packets"].as_f64().unwrap() / sum["packets"].as_f64().unwrap()
}
