//! Selective acknowledgments: the blocks of an option (RFC 2018), and the scoreboard of what the guest has (RFC 6675).

use crate::Seq;

/// The blocks of one SACK option: at most four fit a header (RFC 2018 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); 4],
    len: u8,
}

impl SackBlocks {
    /// No blocks.
    pub const EMPTY: SackBlocks = SackBlocks { blocks: [(Seq(0), Seq(0)); 4], len: 0 };

    /// Adds a block from `left` to before `right`; a fifth is left out.
    pub fn push(&mut self, left: Seq, right: Seq) {
        if let Some(place) = self.blocks.get_mut(usize::from(self.len)) {
            *place = (left, right);
            self.len += 1;
        }
    }

    /// Adds a block in place of the first if there are `most` of them already; `most` is at most four.
    pub(crate) fn push_newest(&mut self, left: Seq, right: Seq, most: u8) {
        if self.len >= most {
            self.take_first();
        }
        self.push(left, right);
    }

    pub(crate) fn take_first(&mut self) -> Option<(Seq, Seq)> {
        let first = *self.as_slice().first()?;
        self.blocks.copy_within(1.., 0);
        self.len -= 1;
        Some(first)
    }

    /// Forgets the blocks that begin at `edge` or beyond it.
    pub(crate) fn forget_from(&mut self, edge: Seq) {
        let mut kept = SackBlocks::EMPTY;
        for &(left, right) in self.as_slice().iter().filter(|block| block.0.lt(edge)) {
            kept.push(left, right);
        }
        *self = kept;
    }

    /// The blocks, in the order of the option.
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.blocks[..usize::from(self.len)]
    }
}

impl Default for SackBlocks {
    fn default() -> SackBlocks {
        SackBlocks::EMPTY
    }
}

/// So many ranges are remembered. What does not fit is forgotten: at worst it is sent once more than needed.
const RANGES: usize = 6;

/// What the guest has beyond SND.UNA: ranges in order, apart from each other.
#[derive(Clone, Debug)]
pub(crate) struct Scoreboard {
    ranges: [(Seq, Seq); RANGES],
    len: u8,
}

/// A stretch that the guest does not have, below one that it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hole {
    pub(crate) start: Seq,
    pub(crate) end: Seq,
}

impl Scoreboard {
    pub(crate) const fn new() -> Scoreboard {
        Scoreboard { ranges: [(Seq(0), Seq(0)); RANGES], len: 0 }
    }

    fn ranges(&self) -> &[(Seq, Seq)] {
        &self.ranges[..usize::from(self.len)]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// After a timeout nothing of it counts: the guest may have thrown it away (RFC 2018 §8).
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// SND.UNA has moved. A range that begins there is one that the guest has thrown away.
    pub(crate) fn advance(&mut self, una: Seq) {
        let gone = self.ranges().iter().take_while(|range| range.0.le(una)).count();
        self.remove(0, gone);
    }

    /// The blocks of an ACK. Those that do not lie wholly between SND.UNA and SND.MAX are not about what is on its way;
    /// among them are those of RFC 2883. Returns whether the guest has something of which that was not known.
    pub(crate) fn add(&mut self, blocks: &SackBlocks, una: Seq, max: Seq) -> bool {
        let mut new = false;
        let all = max - una;
        for &(left, right) in blocks.as_slice() {
            // By distance: of edges far apart each may come before the next, and the last before the first.
            let (from, to) = (left - una, right - una);
            if from > 0 && from < to && to <= all {
                new |= self.insert(left, right);
            }
        }
        new
    }

    fn insert(&mut self, mut left: Seq, mut right: Seq) -> bool {
        if self.ranges().iter().any(|range| range.0.le(left) && range.1.ge(right)) {
            return false;
        }
        let first = self.ranges().iter().take_while(|range| range.1.lt(left)).count();
        let last = self.ranges().iter().take_while(|range| range.0.le(right)).count();
        for range in &self.ranges()[first..last] {
            left = left.min(range.0);
            right = right.max(range.1);
        }
        self.remove(first, last - first);
        if usize::from(self.len) == RANGES {
            if first == RANGES {
                return false;
            }
            self.len -= 1;
        }
        self.ranges.copy_within(first..usize::from(self.len), first + 1);
        self.ranges[first] = (left, right);
        self.len += 1;
        true
    }

    fn remove(&mut self, at: usize, count: usize) {
        self.ranges.copy_within(at + count..usize::from(self.len), at);
        self.len -= count as u8;
    }

    /// `seq`, or what comes behind the range in which it lies.
    pub(crate) fn skip(&self, seq: Seq) -> Seq {
        self.ranges().iter().find(|range| range.0.le(seq) && range.1.gt(seq)).map_or(seq, |range| range.1)
    }

    /// Where the first range behind `seq` begins.
    pub(crate) fn next_after(&self, seq: Seq) -> Option<Seq> {
        self.ranges().iter().map(|range| range.0).find(|start| start.gt(seq))
    }

    /// IsLost of RFC 6675 §4: the guest has three stretches above `seq`, or more than two full segments.
    pub(crate) fn is_lost(&self, seq: Seq, mss: u16) -> bool {
        let above = self.ranges().iter().filter(|range| range.0.gt(seq));
        let (count, bytes) = above.fold((0, 0u32), |(count, bytes), range| (count + 1, bytes + (range.1 - range.0)));
        count >= 3 || bytes > 2 * u32::from(mss)
    }

    /// The first hole at or above `from`.
    pub(crate) fn hole(&self, from: Seq) -> Option<Hole> {
        let start =
            self.ranges().iter().fold(from, |start, range| if range.0.le(start) { start.max(range.1) } else { start });
        self.next_after(start).map(|end| Hole { start, end })
    }
}
