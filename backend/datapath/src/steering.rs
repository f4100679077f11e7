//! Which receive queue a flow takes: a hash of its addresses and ports, the same whether they come from a connection's name or
//! from a frame's headers. Fragments have no ports, so of a fragmented datagram all pieces go one way.
use std::net::{IpAddr, SocketAddr};
use vonic_frame::{PROTOCOL_TCP, PROTOCOL_UDP};

/// The hash of a flow towards a guest.
pub fn hash_of_flow(remote: SocketAddr, guest: SocketAddr) -> u32 {
    let addresses = match (remote.ip(), guest.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => mix(mix(0, &from.octets()), &to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => mix(mix(0, &from.octets()), &to.octets()),
        _ => 0,
    };
    finish(mix(mix(addresses, &remote.port().to_be_bytes()), &guest.port().to_be_bytes()))
}

/// The hash of the flow that a frame belongs to, by its leading bytes; 0 if it is no IP.
pub fn hash_of_frame(headers: &[u8]) -> u32 {
    addresses_and_ports(headers).map_or(0, |(addresses, ports)| {
        let (from, to) = ports.split_at(ports.len() / 2);
        finish(mix(mix(mix(0, addresses), from), to))
    })
}

/// Both addresses, and both ports if there are any: RFC 791 §3.1, RFC 8200 §3.
fn addresses_and_ports(headers: &[u8]) -> Option<(&[u8], &[u8])> {
    const NO_PORTS: &[u8] = &[0; 4];
    let packet = headers.get(14..)?;
    // The shortest header of either kind: everything below that is indexed lies in it.
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let (addresses, protocol, transport) = match headers.get(12..14)? {
        [0x08, 0x00] => {
            let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
            let length = usize::from(fixed[0] & 15) * 4;
            (&fixed[12..20], if fragment { None } else { Some(fixed[9]) }, packet.get(length..))
        }
        [0x86, 0xdd] => (packet.get(8..40)?, Some(fixed[6]), packet.get(40..)),
        _ => return None,
    };
    let has_ports = protocol.is_some_and(|protocol| protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP);
    let ports = transport.filter(|_| has_ports).and_then(|transport| transport.get(..4));
    Some((addresses, ports.unwrap_or(NO_PORTS)))
}

fn mix(hash: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(4).fold(hash, |hash, chunk| {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        (hash ^ word).wrapping_mul(0x9e37_79b1).rotate_left(15)
    })
}

/// Every bit of the sum decides about the lowest ones.
fn finish(hash: u32) -> u32 {
    let hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash ^ hash >> 13
}

#[cfg(test)]
mod tests {
    use super::*;
    use vonic_frame::{Checksum, Envelope, TcpFields, tcp_headers};

    fn headers(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let envelope =
            Envelope { src_mac: Default::default(), dst_mac: Default::default(), src: from.ip(), dst: to.ip() };
        let fields = TcpFields {
            src_port: from.port(),
            dst_port: to.port(),
            seq: 1,
            ack: 2,
            flags: 16,
            window: 3,
            options: &[],
            payload_len: 0,
        };
        tcp_headers(&envelope, &fields, Checksum::Full(0)).0.as_slice().to_vec()
    }

    #[test]
    fn a_connection_and_its_frames_have_one_hash_and_ports_spread_over_two_queues() {
        let mut odd = 0;
        for port in 1000..2000u16 {
            let (from, to) = (SocketAddr::from(([192, 0, 2, 1], 80)), SocketAddr::from(([192, 0, 2, 7], port)));
            let hash = hash_of_flow(from, to);
            assert_eq!(hash_of_frame(&headers(from, to)), hash);
            odd += hash % 2;
        }
        assert!((400..600).contains(&odd), "{odd} of 1000");
    }

    #[test]
    fn all_fragments_of_a_datagram_go_one_way() {
        let frame = headers(SocketAddr::from(([192, 0, 2, 1], 80)), SocketAddr::from(([192, 0, 2, 7], 9)));
        let whole = hash_of_frame(&frame);
        let fragment = |flags_and_offset: u16, rest: u8| {
            let mut frame = frame.clone();
            frame[20..22].copy_from_slice(&flags_and_offset.to_be_bytes());
            frame[34..].fill(rest);
            hash_of_frame(&frame)
        };
        assert_eq!(fragment(0x2000, 1), fragment(0x00b9, 2));
        assert_ne!(whole, fragment(0x2000, 1));
        // DF is no fragment.
        assert_eq!(fragment(0x4000, 1), fragment(0x4000, 1));
        assert_ne!(fragment(0x4000, 1), fragment(0x4000, 2));
    }

    #[test]
    fn short_and_foreign_frames_hash_too() {
        let frame = headers(SocketAddr::from(([192, 0, 2, 1], 80)), SocketAddr::from(([192, 0, 2, 7], 9)));
        for length in 0..frame.len() {
            hash_of_frame(&frame[..length]);
        }
        assert_eq!(hash_of_frame(&[0xff; 60]), 0);
    }
}
