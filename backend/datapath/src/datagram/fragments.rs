//! Fragments of a guest's datagrams: what they are together, and what is kept of those that wait for others.
//!
//! A guest's kernel may wait for the return of a datagram's first fragments before it sends the others (Linux does: byte queue
//! limits), so their buffers cannot stay with its queue until the datagram is complete. What has come of it by the end of a round
//! is copied instead: a few datagrams of each guest, for a while.
use crate::flow::guest_side::Place;
use crate::queues::PAIRS;
use std::net::IpAddr;
use std::time::Duration;
use vonic_frame::{DropReason, Fragment, Ip, PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_UDP, ip_header_len};
use vonic_queue::{Burst, Undumped, keep_payload};
use vonic_tcp::Instant;

use crate::stats::Counter;

/// The longest packet, with an IPv4 header or behind an IPv6 one.
const PACKET_MAX: u32 = 65_535;
/// Fragments of one datagram: 64 KiB at an MTU of 576 bytes are 119.
const FRAGMENTS: usize = 128;
/// Datagrams of one guest that are kept at a time: each of its CPUs may be in the midst of sending one.
const DATAGRAMS: usize = 8;
/// How long the rest of a datagram is waited for. A kernel sends all fragments in one go, but on a busy host its CPU may be taken
/// away in between, and a guest may be a router.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the fragments of one datagram have in common. An atomic fragment, which is a whole datagram, belongs to no others
/// (RFC 6946 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub guest: IpAddr,
    pub remote: IpAddr,
    pub protocol: u8,
    pub id: u32,
    pub atomic: bool,
}

/// Where a fragment's bytes lie.
#[derive(Clone, Copy)]
pub(crate) enum At {
    /// In a chain of this round's burst of a pair's queue.
    Chain(usize, Place),
    /// In the slot of its datagram, at its offset.
    Slot(usize),
}

/// One fragment.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub name: Name,
    pub offset: u32,
    pub len: u32,
    pub more: bool,
    pub ttl: u8,
    pub at: At,
}

impl Piece {
    /// A fragment that lies at `at`, checked.
    ///
    /// # Errors
    /// `Fragment` for protocols whose fragments nobody sends; `BadHeader` for one that can be part of no datagram; `Oversized` for
    /// one of a datagram longer than a packet.
    pub(crate) fn new(ip: &Ip, fragment: &Fragment, at: At) -> Result<Piece, DropReason> {
        let icmp = if ip.dst.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMP6 };
        if ip.protocol != icmp && ip.protocol != PROTOCOL_UDP {
            return Err(DropReason::Fragment);
        }
        let (offset, len) = (u32::from(fragment.offset), ip.transport_len);
        if ip.ttl == 0 || len == 0 || (fragment.more && !len.is_multiple_of(8)) {
            return Err(DropReason::BadHeader);
        }
        let header = if ip.dst.is_ipv4() { u32::from(ip_header_len(ip.dst)) } else { 0 };
        if header + offset + len > PACKET_MAX {
            return Err(DropReason::Oversized);
        }
        let atomic = offset == 0 && !fragment.more;
        let name = Name { guest: ip.src, remote: ip.dst, protocol: ip.protocol, id: fragment.id, atomic };
        Ok(Piece { name, offset, len, more: fragment.more, ttl: ip.ttl, at })
    }
}

/// What fragments are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Together {
    /// A whole datagram of so many bytes.
    Whole(u32),
    /// Some are missing.
    Part,
    /// They contradict each other: then none of them is good (RFC 5722 §4).
    Nothing,
}

/// Judges the fragments of one name, in the order of their offsets.
pub(crate) fn together(pieces: &[Piece]) -> Together {
    let (mut end, mut hole, mut ended) = (0, false, false);
    for piece in pieces {
        if ended || piece.offset < end {
            return Together::Nothing;
        }
        hole |= piece.offset > end;
        end = piece.offset + piece.len;
        ended = !piece.more;
    }
    match ended && !hole {
        true => Together::Whole(end),
        false if pieces.len() < FRAGMENTS => Together::Part,
        false => Together::Nothing,
    }
}

/// Room for one datagram. It is made when it is first needed, and stays.
struct Slot {
    name: Option<Name>,
    since: Instant,
    bytes: Undumped,
}

/// The fragments of one guest that wait for others.
#[derive(Default)]
pub(crate) struct Kept {
    slots: Vec<Slot>,
    pieces: Vec<Piece>,
}

impl Kept {
    /// When the datagram that waits for the longest time has waited long enough.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = self.slots.iter().filter(|slot| slot.name.is_some());
        waiting.map(|slot| slot.since + PATIENCE).min()
    }

    /// Moves all fragments to `pieces`; those that wait on are to be [kept](Kept::keep) again.
    pub(crate) fn take(&mut self, pieces: &mut Vec<Piece>) {
        pieces.append(&mut self.pieces);
    }

    /// The bytes of a datagram's slot, if it has one: each fragment that is kept lies there at its offset.
    pub(crate) fn bytes(&mut self, name: &Name) -> &mut [u8] {
        self.slots.iter_mut().find(|slot| slot.name == Some(*name)).map_or(&mut [], |slot| &mut slot.bytes)
    }

    /// Whether these are fragments whose slot another datagram has taken in this round.
    pub(crate) fn has_lost(&self, pieces: &[Piece]) -> bool {
        let is_lost = |piece: &Piece| match piece.at {
            At::Slot(at) => self.slots[at].name != Some(piece.name),
            At::Chain(..) => false,
        };
        pieces.iter().any(is_lost)
    }

    /// Forgets a datagram.
    pub(crate) fn forget(&mut self, name: &Name) {
        self.slots.iter_mut().filter(|slot| slot.name == Some(*name)).for_each(|slot| slot.name = None);
    }

    /// Keeps the fragments of one datagram, which has others still missing; returns how many fragments are given up: its own after
    /// a time, or those of the datagram that has waited for longest, if there are too many.
    pub(crate) fn keep(&mut self, pieces: &[Piece], bursts: &[Burst; PAIRS], now: Instant, copied: &Counter) -> usize {
        let Some(name) = pieces.first().map(|piece| piece.name) else { return 0 };
        let (at, given_up) = match self.slots.iter().position(|slot| slot.name == Some(name)) {
            Some(at) if self.slots[at].since + PATIENCE <= now => {
                self.forget(&name);
                return pieces.len();
            }
            Some(at) => (at, 0),
            None => self.slot(name, now),
        };
        for piece in pieces {
            if let At::Chain(pair, place) = piece.at {
                let range = piece.offset as usize..(piece.offset + piece.len) as usize;
                let to = self.slots[at].bytes.get_mut(range).unwrap_or_default();
                keep_payload(&bursts[pair], place.chain..place.chain + 1, place.payload, to, copied.atomic());
            }
            self.pieces.push(Piece { at: At::Slot(at), ..*piece });
        }
        given_up
    }

    /// A slot for a datagram, and how many fragments were given up for it.
    fn slot(&mut self, name: Name, now: Instant) -> (usize, usize) {
        let free = self.slots.iter().position(|slot| slot.name.is_none());
        let at = match free {
            Some(at) => at,
            None if self.slots.len() < DATAGRAMS => {
                let bytes = Undumped::new(PACKET_MAX as usize);
                self.slots.push(Slot { name: None, since: now, bytes });
                self.slots.len() - 1
            }
            None => {
                let ages = self.slots.iter().enumerate().map(|(at, slot)| (slot.since, at));
                ages.min().map_or(0, |(_, at)| at)
            }
        };
        let slot = &mut self.slots[at];
        let before = slot.name.replace(name);
        slot.since = now;
        let count = self.pieces.len();
        self.pieces.retain(|piece| Some(piece.name) != before);
        (at, count - self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: u32, offset: u32, len: u32, more: bool) -> Piece {
        let [guest, remote] = [2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        let name = Name { guest, remote, protocol: PROTOCOL_ICMP, id, atomic: false };
        Piece { name, offset, len, more, ttl: 64, at: At::Chain(0, Place { chain: 0, payload: 0 }) }
    }

    #[test]
    fn a_datagram_is_whole_without_holes_and_nothing_where_its_fragments_overlap() {
        let (first, second, last) = (piece(1, 0, 16, true), piece(1, 16, 8, true), piece(1, 24, 3, false));
        assert_eq!(together(&[first, second, last]), Together::Whole(27));
        for part in [&[first][..], &[last], &[first, second], &[second, last], &[first, last]] {
            assert_eq!(together(part), Together::Part);
        }
        for lies in [
            [first, first],
            [last, last],
            [first, piece(1, 8, 8, true)],
            [first, piece(1, 8, 100, false)],
            [piece(1, 8, 8, false), piece(1, 16, 8, true)],
            [piece(1, 8, 8, false), piece(1, 32, 8, false)],
        ] {
            assert_eq!(together(&lies), Together::Nothing);
        }
        let many: Vec<Piece> = (0..FRAGMENTS as u32).map(|i| piece(1, 8 * i, 8, true)).collect();
        assert_eq!((together(&many), together(&many[1..])), (Together::Nothing, Together::Part));
    }

    #[test]
    fn so_many_datagrams_are_kept_and_for_so_long() {
        let (mut kept, copied) = (Kept::default(), Counter::default());
        let bursts = [(); PAIRS].map(|()| Burst::with_capacity(1, 1));
        let mut keep = |id: u32, now: u64, pieces: &mut Vec<Piece>| {
            pieces.clear();
            kept.take(pieces);
            pieces.push(piece(id, 8, 8, true));
            pieces.sort_unstable_by_key(|piece| (piece.name, piece.offset));
            let now = Instant(now);
            let mut given_up = 0;
            for pieces in pieces.chunk_by(|a, b| a.name == b.name) {
                let lost = kept.has_lost(pieces);
                given_up += if lost { pieces.len() } else { kept.keep(pieces, &bursts, now, &copied) };
            }
            (given_up, kept.due())
        };
        let mut pieces = Vec::new();
        for id in 0..DATAGRAMS as u32 {
            assert_eq!(keep(id, u64::from(id), &mut pieces), (0, Some(Instant(1_000_000))));
        }
        // The oldest one makes room, also where its turn comes behind the new one's.
        assert_eq!(keep(99, 50, &mut pieces), (1, Some(Instant(1_000_001))));
        assert_eq!(keep(0, 60, &mut pieces), (1, Some(Instant(1_000_002))));
        // Time is up for all but the two youngest.
        assert_eq!(keep(99, 1_000_049, &mut pieces), (6, Some(Instant(1_000_050))));
    }
}
