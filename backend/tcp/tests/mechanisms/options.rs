use proptest::prelude::*;
use vonic_tcp::{OptionBytes, Options, SackBlocks, Seq, Timestamps};

#[test]
fn known_options_are_found_among_unknown_ones() {
    // No-operation, timestamps, SACK permitted, MSS 1460, window scale 7, end, and what must not be read any more.
    let bytes = [1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 4, 2, 2, 4, 5, 180, 3, 3, 7, 0, 2, 4, 9, 9];
    let timestamps = Some(Timestamps { val: 1, ecr: 2 });
    let sack = SackBlocks::EMPTY;
    let known = Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps, sack };
    assert_eq!(Options::parse(&bytes), known);
}

#[test]
fn malformed_options_end_the_parse() {
    let mss = Options { mss: Some(1460), window_scale: None, ..Options::default() };
    for tail in [&[3, 0, 7][..], &[3, 1, 7], &[3, 4, 7], &[3], &[253, 255, 3, 3, 7]] {
        let bytes: Vec<u8> = [2, 4, 5, 180].iter().chain(tail).copied().collect();
        assert_eq!(Options::parse(&bytes), mss, "{tail:?}");
    }
}

#[test]
fn known_options_of_a_wrong_length_are_passed_over() {
    assert_eq!(Options::parse(&[2, 3, 9, 3, 3, 5]), Options { mss: None, window_scale: Some(5), ..Options::default() });
    assert_eq!(
        Options::parse(&[3, 4, 9, 9, 2, 4, 1, 0]),
        Options { mss: Some(256), window_scale: None, ..Options::default() }
    );
}

#[test]
fn four_blocks_fit_and_three_beside_timestamps() {
    let mut sack = SackBlocks::EMPTY;
    for block in 0..5 {
        sack.push(Seq(block * 10), Seq(block * 10 + 5));
    }
    assert_eq!(sack.as_slice().len(), 4);
    let alone = Options { sack, ..Options::default() };
    assert_eq!(alone.emit().as_slice().len(), 36);
    assert_eq!(Options::parse(alone.emit().as_slice()), alone);
    let timestamps = Some(Timestamps { val: 7, ecr: 8 });
    let bytes = Options { timestamps, ..alone }.emit();
    assert_eq!(bytes.as_slice().len(), 40);
    assert_eq!(Options::parse(bytes.as_slice()).sack.as_slice(), &sack.as_slice()[..3]);
    assert_eq!(Options::default().emit(), OptionBytes::EMPTY);
}

proptest! {
    #[test]
    fn parse_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        Options::parse(&bytes);
    }

    #[test]
    fn what_is_emitted_is_parsed(
        mss: Option<u16>,
        window_scale: Option<u8>,
        sack_permitted: bool,
        timestamps: Option<(u32, u32)>,
        blocks in prop::collection::vec(any::<(u32, u32)>(), 0..2),
    ) {
        let mut sack = SackBlocks::EMPTY;
        for (left, right) in blocks {
            sack.push(Seq(left), Seq(right));
        }
        let timestamps = timestamps.map(|(val, ecr)| Timestamps { val, ecr });
        let options = Options { mss, window_scale, sack_permitted, timestamps, sack };
        let bytes = options.emit();
        prop_assert_eq!(bytes.as_slice().len() % 4, 0);
        prop_assert_eq!(Options::parse(bytes.as_slice()), options);
    }
}
