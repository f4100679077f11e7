//! The engine is killed while guests talk: what do the guests notice, and what do their peers?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::*;

/// Each that follows so soon upon others waits longer for its successor.
const KILLS: u32 = 7;
/// As often as this, an engine is followed at once: it has served.
const SERVED: std::time::Duration = std::time::Duration::from_millis(1050);
/// Kills of engines that have served.
const SERVED_KILLS: usize = 5;

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

/// How often a retransmission timer of the guest's TCP has run out (TcpExtTCPTimeouts).
fn timeouts(guest: &mut Guest) -> u64 {
    let text = guest.must("grep TcpExt: /proc/net/netstat", seconds(10)).unwrap();
    let mut lines = text.lines().map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "TCPTimeouts").unwrap().1.parse().unwrap()
}

/// Whether every takeover was well within a guest's shortest timeout, 200 ms.
fn all_were_short(bed: &Bed) -> bool {
    let log = bed.vonicd.log();
    let takeovers = log.lines().filter_map(|line| line.split_once("the engine has taken over, ")?.1.split(' ').next());
    let lengths: Vec<&str> = takeovers.collect();
    assert_eq!(lengths.len(), SERVED_KILLS, "{log}");
    let milliseconds = |length: &str| length.strip_suffix("ms").and_then(|number| number.parse::<f64>().ok());
    lengths.into_iter().all(|length| milliseconds(length).is_some_and(|length| length < 100.0))
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
    streams_between_guests([Vmm::Uml; 2], 150_000_007);
}

/// The next engine serves what ran, not what the files say by now; what is new works.
#[test]
fn what_ran_goes_on_whatever_the_files_say_by_now() {
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7006\"\nport = 7\n";
    let bed = Bed::start(&TestConfig::default().vm("a", 2, &format!("mtu = 1400\n{forward}"))).unwrap();
    let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
    let server = bed.server().unwrap();
    let to_host = format!("192.0.2.1:{}", server.address().port());
    let stream = guest.spawn(&format!("vonic-peer recv {to_host} 400000007 1")).unwrap();
    wait_until("a connection", seconds(20), || {
        bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len() == 1
    })
    .unwrap();
    bed.directory.write("etc/vms.d/a.toml", "mac = \"no mac\"\n").unwrap();
    let refused = format!("{:#}", bed.vonicd.vonic(&["reload", "--json"]).unwrap_err());
    assert!(refused.contains("a.toml"), "{refused}");
    bed.directory.write("etc/vonic.toml", "nonsense").unwrap();
    kill_engine(&bed);
    let stream = stream.wait(&mut guest, seconds(60)).unwrap();
    assert_eq!(stream.status, 0, "{}", stream.stdout);
    guest.must(&format!("vonic-peer both {to_host} 1000003 4"), seconds(60)).unwrap();
    let shown = bed.vonicd.vm("a").unwrap();
    assert_eq!((&shown["mtu"], &shown["forwards"][0]), (&1400.into(), &"tcp 127.0.0.1:7006 -> 7".into()), "{shown}");
    let served = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    wait_until("the forward", seconds(10), || std::net::TcpStream::connect("127.0.0.1:7006").is_ok()).unwrap();
    bed.vonicd.stop().unwrap();
}

/// Streams that vonic terminates, both openers, both ways: not a byte is lost or doubled, no connection ends, the link stays as it is, and
/// no timeout of the guest's runs out unless this machine is so busy that a takeover takes as long.
fn terminated_streams(vmm: Vmm, bytes: u64) {
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7007\"\nport = 7\n";
    let bed = Bed::start(&TestConfig::default().vm("a", 2, forward)).unwrap();
    let mut guest = bed.guest("a", 2, vmm).unwrap();
    let server = bed.server().unwrap();
    let served = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let before = carrier(&mut guest);
    let timed_out = timeouts(&mut guest);
    let to_host = format!("192.0.2.1:{}", server.address().port());
    let out = guest.spawn(&format!("vonic-peer both {to_host} {bytes} 3 4")).unwrap();
    let (directory, count) = (bed.directory.path().to_path_buf(), bytes.to_string());
    let into =
        std::thread::spawn(move || peer(&["both", "127.0.0.1:7007", &count, "5", "4"], None, &directory, seconds(240)));
    for _ in 0..SERVED_KILLS {
        std::thread::sleep(SERVED);
        kill_engine(&bed);
    }
    let done = out.wait(&mut guest, seconds(240)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    let into = into.join().unwrap().unwrap();
    assert_eq!(into["ok"], true, "{into}");
    assert_eq!(carrier(&mut guest), before);
    if all_were_short(&bed) {
        assert_eq!(timeouts(&mut guest), timed_out, "{}", bed.vonicd.log());
    }
    bed.vonicd.stop().unwrap();
}

#[test]
fn terminated_streams_of_a_user_mode_linux_guest_outlive_engines() {
    terminated_streams(Vmm::Uml, 250_000_007);
}
