//! What a leg tells its caller: effects of a segment, events, and what to transmit.

use core::ops::Range;

use crate::{Header, Seq};

/// What a segment means to the host's side.
///
/// If [`payload`](Effect::payload) or [`fin`](Effect::fin) is set, the caller offers them to the host socket and then
/// calls [`Leg::taken`](crate::Leg::taken), before it hands the leg another segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    /// Payload bytes, without SYN and FIN, that the guest acknowledged just now: the caller drops as many from the
    /// head of the host socket's receive queue (MSG_TRUNC).
    pub acked: u32,
    /// The part of this segment's payload that is next in sequence and within the window: byte positions in the
    /// payload, never empty.
    pub payload: Option<Range<u32>>,
    /// The guest's FIN stands right behind `payload`, or is next in sequence if there is none.
    pub fin: bool,
    /// What else happened.
    pub event: Option<Event>,
    /// What was remarkable about the segment, for statistics.
    pub note: Option<Note>,
}

/// Why a segment was not taken at its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// It is answered by a challenge ACK (RFC 5961), or by an ACK that is bounded like one.
    Challenge,
    /// It would be, but there were too many of late.
    ChallengeLimited,
    /// Its timestamp is from the past (PAWS, RFC 7323 §5).
    Paws,
    /// It lacks the timestamp that was agreed upon (RFC 7323 §3.2).
    NoTimestamp,
}

/// A change of a leg's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The handshake is complete.
    Established,
    /// The guest sent a valid RST: the caller closes the host socket with linger 0. The leg is closed.
    Reset,
    /// Both FINs are done and no old segment is waited for (any more). The leg is closed.
    Closed,
    /// The guest answered nothing for the whole of R2 (RFC 9293 §3.8.3): the caller resets the host socket. The leg
    /// is closed and has a RST for the guest.
    GaveUp,
    /// Both FINs are done, ours first: the host socket can be closed, the leg stays for 2 MSL. TIME-WAIT is also
    /// entered by [`Leg::taken`](crate::Leg::taken), which gives no event.
    TimeWait,
}

/// Something to send to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// A complete segment without payload. The leg counts it as sent.
    Control(Header),
    /// The same with one byte of payload, whichever: the guest has the byte that belongs there.
    Question(Header),
    /// Payload can go: peek it, then call [`Leg::sent`](crate::Leg::sent).
    Data(DataPlan),
}

/// Where the payload of one frame lies. Valid until the next call of the leg that takes `&mut self`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataPlan {
    /// Sequence number of the first byte.
    pub seq: Seq,
    /// Where that byte lies in the host's stream: bytes beyond SND.UNA, that is, beyond the first byte which
    /// [`Effect::acked`] has not yet counted.
    pub offset: u32,
    /// At most so many bytes; never 0.
    pub max: u32,
    pub(crate) kind: PlanKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PlanKind {
    /// From SND.NXT on, which it moves: new bytes, or old ones after a timeout.
    Next,
    /// From SND.UNA, or from a later hole on; SND.NXT stays.
    Resend,
    /// One byte beyond a closed window (RFC 9293 §3.8.6.1); SND.NXT stays, so that the byte goes again later.
    Probe,
}
