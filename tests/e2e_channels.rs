//! Do real guests use their queue pairs, change how many while streams run, and lose no byte by it?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::*;

/// Changes the number of channels until /run/stop is there.
const TOGGLE: &str = "n=0; until [ -e /run/stop ]; do for c in 2 1 2; do ethtool -L eth0 combined $c || exit 1; n=$((n+1)); \
    sleep 0.2; done; done; echo toggles $n";

/// A counter of `ethtool -S`.
fn counter(guest: &mut Guest, name: &str) -> u64 {
    let text = guest.must(&format!("ethtool -S eth0 | sed -n 's/ *{name}: //p'"), seconds(10)).unwrap();
    text.trim().parse().unwrap()
}

fn guest(bed: &Bed, vmm: Vmm) -> Guest {
    let config = GuestConfig { queue_pairs: 2, ..GuestConfig::new("a", 2, &bed.socket("a")).on(vmm) };
    let guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    guest
}

fn streams_while_the_number_of_pairs_changes(vmm: Vmm, bytes: u64, more: &str) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, &format!("queue_pairs = 2\n{more}"))).unwrap();
    let mut guest = guest(&bed, vmm);
    let mut server = bed.server().unwrap();
    let job = guest.spawn(TOGGLE).unwrap();
    let port = server.address().port();
    for (seed, operation) in ["both", "send", "recv"].into_iter().enumerate() {
        let command = format!("vonic-peer {operation} 192.0.2.1:{port} {bytes} {seed} 8");
        let result = guest.must(&command, seconds(240)).unwrap();
        assert!(result.contains("\"failures\":[]"), "{result}");
        for _ in 0..8 {
            let report = server.report(seconds(20)).unwrap();
            assert!(report["error"].is_null(), "{report}");
        }
    }
    guest.must("touch /run/stop", seconds(5)).unwrap();
    let done = job.wait(&mut guest, seconds(30)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    let toggles: usize = done.stdout.rsplit_once("toggles ").unwrap().1.trim().parse().unwrap();
    assert!(toggles > 5, "{toggles}");
    // Both pairs, both ways: kicks of a receive queue are the driver's thanks for frames, new buffers.
    for queue in ["tx0_kicks", "tx1_kicks", "rx0_kicks", "rx1_kicks"] {
        assert!(counter(&mut guest, queue) > 0, "{queue}");
    }
    let detail = bed.vonicd.vm("a").unwrap();
    assert_eq!((detail["tcp"]["reset"].as_u64(), detail["last_error"].is_null()), (Some(0), true), "{detail}");
    bed.vonicd.stop().unwrap();
}

/// User-mode Linux leaves the control queue to vonic.
#[test]
fn user_mode_linux_changes_its_pairs_under_streams() {
    streams_while_the_number_of_pairs_changes(Vmm::Uml, 40_000_037, "");
}

/// QEMU serves the control queue itself and tells vonic by SET_VRING_ENABLE.
#[test]
fn qemu_changes_its_pairs_under_streams() {
    streams_while_the_number_of_pairs_changes(Vmm::Qemu, 3_000_017, "");
}

/// A command without an answer would leave the guest spinning for ever; one that is refused must say so where it was asked for, and
/// nowhere else.
#[test]
fn user_mode_linux_gets_its_answers() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "features = { ctrl_vq = false }")).unwrap();
    let mut guest = guest(&bed, Vmm::Uml);
    let complaints = "dmesg | grep -c 'virtio_net.*Failed' || true";
    for command in ["promisc on", "promisc off", "allmulticast on", "allmulticast off", "address 52:54:00:00:00:02"] {
        guest.must(&format!("ip link set eth0 {command}"), seconds(10)).unwrap();
    }
    guest.must("ip maddr add 01:00:5e:00:00:05 dev eth0", seconds(10)).unwrap();
    assert_eq!(guest.must(complaints, seconds(5)).unwrap(), "0");
    let refused = guest.run("ip link set eth0 address 52:54:00:00:00:99", seconds(10)).unwrap();
    assert!(refused.status != 0 && refused.stdout.contains("Invalid argument"), "{refused:?}");
    let refused = guest.run("ethtool -L eth0 combined 2", seconds(10)).unwrap();
    assert_ne!(refused.status, 0, "{refused:?}");
    guest.must("ping -c 2 -W 2 192.0.2.1", seconds(10)).unwrap();
    // Without a control queue there is nothing to ask.
    let mut other = bed.guest("b", 3, Vmm::Uml).unwrap();
    other.must("ip link set eth0 promisc on && ping -c 2 -W 2 192.0.2.2", seconds(10)).unwrap();
    assert_eq!(other.must(complaints, seconds(5)).unwrap(), "0");
    bed.vonicd.stop().unwrap();
}

#[test]
fn guests_with_one_pair_and_with_two_share_a_switch() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "queue_pairs = 2").vm("b", 3, "")).unwrap();
    let (two, one) = (bed.start_guest("a", 2, Vmm::Uml).unwrap(), bed.start_guest("b", 3, Vmm::Uml).unwrap());
    let mut guests = [two, one];
    guests.iter().for_each(|guest| guest.wait_ready().unwrap());
    guests[0].must("ethtool -L eth0 combined 2", seconds(10)).unwrap();
    for (server, client, address) in [(0, 1, "192.0.2.2"), (1, 0, "192.0.2.3")] {
        let job = guests[server].spawn("vonic-peer serve 0.0.0.0:7").unwrap();
        job.wait_output(&mut guests[server], "listening", seconds(10)).unwrap();
        let command = format!("vonic-peer both {address}:7 20000029 5 8");
        let result = guests[client].must(&command, seconds(120)).unwrap();
        assert!(result.contains("\"failures\":[]"), "{result}");
        let good = |reports: &str| reports.matches("\"error\":null").count() == 8;
        wait_until("good reports", seconds(20), || good(&job.output(&mut guests[server]).unwrap())).unwrap();
    }
    let [two, _] = &mut guests;
    assert!(counter(two, "rx0_kicks") > 0 && counter(two, "rx1_kicks") > 0);
    drop(guests);
    bed.vonicd.stop().unwrap();
}
