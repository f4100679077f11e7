//! A segment as it came, and a header as it is to go out.

use core::ops::BitOr;

use crate::{OptionBytes, Seq};

/// The control bits of a TCP header (RFC 9293 §3.1), in their place in the header's byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgment field is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant; it is ignored.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo.
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced.
    pub const CWR: Flags = Flags(0x80);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// A segment from the guest: its header's fields in host byte order, and how much payload it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// SEG.SEQ
    pub seq: Seq,
    /// SEG.ACK; without meaning unless [`Flags::ACK`] is set.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as it stands in the header, unscaled.
    pub window: u16,
    /// The bytes between the fixed header and the payload.
    pub options: &'a [u8],
    /// Payload in bytes, without SYN and FIN.
    pub len: u32,
}

impl Segment<'_> {
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// SEG.LEN: the payload, with SYN and FIN as one each.
    pub(crate) fn seq_len(&self) -> u32 {
        self.len.wrapping_add(u32::from(self.has(Flags::SYN))).wrapping_add(u32::from(self.has(Flags::FIN)))
    }

    /// The sequence number behind this segment.
    pub(crate) fn end(&self) -> Seq {
        self.seq + self.seq_len()
    }
}

/// The header of a segment to the guest. The caller adds ports and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// SEG.SEQ
    pub seq: Seq,
    /// SEG.ACK; 0 unless [`Flags::ACK`] is set.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as it is to stand in the header.
    pub window: u16,
    /// Options, padded to whole words.
    pub options: OptionBytes,
}

impl Header {
    /// A reset, with an acknowledgment where the rules of RFC 9293 §3.5.2 ask for one.
    pub(crate) fn reset(seq: Seq, ack: Option<Seq>) -> Header {
        let flags = if ack.is_some() { Flags::RST | Flags::ACK } else { Flags::RST };
        Header { seq, ack: ack.unwrap_or(Seq(0)), flags, window: 0, options: OptionBytes::EMPTY }
    }
}

/// The answer to a segment that belongs to no leg (RFC 9293 §3.10.7.1); `None` if it is a reset itself.
pub fn reset_for(segment: &Segment) -> Option<Header> {
    if segment.has(Flags::RST) {
        None
    } else if segment.has(Flags::ACK) {
        Some(Header::reset(segment.ack, None))
    } else {
        Some(Header::reset(Seq(0), Some(segment.end())))
    }
}
