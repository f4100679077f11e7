//! ARP for the gateway's addresses (RFC 826).
use crate::offload::Inbound;
use crate::port::Port;
use crate::switch::Network;
use vonic_frame::{Arp, Content, DropReason, VnetHeader, arp_frame};

/// Answers requests for an address that vonic serves.
pub fn handle(network: &Network, port: &mut Port, inbound: &Inbound<'_, '_>) -> Result<bool, DropReason> {
    let Content::Arp(request) = inbound.frame.content else { return Ok(false) };
    if request.operation != 1 || !network.is_service(request.target.into()) {
        return Ok(false);
    }
    let gateway = network.spec.gateway_mac;
    let reply = Arp {
        operation: 2,
        sender_mac: gateway,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    };
    let frame = arp_frame(gateway, inbound.frame.src, &reply);
    port.deliver(&VnetHeader::default(), frame.as_slice(), None).map(|()| true)
}
