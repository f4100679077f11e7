//! The virtio-net header as the driver sees it (virtio 1.3 §5.1.6).

/// All its fields, unchecked.
#[allow(missing_docs, reason = "named as in the specification")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub header_length: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    /// num_buffers.
    pub buffers: u16,
}

impl VnetHeader {
    /// Bytes with VERSION_1 or MRG_RXBUF.
    pub const LENGTH: usize = 12;
    /// VIRTIO_NET_HDR_F_NEEDS_CSUM.
    pub const NEEDS_CSUM: u8 = 1;
    /// VIRTIO_NET_HDR_GSO_TCPV4.
    pub const TCPV4: u8 = 1;

    /// As it lies in memory.
    pub fn encode(&self) -> [u8; VnetHeader::LENGTH] {
        let mut bytes = [0; VnetHeader::LENGTH];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let words = [self.header_length, self.gso_size, self.csum_start, self.csum_offset, self.buffers];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From the start of a buffer; `None` if it is shorter than a header.
    pub fn decode(bytes: &[u8]) -> Option<VnetHeader> {
        let bytes = bytes.get(..VnetHeader::LENGTH)?;
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some(VnetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            header_length: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            buffers: word(10),
        })
    }
}
