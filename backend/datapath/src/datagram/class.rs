//! How long a flow may be silent, which depends on what has been said on it.
//!
//! A NAT's rules for UDP, RFC 4787, are kept where they are about mappings in use: a flow that both sides use has three minutes, of
//! the two that REQ-5 asks for at least; DNS has its own time, as the service of a well-known port may (REQ-5a). What the guest
//! sends refreshes always (REQ-6). What the world sends refreshes a flow that both sides use: it can come only from the peer that
//! the guest itself speaks to; and a forward's, which the world opens. A flow that has carried a question and at most one
//! answer is over for most programs, so it has half a minute; a guest that speaks on it again opens it again.
use super::{Datagram, Far, Kind};
use std::time::Duration;

/// The port of DNS (RFC 1035 §4.2.1).
const DNS: u16 = 53;

/// What a flow is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Pings.
    Echo,
    /// Somebody in the world spoke to the guest, which has said nothing: nobody knows whether he is real.
    Unanswered,
    /// Questions to a DNS server, or to a guest that is one.
    Query,
    /// One datagram each way at most.
    OneShot,
    /// Both sides speak.
    Stream,
}

impl Class {
    /// Every class, in the order of the table's lists.
    pub const ALL: [Class; 5] = [Class::Echo, Class::Unanswered, Class::Query, Class::OneShot, Class::Stream];

    /// The name in lists of connections.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Echo => "echo",
            Class::Unanswered => "unanswered",
            Class::Query => "query",
            Class::OneShot => "one-shot",
            Class::Stream => "stream",
        }
    }

    /// How long such a flow may be silent. Nobody waits half a minute for the reply to a ping; a resolver asks again after
    /// five seconds.
    pub const fn idle(self) -> Duration {
        Duration::from_secs(match self {
            Class::Query => 10,
            Class::Echo | Class::Unanswered | Class::OneShot => 30,
            Class::Stream => 180,
        })
    }

    /// The classes of one kind's flows, those first that make room first.
    pub const fn of(kind: Kind) -> &'static [Class] {
        match kind {
            Kind::Echo => &[Class::Echo],
            Kind::Udp => &[Class::Unanswered, Class::Query, Class::OneShot, Class::Stream],
        }
    }
}

impl Datagram {
    /// What it is like now.
    pub fn class(&self) -> Class {
        let (sent, received) = (self.sent.datagrams, self.received.datagrams);
        match self.key.kind {
            Kind::Echo => Class::Echo,
            Kind::Udp if self.is_forwarded() && sent == 0 && !self.was_stream => Class::Unanswered,
            Kind::Udp if [self.key.guest.port(), self.key.remote.port()].contains(&DNS) => Class::Query,
            Kind::Udp if self.was_stream || (sent > 0 && received > 0 && sent + received > 2) => Class::Stream,
            Kind::Udp => Class::OneShot,
        }
    }

    /// Whether what the world sends keeps it alive.
    pub fn lives_by_the_world(&self) -> bool {
        self.is_forwarded() || self.class() == Class::Stream
    }

    /// Whether it leads through a forward.
    pub fn is_forwarded(&self) -> bool {
        matches!(self.far, Far::Forward { .. })
    }
}
