//! What was put together, and what it cost.
use super::End;
use crate::histogram::Histogram;
use crate::stats::{Counter, counters};
use vonic_frame::Aggregate;
use zerocopy::{FromBytes, IntoBytes};

counters! {
    /// Counters of received TCP segments that one port's uplink had for its guest, and that became large frames.
    CoalesceStats:
    /// Large frames of several segments.
    aggregates,
    /// Segments in them.
    segments,
    /// Their payload.
    bytes,
    /// Segments after which others could have followed, and did not.
    single,
    /// Of both: those that went on since a segment was pushed or short, or no more had room.
    ended_complete,
    /// Those that went on since something else came.
    ended_interrupted,
    /// Those that went on since there was nothing more to read.
    ended_drained,
    /// Those that went on since they had waited for long enough.
    ended_waited,
    /// Microseconds that they have waited altogether: of one, the mean is this by `aggregates` and `single`.
    waited_us,
}

impl CoalesceStats {
    /// Counts what has become of one; it has waited for `us`.
    pub(super) fn ended(&self, aggregate: &Aggregate, end: End, us: u64, sizes: &Histogram) {
        if aggregate.segments() > 1 {
            sizes.count(aggregate.payload_len().into(), 1);
            self.aggregates.add(1);
            self.segments.add(aggregate.segments().into());
            self.bytes.add(aggregate.payload_len().into());
        } else {
            self.single.add(1);
        }
        let by = match end {
            End::Complete => &self.ended_complete,
            End::Interrupted => &self.ended_interrupted,
            End::Drained => &self.ended_drained,
            End::Waited => &self.ended_waited,
        };
        by.add(1);
        if us > 0 {
            self.waited_us.add(us);
        }
    }
}
