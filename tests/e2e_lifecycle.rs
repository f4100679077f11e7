//! Do guests whose driver goes and comes, and guests that boot again, find a working NIC each time, and do their peers learn of it?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use vonic_tests::wire::{accept, listen};
use vonic_tests::*;

/// Loads the driver again and configures the interface, as the guest's first program does.
const LOAD: &str = "insmod $(find /modules /usr/lib/uml/modules -name virtio_net.ko 2>/dev/null)";
const CONFIGURE: &str = "until [ -e /sys/class/net/eth0 ]; do sleep 0.05; done; ip link set eth0 up && ip addr add \
    192.0.2.2/24 dev eth0 && ip route add default via 192.0.2.1";

/// Takes the device from its driver and gives it back.
const UNBIND: &str =
    "cd /sys/bus/virtio/drivers/virtio_net && d=$(ls -d virtio*) && echo $d >unbind && [ ! -e /sys/class/net/eth0 ]";
const BIND: &str = "cd /sys/bus/virtio/drivers/virtio_net && ls /sys/bus/virtio/devices >bind";

struct Life {
    guest: Guest,
    bed: Bed,
}

impl Life {
    fn start(vmm: Vmm, more: &str) -> Life {
        let bed = Bed::start(&TestConfig::default().vm("a", 2, more)).unwrap();
        let config = GuestConfig {
            qemu: QemuConfig { reboots: true, ..QemuConfig::default() },
            ..GuestConfig::new("a", 2, &bed.socket("a")).on(vmm)
        };
        let guest = bed.start_configured(&config).unwrap();
        guest.wait_ready().unwrap();
        Life { guest, bed }
    }

    /// Streams both ways, every byte checked.
    fn works(&mut self, bytes: u64) {
        let mut server = self.bed.server().unwrap();
        let command = format!("vonic-peer both 192.0.2.1:{} {bytes} 1 4", server.address().port());
        let result = self.guest.must(&command, seconds(120)).unwrap();
        assert!(result.contains("\"failures\":[]"), "{result}");
        for _ in 0..4 {
            let report = server.report(seconds(20)).unwrap();
            assert!(report["error"].is_null(), "{report}");
        }
    }

    /// A connection of the guest's, held at the host's end.
    fn connection(&mut self) -> TcpStream {
        let (listener, port) = listen().unwrap();
        self.guest.spawn(&format!("vonic-peer recv 192.0.2.1:{port} 1000 1")).unwrap();
        let mut stream = accept(&listener).unwrap();
        // The client's opening words: it is established at both ends.
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
        stream
    }

    fn script(&mut self, script: &str) {
        self.guest.must(script, seconds(60)).unwrap();
    }

    fn connections(&self) -> usize {
        self.bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len()
    }
}

fn is_reset(mut stream: TcpStream) {
    stream.set_read_timeout(Some(seconds(10))).unwrap();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

fn the_driver_goes_and_comes(vmm: Vmm, more: &str, bytes: u64, rounds: usize) {
    let mut life = Life::start(vmm, more);
    for _ in 0..rounds {
        for (gone, back) in [("rmmod virtio_net", LOAD), (UNBIND, BIND)] {
            life.works(bytes);
            let stream = life.connection();
            life.script(gone);
            // The service does not mind frames for a NIC that nobody drives.
            life.script(&format!("{back}; {CONFIGURE}"));
            life.works(bytes);
            is_reset(stream);
        }
    }
    wait_until("the connections' end", seconds(20), || life.connections() == 0).unwrap();
    let detail = life.bed.vonicd.vm("a").unwrap();
    assert!(detail["last_error"].is_null(), "{detail}");
    assert_eq!(detail["tcp"]["reset"], 2 * rounds, "{detail}");
    drop(life.guest);
    life.bed.vonicd.stop().unwrap();
}

/// It stops its rings by disabling them, and starts them anew without having stopped them.
#[test]
fn user_mode_linux_loads_its_driver_again() {
    the_driver_goes_and_comes(Vmm::Uml, "queue_pairs = 2", 20_000_003, 3);
}

/// The same without a control queue, so without a first command after the start.
#[test]
fn user_mode_linux_loads_its_driver_again_without_a_control_queue() {
    the_driver_goes_and_comes(Vmm::Uml, "features = { ctrl_vq = false, in_order = false }", 20_000_003, 1);
}

#[test]
fn qemu_loads_its_driver_again() {
    the_driver_goes_and_comes(Vmm::Qemu, "", 1_000_003, 1);
}

/// Whoever was connected to the machine that went down learns of it when the next one starts, and finds the new one.
#[test]
fn a_guest_boots_again() {
    let mut life = Life::start(Vmm::Qemu, "");
    for _ in 0..2 {
        life.works(1_000_003);
        let streams = [life.connection(), life.connection()];
        life.guest.reboot().unwrap();
        streams.into_iter().for_each(is_reset);
        life.works(1_000_003);
    }
    let detail = life.bed.vonicd.vm("a").unwrap();
    assert_eq!((detail["tcp"]["reset"].as_u64(), detail["last_error"].is_null()), (Some(4), true), "{detail}");
    drop(life.guest);
    life.bed.vonicd.stop().unwrap();
}
