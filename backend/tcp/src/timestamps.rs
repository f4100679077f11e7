//! Timestamps (RFC 7323): round trip times by their echo, and protection against wrapped sequence numbers.

use core::time::Duration;

use crate::{Config, Effect, Flags, Instant, Leg, Note, Options, Segment, Seq, options::TIMESTAMPS_SPACE};

/// The guest's clock may have wrapped to the other half of its numbers after this long (RFC 7323 §5.5).
const OUTDATED: Duration = Duration::from_secs(24 * 24 * 3600);

/// What the timestamps option needs to be remembered.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// Our TSval at instant 0.
    offset: u32,
    /// Our SYN has the option, or may have it.
    offered: bool,
    /// Both sides' SYNs have it: Snd.TS.OK.
    pub(crate) on: bool,
    /// TS.Recent is known, what it is, and when it was learned.
    known: bool,
    recent: u32,
    learned: Instant,
    /// Last.ACK.sent
    pub(crate) last_ack_sent: Seq,
}

impl Clock {
    pub(crate) fn new(config: &Config) -> Clock {
        Clock {
            offset: config.timestamps.unwrap_or(0),
            offered: config.timestamps.is_some(),
            on: false,
            known: false,
            recent: 0,
            learned: Instant(0),
            last_ack_sent: Seq(0),
        }
    }

    /// The guest's SYN is known.
    pub(crate) fn synchronize(&mut self, now: Instant, irs: Seq, options: &Options) {
        self.last_ack_sent = irs + 1;
        self.on = self.offered && options.timestamps.is_some();
        self.learn(now, options);
    }

    /// Another leg's SYNs agreed to the option or not; what the guest's clock said is learned anew.
    pub(crate) fn resume(&mut self, on: bool, last_ack_sent: Seq) {
        self.on = on;
        self.last_ack_sent = last_ack_sent;
    }

    fn learn(&mut self, now: Instant, options: &Options) {
        if let Some(timestamps) = options.timestamps {
            self.known = true;
            self.recent = timestamps.val;
            self.learned = now;
        }
    }

    /// A repeated SYN has a younger TSval: it is the one to echo.
    pub(crate) fn syn_again(&mut self, now: Instant, segment: &Segment) {
        if self.on {
            self.learn(now, &Options::parse(segment.options));
        }
    }

    /// TSval: milliseconds.
    fn now(&self, now: Instant) -> u32 {
        self.offset.wrapping_add((now.0 / 1000) as u32)
    }

    /// The option for a segment that goes out now, if it has one.
    pub(crate) fn option(&self, now: Instant) -> Option<crate::Timestamps> {
        self.on.then(|| crate::Timestamps { val: self.now(now), ecr: self.recent })
    }

    /// The same for a SYN without ACK: nothing is agreed yet, and there is nothing to echo.
    pub(crate) fn offer(&self, now: Instant) -> Option<crate::Timestamps> {
        self.offered.then(|| crate::Timestamps { val: self.now(now), ecr: 0 })
    }

    /// RTTM (RFC 7323 §4.1): how long ago what is echoed was sent. An echo of 0, or of what was never sent, says nothing.
    pub(crate) fn round_trip(&self, now: Instant, options: &Options) -> Option<Duration> {
        let echo = options.timestamps.filter(|timestamps| self.on && timestamps.ecr != 0)?.ecr;
        let age = Seq(self.now(now)).0.wrapping_sub(echo);
        (age < 1 << 31).then(|| Duration::from_millis(age.into()))
    }

    /// Whether TSval `val` is older than what this connection has seen of late (RFC 7323 §5.3, R1, and §5.5).
    fn is_old(&self, now: Instant, val: u32) -> bool {
        self.known && Seq(val).lt(Seq(self.recent)) && now - self.learned < OUTDATED
    }

    /// RFC 6191 §2: whether a SYN is newer than everything of this connection, as far as its timestamp tells; `None` if
    /// that cannot be told by timestamps.
    pub(crate) fn newer(&self, syn: &Options) -> Option<bool> {
        match (self.on, syn.timestamps) {
            (true, Some(timestamps)) if timestamps.val == self.recent => None,
            (true, Some(timestamps)) => Some(Seq(timestamps.val).gt(Seq(self.recent))),
            (false, Some(_)) if self.offered => Some(true),
            _ => None,
        }
    }
}

impl Leg {
    /// Bytes of options in each data segment, a multiple of 4: the caller leaves room for so many between the fixed
    /// header and the payload, and takes them off the largest payload that it polls with. Only segments without payload
    /// may have more. It is known once the guest's SYN is, and does not change then.
    pub fn options_len(&self) -> u16 {
        if self.clock.on { TIMESTAMPS_SPACE } else { 0 }
    }

    /// RFC 7323 §5.3, R1, before anything else is looked at: a segment from an earlier turn of the sequence numbers is
    /// answered by an ACK and dropped; one without the option is dropped silently (§3.2). A reset is neither (§5.2).
    pub(crate) fn check_timestamp(
        &mut self,
        now: Instant,
        segment: &Segment,
        options: &Options,
        effect: &mut Effect,
    ) -> bool {
        if !self.clock.on || segment.has(Flags::RST) {
            return true;
        }
        let Some(timestamps) = options.timestamps else {
            effect.note = Some(Note::NoTimestamp);
            return false;
        };
        if !self.clock.is_old(now, timestamps.val) {
            return true;
        }
        // An old copy of payload is a duplicate like any other; anything else could be repeated for ever.
        if segment.len > 0 {
            self.duplicate_ack();
            effect.note = Some(Note::Paws);
        } else {
            self.challenge(now, effect);
        }
        false
    }

    /// RFC 7323 §4.3: which TSval is echoed. It is that of the first segment that the next ACK will answer.
    pub(crate) fn learn_timestamp(&mut self, now: Instant, segment: &Segment, options: &Options) {
        let newer = options.timestamps.is_some_and(|timestamps| !self.clock.is_old(now, timestamps.val));
        if self.clock.on && newer && segment.seq.le(self.clock.last_ack_sent) {
            self.clock.learn(now, options);
        }
    }
}
