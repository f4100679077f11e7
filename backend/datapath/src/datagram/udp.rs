//! UDP: a guest's datagrams go out by connected sockets (udp(7)), so that only the peer that it spoke to can answer.
use super::send::Outgoing;
use super::{HEADER_LEN, Key, Kind, Quote};
use crate::flow::guest_side::{Place, check_sum};
use crate::offload::Inbound;
use crate::port::Port;
use crate::spec::PortId;
use std::net::SocketAddr;
use vonic_frame::{
    Checksum, DropReason, Ip, MacAddr, PROTOCOL_UDP, PartialChecksum, UDP_CHECKSUM, Udp, VnetHeader, refused_datagram,
    udp_headers,
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

/// The flow to whose last datagram a guest says that nobody listens; `None`: it says something else.
pub fn refused(port: PortId, inbound: &Inbound<'_, '_>, ip: &Ip) -> Option<Key> {
    let (guest, remote) = refused_datagram(inbound.head, ip)?;
    Some(Key { kind: Kind::Udp, port, guest, remote })
}

/// Headers for `len` bytes of payload that lie `before` bytes behind the start of the reserved chains. The checksum is left to a
/// guest that can, since the kernel has checked the one that came.
pub fn complete(key: &Key, port: &mut Port, gateway: MacAddr, (before, len): (u32, u32)) {
    let (vnet, checksum) = if port.negotiated.to_guest.csum {
        let start = vonic_frame::ETHERNET_LEN as u16 + vonic_frame::ip_header_len(key.guest.ip());
        let partial = Some(PartialChecksum { start, offset: UDP_CHECKSUM as u16 });
        (VnetHeader { partial, ..VnetHeader::default() }, Checksum::Partial)
    } else {
        let sum = port.rx_burst.sum(0..port.rx_burst.len(), before, len);
        (VnetHeader::default(), Checksum::Full(sum))
    };
    let envelope = key.envelope(gateway, port.spec.mac);
    let (headers, _) = udp_headers(&envelope, (key.remote.port(), key.guest.port()), len, checksum);
    port.complete(&vnet, headers.as_slice(), len);
    port.spec.stats.udp.datagrams_host_to_guest.add(1);
    port.spec.stats.udp.bytes_host_to_guest.add(u64::from(len));
}
