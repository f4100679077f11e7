//! Fragments of a guest's datagrams to the world, put together within one round (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! A datagram whose fragments have all come goes to its socket by one call, from where they lie. Of one that is not complete the
//! fragments stay with the guest's queues for a while ([`Held`]); whatever contradicts itself is dropped, all of it (RFC 5722 §4).
use super::echo::Echo;
use crate::flow::guest_side::Place;
use crate::held::{Chains, Held, WINDOW};
use crate::offload::Inbound;
use crate::queues::PAIRS;
use crate::spec::PortId;
use crate::stats::Way;
use crate::worker::Worker;
use std::net::IpAddr;
use vonic_frame::{DropReason, EchoRequest, Fragment, Ip, PROTOCOL_ICMP, PROTOCOL_ICMP6, Sum, ip_header_len};
use vonic_queue::{Burst, Gather, IoVecs, Part};
use vonic_tcp::Instant;

/// The longest packet, with an IPv4 header or behind an IPv6 one.
const PACKET_MAX: u32 = 65_535;

/// What the fragments of one datagram have in common. An atomic fragment, which is a whole datagram, belongs to no others
/// (RFC 6946 §4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    guest: IpAddr,
    remote: IpAddr,
    protocol: u8,
    id: u32,
    atomic: bool,
}

/// One fragment that came in this round.
#[derive(Clone, Copy)]
struct Piece {
    name: Name,
    offset: u32,
    len: u32,
    more: bool,
    ttl: u8,
    pair: usize,
    place: Place,
    since: Instant,
}

/// The fragments of one round of one guest's queues. Nothing outlives the round, and nothing is allocated after creation.
pub(crate) struct Reassembly {
    pieces: Vec<Piece>,
    gather: Gather,
}

impl Reassembly {
    pub(crate) fn new() -> Reassembly {
        Reassembly { pieces: Vec::with_capacity(PAIRS * WINDOW), gather: Gather::default() }
    }

    /// Takes a fragment in, which lies in the queue of `pair` since `since`.
    ///
    /// # Errors
    /// `Fragment` for protocols whose fragments nobody sends; `BadVnetHeader`; `BadHeader` for one that can be part of no datagram,
    /// and `Oversized` for one of a datagram longer than a packet.
    pub(crate) fn take(
        &mut self,
        inbound: &Inbound<'_, '_>,
        (ip, fragment): (&Ip, &Fragment),
        (pair, since): (usize, Instant),
    ) -> Result<(), DropReason> {
        let icmp = if ip.dst.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMP6 };
        if ip.protocol != icmp {
            return Err(DropReason::Fragment);
        }
        if inbound.vnet.partial.is_some() {
            // No driver leaves the sum of a whole datagram to the device in the headers of its parts.
            return Err(DropReason::BadVnetHeader);
        }
        let (offset, len) = (u32::from(fragment.offset), ip.transport_len);
        if ip.ttl == 0 || len == 0 || (fragment.more && !len.is_multiple_of(8)) {
            return Err(DropReason::BadHeader);
        }
        let header = if ip.dst.is_ipv4() { u32::from(ip_header_len(ip.dst)) } else { 0 };
        if header + offset + len > PACKET_MAX {
            return Err(DropReason::Oversized);
        }
        if self.pieces.len() == self.pieces.capacity() {
            return Err(DropReason::Fragment);
        }
        let atomic = offset == 0 && !fragment.more;
        let name = Name { guest: ip.src, remote: ip.dst, protocol: ip.protocol, id: fragment.id, atomic };
        let place = Place { chain: inbound.chain, payload: inbound.start + u32::from(ip.transport_offset) };
        self.pieces.push(Piece { name, offset, len, more: fragment.more, ttl: ip.ttl, pair, place, since });
        Ok(())
    }
}

/// What the fragments of one datagram are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    /// All of it, so many bytes.
    Whole(u32),
    /// Some are missing.
    Part,
    /// They contradict each other.
    Nothing,
}

/// Judges the fragments of one datagram, in the order of their offsets.
fn together(pieces: &[Piece]) -> Together {
    let (mut end, mut hole, mut ended) = (0, false, false);
    for piece in pieces {
        if ended || piece.offset < end {
            return Together::Nothing;
        }
        hole |= piece.offset > end;
        end = piece.offset + piece.len;
        ended = !piece.more;
    }
    if ended && !hole { Together::Whole(end) } else { Together::Part }
}

/// Where the bytes of a guest's datagram lie.
pub(crate) enum Payload<'a> {
    /// In one frame.
    Frame(&'a mut Burst, Place),
    /// In its fragments.
    Fragments(&'a mut Gather, Fragments<'a>),
}

impl Payload<'_> {
    /// iovecs over `header`, which takes the place of the guest's, and the `len` bytes behind that.
    pub(crate) fn behind<'a>(&'a mut self, header: &'a mut [u8], len: u32) -> IoVecs<'a> {
        match self {
            Payload::Frame(burst, place) => {
                let skip = header.len();
                burst.iovecs_behind(header, skip, place.chain..place.chain + 1, place.payload, len)
            }
            Payload::Fragments(gather, fragments) => {
                let skip = header.len() as u32;
                gather.behind(header, fragments.parts(skip))
            }
        }
    }
}

/// The fragments of one datagram, in their order.
#[derive(Clone, Copy)]
pub(crate) struct Fragments<'a> {
    bursts: &'a [Burst; PAIRS],
    pieces: &'a [Piece],
}

impl<'a> Fragments<'a> {
    /// What they carry, without the datagram's first `skip` bytes, which lie in the first one.
    fn parts(self, skip: u32) -> impl Iterator<Item = Part<'a>> {
        self.pieces.iter().enumerate().map(move |(i, piece)| {
            let skip = if i == 0 { skip.min(piece.len) } else { 0 };
            let chain = piece.place.chain;
            Part {
                burst: &self.bursts[piece.pair],
                chains: chain..chain + 1,
                offset: piece.place.payload + skip,
                len: piece.len - skip,
            }
        })
    }

    /// The whole datagram's sum: each part but the last has an even length.
    fn sum(self) -> u16 {
        self.parts(0).fold(Sum::default(), |sum, part| sum.word(part.sum())).fold()
    }

    /// The datagram's first bytes.
    fn header<const N: usize>(self) -> Option<[u8; N]> {
        let (mut header, first) = ([0; N], self.pieces.first()?);
        let got = self.bursts[first.pair].read(first.place.chain, first.place.payload, &mut header);
        (got == N && first.len as usize >= N).then_some(header)
    }
}

impl Worker {
    /// Sends what is complete, at the end of a round over a guest's queues; returns the chains that are to be looked at again,
    /// of each queue. `full`: the queues from which no more can come while their first chain waits.
    pub(crate) fn reassemble(&mut self, id: PortId, bursts: &[Burst; PAIRS], full: [bool; PAIRS]) -> [Chains; PAIRS] {
        let mut waiting = [0; PAIRS];
        if self.reassembly.as_ref().is_none_or(|reassembly| reassembly.pieces.is_empty()) {
            return waiting;
        }
        let Some(mut reassembly) = self.reassembly.take() else { return waiting };
        let Reassembly { pieces, gather } = &mut *reassembly;
        pieces.sort_unstable_by_key(|piece| (piece.name, piece.offset));
        for pieces in pieces.chunk_by(|a, b| a.name == b.name && !a.name.atomic) {
            let result = match together(pieces) {
                Together::Whole(len) => self.guest_datagram(id, gather, Fragments { bursts, pieces }, len),
                Together::Part if self.may_come(pieces, full) => {
                    pieces.iter().for_each(|piece| waiting[piece.pair] |= 1 << piece.place.chain);
                    Ok(())
                }
                Together::Part | Together::Nothing => Err(DropReason::Fragment),
            };
            if let Err(reason) = result
                && let Some(port) = Worker::port_mut(&mut self.ports, id)
            {
                pieces.iter().for_each(|_| port.spec.stats.dropped(Way::GuestToHost, reason));
            }
        }
        pieces.clear();
        self.reassembly = Some(reassembly);
        waiting
    }

    /// Whether the rest of a datagram may still be on its way.
    fn may_come(&self, pieces: &[Piece], full: [bool; PAIRS]) -> bool {
        let late = |piece: &Piece| Held::until(piece.since) <= self.now;
        !pieces.iter().any(|piece| late(piece) || (piece.place.chain == 0 && full[piece.pair]))
    }

    /// Takes a whole datagram of `len` bytes.
    fn guest_datagram(
        &mut self,
        id: PortId,
        gather: &mut Gather,
        fragments: Fragments<'_>,
        len: u32,
    ) -> Result<(), DropReason> {
        let Some(Piece { name, ttl, .. }) = fragments.pieces.first().copied() else { return Ok(()) };
        let header = fragments.header().ok_or(DropReason::Truncated)?;
        // Who fragments by himself allows others to.
        let request = EchoRequest::new(name.remote, header, false)?.ok_or(DropReason::Unsupported)?;
        let echo = Echo::new(id, (name.guest, name.remote), ttl, request, (len, fragments.sum()))?;
        self.guest_echo(&echo, Payload::Fragments(gather, fragments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u32, len: u32, more: bool) -> Piece {
        let [guest, remote] = [2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        let name = Name { guest, remote, protocol: PROTOCOL_ICMP, id: 1, atomic: false };
        let place = Place { chain: 0, payload: 0 };
        Piece { name, offset, len, more, ttl: 64, pair: 0, place, since: Instant(0) }
    }

    #[test]
    fn a_datagram_is_whole_without_holes_and_nothing_where_its_fragments_overlap() {
        let (first, second, last) = (piece(0, 16, true), piece(16, 8, true), piece(24, 3, false));
        assert_eq!(together(&[first, second, last]), Together::Whole(27));
        for part in [&[first][..], &[last], &[first, second], &[second, last], &[first, last]] {
            assert_eq!(together(part), Together::Part);
        }
        for lies in [
            [first, first],
            [last, last],
            [first, piece(8, 8, true)],
            [first, piece(15, 100, false)],
            [piece(8, 8, false), piece(16, 8, true)],
            [piece(8, 8, false), piece(32, 8, false)],
        ] {
            assert_eq!(together(&lies), Together::Nothing);
        }
    }
}
