//! Frames from a guest: fetched in bursts, their headers copied once, checked, and sent on their way.
use crate::datagram::echo;
use crate::flow::guest_side::{self, Place};
use crate::offload::{Inbound, forward};
use crate::port::{FRAME_MAX, Port};
use crate::service::SERVICES;
use crate::spec::PortId;
use crate::stats::{CopyPath, Way};
use crate::switch::{Destination, Network, filter};
use crate::worker::Worker;
use std::sync::Arc;
use vonic_frame::{
    Content, DropReason, ECHO_HEADER_LEN, ETHERNET_LEN, Frame, HEADER_MAX, Ip, Transport, VNET_HEADER_LEN, VnetHeader,
};
use vonic_queue::Burst;

/// Frames taken of one port in one round; then it is the next one's turn.
const BURST: usize = 64;

impl Worker {
    /// Takes one burst of a port's frames; true if there was one.
    pub(crate) fn guest_burst(&mut self, id: PortId) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        if port.tx.available() == 0 {
            return false;
        }
        let Some(mut burst) = self.burst.take() else { return false };
        port.tx.disarm();
        let count = port.tx.fetch(&mut burst, BURST);
        for i in 0..count {
            let head = burst.chain(i).head;
            if let Err(reason) = self.guest_frame(id, &mut burst, i)
                && let Some(port) = Worker::port_mut(&mut self.ports, id)
            {
                port.spec.stats.dropped(Way::GuestToHost, reason);
            }
            // The used index moves only behind the last effect of the descriptor: at the flush.
            if let Some(port) = Worker::port_mut(&mut self.ports, id) {
                port.tx.push_used(head, 0);
            }
        }
        burst.clear();
        self.burst = Some(burst);
        count > 0
    }

    fn guest_frame(&mut self, id: PortId, burst: &mut Burst, i: usize) -> Result<(), DropReason> {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return Err(DropReason::PortDown) };
        let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else {
            return Err(DropReason::PortDown);
        };
        let mut head = [0u8; VNET_HEADER_LEN + HEADER_MAX];
        let inbound = read(port, burst, i, &mut head)?;
        port.spec.stats.frame(Way::GuestToHost, inbound.frame.len);
        filter::check_source(network, &port.spec, &inbound.frame)?;
        match network.destination(id, inbound.frame.dst)? {
            Destination::Port(to) => {
                let copied = Arc::clone(&port.spec.stats);
                deliver_to(&mut self.ports, to, &inbound, &copied);
                Ok(())
            }
            Destination::Group => {
                if serve(network, port, &inbound)? && is_dhcp(&inbound.frame) || network.spec.isolated {
                    return Ok(());
                }
                let copied = Arc::clone(&port.spec.stats);
                for &to in network.members().iter().filter(|&&to| to != id) {
                    deliver_to(&mut self.ports, to, &inbound, &copied);
                }
                Ok(())
            }
            Destination::Gateway => {
                if serve(network, port, &inbound)? {
                    return Ok(());
                }
                let Some(ip) = terminated(&inbound.frame)? else { return Ok(()) };
                let transport = inbound.start + u32::from(ip.transport_offset);
                match ip.transport {
                    Transport::Tcp(tcp) => {
                        let (key, segment) = guest_side::read(port, &inbound, &ip, &tcp)?;
                        let payload = transport + u32::from(tcp.header_len);
                        self.guest_segment(key, &segment, burst, Place { chain: i, payload })
                    }
                    Transport::Icmp(_) => {
                        let echo = echo::read(id, &inbound, &ip)?.ok_or(DropReason::Unsupported)?;
                        let payload = transport + ECHO_HEADER_LEN as u32;
                        self.guest_echo(&echo, burst, Place { chain: i, payload })
                    }
                    Transport::Fragment => Err(DropReason::Fragment),
                    Transport::Udp(_) | Transport::Other => Err(DropReason::Unsupported),
                }
            }
        }
    }
}

/// What of a frame to the gateway, that no service took, is terminated; `None`: nothing, and rightly so.
fn terminated(frame: &Frame) -> Result<Option<Ip>, DropReason> {
    match frame.content {
        // An answer, or a question about somebody else.
        Content::Arp(_) => Ok(None),
        Content::Ip(ip) => Ok(Some(ip)),
        _ => Err(DropReason::Unsupported),
    }
}

/// Copies a frame's leading bytes, once, and reads them.
fn read<'a, 'h>(port: &Port, burst: &'a Burst, i: usize, head: &'h mut [u8]) -> Result<Inbound<'a, 'h>, DropReason> {
    let chain = burst.chain(i);
    if let Some(reason) = chain.fault {
        return Err(reason);
    }
    let start = port.negotiated.header_len;
    let frame_len = chain.len.checked_sub(start).filter(|len| *len >= ETHERNET_LEN as u32);
    let frame_len = frame_len.ok_or(DropReason::Truncated)?;
    if frame_len > FRAME_MAX {
        return Err(DropReason::Oversized);
    }
    let wanted = (start as usize + HEADER_MAX).min(head.len());
    let got = burst.read(i, 0, &mut head[..wanted]);
    let (vnet, bytes) = head[..got].split_at_checked(start as usize).ok_or(DropReason::Truncated)?;
    let mut fields = [0u8; VNET_HEADER_LEN];
    fields[..vnet.len()].copy_from_slice(vnet);
    let vnet = VnetHeader::parse(&fields, frame_len, port.negotiated.from_guest)?;
    let frame = Frame::parse(bytes, frame_len)?;
    Ok(Inbound { burst, chain: i, start, vnet, head: bytes, frame })
}

/// Lets the services answer; true if one did.
fn serve(network: &Network, port: &mut Port, inbound: &Inbound<'_, '_>) -> Result<bool, DropReason> {
    for service in SERVICES {
        match (service.handle)(network, port, inbound) {
            Ok(false) => {}
            Ok(true) => return Ok(true),
            // The answer found no room: the guest's own fault, and its frame was good.
            Err(reason @ (DropReason::NoRoom | DropReason::PortDown)) => {
                port.dropped_to_guest(reason);
                return Ok(true);
            }
            Err(reason) => return Err(reason),
        }
    }
    Ok(false)
}

fn is_dhcp(frame: &Frame) -> bool {
    matches!(&frame.content, Content::Ip(ip) if filter::is_dhcp_request(ip))
}

/// Copies a frame into another guest's ring. What does not fit is dropped there, and counted there.
fn deliver_to(ports: &mut [Option<Box<Port>>], to: PortId, inbound: &Inbound<'_, '_>, from: &crate::PortStats) {
    let Some(to) = Worker::port_mut(ports, to) else { return };
    // Nobody misses a broadcast in a machine that is off.
    if inbound.frame.dst.is_group() && !to.rx.is_live() {
        return;
    }
    if let Err(reason) = forward(inbound, to, from.copied(CopyPath::GuestToGuest)) {
        to.dropped_to_guest(reason);
    }
}
