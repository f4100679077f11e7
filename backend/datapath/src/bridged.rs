//! Between a guest and its cable, a tap at a bridge of the host or a packet socket at an interface: no payload is copied on either way.
//!
//! Guest to uplink: one writev of the rebuilt virtio-net header, of the leading bytes as they were checked (the guest may
//! have changed its own by now), and of the rest where it lies in guest memory. Uplink to guest: one readv, whose first
//! bytes come here to be looked at, and whose rest goes into the guest's buffers; or, where the kernel finishes nothing for a guest
//! that needs it, a look first (`ahead`).
mod ahead;

use crate::coalescing::{Coalesce, Landed};
use crate::offload::{Inbound, leading};
use crate::port::{FRAME_MAX, Negotiated, Port, SMALLEST_FRAME};
use crate::spec::PortId;
use crate::worker::Worker;
use crate::worker::events::{Poller, Token};
use std::io;
use std::os::fd::AsRawFd;
use vonic_frame::{
    Content, DropReason, ETHERNET_LEN, HEADER_MAX, HeaderBytes, Ip, MacAddr, Transport, VNET_HEADER_LEN, VnetHeader,
};
use vonic_queue::{Burst, Gather};
use vonic_tcp::Instant;
use vonic_uplink::Cable;

/// Frames taken of one tap in one round; then it is the next port's turn.
const BURST: usize = 64;
/// What is read at least of a frame before the guest's buffers: the virtio-net and Ethernet headers.
const FRONT: usize = VNET_HEADER_LEN + ETHERNET_LEN;
/// Bytes of a TCP header without options, and where in it its length stands (RFC 9293 §3.1).
const TCP_LEN: u32 = 20;
const TCP_DATA_OFFSET: usize = 12;

/// How far a port's tap has been read.
#[derive(Debug)]
pub struct TapState {
    /// Its descriptor is watched: the guest's receive ring runs.
    watched: bool,
    /// There may be frames: news is told once.
    readable: bool,
    /// How many chains the guest must have posted before it is worth looking again; at least 1.
    wanted: u16,
    /// The most chains that the guest had posted so far.
    most: u16,
    /// Bytes taken in this turn.
    took: u32,
}

impl Default for TapState {
    fn default() -> TapState {
        TapState { watched: false, readable: false, wanted: 1, most: 0, took: 0 }
    }
}

impl TapState {
    /// If frames wait for the guest to post more buffers: how many posted chains are too few.
    pub fn starved(&self) -> Option<u16> {
        self.readable.then(|| self.wanted - 1)
    }
}

impl Worker {
    /// Frames have arrived in a port's tap.
    pub(crate) fn tap_event(&mut self, id: PortId) {
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            port.tap.readable = port.tap.watched;
        }
        self.woken = true;
    }

    /// Takes one burst of a port's tap's frames; true if there was one.
    pub(crate) fn uplink_burst(&mut self, id: PortId) -> bool {
        let has_work = |port: &mut Port| port.tap.readable || port.landing.is_busy();
        if !Worker::port_mut(&mut self.ports, id).is_some_and(has_work) {
            return false;
        }
        let how = (self.coalesce(id), self.now);
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        let Some(tap) = port.spec.tap.clone().filter(|_| port.tap.readable) else {
            return port.landing.is_busy() && port.end_burst(how.0, how.1);
        };
        self.signs.at(port.spec.vm);
        port.queues.aim_at_tap();
        let mut taken = 0;
        while taken < BURST && uplink_to_guest(port, &tap, &mut self.gather, how) {
            taken += 1;
        }
        self.polling.moved(std::mem::take(&mut port.tap.took));
        port.end_burst(how.0, how.1) || taken > 0
    }

    /// Watches a port's tap while the guest's receive ring runs, and only then: nobody reads a bridge's chatter for a machine
    /// that is off.
    pub(crate) fn watch_tap(&mut self, id: PortId) {
        self.watch_if_live(id);
        self.record_tap(id);
    }

    fn watch_if_live(&mut self, id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        let Some(tap) = port.spec.tap.as_ref() else { return };
        let live = port.queues.is_live();
        if live == port.tap.watched {
            return;
        }
        if !live {
            forget(&self.poller, port);
            return;
        }
        if !std::mem::take(&mut port.custody.tap_waits) {
            tap.start();
        }
        match self.poller.watch_input(tap.as_raw_fd(), Token::Tap { port: id }) {
            Ok(()) => port.tap = TapState { watched: true, readable: true, ..Default::default() },
            Err(error) => (self.notify)(crate::Notice::WatchFailed { port: id, error }),
        }
    }
}

/// Reads a port's cable no more.
pub fn forget(poller: &Poller, port: &mut Port) {
    if let Some(tap) = port.spec.tap.as_ref().filter(|_| port.tap.watched) {
        poller.forget(tap.as_raw_fd());
        tap.rest();
    }
    port.tap = TapState::default();
}

/// The guest that frames have waited for since an engine died does not come.
pub fn give_up(port: &mut Port) {
    if let Some(tap) = port.spec.tap.as_ref().filter(|_| std::mem::take(&mut port.custody.tap_waits)) {
        tap.rest();
    }
}

/// A guest's frame on its way to the uplink: what was read of it and checked, and where the rest lies.
pub struct Outbound {
    vnet: [u8; VNET_HEADER_LEN],
    headers: HeaderBytes,
    chain: usize,
    start: u32,
    len: u32,
    /// Bytes of the longest frame that it is on the wire.
    longest: u32,
}

impl Outbound {
    /// A checked frame, which the guest's burst no longer has to be borrowed for.
    ///
    /// # Errors
    /// `Oversized` beyond the guest's own MTU; `BadVnetHeader` for segmentation of what has no whole TCP header.
    pub fn new(inbound: &Inbound<'_, '_>, mtu: u16) -> Result<Outbound, DropReason> {
        let (headers_len, longest) = match inbound.vnet.gso {
            Some(gso) => {
                let headers = tcp_headers_len(inbound)?;
                (headers, headers + u32::from(gso.size).min(inbound.frame.len - headers))
            }
            None => (0, inbound.frame.len),
        };
        check_packet(longest, mtu)?;
        let vnet = VnetHeader { data_valid: false, ..inbound.vnet };
        Ok(Outbound {
            vnet: vnet.emit(headers_len as u16, 0),
            headers: leading(inbound, inbound.vnet.partial),
            chain: inbound.chain,
            start: inbound.start,
            len: inbound.frame.len,
            longest,
        })
    }
}

/// Whether a frame of so many bytes holds no packet beyond the MTU.
fn check_packet(frame_len: u32, mtu: u16) -> Result<(), DropReason> {
    if frame_len > u32::from(mtu) + ETHERNET_LEN as u32 { Err(DropReason::Oversized) } else { Ok(()) }
}

/// Bytes of all headers of a TCP frame that is to be segmented: its checksum starts with the TCP header.
fn tcp_headers_len(inbound: &Inbound<'_, '_>) -> Result<u32, DropReason> {
    let start = inbound.vnet.partial.map_or(0, |partial| usize::from(partial.start));
    match inbound.frame.content {
        Content::Ip(Ip { transport: Transport::Tcp(_), transport_offset, .. })
            if usize::from(transport_offset) == start => {}
        _ => return Err(DropReason::BadVnetHeader),
    }
    let offset = inbound.head.get(start + TCP_DATA_OFFSET).ok_or(DropReason::BadVnetHeader)?;
    let tcp = u32::from(offset >> 4 << 2);
    let len = start as u32 + tcp;
    if tcp < TCP_LEN || len > inbound.frame.len { Err(DropReason::BadVnetHeader) } else { Ok(len) }
}

/// Gives a guest's frame to its cable.
///
/// # Errors
/// `UplinkDown` without one, `UplinkFull`, `Oversized` beyond what it takes, `ChainTooLong` for more pieces than one call takes,
/// `BadHeader` for what the kernel refuses.
pub fn guest_to_uplink(port: &Port, burst: &mut Burst, frame: &Outbound) -> Result<(), DropReason> {
    let tap = port.spec.tap.as_ref().ok_or(DropReason::UplinkDown)?;
    if tap.mtu().is_some_and(|mtu| frame.longest > mtu + ETHERNET_LEN as u32) {
        return Err(DropReason::Oversized);
    }
    let headers = frame.headers.as_slice();
    let mut front = [0u8; VNET_HEADER_LEN + HEADER_MAX];
    let vnet = VNET_HEADER_LEN - tap.header_gap();
    let cut = vnet + headers.len();
    front[..vnet].copy_from_slice(&frame.vnet[..vnet]);
    front[vnet..cut].copy_from_slice(headers);
    let (chains, read) = (frame.chain..frame.chain + 1, headers.len() as u32);
    let vecs = burst.iovecs_behind(&mut front[..cut], cut, chains, frame.start + read, frame.len - read);
    if vecs.len_bytes() != vnet + frame.len as usize {
        return Err(DropReason::ChainTooLong);
    }
    tap.send(&vecs).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => DropReason::UplinkFull,
        io::ErrorKind::InvalidInput => DropReason::BadHeader,
        _ => DropReason::UplinkDown,
    })
}

/// The longest frame that may come up, with the guest's virtio-net header.
fn longest(port: &Port) -> u32 {
    let Negotiated { to_guest, header_len, .. } = port.negotiated;
    let large = to_guest.tso4 || to_guest.tso6;
    header_len + if large { FRAME_MAX } else { u32::from(port.spec.mtu) + ETHERNET_LEN as u32 }
}

/// Reserves buffers for the next frame, whose length nobody knows yet; returns the bytes that they hold. A frame that finds
/// too little room is lost, so where chains can be merged the tap waits until there is room for the longest, or until half
/// of what the guest posts at best is posted: that may never hold the longest.
fn reserve(port: &mut Port, longest: u32) -> Option<u32> {
    let posted = port.rx().available();
    port.tap.most = port.tap.most.max(posted);
    let half = (port.tap.most / 2).max(1);
    if posted < port.tap.wanted {
        return None;
    }
    let patient = port.negotiated.mergeable && posted < half;
    match port.reserve(if patient { longest } else { SMALLEST_FRAME }, longest) {
        0 => {
            let next = if port.negotiated.mergeable { posted.saturating_add(1) } else { 1 };
            port.tap.wanted = if patient { next.min(half) } else { next };
            port.release();
            None
        }
        room => {
            port.tap.wanted = 1;
            Some(room)
        }
    }
}

/// Takes one frame of the cable; false if none waits, or none can be taken now.
fn uplink_to_guest(port: &mut Port, cable: &Cable, gather: &mut Gather, how: (Coalesce, Instant)) -> bool {
    if cable.is_raw() { ahead::uplink_to_guest(port, cable, gather, how) } else { finished_to_guest(port, cable, how) }
}

/// The same of a cable whose kernel has finished for this guest whatever it cannot take.
fn finished_to_guest(port: &mut Port, tap: &Cable, how: (Coalesce, Instant)) -> bool {
    let longest = longest(port);
    let Some(place) = port.place(longest, how.1, |port| reserve(port, longest)) else { return false };
    let (mut front, mut behind) = ([0u8; VNET_HEADER_LEN + HEADER_MAX], [0u8; 1]);
    let front = &mut front[..place.front];
    let vecs = port.rx_burst.iovecs_between(front, place.chains.clone(), place.offset, place.len, &mut behind);
    let capacity = vecs.len_bytes() - 1;
    let got = match tap.receive(&vecs) {
        Ok(Some(got)) => got,
        // Gone: whoever made the tap hears of it from the kernel.
        Ok(None) | Err(_) => {
            port.tap.readable = false;
            return false;
        }
    };
    port.tap.took += got as u32;
    let result = if got > capacity {
        Err(if place.is_short { DropReason::NoRoom } else { DropReason::Oversized })
    } else {
        check(port, front, got).and_then(|(vnet, headers_len)| {
            let head = &front[VNET_HEADER_LEN..got.min(place.front)];
            let len = (got - VNET_HEADER_LEN) as u32;
            if !port.receive_filter.accepts(destination(head)) {
                return Ok(());
            }
            port.land(&place, &Landed { head, len, vnet, headers_len }, how)
        })
    };
    if let Err(reason) = result {
        port.dropped_to_guest(reason);
    }
    true
}

fn destination(frame: &[u8]) -> MacAddr {
    frame.first_chunk().map_or(MacAddr::default(), |bytes| MacAddr(*bytes))
}

/// Looks at what came up, by the bytes that are not in the guest's memory: whether it is for this guest, and such that the
/// guest can take it. Returns its virtio-net header, and where its payload starts if it is to be segmented.
fn check(port: &Port, front: &[u8], got: usize) -> Result<(VnetHeader, u16), DropReason> {
    let front: &[u8; FRONT] = front.first_chunk().ok_or(DropReason::Truncated)?;
    let (vnet, ethernet) = front.split_first_chunk::<VNET_HEADER_LEN>().ok_or(DropReason::Truncated)?;
    let frame_len = got.checked_sub(VNET_HEADER_LEN).filter(|len| *len >= ETHERNET_LEN).ok_or(DropReason::Truncated)?;
    check_address(port, ethernet)?;
    let can = port.negotiated.to_guest;
    let header = VnetHeader::parse(vnet, frame_len as u32, can)?;
    let header = VnetHeader { data_valid: header.data_valid && can.csum, ..header };
    let (Some(gso), Some(partial)) = (header.gso, header.partial) else {
        return check_packet(frame_len as u32, port.spec.mtu).map(|()| (header, ETHERNET_LEN as u16));
    };
    let least = u32::from(partial.start) + TCP_LEN;
    check_packet(least + u32::from(gso.size), port.spec.mtu)?;
    // The kernel's hint, within what it can be: no less than the headers, no more than the frame.
    let hint = u32::from(u16::from_le_bytes([vnet[2], vnet[3]]));
    Ok((header, hint.max(least).min(frame_len as u32) as u16))
}

/// Whether a frame with this Ethernet header is for this guest, and on no VLAN.
fn check_address(port: &Port, ethernet: &[u8]) -> Result<(), DropReason> {
    let ethernet = ethernet.first_chunk::<ETHERNET_LEN>().ok_or(DropReason::Truncated)?;
    let to = destination(ethernet);
    if to != port.spec.mac && !to.is_group() {
        return Err(DropReason::UnknownDestination);
    }
    // IEEE 802.1Q and 802.1ad; a guest could not answer.
    if matches!(ethernet[12..], [0x81, 0x00] | [0x88, 0xa8]) {
        return Err(DropReason::VlanTagged);
    }
    Ok(())
}
