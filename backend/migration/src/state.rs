//! What travels, as plain data.
use std::net::{Ipv6Addr, SocketAddr};
use vonic_record::{Bits, Kind, Options, Record};
use vonic_uplink::{Known, SocketState, Stage};

/// Whose port it is. The target refuses one that its own configuration contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The VM's name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The features that its driver has taken.
    pub features: u64,
    /// Bytes of an IP packet.
    pub mtu: u16,
}

/// A terminated connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// The guest opened it; else the world.
    pub guest_opens: bool,
    /// What had happened to it ([`Bits`] of its record).
    pub bits: u64,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// Where the host's socket leads.
    pub host: SocketAddr,
    /// ISS of the leg.
    pub iss: u32,
    /// IRS, if the guest's SYN is known.
    pub irs: u32,
    /// What was agreed to with the guest, as far.
    pub options: Options,
    /// Our TSval at instant 0 of the source's clock.
    pub timestamps: u32,
    /// When it began, in microseconds of that clock.
    pub opened: u64,
    /// The socket; `None`: it could not leave its host, and the guest is to be told by a reset.
    pub socket: Option<SocketState>,
}

/// A flow of datagrams: on the target it gets a new socket, of the same address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatagramState {
    /// ICMP echo; else UDP.
    pub echo: bool,
    /// What its record says of it.
    pub bits: u64,
    /// The guest's end; an echo's identifier is in place of the port.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// Where the host's socket leads.
    pub host: SocketAddr,
    /// What the host's socket is bound to.
    pub local: SocketAddr,
    /// When it began, in microseconds of the source's clock.
    pub opened: u64,
    /// When it was last used, by the same clock.
    pub used: u64,
}

/// Everything of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortState {
    /// Whose it is.
    pub identity: Identity,
    /// When it was saved, in milliseconds since 1970, by the source's wall clock.
    pub saved: u64,
    /// How far the source's clock was, in microseconds: what `timestamps` and `opened` are relative to.
    pub clock: u64,
    /// Connections.
    pub flows: Vec<FlowState>,
    /// Flows of datagrams.
    pub datagrams: Vec<DatagramState>,
    /// Addresses that the guest has claimed, the one used last first.
    pub claims: Vec<Ipv6Addr>,
    /// Counters by name.
    pub counters: Vec<(String, u64)>,
}

impl FlowState {
    /// Of a connection as its record has it; the socket's numbers mean nothing to another host.
    pub fn new(record: &Record, socket: Option<SocketState>) -> FlowState {
        let Record {
            kind,
            bits,
            descriptor: _,
            cookie: _,
            session: _,
            guest,
            remote,
            host,
            iss,
            timestamps,
            irs,
            options,
            opened,
            base: _,
        } = *record;
        FlowState {
            guest_opens: kind == Kind::GuestOpens,
            bits: bits.0,
            guest,
            remote,
            host,
            iss,
            irs,
            options,
            timestamps,
            opened,
            socket,
        }
    }

    /// The record of the connection on this host, where the clock is at `now` and was at `then` on the source. Its timestamps do not go
    /// back. `known` is what [`Parked::release`](vonic_uplink::Parked::release) said of the new socket.
    pub fn record(
        &self,
        known: Known,
        (then, now): (u64, u64),
        (descriptor, cookie, session): (i32, u64, u64),
    ) -> Record {
        // What was set of a socket before says nothing of this one.
        let of_socket = Bits::ABORTED.0 | Bits::RESTORED.0 | Bits::PEER_FIN.0 | Bits::PEER_GONE.0;
        let bit = |bit: Bits, set: bool| if set { bit.0 } else { 0 };
        let stage = known.origin.stage;
        let bits = self.bits & !of_socket
            | bit(Bits::ABORTED, known.aborted)
            | bit(Bits::RESTORED, !known.origin.connected)
            | bit(Bits::PEER_FIN, matches!(stage, Stage::PeerFinished | Stage::Over))
            | bit(Bits::PEER_GONE, matches!(stage, Stage::Over | Stage::Reset));
        // TSval counts milliseconds (RFC 7323 §5.4).
        let later = (then / 1000).wrapping_sub(now / 1000) as u32;
        Record {
            kind: if self.guest_opens { Kind::GuestOpens } else { Kind::WorldOpens },
            bits: Bits(bits),
            descriptor,
            cookie,
            session,
            guest: self.guest,
            remote: self.remote,
            host: self.host,
            iss: self.iss,
            timestamps: self.timestamps.wrapping_add(later),
            irs: self.irs,
            options: self.options,
            opened: now.saturating_sub(then.saturating_sub(self.opened)),
            base: (known.origin.taken, known.origin.dropped),
        }
    }
}
