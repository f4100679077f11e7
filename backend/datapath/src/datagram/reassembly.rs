//! Fragments of a guest's datagrams to the world, put together at the end of each round (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! A datagram that is complete goes to its socket by one call, from where its fragments lie: in this round's bursts, or where
//! those of earlier rounds were [kept](super::fragments).
use super::fragments::{At, Kept, Piece, Together, together};
use super::{HEADER_LEN, echo, udp};
use crate::flow::guest_side::Place;
use crate::offload::Inbound;
use crate::queues::PAIRS;
use crate::spec::PortId;
use crate::stats::{CopyPath, Way};
use crate::worker::Worker;
use vonic_frame::{DropReason, Fragment, Ip, PROTOCOL_UDP, Sum};
use vonic_queue::{Burst, Gather, IoVecs, Part};

/// The fragments of one guest that are looked at in a round.
pub(crate) struct Reassembly {
    pieces: Vec<Piece>,
    gather: Gather,
}

impl Reassembly {
    pub(crate) fn new() -> Reassembly {
        Reassembly { pieces: Vec::new(), gather: Gather::default() }
    }

    /// Takes in a fragment of this round, of the queue of `pair`.
    ///
    /// # Errors
    /// `BadVnetHeader` for an unfinished checksum, which no driver leaves in a part of a datagram; those of [`Piece::new`].
    pub(crate) fn take(
        &mut self,
        pair: usize,
        inbound: &Inbound<'_, '_>,
        (ip, fragment): (&Ip, &Fragment),
    ) -> Result<(), DropReason> {
        if inbound.vnet.partial.is_some() {
            return Err(DropReason::BadVnetHeader);
        }
        let place = Place { chain: inbound.chain, payload: inbound.start + u32::from(ip.transport_offset) };
        self.pieces.push(Piece::new(ip, fragment, At::Chain(pair, place))?);
        Ok(())
    }
}

/// Where the bytes of a guest's datagram lie.
pub(crate) enum Payload<'a> {
    /// In one frame of a burst.
    Frame(&'a mut Burst),
    /// In its fragments.
    Fragments(&'a mut Gather, Fragments<'a>),
}

impl Payload<'_> {
    /// iovecs over `header`, if it is not empty, and the `len` bytes behind the guest's own header, which in a frame lie at
    /// `place`.
    pub(crate) fn iovecs<'a>(&'a mut self, header: &'a mut [u8], place: Place, len: u32) -> IoVecs<'a> {
        match self {
            Payload::Frame(burst) => {
                let skip = header.len();
                burst.iovecs_behind(header, skip, place.chain..place.chain + 1, place.payload, len)
            }
            Payload::Fragments(gather, fragments) => fragments.behind(gather, header),
        }
    }
}

/// The fragments of a whole datagram, in their order.
pub(crate) struct Fragments<'a> {
    bursts: &'a [Burst; PAIRS],
    pieces: &'a [Piece],
    kept: &'a mut [u8],
}

/// The part of a burst in which a fragment lies, without its first `skip` bytes.
fn part<'a>(bursts: &'a [Burst; PAIRS], piece: &Piece, (pair, place): (usize, Place), skip: u32) -> Part<'a> {
    let chains = place.chain..place.chain + 1;
    Part { burst: &bursts[pair], chains, offset: place.payload + skip, len: piece.len - skip }
}

impl Fragments<'_> {
    /// iovecs over `header` and all of the datagram but its own header.
    fn behind<'a>(&'a mut self, gather: &'a mut Gather, header: &'a mut [u8]) -> IoVecs<'a> {
        let mut skip = HEADER_LEN as u32;
        let mut vecs = gather.start();
        vecs.host(header);
        // The place that kept bytes have in their slot is their place in the datagram.
        let end = self.kept.len();
        let mut rest = &mut *self.kept;
        for piece in self.pieces {
            let skipped = std::mem::take(&mut skip).min(piece.len);
            match piece.at {
                At::Chain(pair, place) => vecs.guest(part(self.bursts, piece, (pair, place), skipped)),
                At::Slot(_) => {
                    let start = (piece.offset + skipped) as usize - (end - rest.len());
                    let (_, behind) = rest.split_at_mut(start.min(rest.len()));
                    let (bytes, behind) = behind.split_at_mut(((piece.len - skipped) as usize).min(behind.len()));
                    vecs.host(bytes);
                    rest = behind;
                }
            }
        }
        vecs.finish()
    }

    /// The whole datagram's sum: each fragment but the last has an even length.
    fn sum(&self) -> u16 {
        let sum = |sum: Sum, piece: &Piece| match piece.at {
            At::Chain(pair, place) => sum.word(part(self.bursts, piece, (pair, place), 0).sum()),
            At::Slot(_) => sum.bytes(self.slot_bytes(piece)),
        };
        self.pieces.iter().fold(Sum::default(), sum).fold()
    }

    fn slot_bytes(&self, piece: &Piece) -> &[u8] {
        self.kept.get(piece.offset as usize..(piece.offset + piece.len) as usize).unwrap_or_default()
    }

    /// The datagram's first bytes.
    fn header<const N: usize>(&self) -> Option<[u8; N]> {
        let first = self.pieces.first()?;
        match first.at {
            At::Slot(_) => self.slot_bytes(first).first_chunk().copied(),
            At::Chain(pair, place) => {
                let mut header = [0; N];
                let got = self.bursts[pair].read(place.chain, place.payload, &mut header);
                (got == N && first.len as usize >= N).then_some(header)
            }
        }
    }
}

impl Worker {
    /// Sends what is complete, at the end of a round over a guest's queues, and keeps what is not.
    pub(crate) fn reassemble(&mut self, id: PortId, bursts: &[Burst; PAIRS]) {
        let Some(mut reassembly) = self.reassembly.take() else { return };
        let now = self.now;
        if let Some(port) = Worker::port_mut(&mut self.ports, id)
            && (!reassembly.pieces.is_empty() || port.kept.due().is_some_and(|due| due <= now))
        {
            let Reassembly { pieces, gather } = &mut *reassembly;
            let mut kept = std::mem::take(&mut port.kept);
            kept.take(pieces);
            pieces.sort_unstable_by_key(|piece| (piece.name, piece.offset));
            for pieces in pieces.chunk_by(|a, b| a.name == b.name && !a.name.atomic) {
                self.assemble(id, gather, (bursts, pieces), &mut kept);
            }
            pieces.clear();
            if let Some(port) = Worker::port_mut(&mut self.ports, id) {
                port.kept = kept;
            }
        }
        self.reassembly = Some(reassembly);
    }

    /// Deals with all that has come of one datagram.
    fn assemble(
        &mut self,
        id: PortId,
        gather: &mut Gather,
        (bursts, pieces): (&[Burst; PAIRS], &[Piece]),
        kept: &mut Kept,
    ) {
        let Some(name) = pieces.first().map(|piece| piece.name) else { return };
        let together = if kept.has_lost(pieces) { Together::Nothing } else { together(pieces) };
        let (dropped, reason) = match together {
            Together::Whole(len) => {
                let fragments = Fragments { bursts, pieces, kept: kept.bytes(&name) };
                let result = self.guest_whole(id, gather, fragments, len);
                kept.forget(&name);
                result.err().map_or((0, DropReason::Fragment), |reason| (pieces.len(), reason))
            }
            Together::Part => {
                let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
                let copied = port.spec.stats.copied(CopyPath::Coalesce);
                (kept.keep(pieces, bursts, self.now, copied), DropReason::Fragment)
            }
            Together::Nothing => {
                kept.forget(&name);
                (pieces.len(), DropReason::Fragment)
            }
        };
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            (0..dropped).for_each(|_| port.spec.stats.dropped(Way::GuestToHost, reason));
        }
    }

    /// Takes a whole datagram of `len` bytes.
    fn guest_whole(
        &mut self,
        id: PortId,
        gather: &mut Gather,
        fragments: Fragments<'_>,
        len: u32,
    ) -> Result<(), DropReason> {
        let Some(Piece { name, ttl, .. }) = fragments.pieces.first().copied() else { return Ok(()) };
        let header = fragments.header().ok_or(DropReason::Truncated)?;
        let (way, all) = ((name.guest, name.remote, ttl), (len, fragments.sum()));
        let place = Place { chain: 0, payload: 0 };
        let datagram = match name.protocol {
            PROTOCOL_UDP => udp::read_whole(id, header, way, all, place)?,
            _ => echo::read_whole(id, header, way, all, place)?,
        };
        self.guest_datagram(&datagram, &mut Payload::Fragments(gather, fragments))
    }
}
