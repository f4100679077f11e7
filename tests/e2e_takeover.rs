//! The engine is killed while guests talk: what do the guests notice, and what do their peers?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::*;

const KILLS: u32 = 20;

/// Kills the engine, and waits for the next one.
fn kill_engine(bed: &Bed) {
    let old = bed.vonicd.engine().unwrap();
    let status = std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap();
    assert!(status.success());
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
}

/// How often a guest's link went away or came, and the virtio device's own view of it.
fn carrier(guest: &mut Guest) -> String {
    guest.must("cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier", seconds(10)).unwrap()
}

/// Two guests' streams through the switch: frames may be lost with an engine, their own TCP repairs that.
fn streams_between_guests(vmms: [Vmm; 2], bytes: u64) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut guests = [("a", 2), ("b", 3)].into_iter().zip(vmms);
    let mut next = || guests.next().map(|((name, number), vmm)| bed.start_guest(name, number, vmm).unwrap()).unwrap();
    let (mut a, mut b) = (next(), next());
    a.wait_ready().unwrap();
    b.wait_ready().unwrap();
    let before = [carrier(&mut a), carrier(&mut b)];
    let server = b.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    server.wait_output(&mut b, "listening", seconds(10)).unwrap();
    let stream = a.spawn(&format!("vonic-peer both 192.0.2.3:7 {bytes} 5")).unwrap();
    for _ in 0..KILLS {
        std::thread::sleep(std::time::Duration::from_millis(250));
        kill_engine(&bed);
    }
    let done = stream.wait(&mut a, seconds(120)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    assert_eq!([carrier(&mut a), carrier(&mut b)], before);
    server.kill(&mut b).unwrap();
    let log = bed.vonicd.log();
    assert_eq!(log.matches("a VMM connected").count(), 2, "{log}");
    bed.vonicd.stop().unwrap();
}

#[test]
fn streams_between_user_mode_linux_guests_outlive_engines() {
    streams_between_guests([Vmm::Uml; 2], 300_000_007);
}
