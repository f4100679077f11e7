//! `socket_mode = "client"`: does vonic find a VMM that listens, whenever it comes, without running after one that will not have it?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::*;

/// The longest delay between two attempts, and some.
const PATIENCE: Duration = Duration::from_millis(2600);

fn start() -> Bed {
    let client = "socket_mode = \"client\"";
    Bed::start(&TestConfig::default().vm("a", 2, client).vm("b", 3, "")).unwrap()
}

/// A VMM that listens; it has no other connection to make.
fn listen(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// The next connection of vonic's.
fn accept(listener: &UnixListener, limit: Duration) -> Result<UnixStream> {
    wait_for("vonic's connection", limit, || Ok(listener.accept().ok().map(|(stream, _)| stream)))
}

/// A driver over a connection of vonic's.
fn drive(stream: UnixStream) -> MockFrontend {
    stream.set_nonblocking(false).unwrap();
    let mut mock = MockFrontend::over(stream, MockConfig::default()).unwrap();
    mock.negotiate().unwrap();
    mock.share_memory().unwrap();
    mock.start_rings().unwrap();
    mock.post_buffers().unwrap();
    mock
}

fn lines(bed: &Bed, text: &str) -> usize {
    bed.vonicd.log().matches(text).count()
}

/// Seconds of processor time that master and engine have used.
fn processor_time(bed: &mut Bed) -> f64 {
    let engine = std::fs::read_to_string(bed.directory.path().join("run/engine.pid")).unwrap();
    let ticks = |pid: &str| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Fields 14 and 15 of proc_pid_stat(5), counted behind the command's name.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let sum = ticks(&bed.vonicd.process().pid().to_string()) + ticks(engine.trim());
    sum as f64 / 100.0
}

#[test]
fn vmms_that_listen_are_found_whenever_they_come() {
    let mut bed = start();
    let path = bed.socket("a");
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    wait_until("the first attempt", seconds(5), || lines(&bed, "nobody listens at") == 1).unwrap();
    let before = processor_time(&mut bed);
    std::thread::sleep(seconds(4));
    let used = processor_time(&mut bed) - before;
    assert!(used < 0.1, "waiting for a VMM used {used} s of processor time in 4 s");
    assert_eq!(lines(&bed, "nobody listens at"), 1, "told once, not per attempt");
    let vm = bed.vonicd.vm("a").unwrap();
    assert_eq!((&vm["socket_mode"], &vm["connected"]), (&"client".into(), &false.into()), "{vm}");
    assert_eq!(vm["socket"].as_str(), path.to_str());

    for round in 0..3 {
        let listener = listen(&path);
        let mut a = drive(accept(&listener, PATIENCE).unwrap());
        a.gateway_answers(2).unwrap();
        assert_eq!(bed.vonicd.vm("a").unwrap()["driver_ready"], true);
        if round == 1 {
            // It lasts long enough to count as a VMM that was there: after its end the next attempt is at once.
            std::thread::sleep(Duration::from_millis(2100));
        }
        drop(a);
        // The VMM's process was restarted, its socket stayed.
        let start = Instant::now();
        let mut again = drive(accept(&listener, PATIENCE).unwrap());
        if round == 1 {
            assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        }
        again.gateway_answers(2).unwrap();
        drop((again, listener));
        assert!(path.exists(), "the VMM's socket is not vonic's to remove");
        std::fs::remove_file(&path).unwrap();
        b.gateway_answers(3).unwrap();
    }
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_vmm_that_hangs_up_at_once_costs_next_to_nothing() {
    let mut bed = start();
    let listener = listen(&bed.socket("a"));
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    let before = processor_time(&mut bed);
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < seconds(7) {
        match listener.accept() {
            Ok(_) => count += 1,
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    let used = processor_time(&mut bed) - before;
    // 0, 0.1, 0.3, 0.7, 1.5, 3.1, 5.1 s.
    assert!((5..=8).contains(&count), "{count} connections in 7 s");
    assert!(used < 0.35, "{used} s of processor time in 7 s");
    b.gateway_answers(3).unwrap();
    // In the end it takes the connection.
    drive(accept(&listener, PATIENCE).unwrap()).gateway_answers(2).unwrap();
    bed.vonicd.stop().unwrap();
}

/// DPDK's virtio-user with `server=1`: what a switch or a packet generator of that world does.
#[test]
fn dpdk_listens_and_is_found_again() {
    let bed = start();
    let frames = || bed.vonicd.vm("a").unwrap()["drops"].as_u64().unwrap();
    for _ in 0..2 {
        let mut command = std::process::Command::new("dpdk-testpmd");
        command.args(["-l", "0,1", "--main-lcore", "0", "--no-huge", "-m", "256", "--no-pci"]);
        command.args(["--in-memory", "--no-telemetry"]);
        command.args(["--vdev"]);
        command.arg("net_virtio_user0,path=/tmp/run/a.sock,server=1,queues=1,queue_size=256,mac=52:54:00:00:00:02");
        command.args(["--", "--nb-cores=1", "--forward-mode=txonly", "--auto-start", "--total-num-mbufs=4096"]);
        command.args(["--stats-period", "1"]);
        let mut testpmd = bed.lab.start("testpmd", &bed.directory, &mut command).unwrap();
        let ready = || bed.vonicd.vm("a").unwrap()["driver_ready"] == true;
        wait_until("rings of testpmd", seconds(30), ready).with_context(|| testpmd.log()).unwrap();
        // Its frames claim addresses that are not the VM's: each is counted as a drop.
        let before = frames();
        wait_until("frames of testpmd", seconds(20), || frames() > before + 1000)
            .with_context(|| testpmd.log())
            .unwrap();
        testpmd.kill();
        wait_until("its end", seconds(5), || bed.vonicd.vm("a").unwrap()["connected"] == false).unwrap();
        // DPDK takes no socket's place, and vonic leaves it where the VMM has left it.
        std::fs::remove_file(bed.socket("a")).unwrap();
    }
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_reload_changes_who_listens() {
    let bed = start();
    let path = bed.socket("a");
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    let write = |mode: &str| {
        let text = format!("mac = \"52:54:00:00:00:02\"\naddress4 = \"192.0.2.2\"\nsocket_mode = \"{mode}\"\n");
        bed.directory.write("etc/vms.d/a.toml", text).unwrap();
        bed.vonicd.vonic(&["reload", "--json"])
    };
    let listener = listen(&path);
    let mut client = drive(accept(&listener, PATIENCE).unwrap());
    client.gateway_answers(2).unwrap();
    // The VMM still listens where vonic is to listen: that is said, and mended by the next reload after the VMM's end. A reload
    // that is answered is in force: nothing is waited for.
    let refusal = format!("{:#}", write("server").unwrap_err());
    assert!(refusal.contains("a.toml: its socket cannot be opened") && refusal.contains("is in use"), "{refusal}");
    assert!(bed.vonicd.vm("a").unwrap()["last_error"].as_str().is_some_and(|error| error.contains("is in use")));
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert!(path.exists() && bed.vonicd.vm("a").unwrap()["last_error"].is_null());
    let ended = client.raw().ask(vonic_tests::mock::code::GET_FEATURES, &[], &[]);
    assert!(matches!(ended, Ok(vonic_tests::mock::Reply::Closed)), "{ended:?}");
    let mut server = bed.mock("a", MockConfig::default()).unwrap();
    server.gateway_answers(2).unwrap();
    assert_eq!(bed.vonicd.vm("a").unwrap()["socket_mode"], "server");

    assert_eq!(write("client").unwrap()["changed"], serde_json::json!(["a"]));
    assert!(!path.exists());
    drop(server);
    let listener = listen(&path);
    drive(accept(&listener, PATIENCE).unwrap()).gateway_answers(2).unwrap();
    b.gateway_answers(3).unwrap();
    // A VM that goes leaves the VMM's socket where it is.
    std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/a.toml")).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert!(accept(&listener, PATIENCE).is_err());
    assert!(path.exists());
    bed.vonicd.stop().unwrap();
}
