//! Do several queue pairs and the control queue carry what one pair carries, whoever enables, disables, stops or moves them?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::*;

#[test]
fn explore_uml() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "queue_pairs = 2")).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let server = bed.server().unwrap();
    let address = format!("192.0.2.1:{}", server.address().port());
    for command in [
        "ethtool -l eth0",
        "ethtool -i eth0",
        "cat /sys/bus/virtio/devices/*/features",
        "ethtool -L eth0 combined 2; echo $?",
        &format!("vonic-peer both {address} 100000037 1 8"),
        "ethtool -S eth0",
        "ip link set eth0 address 52:54:00:00:00:99; echo $?",
        "ip link set eth0 address 52:54:00:00:00:02; echo $?",
        "ip link set eth0 promisc on; ip link set eth0 allmulticast on; echo $?",
        "dmesg | tail -5",
        "ethtool -L eth0 combined 1; echo $?",
        &format!("vonic-peer both {address} 100000037 1 8"),
        "cat /proc/interrupts",
    ] {
        eprintln!("# {command}\n{}", guest.run(command, seconds(60)).unwrap().stdout);
    }
    eprintln!("{}", bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
    panic!("look");
}

#[test]
fn explore_qemu() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "queue_pairs = 2")).unwrap();
    let config = GuestConfig {
        queue_pairs: 2,
        device: Some("in_order=on".into()),
        ..GuestConfig::new("a", 2, &bed.socket("a")).on(Vmm::Qemu)
    };
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    let server = bed.server().unwrap();
    let address = format!("192.0.2.1:{}", server.address().port());
    for command in [
        "ethtool -l eth0",
        "cat /sys/bus/virtio/devices/*/features",
        "ethtool -L eth0 combined 2; echo $?",
        &format!("vonic-peer both {address} 20000037 1 8"),
        "ethtool -S eth0",
        "dmesg | tail -5",
        "ethtool -L eth0 combined 1; echo $?",
        &format!("vonic-peer both {address} 10000037 1 8"),
    ] {
        eprintln!("# {command}\n{}", guest.run(command, seconds(60)).unwrap().stdout);
    }
    eprintln!("{}", bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
    panic!("look");
}
