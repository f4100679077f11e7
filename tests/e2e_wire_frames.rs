//! Segments made by hand: is each frame to and from a guest what its virtio-net header says, and as large as was negotiated?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::Read;

use vonic_tests::frames::{self, Tcp, ip4};
use vonic_tests::mock::{VnetHeader, feature};
use vonic_tests::wire::{Conn, HOST, HandGuest, ramp, write_behind};
use vonic_tests::*;

const TSO: u64 = feature::PLAIN
    | feature::MRG_RXBUF
    | feature::CSUM
    | feature::GUEST_CSUM
    | feature::HOST_TSO4
    | feature::GUEST_TSO4;

fn start(features: u64) -> (Bed, HandGuest) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let guest = HandGuest::start(&bed, "a", 2, features).unwrap();
    (bed, guest)
}

fn new() -> Conn {
    Conn::new(HOST, (40_000, 0))
}

/// What the guest gets in answer to 200 kB from the host: each frame's payload and segment size (0: no segmentation).
fn frames_to(features: u64, mss: u16, mtu_less_headers: u16) -> Vec<(usize, u16)> {
    let (_bed, mut guest) = start(features);
    let (mut conn, host) = Conn { mss, ..new() }.connect(&mut guest).unwrap();
    let bytes = ramp(200_000);
    let writer = write_behind(&host, bytes.clone()).unwrap();
    let (mut got, mut shapes) = (Vec::<u8>::new(), Vec::new());
    while got.len() < bytes.len() {
        let (header, segment) = conn.hear(&mut guest, seconds(10)).unwrap().unwrap();
        if segment.text.is_empty() {
            continue;
        }
        let checksum = if features & feature::GUEST_CSUM == 0 { 0 } else { VnetHeader::NEEDS_CSUM };
        assert_eq!(header.flags, checksum, "{header:?}");
        assert_eq!(header.gso_type != 0, segment.text.len() > usize::from(mss.min(mtu_less_headers)), "{header:?}");
        shapes.push((segment.text.len(), header.gso_size));
        got.extend(&segment.text);
        conn.rcv_nxt = conn.rcv_nxt.wrapping_add(segment.text.len() as u32);
        conn.ack(&mut guest).unwrap();
    }
    assert!(got == bytes, "other bytes came");
    writer.join().unwrap().unwrap();
    shapes
}

#[test]
fn large_frames_go_to_those_who_take_them() {
    let shapes = frames_to(TSO, 1000, 1460);
    let large: Vec<_> = shapes.iter().filter(|(length, _)| *length > 1000).collect();
    assert!(large.iter().any(|(length, _)| *length > 20_000), "{shapes:?}");
    assert!(large.iter().all(|(_, size)| *size == 1000), "{shapes:?}");
}

#[test]
fn small_frames_with_partial_checksums_go_to_those_who_take_no_large_ones() {
    let shapes = frames_to(feature::PLAIN | feature::MRG_RXBUF | feature::GUEST_CSUM, 9000, 1460);
    assert!(shapes.iter().all(|(length, size)| *length <= 1460 && *size == 0), "{shapes:?}");
    assert!(shapes.iter().any(|(length, _)| *length == 1460), "{shapes:?}");
}

#[test]
fn small_complete_frames_go_to_those_who_take_nothing_else() {
    let shapes = frames_to(feature::PLAIN, 1000, 1460);
    assert!(shapes.iter().all(|(length, size)| *length <= 1000 && *size == 0), "{shapes:?}");
    assert!(shapes.iter().any(|(length, _)| *length == 1000), "{shapes:?}");
}

#[test]
fn a_large_frame_from_the_guest_is_one_write_with_nothing_copied() {
    let (bed, mut guest) = start(TSO);
    let (mut conn, mut host) = new().connect(&mut guest).unwrap();
    let bytes = ramp(40_000);
    let mut frame = guest.frame(HOST, &conn.segment(Tcp::ACK | Tcp::PSH, &bytes));
    let sum = !frames::checksum(&frames::pseudo_header(ip4(2), HOST, 6, 40_020));
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::TCPV4,
        header_length: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        buffers: 0,
    };
    guest.mock.send_frame(&header, &frame).unwrap();
    conn.snd_nxt = conn.snd_nxt.wrapping_add(40_000);
    conn.expect_ack(&mut guest).unwrap();
    let mut got = vec![0; bytes.len()];
    host.read_exact(&mut got).unwrap();
    assert!(got == bytes, "other bytes arrived");
    assert_eq!(bed.vonicd.copied("guest_to_host").unwrap(), 0);
}
