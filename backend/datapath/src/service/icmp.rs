//! ICMP echo on the gateway's addresses (RFC 792, RFC 4443).
use crate::offload::Inbound;
use crate::port::{Port, Source};
use crate::stats::CopyPath;
use crate::switch::Network;
use vonic_frame::{Content, DropReason, Envelope, Transport, VnetHeader, icmp_echo_reply};

/// Answers echo requests; the data is copied once, from the request's chain into the reply's.
pub fn handle(network: &Network, port: &mut Port, inbound: &Inbound<'_, '_>) -> Result<bool, DropReason> {
    let Content::Ip(ip) = inbound.frame.content else { return Ok(false) };
    let Transport::Icmp(icmp) = ip.transport else { return Ok(false) };
    let echo_request = if ip.dst.is_ipv4() { 8 } else { 128 };
    if icmp.kind != echo_request || !network.is_service(ip.dst) {
        return Ok(false);
    }
    let start = usize::from(ip.transport_offset);
    let request: &[u8; 8] = inbound.head.get(start..).and_then(|b| b.first_chunk()).ok_or(DropReason::Truncated)?;
    let envelope = Envelope { src_mac: network.spec.gateway_mac, dst_mac: inbound.frame.src, src: ip.dst, dst: ip.src };
    let headers = icmp_echo_reply(&envelope, request, ip.transport_len);
    let stats = port.spec.stats.clone();
    let data = Source {
        burst: inbound.burst,
        chain: inbound.chain,
        offset: inbound.start + start as u32 + 8,
        len: ip.transport_len - 8,
        copied: stats.copied(CopyPath::Service),
    };
    port.deliver(&VnetHeader::default(), headers.as_slice(), Some(&data)).map(|()| true)
}
