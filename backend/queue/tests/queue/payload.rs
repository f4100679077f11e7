//! Reading, writing, summing and copying, against flat byte vectors.
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use vonic_queue::{Burst, Direction, copy_payload, move_payload};

use crate::guest::{BUFFERS, Guest, Span};

/// Chains of buffers by their lengths, laid out from `BUFFERS` on with gaps of 3 bytes, in a burst.
struct Chains {
    guest: Guest,
    burst: Burst,
    buffers: Vec<Vec<Span>>,
}

impl Chains {
    fn new(lens: &[Vec<u32>]) -> Chains {
        let mut guest = Guest::new(64, 65533, false);
        let (mut at, mut descriptor) = (BUFFERS + 1, 0);
        let mut buffers = Vec::new();
        for chain in lens {
            let place = |len: &u32| {
                at += u64::from(*len) + 3;
                (at - u64::from(*len), *len)
            };
            let chain: Vec<Span> = chain.iter().map(place).collect();
            guest.chain(descriptor, &chain, 0);
            guest.post(descriptor);
            descriptor += chain.len() as u16;
            buffers.push(chain);
        }
        let mut burst = Burst::with_capacity(64, 64);
        assert_eq!(guest.ring(Direction::GuestToHost).fetch(&mut burst, 64), Ok(lens.len()));
        Chains { guest, burst, buffers }
    }

    fn fill(&self, seed: u8) {
        let bytes: Vec<u8> = (0..0x4000u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8 ^ seed).collect();
        self.guest.fill(BUFFERS, &bytes);
    }

    /// The chains' bytes, as a driver would read them.
    fn bytes(&self, chains: Range<usize>) -> Vec<u8> {
        let chains = chains.start.min(self.buffers.len())..chains.end.min(self.buffers.len());
        self.buffers[chains].iter().flatten().flat_map(|(at, len)| self.guest.bytes(*at, *len as usize)).collect()
    }

    /// Everything between the buffers too.
    fn around(&self) -> Vec<u8> {
        self.guest.bytes(BUFFERS - 64, 0x4000)
    }
}

fn lens() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let len = prop_oneof![4 => 1u32..40, 1 => 40u32..600];
    prop::collection::vec(prop::collection::vec(len, 1..5), 1..6)
}

/// The part of `bytes` at `offset`, cut at its end.
fn cut(bytes: &[u8], offset: usize, len: usize) -> &[u8] {
    let bytes = bytes.get(offset..).unwrap_or(&[]);
    &bytes[..len.min(bytes.len())]
}

/// RFC 1071 §1, one pair of bytes after the other.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(0, |sum, word| (sum + word) % 0x10000 + (sum + word) / 0x10000) as u16
}

proptest! {
    #[test]
    fn bytes_are_moved_to_places_behind_that_they_overlap(
        lens in lens(), seed: u8, first in 0usize..6, from in 0u32..300, by in 0u32..300, len in 0u32..300,
    ) {
        let chains = Chains::new(&lens);
        chains.fill(seed);
        let (range, copied) = (first..lens.len(), AtomicU64::new(3));
        let (mut expected, around) = (chains.bytes(range.clone()), chains.around());
        let moved = move_payload(&chains.burst, range.clone(), from, from + by, len, &copied);
        let (start, to, n) = (from as usize, (from + by) as usize, len as usize);
        let fits = to + n <= expected.len();
        prop_assert_eq!(moved, if fits { len } else { 0 });
        prop_assert_eq!(copied.load(Ordering::Relaxed), 3 + u64::from(moved));
        if fits {
            expected.copy_within(start..start + n, to);
        }
        prop_assert_eq!(chains.bytes(range), expected);
        if !fits {
            prop_assert_eq!(chains.around(), around);
        }
    }

    #[test]
    fn ranges_are_read_summed_and_listed(
        lens in lens(), seed: u8, first in 0usize..6, count in 0usize..6, offset in 0u32..400, len in 0u32..900, cut_at in 0usize..900,
    ) {
        let mut chains = Chains::new(&lens);
        chains.fill(seed);
        let range = first..first + count;
        let all = chains.bytes(range.clone());
        let expected = cut(&all, offset as usize, len as usize);

        let one = chains.bytes(first..first + 1);
        let one = cut(&one, offset as usize, len as usize);
        let mut out = vec![0xee; len as usize];
        prop_assert_eq!(chains.burst.read(first, offset, &mut out), one.len());
        prop_assert_eq!(&out[..one.len()], one);
        prop_assert!(out[one.len()..].iter().all(|byte| *byte == 0xee));

        prop_assert_eq!(chains.burst.sum(range.clone(), offset, len), sum(expected));

        let mut iovecs = chains.burst.iovecs(range, offset, len);
        for cut_at in [usize::MAX, cut_at, 0] {
            iovecs.truncate(cut_at);
            let expected = cut(expected, 0, cut_at);
            prop_assert_eq!(iovecs.len_bytes(), expected.len());
            prop_assert!(iovecs.as_slice().iter().all(|iovec| iovec.iov_len > 0));
            let spans = chains.guest.spans(&iovecs);
            let listed: Vec<u8> = spans.iter().flat_map(|(at, len)| chains.guest.bytes(*at, *len as usize)).collect();
            prop_assert_eq!(&listed[..], expected);
        }
    }

    #[test]
    fn writes_change_the_range_and_nothing_else(
        lens in lens(), first in 0usize..6, count in 0usize..6, offset in 0u32..400, data in prop::collection::vec(1u8.., 0..900),
    ) {
        let chains = Chains::new(&lens);
        let range = first..first + count;
        let size = chains.bytes(range.clone()).len();
        let written = data.len().min(size.saturating_sub(offset as usize));
        prop_assert_eq!(chains.burst.write(range.clone(), offset, &data), written);
        let mut expected = vec![0; size];
        if written > 0 {
            expected[offset as usize..][..written].copy_from_slice(&data[..written]);
        }
        prop_assert_eq!(chains.bytes(range), expected);
        let changed = chains.around().iter().filter(|byte| **byte != 0).count();
        prop_assert_eq!(changed, written, "nothing beside the buffers");
    }

    #[test]
    fn payload_is_copied_from_guest_to_guest_and_counted(
        from in lens(), to in lens(), seed: u8,
        source in (0usize..6, 0u32..300), target in (0usize..6, 0usize..6, 0u32..300), len in 0u32..900,
    ) {
        let (from, to) = (Chains::new(&from), Chains::new(&to));
        from.fill(seed);
        let untouched = from.around();
        let range = target.0..target.0 + target.1;
        let bytes = from.bytes(source.0..source.0 + 1);
        let bytes = cut(&bytes, source.1 as usize, len as usize);
        let size = to.bytes(range.clone()).len();
        let done = bytes.len().min(size.saturating_sub(target.2 as usize));
        let copied = AtomicU64::new(7);
        let result = copy_payload(&from.burst, source.0, source.1, &to.burst, range.clone(), target.2, len, &copied);
        prop_assert_eq!(result as usize, done);
        prop_assert_eq!(copied.load(Ordering::Relaxed), 7 + done as u64);
        let mut expected = vec![0; size];
        if done > 0 {
            expected[target.2 as usize..][..done].copy_from_slice(&bytes[..done]);
        }
        prop_assert_eq!(to.bytes(range), expected);
        let changed = to.around().iter().filter(|byte| **byte != 0).count();
        prop_assert_eq!(changed, bytes[..done].iter().filter(|byte| **byte != 0).count());
        prop_assert_eq!(from.around(), untouched);
    }

    #[test]
    fn a_discard_area_in_front_takes_what_is_skipped(
        lens in lens(), skip in 0usize..5000, area in 1usize..600, offset in 0u32..400, len in 0u32..900,
    ) {
        let mut chains = Chains::new(&lens);
        let plain = {
            let iovecs = chains.burst.iovecs(0..9, offset, len);
            (iovecs.len_bytes(), chains.guest.spans(&iovecs))
        };
        let mut scratch = vec![0u8; area];
        let place = scratch.as_ptr().addr();
        let iovecs = chains.burst.iovecs_behind(&mut scratch, skip, 0..9, offset, len);
        let front = skip.div_ceil(area);
        if front >= 1024 {
            prop_assert_eq!((iovecs.len_bytes(), iovecs.as_slice().len()), (0, 0));
            return Ok(());
        }
        let skipped: Vec<usize> = iovecs.as_slice()[..front].iter().map(|iovec| iovec.iov_len).collect();
        prop_assert!(iovecs.as_slice()[..front].iter().all(|iovec| iovec.iov_base.addr() == place));
        prop_assert!(skipped.iter().all(|len| (1..=area).contains(len)));
        prop_assert_eq!(skipped.iter().sum::<usize>(), skip);
        let behind: Vec<usize> = iovecs.as_slice()[front..].iter().map(|iovec| iovec.iov_len).collect();
        let expected: Vec<usize> = plain.1.iter().map(|(_, len)| *len as usize).take(1024 - front).collect();
        prop_assert_eq!(&behind, &expected);
        prop_assert_eq!(iovecs.len_bytes(), skip + expected.iter().sum::<usize>());
    }
}

#[test]
fn sums_are_numbers_of_big_endian_words() {
    let chains = Chains::new(&[vec![1, 3, 1]]);
    chains.burst.write(0..1, 0, &[0x12, 0x34, 0x56, 0x78, 0x9a]);
    assert_eq!(chains.burst.sum(0..1, 0, 2), 0x1234);
    assert_eq!(chains.burst.sum(0..1, 0, 1), 0x1200);
    assert_eq!(chains.burst.sum(0..1, 1, 2), 0x3456);
    assert_eq!(chains.burst.sum(0..1, 0, 9), 0x02ad, "0x1234 + 0x5678 + 0x9a00 with its carry");
    assert_eq!(chains.burst.sum(0..1, 5, 1), 0);
}

#[test]
fn one_call_takes_1024_iovecs() {
    let mut guest = Guest::new(1024, 0, false);
    let buffers: Vec<Span> = (0..700).map(|i| (BUFFERS + 8 * i, 2)).collect();
    for chain in 0..2 {
        guest.chain(chain, &buffers[..1], 0);
    }
    guest.chain(2, &buffers, 0);
    guest.post(2);
    guest.post(2);
    let mut burst = Burst::with_capacity(4, 2048);
    assert_eq!(guest.ring(Direction::HostToGuest).fetch(&mut burst, 4), Ok(2));
    assert!(burst.chains().iter().all(|chain| chain.fault.is_some()), "readable buffers in a receive queue");
    burst.clear();
    assert_eq!(guest.ring(Direction::GuestToHost).fetch(&mut burst, 4), Ok(2));
    let iovecs = burst.iovecs(0..2, 0, u32::MAX);
    assert_eq!((iovecs.as_slice().len(), iovecs.len_bytes()), (1024, 2048));
    let mut scratch = [0u8; 10];
    let iovecs = burst.iovecs_behind(&mut scratch, 10230, 0..2, 0, u32::MAX);
    assert_eq!((iovecs.as_slice().len(), iovecs.len_bytes()), (1024, 10232));
    assert_eq!(burst.iovecs_behind(&mut scratch, 10231, 0..2, 0, 1).len_bytes(), 0, "no room behind it");
    assert_eq!(burst.iovecs_behind(&mut [], 1, 0..2, 0, 1).len_bytes(), 0);
    assert_eq!(burst.iovecs_behind(&mut [], 0, 0..2, 0, 1).len_bytes(), 1);
}

#[test]
fn areas_in_front_and_behind_stand_around_the_chains() {
    let (mut front, mut behind) = ([0u8; 26], [0u8; 1]);
    let places = [front.as_ptr().addr(), behind.as_ptr().addr()];
    let mut chains = Chains::new(&[vec![100, 20], vec![300]]);
    let iovecs = chains.burst.iovecs_between(&mut front, 0..2, 110, 200, &mut behind);
    let lens: Vec<usize> = iovecs.as_slice().iter().map(|iovec| iovec.iov_len).collect();
    assert_eq!((lens, iovecs.len_bytes()), (vec![26, 10, 190, 1], 227));
    assert_eq!([0, 3].map(|i: usize| iovecs.as_slice()[i].iov_base.addr()), places);
    // Without room for all of the chains the area behind stands in the last one's place: what comes to lie there was cut.
    let mut chains = Chains::new(&[vec![1; 60]]);
    assert_eq!(chains.burst.iovecs_between(&mut front, 0..1, 0, 60, &mut behind).len_bytes(), 87);
    let mut guest = Guest::new(1024, 0, false);
    let buffers: Vec<Span> = (0..1024).map(|i| (BUFFERS + 8 * i, 2)).collect();
    guest.chain(0, &buffers[..1023], 0);
    guest.post(0);
    let mut burst = Burst::with_capacity(4, 2048);
    assert_eq!(guest.ring(Direction::GuestToHost).fetch(&mut burst, 4), Ok(1));
    let iovecs = burst.iovecs_between(&mut front, 0..1, 0, 5000, &mut behind);
    assert_eq!((iovecs.as_slice().len(), iovecs.len_bytes()), (1024, 26 + 1022 * 2 + 1));
    assert_eq!(iovecs.as_slice()[1023].iov_base.addr(), places[1]);
}

#[test]
fn a_buffer_may_be_copied_onto_itself() {
    let chains = Chains::new(&[vec![600]]);
    chains.fill(9);
    let before = chains.bytes(0..1);
    let copied = AtomicU64::new(0);
    assert_eq!(copy_payload(&chains.burst, 0, 0, &chains.burst, 0..1, 100, 600, &copied), 500);
    assert_eq!(chains.bytes(0..1)[100..], before[..500]);
}
