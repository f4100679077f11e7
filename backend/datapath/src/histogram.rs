//! Counters by magnitude: how many values there were up to each power of two.
use crate::stats::Counter;
use zerocopy::{FromBytes, IntoBytes};

/// How many bounds there are, and one place for what is beyond them.
const PLACES: usize = 20;

/// A histogram that one thread counts in. Its bounds are 1, 2, 4 and so on up to 2^18; a value that is a bound belongs to it.
#[derive(Debug, Default, FromBytes, IntoBytes)]
#[repr(C)]
pub struct Histogram {
    places: [Counter; PLACES],
    sum: Counter,
}

impl Histogram {
    /// What its counters are called, in their order: `le_` and the bound.
    pub(crate) const NAMES: [&str; PLACES + 1] = [
        "le_1",
        "le_2",
        "le_4",
        "le_8",
        "le_16",
        "le_32",
        "le_64",
        "le_128",
        "le_256",
        "le_512",
        "le_1024",
        "le_2048",
        "le_4096",
        "le_8192",
        "le_16384",
        "le_32768",
        "le_65536",
        "le_131072",
        "le_262144",
        "beyond",
        "sum",
    ];

    /// Counts a value so many times.
    #[inline]
    pub fn count(&self, value: u64, times: u64) {
        let place = (u64::BITS - value.saturating_sub(1).leading_zeros()) as usize;
        self.places[place.min(PLACES - 1)].add(times);
        self.sum.add(value.wrapping_mul(times));
    }

    /// Each bound with how many values there were up to it and beyond the one before; `None`: beyond the last one.
    pub fn places(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bound = |place: usize| (place < PLACES - 1).then_some(1 << place);
        self.places.iter().enumerate().map(move |(place, counter)| (bound(place), counter.get()))
    }

    /// All values together.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    #[cfg(test)]
    pub(crate) fn sum_counter(&self) -> &Counter {
        &self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_the_first_place_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 5, 8, 9, 262_143, 262_144, 262_145, u64::MAX] {
            histogram.count(value, 2);
        }
        let some = |(bound, count): (Option<u64>, u64)| (count > 0).then_some((bound, count));
        let expected =
            [(1, 4), (2, 2), (4, 4), (8, 4), (16, 2), (262_144, 4)].map(|(bound, count)| (Some(bound), count));
        let expected: Vec<_> = expected.into_iter().chain([(None, 4)]).collect();
        assert_eq!(histogram.places().filter_map(some).collect::<Vec<_>>(), expected);
        let bounds =
            histogram.places().map(|(bound, _)| bound.map_or("beyond".to_string(), |bound| format!("le_{bound}")));
        assert_eq!(bounds.collect::<Vec<_>>(), Histogram::NAMES[..PLACES]);
    }

    #[test]
    fn the_sum_is_of_all_values() {
        let histogram = Histogram::default();
        histogram.count(7, 3);
        histogram.count(0, 5);
        assert_eq!(histogram.sum(), 21);
    }
}
