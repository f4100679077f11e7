//! Header layouts (IEEE 802.3, RFC 826, RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792), all in network byte order.
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name { $(pub $field: $kind,)* }

        impl $name {
            /// Bytes of the fixed part.
            pub const LEN: usize = size_of::<$name>();

            /// The header at `offset`, if all of it is there.
            pub fn at(bytes: &[u8], offset: usize) -> Option<$name> {
                $name::read_from_prefix(bytes.get(offset..)?).ok().map(|(header, _)| header)
            }

            /// Writes the header at `offset`; the caller's buffer is known to have room.
            #[allow(dead_code)]
            pub fn put(&self, bytes: &mut [u8], offset: usize) {
                bytes[offset..offset + Self::LEN].copy_from_slice(self.as_bytes());
            }
        }
    };
}

layout! { Ethernet { dst: [u8; 6], src: [u8; 6], kind: U16, } }
layout! { ArpIpv4 {
    hardware: U16, protocol: U16, hardware_len: u8, protocol_len: u8, operation: U16,
    sender_mac: [u8; 6], sender: [u8; 4], target_mac: [u8; 6], target: [u8; 4],
} }
layout! { Ipv4 {
    version_ihl: u8, tos: u8, total_len: U16, id: U16, fragment: U16, ttl: u8, protocol: u8, checksum: U16,
    src: [u8; 4], dst: [u8; 4],
} }
layout! { Ipv6 {
    version_class_flow: U32, payload_len: U16, next_header: u8, hop_limit: u8, src: [u8; 16], dst: [u8; 16],
} }
layout! { Ipv6Extension { next_header: u8, len: u8, } }
layout! { Ipv6Fragment { next_header: u8, reserved: u8, offset_flags: U16, id: U32, } }
layout! { Tcp {
    src: U16, dst: U16, seq: U32, ack: U32, data_offset: u8, flags: u8, window: U16, checksum: U16, urgent: U16,
} }
layout! { Udp { src: U16, dst: U16, len: U16, checksum: U16, } }
layout! { Icmp { kind: u8, code: u8, checksum: U16, id: U16, seq: U16, } }

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad tags.
pub(crate) const ETHERTYPE_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
