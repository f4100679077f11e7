//! Does a guest under each VMM boot with vonic as its NIC, get its address, and reach the gateway?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::*;

fn one_vm(more: &str) -> TestConfig {
    TestConfig::default().vm("a", 2, more)
}

fn pings_the_gateway(guest: &mut Guest) {
    let output = guest.must("ping -c 3 -W 2 192.0.2.1", seconds(15)).unwrap();
    assert!(output.contains(" 0% packet loss"), "{output}");
}

fn with_a_static_address(vmm: Vmm) {
    let bed = Bed::start(&one_vm("")).unwrap();
    let row = |bed: &Bed| bed.vonicd.vonic(&["vm", "list", "--json"]).unwrap()[0].clone();
    assert_eq!((&row(&bed)["name"], &row(&bed)["connected"]), (&"a".into(), &false.into()));
    let mut guest = bed.guest("a", 2, vmm).unwrap();
    let connected = row(&bed);
    assert_eq!((&connected["connected"], &connected["driver_ready"]), (&true.into(), &true.into()), "{connected}");
    assert!(guest.must("cat /sys/class/net/eth0/address", seconds(5)).unwrap().contains("52:54:00:00:00:02"));
    assert_eq!(guest.must("cat /sys/class/net/eth0/carrier", seconds(5)).unwrap(), "1");
    pings_the_gateway(&mut guest);
    guest.power_off().unwrap();
    wait_until("vonic to see the VM go", seconds(10), || row(&bed)["connected"] == false).unwrap();
    // The same socket takes the next one.
    pings_the_gateway(&mut bed.guest("a", 2, vmm).unwrap());
    bed.vonicd.stop().unwrap();
}

fn with_a_lease(vmm: Vmm) {
    let bed = Bed::start(&one_vm("")).unwrap();
    let config = GuestConfig { ip4: Ip4::Dhcp, ..GuestConfig::new("a", 2, &bed.socket("a")).on(vmm) };
    let guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    let mut guest = guest;
    let lease = guest.must("cat /run/lease", seconds(5)).unwrap();
    for line in ["ip=192.0.2.2", "mask=24", "router=192.0.2.1", "server=192.0.2.1"] {
        assert!(lease.lines().any(|found| found == line), "{line} is not in\n{lease}");
    }
    pings_the_gateway(&mut guest);
}

#[test]
fn user_mode_linux_with_a_static_address() {
    with_a_static_address(Vmm::Uml);
}

#[test]
fn qemu_with_a_static_address() {
    with_a_static_address(Vmm::Qemu);
}

#[test]
fn user_mode_linux_with_a_lease() {
    with_a_lease(Vmm::Uml);
}

#[test]
fn qemu_with_a_lease() {
    with_a_lease(Vmm::Qemu);
}

#[test]
fn a_vm_without_an_address_gets_no_lease() {
    let mut config = TestConfig::default();
    config.vms.insert("a".into(), "mac = \"52:54:00:00:00:02\"\n".into());
    let bed = Bed::start(&config).unwrap();
    let config = GuestConfig { ip4: Ip4::None, ..GuestConfig::new("a", 2, &bed.socket("a")) };
    let guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    let mut guest = guest;
    let output =
        guest.run("ip link set eth0 up; busybox udhcpc -i eth0 -s /tmp/dhcp.sh -n -q -t 2 -T 1", seconds(20)).unwrap();
    assert_ne!(output.status, 0, "{}", output.stdout);
}

#[test]
fn the_guest_takes_the_configured_mtu() {
    let bed = Bed::start(&one_vm("mtu = 9000")).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    assert_eq!(guest.must("cat /sys/class/net/eth0/mtu", seconds(5)).unwrap(), "9000");
    guest.must("ping -c 1 -W 2 -s 8000 192.0.2.1", seconds(10)).unwrap();
}
