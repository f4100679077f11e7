//! Do guests whose driver goes and comes, and guests that boot again, find a working NIC each time, and do their peers learn of it?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::*;

#[test]
fn explore_uml() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "queue_pairs = 2")).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let server = bed.server().unwrap();
    let address = format!("192.0.2.1:{}", server.address().port());
    let load = "insmod $(find /usr/lib/uml/modules -name virtio_net.ko); while [ ! -e /sys/class/net/eth0 ]; do sleep 0.05; done; ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; ip route add default via 192.0.2.1";
    for _ in 0..3 {
        for command in [
            &format!("vonic-peer both {address} 100000037 1 8"),
            "rmmod virtio_net",
            load,
            &format!("vonic-peer both {address} 100000037 1 8"),
            "ls /sys/bus/virtio/drivers/virtio_net",
            "cd /sys/bus/virtio/drivers/virtio_net; d=$(ls -d virtio*); echo $d >unbind; echo $d>bind; cd /; while [ ! -e /sys/class/net/eth0 ]; do sleep 0.05; done; ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; ip route add default via 192.0.2.1",
            &format!("vonic-peer both {address} 100000037 1 8"),
            "dmesg | tail -5",
        ] {
            eprintln!("# {command}\n{}", guest.run(command, seconds(60)).unwrap().stdout);
        }
    }
    eprintln!("{}", bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
    panic!("look");
}
