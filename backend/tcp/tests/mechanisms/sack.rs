use vonic_tcp::{Config, Flags, Instant, Leg, Options, SackBlocks, Timestamps};

use crate::{CONFIG, IRS, ISS, Out, Rig, syn};

const SELECTIVE: Config = Config { sack: true, ..CONFIG };

fn permitted() -> Rig {
    Rig::established_with(&SELECTIVE, Options { sack_permitted: true, ..Options::default() })
}

/// 20 segments of 1000 bytes, each in its own frame, are on their way.
fn in_flight() -> Rig {
    let mut rig = permitted();
    for n in 0..20 {
        rig.host_sends(1000);
        assert_eq!(rig.frames(), [(n * 1000, 1000)]);
    }
    rig
}

impl Rig {
    /// A pure ACK of `n` bytes with blocks of the host's stream.
    fn sack(&mut self, n: u32, blocks: &[(u32, u32)]) {
        self.options.sack = SackBlocks::EMPTY;
        for (left, right) in blocks {
            self.options.sack.push(ISS + 1 + *left, ISS + 1 + *right);
        }
        self.ack(n);
        self.options.sack = SackBlocks::EMPTY;
    }
}

fn blocks(out: &Out) -> Vec<(u32, u32)> {
    let options = Options::parse(out.header.options.as_slice());
    options.sack.as_slice().iter().map(|(left, right)| (*left - (IRS + 1), *right - (IRS + 1))).collect()
}

#[test]
fn sack_is_permitted_only_if_the_guest_permits_it() {
    for (config, offered, answered) in [(SELECTIVE, false, false), (CONFIG, true, false), (SELECTIVE, true, true)] {
        let options = Options { sack_permitted: offered, ..Options::default() }.emit();
        let mut rig = Rig::new(Leg::accept(&config, &syn(1000, options.as_slice()), ISS, Instant(0)));
        rig.leg.host_connected(rig.now);
        assert_eq!(Options::parse(rig.one().header.options.as_slice()).sack_permitted, answered);
    }
    let mut rig = Rig::new(Leg::open(&SELECTIVE, ISS, Instant(0)));
    assert!(Options::parse(rig.one().header.options.as_slice()).sack_permitted);
}

#[test]
fn holes_are_repeated_and_nothing_else() {
    let mut rig = in_flight();
    rig.sack(0, &[(1000, 2000)]);
    assert_eq!(rig.drain(), []);
    rig.sack(0, &[(4000, 5000), (1000, 2000)]);
    assert_eq!(rig.drain(), []);
    rig.sack(0, &[(9000, 12_000), (4000, 5000), (1000, 2000)]);
    assert_eq!(rig.frames(), [(0, 1000), (2000, 2000), (5000, 4000)], "each is below more than two segments");
    rig.sack(0, &[(9000, 13_000), (4000, 5000), (1000, 2000)]);
    assert_eq!(rig.frames(), [], "each hole once");
    rig.window = 18_000;
    rig.sack(2000, &[(9000, 13_000), (4000, 5000)]);
    assert_eq!(rig.frames(), [], "the rest is on its way");
    rig.window = 7000;
    rig.sack(13_000, &[]);
    assert_eq!(rig.frames(), [(13_000, 7000)], "a partial ACK without blocks: the rest was lost, too");
}

#[test]
fn much_beyond_the_hole_needs_no_third_duplicate() {
    let mut rig = in_flight();
    rig.sack(0, &[(1000, 3000)]);
    assert_eq!(rig.drain(), [], "two segments are not enough");
    rig.sack(0, &[(1000, 3001)]);
    assert_eq!(rig.frames(), [(0, 1000)]);
}

#[test]
fn what_may_be_lost_goes_after_what_is_new() {
    let mut rig = in_flight();
    rig.window = 30_000;
    rig.ack(0);
    rig.host_sends(1000);
    // Above the first hole lie three stretches, above the second two, of a segment each.
    rig.sack(0, &[(1000, 2000), (3000, 4000), (5000, 6000)]);
    assert_eq!(rig.frames(), [(0, 1000), (20_000, 1000), (2000, 1000), (4000, 1000)]);
}

#[test]
fn known_blocks_and_those_of_duplicates_are_no_news() {
    let mut rig = in_flight();
    rig.ack(5000);
    rig.drain();
    for _ in 0..10 {
        for block in [(1000, 2000), (2000, 7000), (19_000, 30_000), (7000, 6000), (5000, 6000)] {
            rig.sack(5000, &[block]);
        }
    }
    assert_eq!(rig.drain(), []);
    for _ in 0..10 {
        rig.sack(5000, &[(6000, 7000)]);
    }
    assert_eq!(rig.drain(), [], "one segment beyond the hole, told ten times");
}

#[test]
fn a_guest_that_keeps_nothing_is_heard_by_plain_duplicates() {
    let mut rig = in_flight();
    for _ in 0..3 {
        rig.ack(0);
    }
    assert_eq!(rig.frames(), [(0, 20_000)]);
}

#[test]
fn a_timeout_forgets_what_the_guest_may_have_thrown_away() {
    let mut rig = in_flight();
    rig.sack(0, &[(2000, 4000)]);
    rig.expire();
    assert_eq!(rig.frames(), [(0, 20_000)], "RFC 2018 §8");
}

#[test]
fn what_the_guest_has_after_a_timeout_is_passed_over() {
    let mut rig = in_flight();
    rig.expire();
    rig.sack(0, &[(2000, 4000), (7000, 9000)]);
    assert_eq!(rig.frames(), [(0, 2000), (4000, 3000), (9000, 11_000)]);
    assert_eq!(rig.ack(20_000).acked, 20_000);
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn reneging_costs_a_timeout_at_most_and_no_byte() {
    let mut rig = in_flight();
    rig.sack(0, &[(1000, 20_000)]);
    assert_eq!(rig.frames(), [(0, 1000)]);
    // The hole is filled, and the guest has forgotten the rest.
    rig.ack(1000);
    assert_eq!(rig.frames(), [(1000, 19_000)]);
    assert_eq!(rig.ack(20_000).acked, 19_000);
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn more_stretches_than_are_remembered_do_no_harm() {
    let mut rig = in_flight();
    for n in (1..19).step_by(2).rev() {
        rig.sack(0, &[(n * 1000, n * 1000 + 1000)]);
        rig.drain();
    }
    for acked in 1..=20 {
        rig.expire();
        assert!(!rig.frames().is_empty());
        rig.ack(acked * 1000);
        rig.drain();
    }
    assert_eq!(rig.leg.deadline(), None);
}

#[test]
fn holes_beyond_a_shrunk_window_wait() {
    let mut rig = in_flight();
    rig.window = 3000;
    rig.sack(0, &[(1000, 2000), (4000, 9000)]);
    assert_eq!(rig.frames(), [(0, 1000), (2000, 1000)], "as far as the window reaches (SHLD-16)");
}

#[test]
fn duplicates_of_the_guest_are_reported_once() {
    let mut rig = permitted();
    rig.data(0, 3000);
    assert_eq!(blocks(&rig.one()), []);
    rig.data(1000, 1000);
    assert_eq!(blocks(&rig.one()), [(1000, 2000)]);
    rig.data(2000, 2000);
    let out = rig.one();
    assert_eq!((out.acks(), blocks(&out)), (4000, vec![(2000, 3000)]), "the part that was there");
    rig.data(4000, 1000);
    assert_eq!(blocks(&rig.one()), []);
}

#[test]
fn the_newest_segment_behind_a_hole_is_reported_though_it_is_not_kept() {
    let mut rig = permitted();
    for n in 1..6 {
        rig.data(n * 1000, 1000);
    }
    let told: Vec<_> = rig.drain().iter().map(blocks).collect();
    assert_eq!(told, [vec![(3000, 4000)], vec![(4000, 5000)], vec![(5000, 6000)]], "the newest, one in each ACK");
    rig.data(7000, 1000);
    rig.data(0, 1000);
    let out = rig.one();
    assert_eq!((out.acks(), blocks(&out)), (1000, vec![]), "not once the hole is filled: it is not held");
    rig.data(3000, 1000);
    rig.data(1000, 2500);
    let out = rig.one();
    assert_eq!((out.acks(), blocks(&out)), (3500, vec![]), "nor where the filling reaches into it");
}

#[test]
fn a_report_does_not_lengthen_a_header_before_payload() {
    let mut rig = Rig::established_with(
        &Config { timestamps: Some(1), ..SELECTIVE },
        Options { sack_permitted: true, timestamps: Some(Timestamps { val: 1, ecr: 0 }), ..Options::default() },
    );
    rig.data(0, 1000);
    rig.drain();
    rig.segment(500, 1000, Flags::ACK);
    rig.leg.taken(rig.now, 500);
    rig.host_sends(10);
    let out = rig.one();
    assert_eq!((out.len, out.header.options.as_slice().len()), (10, usize::from(rig.leg.options_len())));
}

#[test]
fn without_permission_nothing_is_reported_or_believed() {
    let mut rig = Rig::established();
    rig.data(0, 1000);
    rig.drain();
    rig.data(0, 1000);
    assert_eq!(blocks(&rig.one()), []);
    rig.host_sends(20_000);
    rig.drain();
    rig.sack(0, &[(1000, 20_000)]);
    assert_eq!(rig.drain(), []);
}

#[test]
fn blocks_across_the_wrap_are_in_order() {
    // ISS lies 700 bytes before the wrap.
    let mut rig = in_flight();
    rig.sack(0, &[(100, 300), (400, 600), (650, 900)]);
    assert_eq!(rig.frames(), [(0, 100), (300, 100), (600, 50)]);
}

/// Each edge comes before the next by less than 2³¹, SND.UNA before the first and the last before SND.MAX.
#[test]
fn edges_around_the_whole_of_sequence_space_are_no_block() {
    for left in (1..32).map(|n| n << 27) {
        for right in (1..32).map(|n| n << 27) {
            let mut rig = in_flight();
            rig.sack(0, &[(left, right), (right, left)]);
            assert_eq!(rig.drain(), [], "{left} {right}");
        }
    }
}
