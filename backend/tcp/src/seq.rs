//! Sequence numbers: arithmetic and comparison modulo 2³² (RFC 9293 §3.4).

use core::ops::{Add, AddAssign, Sub};

/// A sequence number.
///
/// It has no `Ord`: an order among sequence numbers exists only between two that lie less than 2³¹ apart, and only
/// by [`Seq::lt`] and its like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seq(pub u32);

impl Seq {
    /// Whether `self` comes before `other`.
    pub const fn lt(self, other: Seq) -> bool {
        self.0.wrapping_sub(other.0) > u32::MAX / 2
    }

    /// Whether `self` comes before `other` or is the same.
    pub const fn le(self, other: Seq) -> bool {
        !other.lt(self)
    }

    /// Whether `self` comes after `other`.
    pub const fn gt(self, other: Seq) -> bool {
        other.lt(self)
    }

    /// Whether `self` comes after `other` or is the same.
    pub const fn ge(self, other: Seq) -> bool {
        !self.lt(other)
    }

    /// The later of the two.
    pub const fn max(self, other: Seq) -> Seq {
        if self.lt(other) { other } else { self }
    }

    /// The earlier of the two.
    pub const fn min(self, other: Seq) -> Seq {
        if other.lt(self) { other } else { self }
    }

    /// How far `self` lies behind `start`; 0 if it does not come after it.
    pub const fn beyond(self, start: Seq) -> u32 {
        if self.gt(start) { self.0.wrapping_sub(start.0) } else { 0 }
    }
}

impl Add<u32> for Seq {
    type Output = Seq;

    fn add(self, n: u32) -> Seq {
        Seq(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;

    fn sub(self, n: u32) -> Seq {
        Seq(self.0.wrapping_sub(n))
    }
}

impl Sub<Seq> for Seq {
    type Output = u32;

    /// The distance from `start` up to `self`, modulo 2³².
    fn sub(self, start: Seq) -> u32 {
        self.0.wrapping_sub(start.0)
    }
}
