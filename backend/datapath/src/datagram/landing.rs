//! Where a datagram to a guest is received: in one frame's buffers, or in those of its fragments.
use super::HEADER_LEN;
use super::fragmenter::{Fragmenter, Headers};
use super::pump::Next;
use crate::port::Port;
use std::net::IpAddr;
use vonic_frame::{DropReason, ETHERNET_LEN, VnetHeader, ip_header_len};
use vonic_queue::IoVecs;

/// Buffers of the guest's, reserved for one datagram.
#[derive(Clone, Copy)]
pub struct Landing {
    /// Where its payload begins: bytes of the headers in front of it.
    before: u32,
    /// Bytes up to the end of the buffers, or of the largest frame.
    room: u32,
    largest: u32,
    /// It takes more than one frame.
    long: bool,
}

/// The longest datagram that goes to a guest in one frame, in bytes behind the IP header.
pub fn longest_whole(port: &Port, guest: IpAddr) -> u32 {
    u32::from(port.spec.mtu.saturating_sub(ip_header_len(guest)))
}

/// Reserves buffers in the receive queue aimed at, for a datagram of up to `len` bytes behind the IP header, or of a whole frame
/// if that is more; `skip` throws away the one that they are for, where what is posted holds no frame at all.
///
/// # Errors
/// `Starved`, `Short`; `Lost` and `Empty` behind `skip`.
pub fn reserve(
    port: &mut Port,
    fragmenter: &mut Fragmenter,
    (guest, len): (IpAddr, u32),
    skip: impl FnOnce() -> bool,
) -> Result<Landing, Next> {
    let headers = ETHERNET_LEN + usize::from(ip_header_len(guest)) + HEADER_LEN;
    let before = port.negotiated.header_len + headers as u32;
    let largest = port.negotiated.header_len + ETHERNET_LEN as u32 + u32::from(port.spec.mtu);
    if len > longest_whole(port, guest) {
        let room = before - HEADER_LEN as u32 + len;
        return match fragmenter.reserve(port, guest, len) {
            true => Ok(Landing { before, room, largest: room, long: true }),
            false if port.rx().available() == 0 || !port.rx().is_live() => Err(Next::Starved),
            false => Err(Next::Short),
        };
    }
    let room = port.reserve(before, largest.max(before)).min(largest);
    if room >= before {
        return Ok(Landing { before, room, largest, long: false });
    }
    port.release();
    if port.rx().available() == 0 || !port.rx().is_live() {
        return Err(Next::Starved);
    }
    if !skip() {
        return Err(Next::Empty);
    }
    port.dropped_to_guest(DropReason::NoRoom);
    Err(Next::Lost)
}

impl Landing {
    /// Whether it is for a datagram that goes to the guest in fragments.
    pub fn is_long(&self) -> bool {
        self.long
    }

    /// Why a datagram that was longer is dropped.
    pub fn too_long(&self) -> DropReason {
        if self.room < self.largest { DropReason::NoRoom } else { DropReason::Oversized }
    }

    /// Whether a longer datagram may go to the guest in fragments.
    pub fn is_whole_frame(&self) -> bool {
        !self.long && self.room == self.largest
    }

    /// iovecs over `header`, if it is not empty, and the places of the payload.
    pub fn iovecs<'a>(&self, port: &'a mut Port, fragmenter: &'a mut Fragmenter, header: &'a mut [u8]) -> IoVecs<'a> {
        if self.long {
            return fragmenter.iovecs(port, header);
        }
        let (skip, chains) = (header.len(), 0..port.rx_burst.len());
        port.rx_burst.iovecs_behind(header, skip, chains, self.before, self.room - self.before)
    }

    /// The folded sum of `len` bytes of payload that were received.
    pub fn sum(&self, port: &Port, fragmenter: &Fragmenter, len: u32) -> u16 {
        match self.long {
            true => fragmenter.sum(port, HEADER_LEN as u32 + len),
            false => port.rx_burst.sum(0..port.rx_burst.len(), self.before, len),
        }
    }

    /// Writes the headers, with a complete checksum, of `len` bytes of payload that were received.
    pub fn complete(&self, port: &mut Port, fragmenter: &Fragmenter, whole: &Headers, len: u32) {
        match self.long {
            true => fragmenter.complete(port, whole, HEADER_LEN as u32 + len),
            false => port.complete(&VnetHeader::default(), whole.headers.as_slice(), len),
        }
    }
}
