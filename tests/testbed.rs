//! Is the test bed sound? Its guests and peers against a vhost-user backend that is known to work (passt), without vonic.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::PathBuf;
use std::process::Command;
use vonic_tests::mock::{MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::*;

/// passt for one guest; the guest reaches the host's loopback at the gateway, and host port 8080 leads to the guest's port 80.
fn passt(lab: &Lab, directory: &TempDir) -> (Process, PathBuf) {
    let mut command = Command::new("passt");
    command.args(["--vhost-user", "-f", "-s", "/tmp/passt.sock", "-a", "192.0.2.2", "-n", "24", "-g", "192.0.2.1"]);
    command.args(["-t", "127.0.0.1/8080:80", "-4"]);
    let process = lab.start("passt", directory, &mut command).unwrap();
    let socket = directory.path().join("passt.sock");
    wait_until("passt", seconds(10), || process.log().contains("You can start qemu")).unwrap();
    (process, socket)
}

fn guest_works(vmm: Vmm, ip4: Ip4) {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let (_passt, socket) = passt(&lab, &directory);
    let config = GuestConfig { ip4, ..GuestConfig::new("a", 2, &socket).on(vmm) };
    let mut guest = Guest::boot(&lab, &directory, &config).unwrap();

    let output = guest.run("echo one; echo two >&2; printf three; exit 3", seconds(5)).unwrap();
    assert_eq!((output.status, output.stdout.as_str()), (3, "one\ntwo\nthree"));
    assert_eq!(guest.run("sleep 60", seconds(1)).unwrap().status, 137);
    assert!(guest.must("ip addr show eth0", seconds(5)).unwrap().contains("192.0.2.2/24"));
    guest.must("ping -c 1 -W 2 192.0.2.1", seconds(5)).unwrap();

    let mut server = PeerServer::start("server", directory.path(), "127.0.0.1:0", None).unwrap();
    let port = server.address().port();
    guest.must(&format!("vonic-peer send 192.0.2.1:{port} 8000003 1"), seconds(60)).unwrap();
    let report = server.report(seconds(5)).unwrap();
    assert_eq!((report["bytes"].as_u64(), report["error"].is_null()), (Some(8_000_003), true), "{report}");

    let job = guest.spawn("vonic-peer serve 0.0.0.0:80").unwrap();
    job.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let result = peer(&["recv", "127.0.0.1:8080", "8000003", "2"], None, directory.path(), seconds(60)).unwrap();
    assert_eq!(result["ok"], true, "{result}");
    job.kill(&mut guest).unwrap();
    guest.power_off().unwrap();
}

#[test]
fn a_user_mode_linux_guest_boots_talks_and_ends() {
    guest_works(Vmm::Uml, Ip4::Static("192.0.2.2/24".into(), "192.0.2.1".into()));
}

#[test]
fn a_user_mode_linux_guest_takes_a_lease() {
    guest_works(Vmm::Uml, Ip4::Dhcp);
}

#[test]
fn a_qemu_guest_boots_talks_and_ends() {
    guest_works(Vmm::Qemu, Ip4::Dhcp);
}

#[test]
fn a_cable_joins_two_namespaces_and_nothing_else() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let outside = Netns::new().unwrap();
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let server = PeerServer::start("server", directory.path(), "198.51.100.2:7", Some(&outside)).unwrap();
    let address = server.address().to_string();
    let result = peer(&["both", &address, "1000003", "3", "4"], None, directory.path(), seconds(30)).unwrap();
    assert_eq!((result["ok"].as_bool(), result["connections"].as_u64()), (Some(true), Some(4)), "{result}");
    let elsewhere = Netns::new().unwrap();
    let result = peer(&["connections", &address, "1"], Some(&elsewhere), directory.path(), seconds(30)).unwrap();
    assert_eq!(result["ok"], false, "{result}");
}

#[test]
fn nothing_is_left_of_a_process_or_a_directory() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_path_buf();
    let mut command = Command::new("sleep");
    let process = Process::start("sleep", command.arg("600"), None, &path.join("sleep.log")).unwrap();
    let entry = PathBuf::from(format!("/proc/{}", process.pid()));
    assert!(entry.exists());
    drop(process);
    assert!(!entry.exists());
    drop(directory);
    assert!(!path.exists());
}

#[test]
fn the_mock_frontend_speaks_to_a_backend_in_every_shape() {
    use frames::*;
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let plain = MockConfig { features: feature::PLAIN, ..MockConfig::default() };
    let tiny = MockConfig { buffer: vec![600], ring_size: 128, posted: 128, ..MockConfig::default() };
    let chained =
        MockConfig { buffer: vec![12, 100, 9000], features: feature::PLAIN | feature::RING_EVENT_IDX, ..plain.clone() };
    for config in [plain, MockConfig::default(), tiny, chained] {
        let directory = TempDir::new().unwrap();
        let (_passt, socket) = passt(&lab, &directory);
        let merge = config.features & feature::MRG_RXBUF != 0;
        let mut mock = MockFrontend::start(&socket, config).unwrap();
        let gateway = ip4(1);
        assert_eq!(mock.send_frame(&VnetHeader::default(), &arp_request(2, gateway)).unwrap(), 0);
        let (_, answer) =
            mock.expect_frame("ARP answer", seconds(5), |frame| arp_answer(frame, gateway).is_some()).unwrap();
        let link = (mac(2), arp_answer(&answer, gateway).unwrap());
        let payload: Vec<u8> = (0..1400).map(|byte| byte as u8).collect();
        for (sequence, lengths) in [vec![], vec![12], vec![12, 14, 20], vec![1, 11, 1]].into_iter().enumerate() {
            let request = ping(link, ip4(2), gateway, sequence as u16, &payload);
            mock.send_shaped(&VnetHeader::default(), &request, &lengths, merge && sequence % 2 == 0).unwrap();
            // An echo reply with the same payload.
            let is_answer =
                |frame: &[u8]| frame.len() == request.len() && frame[34] == 0 && frame[38..] == request[38..];
            let (header, _) = mock.expect_frame("echo reply", seconds(5), is_answer).unwrap();
            assert!(!merge || header.buffers >= 1);
        }
        mock.stop_ring(mock::GUEST_TO_HOST).unwrap();
    }
}

#[test]
fn the_tracer_sees_where_a_backends_bytes_lie() {
    isolate().unwrap();
    let lab = Lab::open().unwrap();
    let directory = TempDir::new().unwrap();
    let (passt, socket) = passt(&lab, &directory);
    let mut guest = Guest::boot(&lab, &directory, &GuestConfig::new("a", 2, &socket)).unwrap();
    let server = PeerServer::start("server", directory.path(), "127.0.0.1:0", None).unwrap();
    let port = server.address().port();
    let tracer = trace::Tracer::start(passt.pid(), guest.process().pid()).unwrap();
    guest.must(&format!("vonic-peer both 192.0.2.1:{port} 4000000 1"), seconds(60)).unwrap();
    let seen = tracer.finish().unwrap();
    assert!(seen.sends > 0 && seen.receives > 0 && seen.inside >= 8_000_000, "{seen:?}");
    // Its threads run on.
    guest.must(&format!("vonic-peer send 192.0.2.1:{port} 4000000 1"), seconds(60)).unwrap();
}
