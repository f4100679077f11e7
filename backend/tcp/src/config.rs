//! What the caller decides about a leg before it begins.

use core::time::Duration;

use crate::DEFAULT_MSS;

/// What the leg announces to the guest, and how it behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The largest payload of a frame from the guest, in bytes: the MTU less the fixed headers (RFC 9293 §3.7.1; options
    /// are not taken off here). What is sent to the guest is bounded by it, too, since it is the same link.
    pub mss: u16,
    /// The guest's MSS if its SYN has none: [`DEFAULT_MSS`](crate::DEFAULT_MSS), or
    /// [`DEFAULT_MSS_IPV6`](crate::DEFAULT_MSS_IPV6).
    pub default_mss: u16,
    /// Shift of our window; above [`MAX_WINDOW_SCALE`](crate::MAX_WINDOW_SCALE) counts as that.
    pub window_scale: u8,
    /// Timestamps are offered, or agreed to (RFC 7323 §3): the TSval at [`Instant`](crate::Instant) 0, a secret of this
    /// connection (§5.4). TSval counts milliseconds from there. A leg that goes on under another clock is given the
    /// offset with which TSval does not go back.
    pub timestamps: Option<u32>,
    /// Selective acknowledgments are offered, or agreed to (RFC 2018): the guest's are used, and it is told of duplicates and of each
    /// segment behind a hole, which is not kept.
    pub sack: bool,
    /// Whether a silent guest is asked if it is still there; `None`: never.
    pub keepalive: Option<Keepalive>,
    /// When the guest's payload is acknowledged to it.
    pub ack: AckPolicy,
    /// An acknowledgment of payload that came in order waits for something to carry it, or for [`Leg::hurry`](crate::Leg::hurry), while it
    /// stands for less than so many bytes and the guest has a window of as many left. 0: it goes with the next poll.
    pub patience: u32,
}

impl Config {
    /// MSS and window scale alone, over IPv4: no other option, no keepalive (off by default: RFC 9293 §3.8.4, MUST-25), and payload is
    /// acknowledged as the host's kernel takes it.
    pub const fn new(mss: u16, window_scale: u8) -> Config {
        Config {
            mss,
            default_mss: DEFAULT_MSS,
            window_scale,
            timestamps: None,
            sack: false,
            keepalive: None,
            ack: AckPolicy::Kernel,
            patience: 0,
        }
    }
}

/// Keepalive towards the guest (RFC 9293 §3.8.4). The peer on the other side is the host kernel's affair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// So long nothing was heard of the guest before the first probe.
    pub idle: Duration,
    /// The time between probes that get no answer.
    pub interval: Duration,
    /// So many unanswered probes end the connection; not 0, since one lost answer means nothing (MUST-29).
    pub probes: u8,
}

impl Keepalive {
    /// Two hours (MUST-28), then nine probes 75 s apart, as other stacks have it: a guest that vanished without a word is
    /// found out after 2 h 11 min.
    pub const DEFAULT: Keepalive =
        Keepalive { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), probes: 9 };
}

/// What an acknowledgment to the guest stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AckPolicy {
    /// The host's kernel has the bytes.
    #[default]
    Kernel,
    /// The remote peer has acknowledged the bytes: the caller says so by [`Leg::peer_acked`](crate::Leg::peer_acked).
    Peer,
}
