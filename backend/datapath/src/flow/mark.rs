//! Where a request to vonic's own service begins.
use crate::stats::PortStats;

/// Of a connection to vonic's own service: marks what its port has counted when a request begins. What a guest says of its counters it
/// read just before it said it, and the frames that carry its words are not among them.
#[derive(Debug, Default)]
pub struct Marking {
    /// How much the guest had acknowledged of the answers when its last request began.
    answered: Option<u64>,
}

impl Marking {
    /// The guest says something, in a frame of `len` bytes that is counted already, having acknowledged `answered` bytes so far. It is
    /// another request if these are more than at the last one.
    pub fn hears(&mut self, answered: u64, stats: &PortStats, len: u32) {
        if self.answered != Some(answered) {
            self.answered = Some(answered);
            stats.mark(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Way;

    #[test]
    fn a_requests_first_frame_is_marked_and_the_others_are_not() {
        let (stats, mut marking) = (PortStats::default(), Marking::default());
        let mut hear = |answered, len| {
            stats.frame(Way::GuestToHost, len);
            marking.hears(answered, &stats, len);
        };
        stats.frame(Way::GuestToHost, 60);
        stats.frame(Way::HostToGuest, 70);
        hear(0, 1500);
        hear(0, 800);
        assert_eq!(Way::ALL.map(|way| stats.marked(way)), [(1, 60), (1, 70)]);
        // The answer, its acknowledgment, and the next request.
        stats.frame(Way::HostToGuest, 100);
        stats.frame(Way::GuestToHost, 54);
        hear(46, 2000);
        assert_eq!(Way::ALL.map(|way| stats.marked(way)), [(4, 60 + 1500 + 800 + 54), (2, 170)]);
    }
}
