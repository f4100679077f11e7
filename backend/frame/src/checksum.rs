//! The Internet checksum (RFC 1071), as sums that can be taken in parts.
use std::net::IpAddr;

/// A one's-complement sum in progress. Parts may be added in any order, each as if it began at an even offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last byte counts as the high half of a word.
    pub fn bytes(self, data: &[u8]) -> Sum {
        let mut words = data.chunks_exact(2);
        let mut sum = self.0;
        for w in &mut words {
            sum += u64::from(u16::from_be_bytes([w[0], w[1]]));
        }
        if let [last] = words.remainder() {
            sum += u64::from(*last) << 8;
        }
        Sum(sum)
    }

    /// Adds a word, or the folded sum of another part.
    pub fn word(self, word: u16) -> Sum {
        Sum(self.0 + u64::from(word))
    }

    /// Adds the pseudo header of TCP or UDP (RFC 9293 §3.1, RFC 8200 §8.1). `len`: bytes of transport header and payload.
    pub fn pseudo(self, src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> Sum {
        let both = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => self.bytes(&s.octets()).bytes(&d.octets()),
            (IpAddr::V6(s), IpAddr::V6(d)) => self.bytes(&s.octets()).bytes(&d.octets()),
            _ => self,
        };
        Sum(both.0 + u64::from(protocol) + u64::from(len))
    }

    /// The sum folded to 16 bits, not inverted: what virtio's partial checksum carries (virtio 1.3 §5.1.6.2).
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum field's value: the inverted fold.
    pub fn finish(self) -> u16 {
        !self.fold()
    }

    /// Whether data that includes its checksum field sums up right.
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.finish(), 0x220d);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let data: Vec<u8> = (0..=255u8).cycle().take(4001).collect();
        let whole = Sum::default().bytes(&data);
        let parts = Sum::default().bytes(&data[..1000]).word(Sum::default().bytes(&data[1000..]).fold());
        assert_eq!(whole.fold(), parts.fold());
    }

    #[test]
    fn a_datagram_with_its_checksum_is_valid() {
        let mut header = *b"\x45\x00\x00\x3c\x1c\x46\x40\x00\x40\x06\x00\x00\xac\x10\x0a\x63\xac\x10\x0a\x0c";
        let sum = Sum::default().bytes(&header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(sum, 0xb1e6);
        assert!(Sum::default().bytes(&header).is_valid());
        header[0] ^= 1;
        assert!(!Sum::default().bytes(&header).is_valid());
    }
}
