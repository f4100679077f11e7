//! The gateway's MAC address.
use vonic_frame::MacAddr;

/// FNV-1a, 64 bits: offset basis and prime.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// The gateway's MAC on a network: the lowest 48 bits of the 64-bit FNV-1a hash of the name, with the first octet's two
/// low bits set to "locally administered, unicast" (IEEE 802). It depends on nothing but the name, so a guest that
/// migrates to another host finds the same gateway there.
pub fn gateway_mac(network_name: &str) -> MacAddr {
    let hash = network_name.bytes().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let [_, _, first, rest @ ..] = hash.to_be_bytes();
    let [b, c, d, e, f] = rest;
    MacAddr([first & !0x03 | 0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_for_ever_and_locally_administered_unicast() {
        // Guests of every host and version must agree: these values may never change.
        assert_eq!(gateway_mac("default").to_string(), "a6:16:86:20:c5:fe");
        assert_eq!(gateway_mac("").to_string(), "9e:e4:84:22:23:25");
        for name in ["a", "b", "default", "lan-1", "x.y"] {
            assert_eq!(gateway_mac(name).0[0] & 0x03, 0x02, "{name}");
        }
        assert_ne!(gateway_mac("a"), gateway_mac("b"));
    }
}
