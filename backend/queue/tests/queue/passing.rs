//! Chains that go from one guest's ring to another's without being fetched.
use proptest::prelude::*;
use vonic_queue::{Burst, Direction, Front, Passed, Terms, pass_posted};

use crate::guest::{BUFFERS, Guest, REGIONS, WRITE};
use crate::wrap::index;

/// Where buffer `i` of a guest lies: in one of the regions.
fn place(region: u8, i: u16) -> u64 {
    [BUFFERS, REGIONS[1].0, REGIONS[2].0][usize::from(region)] + 0x200 * u64::from(i)
}

/// Heads in a row, or not; each comes once.
fn head(i: u16, (step, first): (u16, u16), size: u16) -> u16 {
    i.wrapping_mul(2 * step + 1).wrapping_add(first) & (size - 1)
}

fn content(i: u16, len: u32) -> Vec<u8> {
    (0..len).map(|at| (at as u16).wrapping_mul(7).wrapping_add(i) as u8).collect()
}

fn buffers(lens: impl Strategy<Value = u32>) -> impl Strategy<Value = Vec<(u8, u32)>> {
    let region = prop_oneof![8 => Just(0u8), 1 => 0u8..3];
    prop::collection::vec((region, lens), 0..=64)
}

/// Posts buffers and returns how many there was room for.
fn post(guest: &mut Guest, order: (u16, u16), buffers: &[(u8, u32)], flags: u16) -> usize {
    for (i, (region, len)) in (0..guest.setup.size).zip(buffers) {
        let head = head(i, order, guest.setup.size);
        guest.chain(head, &[(place(*region, i), *len)], flags);
        if flags != WRITE {
            guest.fill(place(*region, i), &content(i, *len));
        }
        guest.post(head);
    }
    buffers.len().min(guest.setup.size.into())
}

proptest! {
    /// As many pass as are simple, wanted and find room, in order and unchanged but for their headers; and both rings go on behind them.
    #[test]
    fn chains_pass_in_order_until_one_does_not(
        starts in (index(), index()), sizes in (0u32..7, 0u32..7),
        orders in ((prop_oneof![3 => Just(0u16), 1 => 0u16..3], 0u16..64), (prop_oneof![3 => Just(0u16), 1 => 0u16..3], 0u16..64)),
        sent in buffers(prop_oneof![12 => Just(76u32), 4 => 64u32..400, 1 => 0u32..500]),
        room in buffers(prop_oneof![20 => Just(0x200u32), 1 => 60u32..0x200]),
        max in prop_oneof![Just(64u16), 0u16..64], refused in 0usize..200,
    ) {
        let mut guests = [Guest::new(1 << sizes.0, starts.0, false), Guest::new(1 << sizes.1, starts.1, false)];
        let posted = (post(&mut guests[0], orders.0, &sent, 0), post(&mut guests[1], orders.1, &room, WRITE));
        let (mut from, mut to) = (guests[0].ring(Direction::GuestToHost), guests[1].ring(Direction::HostToGuest));

        let terms = Terms { lens: 64..=450, header: [u64::MAX; 2] };
        let mut seen = 0;
        let passed = pass_posted(&mut from, max, &mut to, &terms, |front: &Front, len| {
            assert_eq!((front.half(8), len), (u16::from_be_bytes(content(seen as u16, len)[16..18].try_into().unwrap()), sent[seen].1));
            seen += 1;
            seen != refused + 1
        });
        let wanted = posted.0.min(max.into());
        let fits = |i: &usize| *i < posted.1 && terms.lens.contains(&sent[*i].1) && *i != refused && room[*i].1 >= sent[*i].1;
        let count = (0..wanted).take_while(fits).count();
        let bytes = sent[..count].iter().map(|(_, len)| u64::from(*len)).sum();
        prop_assert_eq!(passed, Passed { chains: count, bytes, all: count == wanted });

        prop_assert_eq!((guests[0].used_index(), guests[1].used_index()), starts, "nobody is told yet");
        from.publish();
        to.publish();
        let ends = (starts.0.wrapping_add(count as u16), starts.1.wrapping_add(count as u16));
        prop_assert_eq!((guests[0].used_index(), guests[1].used_index()), ends);
        for (i, ((_, len), (region, _))) in (0..count as u16).zip(sent.iter().zip(&room)) {
            let heads = (head(i, orders.0, guests[0].setup.size), head(i, orders.1, guests[1].setup.size));
            prop_assert_eq!(guests[0].used_entry(starts.0.wrapping_add(i)), (heads.0.into(), 0));
            prop_assert_eq!(guests[1].used_entry(starts.1.wrapping_add(i)), (heads.1.into(), *len));
            let mut expected = content(i, *len);
            expected[..16].fill(0xff);
            prop_assert_eq!(guests[1].bytes(place(*region, i), *len as usize), expected);
        }

        let mut burst = Burst::with_capacity(64, 64);
        prop_assert_eq!(from.fetch(&mut burst, 64), Ok(posted.0 - count));
        if let Some(next) = burst.chains().first() {
            prop_assert_eq!(next.head, head(count as u16, orders.0, guests[0].setup.size));
        }
    }
}
