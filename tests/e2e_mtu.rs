//! Do all bytes get through at every MTU, both ways and in both families, in segments that fit?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::Read;

use vonic_tests::frames::Tcp;
use vonic_tests::mock::feature;
use vonic_tests::wire::{Conn, HOST, HandGuest, ramp, write_behind};
use vonic_tests::*;

/// From the smallest that IPv4 promises (RFC 791 §3.1) to the largest that fits a packet of 64 KiB with room for headers.
const MTUS: [u16; 5] = [576, 1280, 1500, 9000, 65_520];
/// IPv4 and TCP without options.
const HEADERS: u16 = 40;

#[test]
fn segments_fit_every_mtu() {
    let vms = MTUS.iter().enumerate().fold(TestConfig::default(), |config, (n, mtu)| {
        config.vm(&format!("vm{n}"), n as u8 + 2, &format!("mtu = {mtu}"))
    });
    let bed = Bed::start(&vms).unwrap();
    for (n, mtu) in MTUS.into_iter().enumerate() {
        for features in [feature::PLAIN, feature::ALL] {
            let mut guest = HandGuest::start(&bed, &format!("vm{n}"), n as u8 + 2, features).unwrap();
            let config = guest.mock.device_config(12).unwrap();
            assert_eq!(config[10..12], mtu.to_le_bytes(), "the MTU that the driver reads (virtio 1.3 §5.1.4)");
            exchange(&mut guest, mtu, features == feature::ALL);
        }
    }
}

/// Prime numbers of bytes, both ways. The guest announces more than the link holds: the link's bound is vonic's to keep.
fn exchange(guest: &mut HandGuest, mtu: u16, large: bool) {
    let (mut conn, mut host) = Conn { mss: u16::MAX, ..Conn::new(HOST, (40_000, 0)) }.connect(guest).unwrap();
    let mss = usize::from(mtu - HEADERS);
    let bytes = ramp(400_009);
    let writer = write_behind(&host, bytes.clone()).unwrap();
    let (mut got, mut longest) = (Vec::<u8>::new(), 0);
    while got.len() < bytes.len() {
        let (header, segment) = conn.hear(guest, seconds(10)).unwrap().unwrap();
        let segment_len = if header.gso_type == 0 { segment.text.len() } else { header.gso_size.into() };
        assert!(segment_len <= mss, "{segment_len} bytes in a segment at MTU {mtu}");
        assert!(large || header.gso_type == 0, "{header:?}");
        longest = longest.max(segment_len);
        got.extend(&segment.text);
        conn.rcv_nxt = conn.rcv_nxt.wrapping_add(segment.text.len() as u32);
        conn.ack(guest).unwrap();
    }
    assert!(got == bytes, "other bytes came at MTU {mtu}");
    assert_eq!(longest, mss, "no full segment at MTU {mtu}");
    writer.join().unwrap().unwrap();

    let text = ramp(100_003);
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 100_003];
        host.read_exact(&mut got).map(|()| got)
    });
    for piece in text.chunks(mss) {
        while (conn.edge.wrapping_sub(conn.snd_nxt) as i32) < piece.len() as i32 {
            conn.hear(guest, seconds(10)).unwrap().unwrap();
        }
        conn.send(guest, Tcp::PSH, piece).unwrap();
    }
    assert!(reader.join().unwrap().unwrap() == text, "other bytes went at MTU {mtu}");
    conn.expect_ack(guest).unwrap();
    guest.send(HOST, &conn.segment(Tcp::RST, &[])).unwrap();
}

/// One checked stream each way, opened by the guest and by the world.
fn streams(bed: &Bed, guest: &mut Guest, (gateway, loopback): (&str, &str), forward: &str) {
    let mut server = PeerServer::start("server", bed.directory.path(), &format!("{loopback}:0"), None).unwrap();
    for operation in ["send", "recv"] {
        let port = server.address().port();
        guest.must(&format!("vonic-peer {operation} {gateway}:{port} 10000019 1"), seconds(60)).unwrap();
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
        let result = peer(&[operation, forward, "10000019", "2"], None, bed.directory.path(), seconds(60)).unwrap();
        assert_eq!(result["ok"], true, "{result}");
    }
}

fn forward(listen: &str) -> String {
    format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{listen}\"\nport = 7\n")
}

#[test]
fn linux_guests_talk_at_the_smallest_and_the_largest_mtu() {
    let ends = [(576, "a", 2), (65_520, "b", 3)];
    let config = ends.iter().fold(TestConfig::default(), |config, (mtu, name, number)| {
        let forward = forward(&format!("127.0.0.1:700{number}"));
        config.vm(name, *number, &format!("mtu = {mtu}\n{forward}"))
    });
    let bed = Bed::start(&config).unwrap();
    let guests = ends.map(|(mtu, name, number)| (mtu, number, bed.start_guest(name, number, Vmm::Uml).unwrap()));
    for (mtu, number, mut guest) in guests {
        guest.wait_ready().unwrap();
        assert_eq!(guest.must("cat /sys/class/net/eth0/mtu", seconds(5)).unwrap().trim(), mtu.to_string());
        let server = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
        server.wait_output(&mut guest, "listening", seconds(10)).unwrap();
        streams(&bed, &mut guest, ("192.0.2.1", "127.0.0.1"), &format!("127.0.0.1:700{number}"));
    }
    bed.vonicd.stop().unwrap();
}

#[test]
fn linux_guests_talk_over_ipv6_at_its_smallest_and_the_largest_mtu() {
    let ends = [(1280, "a", 2), (65_520, "b", 3)];
    let config = ends.iter().fold(TestConfig::both_families(), |config, (mtu, name, number)| {
        let forward = forward(&format!("[::1]:700{number}"));
        config.vm(name, *number, &format!("mtu = {mtu}\n{forward}"))
    });
    let bed = Bed::start(&config).unwrap();
    let guests = ends.map(|(mtu, name, number)| {
        let plain = GuestConfig::new(name, number, &bed.socket(name));
        (mtu, number, bed.start_configured(&GuestConfig { ip6: true, ..plain }).unwrap())
    });
    for (mtu, number, mut guest) in guests {
        guest.wait_ready().unwrap();
        assert_eq!(guest.must("cat /sys/class/net/eth0/mtu", seconds(5)).unwrap().trim(), mtu.to_string());
        let command = format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{number}/64 dev eth0 && \
             ip -6 route add default via 2001:db8::1 dev eth0 metric 100"
        );
        guest.must(&command, seconds(10)).unwrap();
        let server = guest.spawn("vonic-peer serve [::]:7").unwrap();
        server.wait_output(&mut guest, "listening", seconds(10)).unwrap();
        streams(&bed, &mut guest, ("[2001:db8::1]", "[::1]"), &format!("[::1]:700{number}"));
    }
    bed.vonicd.stop().unwrap();
}
