//! The states of RFC 9293 §3.3.2.

/// The state of a leg. There is no LISTEN: a leg begins with a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The world opened; the guest has not answered yet.
    SynSent,
    /// The guest opened (or both did at once); the handshake's last ACK is missing.
    SynReceived,
    /// Data flows both ways.
    Established,
    /// The host's end of stream was passed on, not acknowledged yet.
    FinWait1,
    /// The host's end of stream is acknowledged; the guest may send on for as long as it likes.
    FinWait2,
    /// The guest has finished; the host may send on for as long as it likes.
    CloseWait,
    /// Both have finished at once; the guest has not acknowledged our FIN yet.
    Closing,
    /// The guest finished first, then the host; the last acknowledgment is missing.
    LastAck,
    /// Both have finished, the host first: old segments are waited for.
    TimeWait,
    /// There is no connection.
    Closed,
}

impl State {
    /// The state's name as RFC 9293 writes it.
    pub const fn name(self) -> &'static str {
        match self {
            State::SynSent => "SYN-SENT",
            State::SynReceived => "SYN-RECEIVED",
            State::Established => "ESTABLISHED",
            State::FinWait1 => "FIN-WAIT-1",
            State::FinWait2 => "FIN-WAIT-2",
            State::CloseWait => "CLOSE-WAIT",
            State::Closing => "CLOSING",
            State::LastAck => "LAST-ACK",
            State::TimeWait => "TIME-WAIT",
            State::Closed => "CLOSED",
        }
    }

    /// Whether both sides know each other's sequence numbers, and the connection is not over (RFC 9293 §3.3.2).
    pub(crate) const fn is_synchronized(self) -> bool {
        !matches!(self, State::SynSent | State::SynReceived | State::TimeWait | State::Closed)
    }

    /// Whether payload and FIN from the guest are looked at (RFC 9293 §3.10.7.4, seventh and eighth).
    pub(crate) const fn receives(self) -> bool {
        matches!(self, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Whether payload or FIN may have to go to the guest, be it again.
    pub(crate) const fn sends(self) -> bool {
        matches!(self, State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck)
    }

    /// The state after our FIN went out for the first time.
    pub(crate) const fn fin_sent(self) -> State {
        match self {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => other,
        }
    }
}
