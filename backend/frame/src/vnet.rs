//! The virtio-net header (virtio 1.3 §5.1.6), parsed to what it means and rebuilt from that: never forwarded.
use crate::DropReason;

/// Bytes of the header with VERSION_1 or MRG_RXBUF (virtio 1.3 §5.1.6).
pub const VNET_HEADER_LEN: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Beside the kind: the first segment says CWR (VIRTIO_NET_HDR_GSO_ECN).
const GSO_ECN: u8 = 0x80;

/// Which offloads a guest negotiated in one direction: what it may ask for (guest to host), or what it can take (host to guest).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums (CSUM, GUEST_CSUM).
    pub csum: bool,
    /// TCP over IPv4 in frames of up to 64 KiB (HOST_TSO4, GUEST_TSO4).
    pub tso4: bool,
    /// TCP over IPv6 in frames of up to 64 KiB (HOST_TSO6, GUEST_TSO6).
    pub tso6: bool,
    /// Such frames whose first segment says CWR (HOST_ECN, GUEST_ECN).
    pub ecn: bool,
}

impl Offloads {
    /// Whether large frames of this kind are among them.
    pub fn tso(&self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::Tcp4 => self.tso4,
            GsoKind::Tcp6 => self.tso6,
        }
    }

    /// Whether frames that need this segmentation are among them.
    pub fn takes(&self, gso: Gso) -> bool {
        self.tso(gso.kind) && (self.ecn || !gso.ecn)
    }
}

/// A checksum that is still to be filled in: the sum from `start` to the end of the frame belongs at `start + offset`,
/// where the pseudo header's sum already stands. Byte offsets from the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that is summed.
    pub start: u16,
    /// Place of the checksum field, from `start`.
    pub offset: u16,
}

/// Which segmentation a large frame needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// Segmentation that a large frame still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Protocols.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last; never 0.
    pub size: u16,
    /// The first segment says CWR, and no other may (RFC 3168 §6.1.2).
    pub ecn: bool,
}

/// What a virtio-net header says, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// A checksum to be completed.
    pub partial: Option<PartialChecksum>,
    /// The checksum was verified already (DATA_VALID), or is known right.
    pub data_valid: bool,
    /// Segmentation to be done; implies `partial`.
    pub gso: Option<Gso>,
}

impl VnetHeader {
    /// Reads the header of a frame of `frame_len` bytes (without it) from a driver that negotiated `allowed`.
    ///
    /// # Errors
    /// `BadVnetHeader` for offloads that were not negotiated and fields outside the frame (virtio 1.3 §5.1.6.2).
    pub fn parse(bytes: &[u8; VNET_HEADER_LEN], frame_len: u32, allowed: Offloads) -> Result<VnetHeader, DropReason> {
        let field = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        let bad = Err(DropReason::BadVnetHeader);
        let partial = if bytes[0] & F_NEEDS_CSUM != 0 {
            let partial = PartialChecksum { start: field(6), offset: field(8) };
            let end = u32::from(partial.start) + u32::from(partial.offset) + 2;
            if !allowed.csum || end > frame_len {
                return bad;
            }
            Some(partial)
        } else {
            None
        };
        let ecn = bytes[1] & GSO_ECN != 0;
        let kind = match bytes[1] & !GSO_ECN {
            _ if ecn && !allowed.ecn => return bad,
            GSO_NONE if !ecn => None,
            GSO_TCPV4 if allowed.tso4 => Some(GsoKind::Tcp4),
            GSO_TCPV6 if allowed.tso6 => Some(GsoKind::Tcp6),
            _ => return bad,
        };
        let gso = match kind {
            None => None,
            Some(kind) if partial.is_some() && field(4) != 0 => Some(Gso { kind, size: field(4), ecn }),
            Some(_) => return bad,
        };
        Ok(VnetHeader { partial, data_valid: bytes[0] & F_DATA_VALID != 0, gso })
    }

    /// The header's bytes for a frame whose protocol headers take `hdr_len` bytes and that fills `num_buffers` chains.
    pub fn emit(&self, hdr_len: u16, num_buffers: u16) -> [u8; VNET_HEADER_LEN] {
        let mut out = [0u8; VNET_HEADER_LEN];
        let mut put = |i: usize, v: u16| out[i..i + 2].copy_from_slice(&v.to_le_bytes());
        if let Some(gso) = self.gso {
            put(2, hdr_len);
            put(4, gso.size);
        }
        if let Some(partial) = self.partial {
            put(6, partial.start);
            put(8, partial.offset);
        }
        put(10, num_buffers);
        out[0] = match (self.partial.is_some(), self.data_valid) {
            (true, _) => F_NEEDS_CSUM,
            (false, true) => F_DATA_VALID,
            (false, false) => 0,
        };
        out[1] = match self.gso.map(|g| g.kind) {
            None => GSO_NONE,
            Some(GsoKind::Tcp4) => GSO_TCPV4,
            Some(GsoKind::Tcp6) => GSO_TCPV6,
        } | if self.gso.is_some_and(|gso| gso.ecn) { GSO_ECN } else { 0 };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offloads = Offloads { csum: true, tso4: true, tso6: true, ecn: true };

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        let partial = Some(PartialChecksum { start: 34, offset: 16 });
        let gso = |kind, size, ecn| Some(Gso { kind, size, ecn });
        for gso in [None, gso(GsoKind::Tcp4, 1460, false), gso(GsoKind::Tcp6, 1, false), gso(GsoKind::Tcp6, 9, true)] {
            let h = VnetHeader { partial, data_valid: false, gso };
            assert_eq!(VnetHeader::parse(&h.emit(54, 3), 2000, ALL), Ok(h));
            assert_eq!(h.emit(54, 3)[10], 3);
        }
    }

    #[test]
    fn lies_are_refused_by_name() {
        let good = VnetHeader {
            partial: Some(PartialChecksum { start: 34, offset: 16 }),
            gso: Some(Gso { kind: GsoKind::Tcp4, size: 1460, ecn: false }),
            ..Default::default()
        }
        .emit(54, 1);
        let bad = |change: &dyn Fn(&mut [u8; 12]), len, allowed| {
            let mut b = good;
            change(&mut b);
            assert_eq!(VnetHeader::parse(&b, len, allowed), Err(DropReason::BadVnetHeader));
        };
        bad(&|_| (), 51, ALL); // the checksum field ends at 52
        bad(&|b| b[0] = 0, 2000, ALL); // segmentation without a partial checksum
        bad(&|b| b[4..6].fill(0), 2000, ALL); // segments of no size
        bad(&|b| b[1] = 5, 2000, ALL); // an unknown kind
        bad(&|b| b[1] |= 0x80, 2000, Offloads { ecn: false, ..ALL });
        bad(&|b| b[1] = 0x80, 2000, ALL); // ECN of no segmentation
        bad(&|b| b[6..8].fill(0xff), 2000, ALL);
        bad(&|_| (), 2000, Offloads { tso4: false, ..ALL });
        bad(&|b| b[1] = 0, 2000, Offloads { csum: false, ..ALL });
    }
}
