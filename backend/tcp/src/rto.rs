//! The retransmission timeout: RFC 6298, with Karn's algorithm, or with timestamps (RFC 7323 §4).

use core::time::Duration;

use crate::{Instant, Seq};

/// RTO before the first measurement (RFC 6298 §2.1).
pub const INITIAL_RTO: Duration = Duration::from_secs(1);
/// The smallest RTO. RFC 6298 §2.4 recommends one second against spurious timeouts over wide networks; the guest is
/// in the same machine, and other stacks use 200 ms too, above every usual delay of an ACK.
pub const MIN_RTO: Duration = Duration::from_millis(200);
/// The largest RTO, backed off or not (RFC 6298 §2.5: at least 60 s).
pub const MAX_RTO: Duration = Duration::from_secs(60);
/// RTO once data flows if the SYN had to be repeated (RFC 6298 §5.7).
const RTO_AFTER_LOST_SYN: Duration = Duration::from_secs(3);

/// Round trip times, and the timeout that follows from them.
#[derive(Clone, Debug)]
pub(crate) struct Rto {
    /// SRTT and RTTVAR; `None` before the first measurement.
    smoothed: Option<(Duration, Duration)>,
    base: Duration,
    /// How often the timeout was doubled since the last measurement.
    backoff: u8,
    /// The segment being timed: the sequence number behind it, and when it went.
    timed: Option<(Seq, Instant)>,
}

impl Rto {
    pub(crate) const fn new() -> Rto {
        Rto { smoothed: None, base: INITIAL_RTO, backoff: 0, timed: None }
    }

    /// The connection is no new one: whatever its round trips were, the initial timeout is for those of which nothing is known.
    pub(crate) fn resume(&mut self) {
        self.base = MIN_RTO;
    }

    /// The timeout now.
    pub(crate) fn current(&self) -> Duration {
        doubled(self.base, self.backoff)
    }

    /// The n-th interval of a series that starts at the timeout now: for window probes.
    pub(crate) fn series(&self, n: u8) -> Duration {
        doubled(self.current(), n)
    }

    /// New bytes, or a first SYN or FIN, go out: they are timed unless others are.
    pub(crate) fn start(&mut self, end: Seq, now: Instant) {
        self.timed.get_or_insert((end, now));
    }

    /// Something goes out again: what its ACK will answer is ambiguous (Karn, RFC 6298 §3).
    pub(crate) fn forget(&mut self) {
        self.timed = None;
    }

    /// The timer expired (RFC 6298 §5.5).
    pub(crate) fn back_off(&mut self) {
        self.forget();
        self.backoff = self.backoff.saturating_add(1);
    }

    /// The SYN, repeated, is acknowledged.
    pub(crate) fn syn_was_lost(&mut self) {
        *self = Rto { base: RTO_AFTER_LOST_SYN, ..Rto::new() };
    }

    /// Everything before `ack` has been acknowledged.
    pub(crate) fn acknowledged(&mut self, ack: Seq, now: Instant) {
        if let Some((end, start)) = self.timed
            && end.le(ack)
        {
            self.timed = None;
            self.measured(now - start, 1);
        }
    }

    /// A timestamp's echo tells the round trip, be it of a repeated segment (RFC 7323 §4.1). Of `expected` such in one
    /// round trip each counts as much less (RFC 7323 appendix G).
    pub(crate) fn echoed(&mut self, rtt: Duration, expected: u32) {
        self.timed = None;
        // What takes longer has no effect on the timeout.
        self.measured(rtt.min(MAX_RTO), expected.clamp(1, 1 << 12));
    }

    /// RFC 6298 §2.2 to 2.4; the clock's granularity is below MIN_RTO by far and drops out.
    fn measured(&mut self, rtt: Duration, expected: u32) {
        let mean = |old: Duration, weight: u32, new: Duration| (old * (weight - 1) + new) / weight;
        let (srtt, rttvar) = match self.smoothed {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => (mean(srtt, 8 * expected, rtt), mean(rttvar, 4 * expected, srtt.abs_diff(rtt))),
        };
        self.smoothed = Some((srtt, rttvar));
        self.base = (srtt + 4 * rttvar).clamp(MIN_RTO, MAX_RTO);
        self.backoff = 0;
    }
}

fn doubled(duration: Duration, times: u8) -> Duration {
    duration.saturating_mul(1u32.checked_shl(times.into()).unwrap_or(u32::MAX)).min(MAX_RTO)
}
