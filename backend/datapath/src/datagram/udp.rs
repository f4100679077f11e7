//! UDP: a guest's datagrams go out by connected sockets (udp(7)), so that only the peer that it spoke to can answer.
use super::fragmenter::{Fragmenter, Headers};
use super::landing::Landing;
use super::send::Outgoing;
use super::{HEADER_LEN, Key, Kind, Quote};
use crate::flow::guest_side::{Place, check_sum};
use crate::offload::Inbound;
use crate::port::Port;
use crate::spec::PortId;
use crate::switch::filter::plays_dhcp_server;
use std::net::{IpAddr, SocketAddr};
use vonic_frame::{
    Checksum, DropReason, Ip, MacAddr, PROTOCOL_UDP, PartialChecksum, Sum, UDP_CHECKSUM, Udp, VnetHeader,
    refused_datagram, udp_headers,
};
use vonic_uplink::Hops;

/// The datagram in a frame, its checksum found right.
///
/// # Errors
/// `BadVnetHeader` where the partial checksum is not UDP's, or segmentation is asked for; `BadChecksum`; `BadHeader` for a
/// destination port of 0, which is nobody's (RFC 768), and a hop limit of 0.
pub fn read(port: PortId, inbound: &Inbound<'_, '_>, ip: &Ip, udp: &Udp) -> Result<Outgoing, DropReason> {
    if inbound.vnet.gso.is_some() {
        return Err(DropReason::BadVnetHeader);
    }
    if ip.ttl == 0 || udp.dst_port == 0 {
        return Err(DropReason::BadHeader);
    }
    let header_len = HEADER_LEN as u32;
    let len = header_len + u32::from(udp.payload_len);
    if udp.has_checksum || inbound.vnet.partial.is_some() {
        check_sum(inbound, ip, (PROTOCOL_UDP, UDP_CHECKSUM), len)?;
    } else if ip.src.is_ipv6() {
        // RFC 8200 §8.1.
        return Err(DropReason::BadChecksum);
    }
    let start = usize::from(ip.transport_offset);
    let header = inbound.head.get(start..).and_then(|b| b.first_chunk()).ok_or(DropReason::Truncated)?;
    let (guest, remote) = (SocketAddr::new(ip.src, udp.src_port), SocketAddr::new(ip.dst, udp.dst_port));
    Ok(Outgoing {
        key: Key { kind: Kind::Udp, port, guest, remote },
        hops: Hops { ttl: ip.ttl, dont_fragment: ip.dont_fragment(inbound.head) },
        quote: Quote { header: *header, len },
        place: Place { chain: inbound.chain, payload: inbound.start + u32::from(ip.transport_offset) + header_len },
        len: len - header_len,
    })
}

/// The datagram that a guest sent in fragments; with its header, which is `header`, it has `len` bytes of the folded sum `sum`.
///
/// # Errors
/// `BadChecksum`; `BadHeader` for a length that is not its own, and as above; `RogueServer` for a DHCP server's.
pub fn read_whole(
    port: PortId,
    header: [u8; HEADER_LEN],
    (src, dst, ttl): (IpAddr, IpAddr, u8),
    (len, sum): (u32, u16),
    place: Place,
) -> Result<Outgoing, DropReason> {
    let [src_port, dst_port, stated, checksum] =
        [0, 2, 4, 6].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    if u32::from(stated) != len || ttl == 0 || dst_port == 0 {
        return Err(DropReason::BadHeader);
    }
    if plays_dhcp_server(src, src_port, dst_port) {
        return Err(DropReason::RogueServer);
    }
    // None was written: IPv4 allows that (RFC 768), IPv6 does not (RFC 8200 §8.1).
    let unchecked = checksum == 0 && src.is_ipv4();
    if !unchecked && (checksum == 0 || !Sum::default().pseudo(src, dst, PROTOCOL_UDP, len).word(sum).is_valid()) {
        return Err(DropReason::BadChecksum);
    }
    let (guest, remote) = (SocketAddr::new(src, src_port), SocketAddr::new(dst, dst_port));
    Ok(Outgoing {
        key: Key { kind: Kind::Udp, port, guest, remote },
        // Who fragments by himself lets others do so.
        hops: Hops { ttl, dont_fragment: false },
        quote: Quote { header, len },
        place,
        len: len - HEADER_LEN as u32,
    })
}

/// The flow to whose last datagram a guest says that nobody listens; `None`: it says something else.
pub fn refused(port: PortId, inbound: &Inbound<'_, '_>, ip: &Ip) -> Option<Key> {
    let (guest, remote) = refused_datagram(inbound.head, ip)?;
    Some(Key { kind: Kind::Udp, port, guest, remote })
}

/// Headers for `len` bytes of payload that lie in reserved buffers. The checksum of one frame is left to a guest that can, since
/// the kernel has checked the one that came.
pub fn complete(
    key: &Key,
    port: &mut Port,
    gateway: MacAddr,
    (landing, fragmenter): (Landing, &mut Fragmenter),
    len: u32,
) {
    let envelope = key.envelope(gateway, port.spec.mac);
    let write = |checksum| udp_headers(&envelope, (key.remote.port(), key.guest.port()), len, checksum);
    if !landing.is_long() && port.negotiated.to_guest.csum {
        let start = vonic_frame::ETHERNET_LEN as u16 + vonic_frame::ip_header_len(key.guest.ip());
        let partial = Some(PartialChecksum { start, offset: UDP_CHECKSUM as u16 });
        let (headers, _) = write(Checksum::Partial);
        port.complete(&VnetHeader { partial, ..VnetHeader::default() }, headers.as_slice(), len);
    } else {
        let (headers, at) = write(Checksum::Full(landing.sum(port, fragmenter, len)));
        landing.complete(port, fragmenter, &Headers { envelope, protocol: PROTOCOL_UDP, headers, at: at.into() }, len);
    }
    port.spec.stats.udp.datagrams_host_to_guest.add(1);
    port.spec.stats.udp.bytes_host_to_guest.add(u64::from(len));
}
