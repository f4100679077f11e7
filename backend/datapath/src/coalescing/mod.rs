//! Received TCP segments of an uplink, on their way to a guest that takes large frames: those that continue each other become one.
//!
//! Where segments of one connection come behind each other nothing is copied: the next frame is read with its headers beside and its
//! payload behind that of the last one. If it then turns out to be something else, its payload is moved into buffers of its own.
mod landing;
mod stats;

use crate::port::Port;
use crate::spec::PortId;
use crate::stats::CopyPath;
use crate::worker::Worker;
pub use landing::{Landing, Place};
pub use stats::CoalesceStats;
use std::ops::Range;
use vonic_frame::{
    Aggregate, Content, DropReason, ETHERNET_LEN, Frame, HEADER_MAX, PartialChecksum, TCP_CHECKSUM, Transport,
    VnetHeader, tcp_checksum_holds,
};
use vonic_queue::move_payload;
use vonic_tcp::Instant;

/// Bytes of payload below which a segment is not made to wait for another one: the smallest that every host takes (RFC 9293 §3.7.1).
const SMALL: u32 = 536;
/// Segments that turned out to be followed by something else, until as many as two to this power are let pass unlooked at.
const MISSES_MAX: u8 = 6;

/// Whether, and for how long, a port's received segments are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalesce {
    /// Whether they are.
    pub on: bool,
    /// Microseconds that a large frame may wait for its next segment; 0: not at all, it takes what can be read at once.
    pub us: u64,
}

/// A large frame in the making.
#[derive(Debug)]
struct Open {
    aggregate: Aggregate,
    /// The first segment's virtio-net header, if no other comes.
    vnet: VnetHeader,
    /// The chains that it has taken, in the port's burst.
    chains: Range<usize>,
    /// Bytes that it has filled from its first chain on, the virtio-net header among them.
    filled: u32,
    /// Bytes of its chains.
    capacity: u32,
    /// Since when it waits.
    since: Instant,
}

/// Why a large frame went on to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its last segment was pushed, or a short one, or it is as large as a frame can be.
    Complete,
    /// What came next does not continue it.
    Interrupted,
    /// There was nothing more to read.
    Drained,
    /// It has waited for as long as it may, or something else wanted the queue.
    Waited,
}

/// A frame that has been read: what was looked at of it, and what it says.
pub struct Landed<'a> {
    /// Its bytes that are not in the guest's buffers.
    pub head: &'a [u8],
    /// Bytes of all of it.
    pub len: u32,
    /// Its virtio-net header, such that the guest can take it.
    pub vnet: VnetHeader,
    /// Where its payload starts if it is to be segmented.
    pub headers_len: u16,
}

impl Landed<'_> {
    /// Its bytes in the guest's buffers.
    fn rest(&self) -> u32 {
        self.len - self.head.len() as u32
    }
}

impl Worker {
    /// What becomes of segments that a port receives: its file's word, else its network's.
    pub(crate) fn coalesce(&self, id: PortId) -> Coalesce {
        let Some(port) = self.ports.get(id as usize).and_then(Option::as_deref) else { return Coalesce::default() };
        let network = self.networks.get(port.spec.network as usize).and_then(Option::as_deref);
        let of_network = network.map_or(Coalesce::default(), |network| network.spec.coalesce);
        Coalesce { on: port.spec.coalesce.unwrap_or(of_network.on), ..of_network }
    }

    /// Completes every large frame that waits: something is about to happen to the queues.
    pub(crate) fn settle_landings(&mut self) {
        let now = self.now;
        self.ports.iter_mut().flatten().for_each(|port| port.settle(now));
    }

    /// Until when large frames wait for more.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let held = self.ports.iter().enumerate().filter_map(|(id, port)| Some((id, port.as_deref()?.held_since()?)));
        held.map(|(id, since)| Instant(since.0.saturating_add(self.coalesce(id as PortId).us))).min()
    }
}

impl Port {
    /// Takes a frame that was read into `place`, and completes or keeps it.
    ///
    /// # Errors
    /// `NoRoom`: it is dropped.
    pub fn land(
        &mut self,
        place: &Place,
        landed: &Landed<'_>,
        (how, now): (Coalesce, Instant),
    ) -> Result<(), DropReason> {
        let on = how.on && self.negotiated.to_guest.csum && landed.vnet.gso.is_none();
        match self.landing.open.take() {
            Some(open) => self.land_behind(open, landed, on, now),
            None => {
                self.land_alone(place, landed, on, now);
                Ok(())
            }
        }
    }

    /// Whether a frame that has not been read yet, with these leading bytes, continues the one in the making.
    pub fn awaits(&self, head: &[u8], len: u32) -> bool {
        let continues = |open: &Open| open.aggregate.continues(head, &Frame::parse(head, len).ok()?);
        self.landing.open.as_ref().and_then(continues).is_some()
    }

    /// Completes the one in the making, since something else comes.
    pub fn interrupt(&mut self, now: Instant) {
        if let Some(open) = self.landing.open.take() {
            self.close(&open, End::Interrupted, now);
        }
    }

    /// A frame whose first bytes, at most its Ethernet header, are not in the guest's buffers.
    fn land_alone(&mut self, place: &Place, landed: &Landed<'_>, on: bool, now: Instant) {
        if on && self.landing.looks() {
            let mut bytes = [0; HEADER_MAX];
            let (front, behind) = bytes.split_at_mut(landed.head.len());
            front.copy_from_slice(landed.head);
            let wanted = behind.len().min(landed.rest() as usize);
            let got = self.rx_burst.read(place.chains.start, place.offset, &mut behind[..wanted]);
            if self.open(&bytes[..landed.head.len() + got], landed, now) {
                return;
            }
        }
        self.complete_landed(landed);
    }

    /// A frame that was read behind the one in the making.
    fn land_behind(&mut self, mut open: Open, landed: &Landed<'_>, on: bool, now: Instant) -> Result<(), DropReason> {
        let frame = if on { Frame::parse(landed.head, landed.len).ok() } else { None };
        let next = frame.and_then(|frame| Some((frame, open.aggregate.continues(landed.head, &frame)?)));
        let behind = (open.chains.start, open.filled);
        if let Some((frame, next)) = next
            && self.has_room(&open, landed.rest())
            && self.is_verified(landed, (landed.head, &frame), behind)
        {
            let more = open.aggregate.append(next);
            self.landing.hit();
            self.extend(&mut open, landed.rest());
            if more && self.has_room(&open, open.aggregate.size()) {
                self.landing.open = Some(open);
            } else {
                self.close(&open, End::Complete, now);
            }
            return Ok(());
        }
        if open.aggregate.segments() == 1 {
            self.landing.miss();
        }
        self.close(&open, End::Interrupted, now);
        self.move_landed(behind, landed, frame.as_ref())?;
        if frame.is_none() || !self.landing.looks() || !self.open(landed.head, landed, now) {
            self.complete_landed(landed);
        }
        Ok(())
    }

    /// Begins a large frame with a segment that lies where the next frame belongs; false if it is none that others may follow.
    fn open(&mut self, bytes: &[u8], landed: &Landed<'_>, now: Instant) -> bool {
        let can = self.negotiated.to_guest;
        let Ok(frame) = Frame::parse(bytes, landed.len) else { return false };
        let Some(aggregate) = Aggregate::begin(bytes, &frame, can.ecn) else { return false };
        let headers = aggregate.headers_len();
        // What of its payload is not in the guest's buffers would have to be kept, too.
        let large = if frame_is_ipv4(&frame) { can.tso4 } else { can.tso6 };
        if !large || aggregate.size() < SMALL || headers < landed.head.len() || frame.dst != self.spec.mac {
            return false;
        }
        let (start, before) = (self.landing.next, self.negotiated.header_len);
        if self.room_for_next() < before + landed.len + aggregate.size() {
            return false;
        }
        if !self.is_verified(landed, (&bytes[..headers], &frame), (start, before + headers as u32)) {
            return false;
        }
        let vnet = VnetHeader { data_valid: landed.vnet.partial.is_none(), ..landed.vnet };
        let mut open = Open { aggregate, vnet, chains: start..start, filled: 0, capacity: 0, since: now };
        self.extend(&mut open, before + landed.len);
        self.landing.open = Some(open);
        true
    }

    /// Whether a segment's checksum is known to be right: its sender's kernel has left it to its device, or has checked it, or vonic does.
    /// Its payload lies so many bytes behind the start of a chain.
    fn is_verified(&self, landed: &Landed<'_>, (head, frame): (&[u8], &Frame), (chain, at): (usize, u32)) -> bool {
        let Content::Ip(ip) = frame.content else { return false };
        match landed.vnet.partial {
            Some(partial) => partial == PartialChecksum { start: ip.transport_offset, offset: TCP_CHECKSUM as u16 },
            None if landed.vnet.data_valid => true,
            None => {
                let len = landed.len - head.len() as u32;
                tcp_checksum_holds(head, frame, self.rx_burst.sum(chain..self.rx_burst.len(), at, len))
            }
        }
    }

    /// Gives what was put together to the guest.
    fn close(&mut self, open: &Open, end: End, now: Instant) {
        let aggregate = &open.aggregate;
        let headers = aggregate.headers();
        let vnet = aggregate.vnet().unwrap_or(open.vnet);
        let lens = (headers.as_slice(), aggregate.payload_len());
        self.write_frame(open.chains.clone(), (&vnet, headers.as_slice().len() as u16), lens.0, lens.1);
        let stats = &self.spec.stats;
        stats.coalesce.ended(aggregate, end, now.0.saturating_sub(open.since.0), &stats.aggregates);
    }

    /// Moves what was read behind another frame into the place of the next one.
    fn move_landed(
        &mut self,
        (chain, at): (usize, u32),
        landed: &Landed<'_>,
        frame: Option<&Frame>,
    ) -> Result<(), DropReason> {
        let next = self.landing.next;
        let before = self.negotiated.header_len + landed.head.len() as u32;
        if self.room_for_next() < before + landed.rest() {
            return Err(DropReason::NoRoom);
        }
        let skipped: u32 = self.rx_burst.chains()[chain..next].iter().map(|chain| chain.len).sum();
        let copied = self.spec.stats.copied(CopyPath::Coalesce);
        // What of its payload is not in the guest's buffers is copied into them with the headers.
        copied.add((landed.head.len() as u64).saturating_sub(headers_end(frame)));
        let chains = chain..self.rx_burst.len();
        move_payload(&self.rx_burst, chains, at, skipped + before, landed.rest(), copied.atomic());
        Ok(())
    }

    /// Completes a frame that lies where the next one belongs.
    fn complete_landed(&mut self, landed: &Landed<'_>) {
        let chains = self.landing.next..self.rx_burst.len();
        let end = self.write_frame(chains.clone(), (&landed.vnet, landed.headers_len), landed.head, landed.rest());
        let taken: u32 = self.rx_burst.chains()[chains.start..end].iter().map(|chain| chain.len).sum();
        self.landing.room = self.landing.room.saturating_sub(taken);
        self.landing.next = end;
    }
}

fn frame_is_ipv4(frame: &Frame) -> bool {
    matches!(frame.content, Content::Ip(ip) if ip.src.is_ipv4())
}

/// Where a frame's payload starts, as far as its headers were understood.
fn headers_end(frame: Option<&Frame>) -> u64 {
    match frame.map(|frame| frame.content) {
        Some(Content::Ip(ip)) => {
            let transport = match ip.transport {
                Transport::Tcp(tcp) => u64::from(tcp.header_len),
                Transport::Udp(_) | Transport::Icmp(_) => 8,
                Transport::Fragment(_) | Transport::Other => 0,
            };
            u64::from(ip.transport_offset) + transport
        }
        _ => ETHERNET_LEN as u64,
    }
}
