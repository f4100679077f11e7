use super::*;
use proptest::prelude::*;
use vonic_frame::DropReason;

fn captured(way: Way, vnet: [u8; VNET_HEADER_LEN]) -> Captured {
    Captured { at: 0, lost: 0, len: 60, vnet, way, pair: 1, dropped: None }
}

/// The options of a block from `at` on: codes and values.
fn options(block: &[u8], at: usize) -> Vec<(u16, Vec<u8>)> {
    let (mut rest, mut options) = (&block[at..block.len() - 4], Vec::new());
    loop {
        let (code, len) = (u16::from_le_bytes([rest[0], rest[1]]), usize::from(u16::from_le_bytes([rest[2], rest[3]])));
        if code == END {
            assert_eq!(rest.len(), 4, "nothing behind the last option");
            return options;
        }
        options.push((code, rest[4..4 + len].to_vec()));
        rest = &rest[4 + len.next_multiple_of(4)..];
    }
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[test]
fn a_file_begins_with_its_section_and_interface() {
    let mut out = Vec::new();
    let interface = Interface { vm: "web1", mac: MacAddr([2, 0, 0, 0, 0, 9]), snaplen: 128, filter: Some("arp") };
    begin(&mut out, &interface);
    // Section header block: type, length, byte-order magic, version 1.0, section length unknown.
    let expected = [0x0a, 0x0d, 0x0d, 0x0a, 48, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0];
    assert_eq!(out[..16], expected);
    assert_eq!(out[16..24], [0xff; 8]);
    let length = next(&out).unwrap().unwrap().1;
    assert_eq!(options(&out[..length], 24), [(4, text(concat!("vonic ", env!("CARGO_PKG_VERSION"))))]);
    let interface = &out[length..];
    // Interface description block: Ethernet, snaplen.
    assert_eq!(interface[..4], [1, 0, 0, 0]);
    assert_eq!(interface[8..16], [1, 0, 0, 0, 128, 0, 0, 0]);
    let options = options(interface, 16);
    assert_eq!((&options[0], &options[2]), (&(2, text("web1")), &(6, vec![2, 0, 0, 0, 0, 9])));
    assert_eq!(options[3..], [(9, vec![6]), (11, text("\0arp"))]);
    assert_eq!(next(interface), Ok(Some((Block::Other, interface.len()))));
}

#[test]
fn frames_say_where_they_went_and_what_is_left_to_do() {
    let mut large = [0; VNET_HEADER_LEN];
    (large[0], large[1]) = (1, 0x81);
    large[4..6].copy_from_slice(&1448u16.to_le_bytes());
    let (mut valid, mut other) = ([0; VNET_HEADER_LEN], [0; VNET_HEADER_LEN]);
    (valid[0], other[1]) = (2, 9);
    let (one, group, all) = ([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 1], [0xff; 6]);
    for (way, vnet, to, flags, comment) in [
        (Way::GuestToHost, [0; VNET_HEADER_LEN], one, 0b110, None),
        (Way::HostToGuest, valid, group, 0b1001 | 1 << 10, None),
        (
            Way::GuestToHost,
            large,
            all,
            0b1110 | 1 << 9 | 1 << 11,
            Some("GSO TCP over IPv4, segment size 1448, checksum partial, CWR in the first segment"),
        ),
        (Way::HostToGuest, other, one, 0b101 | 1 << 11, Some("GSO of unknown kind 9, segment size 0")),
    ] {
        let bytes = [&to[..], &[7; 15]].concat();
        let mut out = Vec::new();
        let what = Captured { lost: 3, dropped: Some(DropReason::SpoofedMac), ..captured(way, vnet) };
        frame(&mut out, &what, &bytes, 0x0005_0102_0304_0506);
        assert_eq!(next(&out), Ok(Some((Block::Frame, out.len()))));
        let (fixed, rest) = out.split_at(28);
        assert_eq!(fixed[8..20], [0, 0, 0, 0, 2, 1, 5, 0, 6, 5, 4, 3], "interface, and the time's halves");
        assert_eq!(fixed[20..], [21, 0, 0, 0, 60, 0, 0, 0]);
        assert_eq!((&rest[..21], &rest[21..24]), (&bytes[..], &[0; 3][..]));
        let mut expected = vec![(2, u32::to_le_bytes(flags).to_vec()), (4, 3u64.to_le_bytes().to_vec())];
        expected.push((6, 1u32.to_le_bytes().to_vec()));
        expected.extend(comment.map(|comment| (1, text(comment))));
        expected.push((1, text("dropped: spoofed_mac")));
        assert_eq!(options(&out, 28 + 24), expected);
    }
}

#[test]
fn statistics_are_read_back() {
    let counts = Statistics { times: [1, 2], seen: 10, accepted: 9, lost: 4, written: 5 };
    for why in [None, Some("5 frames")] {
        let mut out = Vec::new();
        statistics(&mut out, &counts, why);
        let expected = Block::Statistics { lost: 4, why: why.map(str::to_string) };
        assert_eq!(next(&out), Ok(Some((expected, out.len()))));
        let values: Vec<_> = options(&out, 20).into_iter().take(6).map(|(code, value)| (code, value[0])).collect();
        assert_eq!(values, [(2, 0), (3, 0), (4, 10), (5, 4), (6, 9), (8, 5)]);
    }
}

#[test]
fn what_is_no_block_is_told() {
    for wrong in [[6u32, 8], [6, 13], [6, u32::MAX]] {
        let bytes = wrong.map(u32::to_le_bytes).concat();
        assert!(next(&bytes).is_err(), "{wrong:?}");
    }
    assert!(next(&[6u32, 12, 16].map(u32::to_le_bytes).concat()).is_err());
    assert_eq!(next(&[6, 0, 0, 0, 12, 0, 0]), Ok(None));
}

proptest! {
    #[test]
    fn files_are_walked_through_however_they_are_cut(lens in prop::collection::vec(0usize..2000, 0..20), cut in 0usize..40_000) {
        let mut out = Vec::new();
        begin(&mut out, &Interface { vm: "a", mac: MacAddr::default(), snaplen: 9, filter: None });
        let before = out.len();
        let mut ends = vec![];
        for len in &lens {
            frame(&mut out, &captured(Way::HostToGuest, [0; VNET_HEADER_LEN]), &vec![1; *len], 5);
            ends.push(out.len());
        }
        let cut = before + cut % (out.len() - before + 1);
        let (mut rest, mut frames) = (&out[..cut], 0);
        while let Some((block, length)) = next(rest).unwrap() {
            frames += usize::from(block == Block::Frame);
            rest = &rest[length..];
        }
        prop_assert_eq!(frames, ends.iter().filter(|end| **end <= cut).count());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u32..220, kind in 0u32..8) {
        let _ = next(&bytes);
        let mut block = [kind, length].map(u32::to_le_bytes).concat();
        block.extend(&bytes);
        if let Some(end) = (length as usize).checked_sub(4).filter(|end| end + 4 <= block.len()) {
            block[end..end + 4].copy_from_slice(&length.to_le_bytes());
        }
        let _ = next(&block);
    }
}
