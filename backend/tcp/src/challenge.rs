//! Challenges (RFC 5961): ACKs that whoever forges segments could provoke, and the bound on them.

use core::time::Duration;

use crate::{Effect, Instant, Leg, Note, Segment, leg::MAX_DUPLICATES};

/// So many in a [`WINDOW`]: RFC 5961 §7 has the same numbers as its example.
const CHALLENGES: u8 = 10;
const WINDOW: Duration = Duration::from_secs(5);

/// How many challenges have gone since when.
#[derive(Clone, Debug)]
pub(crate) struct Challenges {
    since: Instant,
    sent: u8,
}

impl Challenges {
    pub(crate) const fn new() -> Challenges {
        Challenges { since: Instant(0), sent: 0 }
    }

    fn admit(&mut self, now: Instant) -> bool {
        if now - self.since >= WINDOW {
            *self = Challenges { since: now, sent: 0 };
        }
        let admitted = self.sent < CHALLENGES;
        self.sent += u8::from(admitted);
        admitted
    }
}

impl Leg {
    /// A SYN, a reset that is not exact, an ACK of what was never sent, or an empty segment outside the window: a real
    /// peer learns from our ACK what is true; whoever guesses gets few of them.
    pub(crate) fn challenge(&mut self, now: Instant, effect: &mut Effect) {
        if self.challenges.admit(now) {
            self.duplicate_ack();
            effect.note = Some(Note::Challenge);
        } else {
            effect.note = Some(Note::ChallengeLimited);
        }
    }

    /// Takes back the challenge that the last [`Effect`] noted: for callers that bound them over many legs, too. To be
    /// called before the next segment is handled.
    pub fn withdraw_challenge(&mut self) {
        self.due.duplicates = self.due.duplicates.saturating_sub(1);
    }

    /// RFC 2883: what `segment` repeats of what was acknowledged goes into the next ACK that has no payload with it.
    pub(crate) fn note_duplicate(&mut self, segment: &Segment) {
        let acknowledged = self.rcv.ack().beyond(segment.seq);
        self.report(segment, segment.len.min(acknowledged));
    }

    /// RFC 2018 §8: the ACK of a segment behind a hole reports it, "even if the newest segment is going to be discarded", which
    /// it is; and nothing else, since nothing else is held. A sender that counts blocks, not duplicate ACKs, learns of its loss by that.
    pub(crate) fn note_out_of_order(&mut self, segment: &Segment) {
        self.report(segment, segment.len);
    }

    fn report(&mut self, segment: &Segment, len: u32) {
        if self.snd.sack && len > 0 {
            self.due.reports.push_newest(segment.seq, segment.seq + len, MAX_DUPLICATES);
        }
    }
}
