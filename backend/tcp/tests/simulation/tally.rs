//! What happened in a simulation.

/// How often what was seen, to know that the simulation is worth something.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) timeouts: u64,
    pub(crate) short_takes: u64,
    pub(crate) offers_cut: u64,
    pub(crate) closed_windows: u64,
    pub(crate) time_waits: u64,
    pub(crate) last_acks: u64,
    pub(crate) closings: u64,
    pub(crate) bytes: u64,
    pub(crate) stamped: u64,
    pub(crate) reports: u64,
    pub(crate) duplicates_told: u64,
    pub(crate) blocks_heard: u64,
    pub(crate) holes_told: u64,
    pub(crate) deaths: u64,
}

impl Tally {
    fn all(&mut self) -> [&mut u64; 14] {
        let Tally { timeouts, short_takes, offers_cut, closed_windows, time_waits, last_acks, closings, bytes, .. } =
            self;
        let Tally { stamped, reports, duplicates_told, blocks_heard, holes_told, deaths, .. } = self;
        [
            timeouts,
            short_takes,
            offers_cut,
            closed_windows,
            time_waits,
            last_acks,
            closings,
            bytes,
            stamped,
            reports,
            duplicates_told,
            blocks_heard,
            holes_told,
            deaths,
        ]
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        let mut other = Tally { ..*other };
        for (sum, n) in self.all().into_iter().zip(other.all()) {
            *sum += *n;
        }
    }

    pub(crate) fn assert_covered(mut self) {
        assert!(self.all().iter().all(|n| **n > 10), "{self:?}");
    }
}
