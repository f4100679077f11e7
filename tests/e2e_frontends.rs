//! Every frontend in every mood: memory plugged in and out, resets, firmware, who listens, backends that come back.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;

use serde_json::json;
use vonic_tests::*;

/// A service that logs every vhost-user message.
fn talkative(directory: &TempDir, config: &TestConfig) -> Vonicd {
    Vonicd::start_with(directory, config, None, &["env", "RUST_LOG=info,vonic_front=trace"]).unwrap()
}

/// How often the VMM of `a` sent this request.
fn sent(vonicd: &Vonicd, request: u32) -> usize {
    vonicd.log().matches(&format!(" a: > code={request} ")).count()
}

/// The engine's maps of QEMU's memory: bytes, and bytes of them that the engine itself has touched.
fn maps(run: &Path) -> Vec<(u64, u64)> {
    let engine = std::fs::read_to_string(run.join("engine.pid")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", engine.trim())).unwrap();
    let mut found = Vec::new();
    let mut ours = false;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let number = || second.parse::<u64>().unwrap() << 10;
        match first {
            "Size:" if ours => found.push((number(), 0)),
            "Rss:" if ours => found.last_mut().unwrap().1 = number(),
            range if range.contains('-') && !range.ends_with(':') => ours = line.contains("memory-backend-memfd"),
            _ => {}
        }
    }
    found
}

const MIB: u64 = 1 << 20;

/// A guest whose streams, both ways and checked byte by byte, go on and on.
struct Busy {
    guest: Guest,
    job: Job,
    server: PeerServer,
}

impl Busy {
    fn start(mut guest: Guest, directory: &TempDir) -> Busy {
        let server = PeerServer::start("server", directory.path(), "127.0.0.1:0", None).unwrap();
        let stream = format!("vonic-peer both 192.0.2.1:{} 4000037 $n", server.address().port());
        let streams = format!("n=0; until [ -e /run/stop ]; do {stream} || exit 1; n=$((n+1)); echo rounds $n; done");
        let job = guest.spawn(&streams).unwrap();
        let mut busy = Busy { guest, job, server };
        busy.goes_on();
        busy
    }

    fn rounds(&mut self) -> usize {
        self.job.output(&mut self.guest).unwrap().matches("rounds ").count()
    }

    /// Two more streams come to their end.
    fn goes_on(&mut self) {
        let before = self.rounds();
        wait_until("two more rounds", seconds(60), || self.rounds() >= before + 2).unwrap();
    }

    /// All streams have ended well, at both ends; how many.
    fn stop(mut self) -> (Guest, usize) {
        self.guest.must("touch /run/stop", seconds(5)).unwrap();
        let done = self.job.wait(&mut self.guest, seconds(60)).unwrap();
        assert_eq!(done.status, 0, "{}", done.stdout);
        let rounds = self.rounds();
        for _ in 0..rounds {
            let report = self.server.report(seconds(10)).unwrap();
            assert!(report["error"].is_null(), "{report}");
        }
        (self.guest, rounds)
    }
}

#[test]
fn memory_is_plugged_in_and_out_under_traffic() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let vonicd = talkative(&directory, &TestConfig::default().vm("a", 2, ""));
    let qemu = QemuConfig { hotplug: true, ..QemuConfig::default() };
    let config = GuestConfig { qemu, ..GuestConfig::new("a", 2, &vonicd.socket("a")).on(Vmm::Qemu) };
    let mut busy = Busy::start(Guest::boot(&lab, &directory, &config).unwrap(), &directory);
    let mut qmp = Qmp::connect(&directory.path().join("a.qmp")).unwrap();
    let run = directory.path().join("run");
    assert_eq!(maps(&run).iter().map(|(size, _)| *size).collect::<Vec<_>>(), [256 * MIB]);
    let adds = sent(&vonicd, 37);
    let total = |guest: &mut Guest| -> u64 {
        let text = guest.must("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo", seconds(10)).unwrap();
        text.trim().parse().unwrap()
    };
    let before = total(&mut busy.guest);

    // The guest takes its buffers from the new memory: the kernel's zone above 4 GiB comes first.
    qmp.plug_memory("dimm0", 128).unwrap();
    wait_until("the guest's new memory", seconds(20), || total(&mut busy.guest) > before + 120 * 1024).unwrap();
    let touched = |maps: &[(u64, u64)]| maps.iter().find(|(size, _)| *size == 128 * MIB).map_or(0, |(_, rss)| *rss);
    wait_until("frames in the new memory", seconds(60), || touched(&maps(&run)) > 0).unwrap();
    busy.goes_on();

    // A second one that only holds what can be moved, so that the guest can give it back.
    let movable = "echo online_movable >/sys/devices/system/memory/auto_online_blocks";
    busy.guest.must(movable, seconds(10)).unwrap();
    let before = total(&mut busy.guest);
    qmp.plug_memory("dimm1", 256).unwrap();
    wait_until("the guest's new memory", seconds(20), || total(&mut busy.guest) > before + 240 * 1024).unwrap();
    assert_eq!(maps(&run).len(), 3);
    busy.goes_on();
    qmp.unplug_memory("dimm1", seconds(60)).unwrap();
    wait_until("the end of its map", seconds(10), || maps(&run).len() == 2).unwrap();
    busy.goes_on();

    assert_eq!((sent(&vonicd, 37) - adds, sent(&vonicd, 38), sent(&vonicd, 5)), (2, 1, 0));
    let (guest, rounds) = busy.stop();
    assert!(rounds >= 8, "{rounds}");
    guest.power_off().unwrap();
    vonicd.stop().unwrap();
}

#[test]
fn a_guest_is_reset_under_traffic_and_comes_back() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let vonicd = talkative(&directory, &TestConfig::default().vm("a", 2, ""));
    let qemu = QemuConfig { reboots: true, ..QemuConfig::default() };
    let config = GuestConfig { qemu, ..GuestConfig::new("a", 2, &vonicd.socket("a")).on(Vmm::Qemu) };
    let busy = Busy::start(Guest::boot(&lab, &directory, &config).unwrap(), &directory);
    let resets = sent(&vonicd, 34);
    let mut guest = busy.guest;
    let mut qmp = Qmp::connect(&directory.path().join("a.qmp")).unwrap();
    for times in 2..=3 {
        qmp.execute("system_reset", &json!({})).unwrap();
        guest.wait_boot(times).unwrap();
        let mut server = PeerServer::start("again", directory.path(), "127.0.0.1:0", None).unwrap();
        let stream = format!("vonic-peer both 192.0.2.1:{} 4000037 {times}", server.address().port());
        guest.must(&stream, seconds(60)).unwrap();
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
    }
    assert!(sent(&vonicd, 34) > resets, "QEMU resets the device with RESET_DEVICE");
    assert_eq!(vonicd.log().matches("a VMM connected").count(), 1, "one connection all the way");
    guest.power_off().unwrap();
    vonicd.stop().unwrap();
}

#[test]
fn a_driver_is_unloaded_and_loaded_again() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let vonicd = Vonicd::start(&directory, &TestConfig::default().vm("uml", 2, "").vm("qemu", 3, "")).unwrap();
    for (vmm, name, number) in [(Vmm::Uml, "uml", 2), (Vmm::Qemu, "qemu", 3)] {
        let config = GuestConfig::new(name, number, &vonicd.socket(name)).on(vmm);
        let mut guest = Guest::boot(&lab, &directory, &config).unwrap();
        let mut server = PeerServer::start(name, directory.path(), "127.0.0.1:0", None).unwrap();
        let stream = format!("vonic-peer both 192.0.2.1:{} 4000037 1", server.address().port());
        let again = format!(
            "rmmod virtio_net; insmod $(find /modules /usr/lib/uml/modules/*/kernel -name virtio_net.ko | head -n 1); n=0; \
             until [ -e /sys/class/net/eth0 ] || [ $n = 100 ]; do sleep 0.05; n=$((n+1)); done; ip link set eth0 up; \
             ip addr add 192.0.2.{number}/24 dev eth0 && ip route add default via 192.0.2.1"
        );
        for round in 0..4 {
            let ran = guest.must(&stream, seconds(60)).with_context(|| format!("{name}, round {round}"));
            ran.with_context(|| vonicd.vonic_text(&["vm", "show", name]).unwrap_or_default()).unwrap();
            let report = server.report(seconds(10)).unwrap();
            assert!(report["error"].is_null(), "{report}");
            guest.must(&again, seconds(20)).unwrap();
        }
        assert_eq!(vonicd.vm(name).unwrap()["last_error"], serde_json::Value::Null);
        guest.power_off().unwrap();
    }
    vonicd.stop().unwrap();
}

#[test]
fn qemu_connects_again_to_a_new_service() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let service = TestConfig::default().vm("a", 2, "");
    let mut vonicd = Vonicd::start(&directory, &service).unwrap();
    let config = GuestConfig { reconnect: true, ..GuestConfig::new("a", 2, &vonicd.socket("a")).on(Vmm::Qemu) };
    let mut guest = Guest::boot(&lab, &directory, &config).unwrap();
    let mut server = PeerServer::start("server", directory.path(), "127.0.0.1:0", None).unwrap();
    let stream = format!("vonic-peer both 192.0.2.1:{} 4000037 1", server.address().port());
    for round in 0..3 {
        guest.must(&stream, seconds(60)).unwrap();
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
        if round == 0 {
            vonicd.stop().unwrap();
        } else {
            vonicd.kill();
        }
        let down = "n=0; until [ $(cat /sys/class/net/eth0/carrier) = 0 ] || [ $n = 100 ]; do sleep 0.1; n=$((n+1)); done; [ $n -lt 100 ]";
        guest.must(down, seconds(20)).unwrap();
        vonicd = Vonicd::start(&directory, &service).unwrap();
        guest.must(&down.replace("= 0 ]", "= 1 ]"), seconds(20)).unwrap();
        wait_until("running rings", seconds(10), || vonicd.vm("a").unwrap()["driver_ready"] == true).unwrap();
    }
    guest.must(&stream, seconds(60)).unwrap();
    guest.power_off().unwrap();
    vonicd.stop().unwrap();
}

#[test]
fn qemu_listens_and_vonic_finds_it_again_and_again() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let service = TestConfig::default().vm("a", 2, "socket_mode = \"client\"");
    let mut vonicd = Vonicd::start(&directory, &service).unwrap();
    let mut server = PeerServer::start("server", directory.path(), "127.0.0.1:0", None).unwrap();
    let stream = format!("vonic-peer both 192.0.2.1:{} 4000037 1", server.address().port());
    let qemu = QemuConfig { listens: true, ..QemuConfig::default() };
    let config = GuestConfig { qemu, ..GuestConfig::new("a", 2, &vonicd.socket("a")).on(Vmm::Qemu) };
    for end in ["crash", "power off"] {
        let mut guest = Guest::boot(&lab, &directory, &config).unwrap();
        guest.must(&stream, seconds(60)).unwrap();
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
        if end == "crash" {
            guest.kill();
            wait_until("the VMM's end", seconds(5), || vonicd.vm("a").unwrap()["connected"] == false).unwrap();
            continue;
        }
        // The service restarts under the running guest: QEMU takes the next connection as it took the first.
        vonicd.kill();
        vonicd = Vonicd::start(&directory, &service).unwrap();
        wait_until("running rings", seconds(20), || vonicd.vm("a").unwrap()["driver_ready"] == true).unwrap();
        guest.must(&stream, seconds(60)).unwrap();
        guest.power_off().unwrap();
    }
    vonicd.stop().unwrap();
}

/// Serves the files of a folder over HTTP/1.1, one request per connection, until the test ends; the port.
fn serve_files(folder: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = folder.to_path_buf();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let name = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let content = std::fs::read(folder.join(name)).unwrap_or_default();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            // A client that leaves early says so by itself.
            let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(&content));
        }
    });
    port
}

/// iPXE takes its address from vonic and the kernel through vonic, with a driver of its own; then Linux takes the device over.
#[test]
fn firmware_uses_the_device_before_the_kernel() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let vonicd = talkative(&directory, &TestConfig::default().vm("a", 2, ""));
    let files = format!("http://192.0.2.1:{}", serve_files(directory.path()));
    let script = format!(
        "#!ipxe\ndhcp || goto failed\necho @@DHCP ${{net0/ip}} ${{net0/gateway}}\nkernel {files}/vmlinuz @LINUX@ || goto failed\n\
         initrd {files}/initrd-a || goto failed\nboot\n:failed\necho @@FAILED\n"
    );
    let qemu = QemuConfig { ipxe: Some(script), ..QemuConfig::default() };
    let config = GuestConfig { qemu, ..GuestConfig::new("a", 2, &vonicd.socket("a")).on(Vmm::Qemu) };
    let mut guest = Guest::start(&lab, &directory, &config).unwrap();
    guest.wait_console("@@DHCP 192.0.2.2 192.0.2.1", seconds(60)).unwrap();
    guest.wait_ready().unwrap();
    // Kernel and initramfs came through iPXE's rings, byte for byte, or Linux would not be here.
    let files = ["vmlinuz", "initrd-a"].map(|name| std::fs::metadata(directory.path().join(name)).unwrap().len());
    let received = vonicd.vm("a").unwrap()["tcp"]["bytes_host_to_guest"].as_u64().unwrap();
    assert!(received > files.iter().sum(), "{received} of {files:?}");
    let mut server = PeerServer::start("server", directory.path(), "127.0.0.1:0", None).unwrap();
    guest.must(&format!("vonic-peer both 192.0.2.1:{} 4000037 1", server.address().port()), seconds(60)).unwrap();
    let report = server.report(seconds(10)).unwrap();
    assert!(report["error"].is_null(), "{report}");
    guest.power_off().unwrap();
    vonicd.stop().unwrap();
}
