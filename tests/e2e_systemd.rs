//! Under a service manager: is it told what it should be, are its sockets used, and what is left when vonicd itself dies?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use vonic_tests::mock::MockConfig;
use vonic_tests::wire::{accept, connect, listen};
use vonic_tests::*;

fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Everything that is said in a life, by path and by abstract name: ready, reloading, alive, upgraded, stopping.
#[test]
fn a_service_manager_is_told_how_vonicd_fares() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let mut manager = ServiceManager::abstract_one(&format!("vonic-test-{}", std::process::id())).unwrap();
    let environment = [("NOTIFY_SOCKET", manager.address()), ("WATCHDOG_USEC", "400000".to_string())];
    let config = TestConfig::default().vm("a", 2, "");
    let vonicd = Vonicd::start_passing(&directory, &config, &environment, &[]).unwrap();
    let mut bed = Bed { vonicd, lab, directory };
    manager.expect("READY=1").unwrap();
    let names: Vec<&str> = manager.store.keys().map(String::as_str).collect();
    assert_eq!(names, ["kept-a", "kept-api"], "its listening sockets are kept");
    (0..3).for_each(|_| drop(manager.expect("WATCHDOG=1").unwrap()));

    bed.vonicd.process().signal(libc::SIGHUP).unwrap();
    manager.expect("RELOADING=1").unwrap();
    let since_boot: u64 = manager.expect("MONOTONIC_USEC=").unwrap().parse().unwrap();
    assert!(since_boot > 0);
    manager.expect("READY=1").unwrap();
    // A VM that goes takes its socket along, one that comes brings it.
    std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/a.toml")).unwrap();
    bed.directory.write("etc/vms.d/b.toml", "mac = \"52:54:00:00:00:03\"\n").unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    manager.hear().unwrap();
    let names: Vec<&str> = manager.store.keys().map(String::as_str).collect();
    assert_eq!(names, ["kept-api", "kept-b"]);

    let newer = Vonicd::copy(&bed.directory).unwrap();
    bed.vonicd.upgrade(&newer).unwrap();
    assert_eq!(manager.expect("MAINPID=").unwrap(), bed.vonicd.master().to_string());
    (0..3).for_each(|_| drop(manager.expect("WATCHDOG=1").unwrap()));
    bed.vonicd.stop().unwrap();
    manager.expect("STOPPING=1").unwrap();
    manager.hear().unwrap();
    assert!(manager.store.is_empty(), "sockets whose files are removed are not kept: {:?}", manager.store);
}

/// Between two vonicds: peers in the world are reset, not ended; whoever connects waits; guests come back and learn what is gone.
#[test]
fn what_is_left_when_vonicd_dies() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    std::fs::create_dir_all(directory.path().join("run")).unwrap();
    let mut manager = ServiceManager::at(&directory.path().join("notify")).unwrap();
    let environment = [("NOTIFY_SOCKET", manager.address())];
    // The API's socket is a socket unit's, and so is one VM's.
    let unit = |name: &str| UnixListener::bind(directory.path().join("run").join(name)).unwrap();
    let (api, b) = (unit("api.sock"), unit("b.sock"));
    let units = [("api", api.as_raw_fd()), ("b", b.as_raw_fd())];
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7009\"\nport = 7\n";
    let config = TestConfig::default().vm("a", 2, forward).vm("b", 3, "");
    let start = |manager: &ServiceManager| {
        Vonicd::start_passing(&directory, &config, &environment, &manager.passed(&units)).unwrap()
    };
    let mut vonicd = start(&manager);
    manager.expect("READY=1").unwrap();
    assert_eq!(manager.store.keys().collect::<Vec<_>>(), ["kept-a"], "what it lends it need not keep");
    let file = |name: &str| std::fs::metadata(directory.path().join("run").join(name)).map(|file| file.ino()).ok();
    let files = ["a.sock", "b.sock", "api.sock"].map(file);

    let guest = GuestConfig { reconnect: true, ..GuestConfig::new("a", 2, &vonicd.socket("a")).on(Vmm::Qemu) };
    let mut guest = Guest::start(&lab, &directory, &guest).unwrap();
    guest.wait_ready().unwrap();
    let (listener, port) = listen().unwrap();
    let idle = guest.spawn(&format!("vonic-peer recv 192.0.2.1:{port} 1000 1")).unwrap();
    let mut outward = accept(&listener).unwrap();
    assert!(outward.read(&mut [0; 64]).unwrap() > 0);
    let served = guest.spawn("vonic-peer echo 0.0.0.0:7").unwrap();
    served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let mut inward =
        wait_for("the forward", seconds(10), || Ok(echoes(connect("127.0.0.1:7009".parse().unwrap())?))).unwrap();
    let server = PeerServer::start("server", directory.path(), "127.0.0.1:0", None).unwrap();
    let to_server = format!("192.0.2.1:{}", server.address().port());
    let busy = guest.spawn(&format!("vonic-peer send {to_server} 1099511627776 1")).unwrap();

    let moves = |row: &serde_json::Value| row["bytes_guest_to_host"].as_u64() > Some(100_000);
    let rows = |vonicd: &Vonicd| vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().clone();
    wait_until("the stream", seconds(20), || rows(&vonicd).iter().any(moves)).unwrap();

    vonicd.kill();
    for peer in [&mut outward, &mut inward] {
        assert_eq!(
            peer.read(&mut [0; 64]).map_err(|e| e.kind()),
            Err(ErrorKind::ConnectionReset),
            "a reset, not an end"
        );
    }
    // Asked while nobody is there, answered when somebody is.
    let program = Vonicd::client().unwrap();
    let (socket, log) = (directory.path().join("run/api.sock"), directory.path().join("asked"));
    let mut ask = Command::new(program);
    let ask = ask.arg("--socket").arg(socket).args(["vm", "list", "--json"]);
    let mut asked = Process::start("vonic", ask, None, &log).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(asked.ended().is_none());
    let vonicd = start(&manager);
    assert!(asked.wait(seconds(10)).unwrap().success(), "{}", asked.log());
    assert_eq!(["a.sock", "b.sock", "api.sock"].map(file), files, "the same sockets");
    manager.expect("READY=1").unwrap();
    wait_until("the VM", seconds(10), || vonicd.vm("a").unwrap()["driver_ready"] == true).unwrap();
    let cut = busy.wait(&mut guest, seconds(30)).unwrap();
    assert!(cut.status == 1 && cut.stdout.contains("reset"), "{cut:?}");
    guest.must(&format!("vonic-peer both {to_server} 1000003 4"), seconds(60)).unwrap();
    let again = wait_for("the forward", seconds(10), || Ok(echoes(connect("127.0.0.1:7009".parse().unwrap())?)));
    drop(again.unwrap());
    idle.kill(&mut guest).unwrap();
    served.kill(&mut guest).unwrap();

    let bed = Bed { vonicd, lab, directory };
    bed.mock("b", MockConfig::default()).unwrap().gateway_answers(3).unwrap();
    bed.vonicd.stop().unwrap();
    let left = |name: &str| bed.directory.path().join("run").join(name).exists();
    assert_eq!(["a.sock", "b.sock", "api.sock"].map(left), [false, true, true], "only what is vonicd's own is removed");
}

/// A connection, if the guest's echo answers on it.
fn echoes(mut stream: TcpStream) -> Option<TcpStream> {
    let mut answer = [0; 5];
    let echoed = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer));
    (echoed.is_ok() && &answer == b"hello").then_some(stream)
}

/// Without a watchdog a vonicd that has nothing to do does nothing, whoever has started it.
#[test]
fn nothing_is_done_for_a_manager_that_asks_for_nothing() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let mut manager = ServiceManager::at(&directory.path().join("notify")).unwrap();
    // A watchdog of another process is none of this one's.
    let environment =
        [("NOTIFY_SOCKET", manager.address()), ("WATCHDOG_USEC", "2000".into()), ("WATCHDOG_PID", "1".into())];
    let mut vonicd = Vonicd::start_passing(&directory, &TestConfig::default(), &environment, &[]).unwrap();
    manager.expect("READY=1").unwrap();
    std::thread::sleep(seconds(1));
    manager.hear().unwrap();
    let before = cpu_ticks(vonicd.process().pid());
    std::thread::sleep(seconds(2));
    assert_eq!(cpu_ticks(vonicd.process().pid()), before);
    assert!(manager.hear().unwrap().is_empty());
    vonicd.stop().unwrap();
}

/// The units, as systemd itself reads them.
#[test]
fn systemd_takes_the_units() {
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu-configs");
    Vonicd::copy(&directory).unwrap();
    std::fs::copy(Vonicd::client().unwrap(), directory.path().join("vonic")).unwrap();
    for unit in ["vonic.service", "vonic.socket", "vonic-vm@.socket"] {
        let text = std::fs::read_to_string(units.join(unit)).unwrap();
        directory.write(unit, text.replace("/usr/local/bin/", "/tmp/")).unwrap();
    }
    let verify = |unit: &str| {
        // It wants to write below /run; the mount is its own.
        let script =
            format!("mount -t tmpfs none /run && exec systemd-analyze verify --man=no --recursive-errors=one {unit}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let mut run = lab.start("systemd-analyze", &directory, &mut command).unwrap();
        (run.wait(seconds(20)).unwrap().success(), run.log())
    };
    for unit in ["/tmp/vonic.service", "/tmp/vonic.socket", "/tmp/vonic-vm@web1.socket"] {
        let (good, log) = verify(unit);
        assert!(good && !log.contains("/tmp/vonic"), "{unit}: {log}");
    }
    let text = std::fs::read_to_string(directory.path().join("vonic.service")).unwrap();
    directory.write("vonic.service", text.replace("ExecStart=/tmp/vonicd", "ExecStart=/tmp/nothing")).unwrap();
    assert!(!verify("/tmp/vonic.service").0, "it finds what is wrong");
}
