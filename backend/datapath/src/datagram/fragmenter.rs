//! Datagrams to a guest that are longer than its MTU: received straight into the places of their fragments.
//!
//! A checksum goes over the whole datagram, so none is left to the driver; and GUEST_UFO, by which a driver takes a large
//! datagram in one piece, is not offered: virtio 1.3 §5.1.3 keeps it for old drivers, and Linux has no such offload any more.
use super::HEADER_LEN;
use crate::port::Port;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::ops::Range;
use vonic_frame::{
    ETHERNET_LEN, Envelope, Fragment, HeaderBytes, Sum, VnetHeader, fragment_capacity, fragment_header_len,
    fragment_headers,
};
use vonic_queue::{Burst, Gather, IoVecs, Part};

/// Room for the fragments of one datagram. Reused: nothing is allocated after it has seen the longest one.
pub(crate) struct Fragmenter {
    gather: Gather,
    frames: Vec<Range<usize>>,
    plan: Plan,
    secret: RandomState,
}

/// How a datagram is cut.
#[derive(Clone, Copy, Default)]
struct Plan {
    /// Bytes of it in every fragment but the last.
    capacity: u32,
    /// Bytes in front of those, with the virtio-net header.
    before: u32,
    /// Bytes of it that there is room for.
    room: u32,
}

impl Plan {
    /// Bytes of fragment `i` of a datagram of `len` bytes.
    fn len(&self, i: usize, len: u32) -> u32 {
        len.saturating_sub(i as u32 * self.capacity).min(self.capacity)
    }

    /// The fragments' parts of a datagram of `len` bytes, without its transport header.
    fn parts<'a>(self, burst: &'a Burst, frames: &'a [Range<usize>], len: u32) -> impl Iterator<Item = Part<'a>> {
        let parts = frames.iter().enumerate().map(move |(i, chains)| {
            let skip = if i == 0 { HEADER_LEN as u32 } else { 0 };
            let len = self.len(i, len).saturating_sub(skip);
            Part { burst, chains: chains.clone(), offset: self.before + skip, len }
        });
        parts.filter(|part| part.len > 0)
    }
}

/// The headers of a datagram as if it went in one frame, and what of them its fragments need.
pub struct Headers {
    /// Addresses.
    pub envelope: Envelope,
    /// Protocol number.
    pub protocol: u8,
    /// All of them.
    pub headers: HeaderBytes,
    /// Where the transport's begin.
    pub at: usize,
}

impl Fragmenter {
    pub(crate) fn new() -> Fragmenter {
        Fragmenter { gather: Gather::default(), frames: Vec::new(), plan: Plan::default(), secret: RandomState::new() }
    }

    /// Reserves buffers for the fragments of a datagram of up to `len` bytes behind the IP header; false, and nothing is
    /// reserved, if there are not so many.
    pub(crate) fn reserve(&mut self, port: &mut Port, guest: IpAddr, len: u32) -> bool {
        let headers = ETHERNET_LEN as u32 + u32::from(fragment_header_len(guest));
        let capacity = fragment_capacity(guest, port.spec.mtu);
        self.plan = Plan { capacity, before: port.negotiated.header_len + headers, room: len };
        self.frames.clear();
        port.rx_burst.clear();
        for i in 0..len.div_ceil(capacity.max(8)) {
            let bytes = self.plan.before + self.plan.len(i as usize, len);
            let Some(chains) = port.reserve_next(bytes) else {
                port.release();
                return false;
            };
            self.frames.push(chains);
        }
        true
    }

    /// iovecs over `header`, if it is not empty, and the places of the datagram's bytes behind it.
    pub(crate) fn iovecs<'a>(&'a mut self, port: &'a Port, header: &'a mut [u8]) -> IoVecs<'a> {
        let mut vecs = self.gather.start();
        vecs.host(header);
        self.plan.parts(&port.rx_burst, &self.frames, self.plan.room).for_each(|part| vecs.guest(part));
        vecs.finish()
    }

    /// The sum of what was received, without its transport header, of a datagram of `len` bytes with it.
    pub(crate) fn sum(&self, port: &Port, len: u32) -> u16 {
        let parts = self.plan.parts(&port.rx_burst, &self.frames, len);
        parts.fold(Sum::default(), |sum, part| sum.word(part.sum())).fold()
    }

    /// Writes the headers of a datagram of `len` bytes that lies in the reserved buffers, and gives back the rest of those.
    pub(crate) fn complete(&self, port: &mut Port, whole: &Headers, len: u32) {
        // Ids that nobody can foretell who does not see this guest's traffic, and that come again late (RFC 7739 §5.3).
        let ends = (whole.envelope.src, whole.envelope.dst, whole.protocol);
        let id = (self.secret.hash_one(ends) as u32).wrapping_add(port.fragmented);
        port.fragmented = port.fragmented.wrapping_add(1);
        let transport = whole.headers.as_slice().get(whole.at..).unwrap_or_default();
        let mut used = 0;
        for (i, chains) in self.frames.iter().enumerate() {
            let offset = i as u32 * self.plan.capacity;
            let part = self.plan.len(i, len);
            if part == 0 {
                break;
            }
            let fragment = Fragment { id, offset: offset as u16, more: offset + part < len };
            let mut headers = fragment_headers(&whole.envelope, whole.protocol, &fragment, part);
            let mut payload = part;
            if i == 0 {
                headers.append(transport);
                payload = part.saturating_sub(transport.len() as u32);
            }
            used = port.complete_in(chains.clone(), &VnetHeader::default(), headers.as_slice(), payload);
        }
        port.release_behind(used);
    }
}
