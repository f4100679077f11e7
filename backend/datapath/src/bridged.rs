//! Between a guest and its tap, its own port of a bridge of the host: no payload is copied on either way.
//!
//! Guest to uplink: one writev of the rebuilt virtio-net header, of the leading bytes as they were checked (the guest may
//! have changed its own by now), and of the rest where it lies in guest memory. Uplink to guest: one readv, whose first
//! bytes come here to be looked at, and whose rest goes into the guest's buffers.
use crate::offload::{Inbound, leading};
use crate::port::{FRAME_MAX, Negotiated, Port, SMALLEST_FRAME};
use crate::spec::PortId;
use crate::worker::Worker;
use crate::worker::events::{Poller, Token};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vonic_frame::{
    Content, DropReason, ETHERNET_LEN, HEADER_MAX, HeaderBytes, Ip, MacAddr, Transport, VNET_HEADER_LEN, VnetHeader,
};
use vonic_queue::Burst;
use vonic_uplink::Tap;

/// Frames taken of one tap in one round; then it is the next port's turn.
const BURST: usize = 64;
/// What is read of a frame before the guest's buffers: the virtio-net and Ethernet headers.
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
}

impl Default for TapState {
    fn default() -> TapState {
        TapState { watched: false, readable: false, wanted: 1, most: 0 }
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
        let Some(port) = Worker::port_mut(&mut self.ports, id).filter(|port| port.tap.readable) else { return false };
        let Some(tap) = port.spec.tap.clone() else { return false };
        self.signs.at(port.spec.vm);
        port.queues.aim_at_tap();
        for taken in 0..BURST {
            if !uplink_to_guest(port, &tap) {
                return taken > 0;
            }
        }
        true
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
            // What came before the guest was there is not for it.
            tap.drain();
        }
        match self.poller.watch_input(tap.as_raw_fd(), Token::Tap { port: id }) {
            Ok(()) => port.tap = TapState { watched: true, readable: true, ..Default::default() },
            Err(error) => (self.notify)(crate::Notice::WatchFailed { port: id, error }),
        }
    }
}

/// Reads a port's tap no more.
pub fn forget(poller: &Poller, port: &mut Port) {
    if let Some(tap) = port.spec.tap.as_ref().filter(|_| port.tap.watched) {
        poller.forget(tap.as_raw_fd());
    }
    port.tap = TapState::default();
}

/// A guest's frame on its way to the uplink: what was read of it and checked, and where the rest lies.
pub struct Outbound {
    vnet: [u8; VNET_HEADER_LEN],
    headers: HeaderBytes,
    chain: usize,
    start: u32,
    len: u32,
}

impl Outbound {
    /// A checked frame, which the guest's burst no longer has to be borrowed for.
    ///
    /// # Errors
    /// `Oversized` beyond the guest's own MTU; `BadVnetHeader` for segmentation of what has no whole TCP header.
    pub fn new(inbound: &Inbound<'_, '_>, mtu: u16) -> Result<Outbound, DropReason> {
        let headers_len = match inbound.vnet.gso {
            Some(gso) => {
                let headers = tcp_headers_len(inbound)?;
                check_packet(headers + u32::from(gso.size).min(inbound.frame.len - headers), mtu)?;
                headers
            }
            None => {
                check_packet(inbound.frame.len, mtu)?;
                0
            }
        };
        let vnet = VnetHeader { data_valid: false, ..inbound.vnet };
        Ok(Outbound {
            vnet: vnet.emit(headers_len as u16, 0),
            headers: leading(inbound, inbound.vnet.partial),
            chain: inbound.chain,
            start: inbound.start,
            len: inbound.frame.len,
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

/// Gives a guest's frame to its tap.
///
/// # Errors
/// `UplinkDown` without one, `UplinkFull`, `ChainTooLong` for more pieces than one call takes, `BadHeader` for what the
/// kernel refuses.
pub fn guest_to_uplink(port: &Port, burst: &mut Burst, frame: &Outbound) -> Result<(), DropReason> {
    let tap = port.spec.tap.as_ref().ok_or(DropReason::UplinkDown)?;
    let headers = frame.headers.as_slice();
    let mut front = [0u8; VNET_HEADER_LEN + HEADER_MAX];
    let cut = VNET_HEADER_LEN + headers.len();
    front[..VNET_HEADER_LEN].copy_from_slice(&frame.vnet);
    front[VNET_HEADER_LEN..cut].copy_from_slice(headers);
    let (chains, read) = (frame.chain..frame.chain + 1, headers.len() as u32);
    let vecs = burst.iovecs_behind(&mut front[..cut], cut, chains, frame.start + read, frame.len - read);
    if vecs.len_bytes() != VNET_HEADER_LEN + frame.len as usize {
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

/// Takes one frame of the tap; false if none waits, or none can be taken now.
fn uplink_to_guest(port: &mut Port, tap: &Arc<Tap>) -> bool {
    let longest = longest(port);
    let Some(room) = reserve(port, longest) else { return false };
    let offset = port.negotiated.header_len + ETHERNET_LEN as u32;
    let (mut front, mut behind) = ([0u8; FRONT], [0u8; 1]);
    let chains = 0..port.rx_burst.len();
    let len = room.min(longest) - offset;
    let vecs = port.rx_burst.iovecs_between(&mut front, chains, offset, len, &mut behind);
    let capacity = vecs.len_bytes() - 1;
    let got = match tap.receive(&vecs) {
        Ok(Some(got)) => got,
        // Gone: whoever made the tap hears of it from the kernel.
        Ok(None) | Err(_) => {
            port.tap.readable = false;
            port.release();
            return false;
        }
    };
    let verdict = if got > capacity {
        Err(if room < longest { DropReason::NoRoom } else { DropReason::Oversized })
    } else {
        check(port, &front, got)
    };
    match verdict {
        Ok((vnet, headers_len)) => {
            let payload = (got - FRONT) as u32;
            port.complete_segmented(&vnet, headers_len, &front[VNET_HEADER_LEN..], payload);
        }
        Err(reason) => {
            port.release();
            port.dropped_to_guest(reason);
        }
    }
    true
}

/// Looks at what came up, by the bytes that are not in the guest's memory: whether it is for this guest, and such that the
/// guest can take it. Returns its virtio-net header, and where its payload starts if it is to be segmented.
fn check(port: &Port, front: &[u8; FRONT], got: usize) -> Result<(VnetHeader, u16), DropReason> {
    let (vnet, ethernet) = front.split_first_chunk::<VNET_HEADER_LEN>().ok_or(DropReason::Truncated)?;
    let frame_len = got.checked_sub(VNET_HEADER_LEN).filter(|len| *len >= ETHERNET_LEN).ok_or(DropReason::Truncated)?;
    let to = ethernet.first_chunk::<6>().map_or(MacAddr::default(), |bytes| MacAddr(*bytes));
    if to != port.spec.mac && !to.is_group() {
        return Err(DropReason::UnknownDestination);
    }
    // IEEE 802.1Q and 802.1ad; a guest could not answer.
    if matches!(ethernet[12..], [0x81, 0x00] | [0x88, 0xa8]) {
        return Err(DropReason::VlanTagged);
    }
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
