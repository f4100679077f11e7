//! ICMP echo: a guest's requests go out by ping sockets (icmp(7)), and what becomes of them is told by ICMP.
//!
//! The kernel gives each socket an identifier of its own and writes checksums; the guest sees its own identifier in every
//! reply and in every quoted request.
use super::send::Outgoing;
use super::{Key, Kind, Quote};
use crate::flow::guest_side::Place;
use crate::offload::Inbound;
use crate::spec::PortId;
use std::net::{IpAddr, SocketAddr};
use vonic_frame::{DropReason, ECHO_HEADER_LEN, EchoRequest, Ip, echo_request, icmp_sum};
use vonic_uplink::Hops;

/// The echo request in a frame, its checksum found right; `None`: it carries something else.
///
/// # Errors
/// `BadVnetHeader` for an unfinished checksum, which no driver leaves in ICMP; `BadChecksum`, `BadHeader`, `Truncated`.
pub fn read(port: PortId, inbound: &Inbound<'_, '_>, ip: &Ip) -> Result<Option<Outgoing>, DropReason> {
    let Some(request) = EchoRequest::read(inbound.head, ip)? else { return Ok(None) };
    if inbound.vnet.partial.is_some() {
        return Err(DropReason::BadVnetHeader);
    }
    if ip.ttl == 0 {
        return Err(DropReason::BadHeader);
    }
    let (chains, start) = (inbound.chain..inbound.chain + 1, inbound.start + u32::from(ip.transport_offset));
    let sum = inbound.burst.sum(chains, start, ip.transport_len);
    // The kernel will write a new one, which would hide that this one is wrong.
    if !icmp_sum(ip.src, ip.dst, ip.transport_len).word(sum).is_valid() {
        return Err(DropReason::BadChecksum);
    }
    let guest = SocketAddr::new(ip.src, request.id());
    Ok(Some(Outgoing {
        key: Key { kind: Kind::Echo, port, guest, remote: SocketAddr::new(ip.dst, 0) },
        hops: Hops { ttl: ip.ttl, dont_fragment: request.dont_fragment },
        quote: Quote { header: request.header, len: ip.transport_len },
        place: Place { chain: inbound.chain, payload: start + ECHO_HEADER_LEN as u32 },
        len: ip.transport_len - ECHO_HEADER_LEN as u32,
    }))
}

/// The header in front of a request's data as the kernel takes it; `as_sent` is the guest's.
pub fn header(to: IpAddr, as_sent: &[u8; ECHO_HEADER_LEN]) -> [u8; ECHO_HEADER_LEN] {
    echo_request(to, u16::from_be_bytes([as_sent[6], as_sent[7]]))
}
