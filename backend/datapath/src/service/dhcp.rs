//! DHCPv4 (RFC 2131): each guest gets the address of its file, always the same, and nobody else's.
use crate::offload::Inbound;
use crate::port::Port;
use crate::spec::Names;
use crate::switch::{Network, filter};
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};
use std::net::{IpAddr, Ipv4Addr};
use vonic_frame::{Content, DropReason, Envelope, MacAddr, Transport, VnetHeader, udp_frame};

/// Seconds of a lease. The address cannot change, so the length matters to nobody but the guest's timers.
const LEASE: u32 = 86_400;
/// The longest message looked at: an Ethernet frame's worth.
const MESSAGE_MAX: usize = 1500;
/// The longest message that a client takes which does not say otherwise, without IP and UDP headers (RFC 2132 §9.10).
const CLIENT_MAX: usize = 576 - 28;
/// Host name (RFC 2132 §3.14), domain name (§3.17), interface MTU (§5.1), domain search (RFC 3397).
const OPTION_HOST: u8 = 12;
const OPTION_DOMAIN: u8 = 15;
const OPTION_MTU: u8 = 26;
const OPTION_SEARCH: u8 = 119;

/// Answers DISCOVER, REQUEST and INFORM of a guest that has an address.
pub fn handle(network: &Network, port: &mut Port, inbound: &Inbound<'_, '_>) -> Result<bool, DropReason> {
    let Content::Ip(ip) = inbound.frame.content else { return Ok(false) };
    let Transport::Udp(udp) = ip.transport else { return Ok(false) };
    if !filter::is_dhcp_request(&ip) {
        return Ok(false);
    }
    let Some(lease) = Lease::of(network, port) else { return Ok(false) };
    let mut message = [0u8; MESSAGE_MAX];
    let len = usize::from(udp.payload_len).min(MESSAGE_MAX);
    let offset = inbound.start + u32::from(ip.transport_offset) + 8;
    let got = inbound.burst.read(inbound.chain, offset, &mut message[..len]);
    let mut out = [0u8; MESSAGE_MAX];
    match lease.answer(&message[..got], &mut out)? {
        Some(n) => port.deliver(&VnetHeader::default(), &out[..n], None).map(|()| true),
        None => Ok(true),
    }
}

/// What one guest is told.
struct Lease<'a> {
    address: Ipv4Addr,
    mask: Ipv4Addr,
    gateway: Ipv4Addr,
    gateway_mac: MacAddr,
    mac: MacAddr,
    mtu: u16,
    hostname: &'a str,
    names: &'a Names,
    /// The gateway answers questions for names.
    serves_names: bool,
}

impl<'a> Lease<'a> {
    fn of(network: &'a Network, port: &'a Port) -> Option<Lease<'a>> {
        let gateway = network.spec.v4.gateway?;
        Some(Lease {
            address: port.spec.address4?,
            mask: network.spec.v4.subnet?.mask4()?,
            gateway: match gateway {
                IpAddr::V4(gateway) => gateway,
                IpAddr::V6(_) => return None,
            },
            gateway_mac: network.spec.gateway_mac,
            mac: port.spec.mac,
            mtu: port.spec.mtu,
            hostname: port.spec.hostname.as_deref().unwrap_or_default(),
            names: &network.spec.names,
            serves_names: network.spec.serves_names(gateway),
        })
    }

    /// Writes the answer frame to a DHCP message; `None`: it wants none.
    fn answer(&self, message: &[u8], out: &mut [u8]) -> Result<Option<usize>, DropReason> {
        let packet = DhcpPacket::new_checked(message).map_err(|_| DropReason::BadHeader)?;
        let request = DhcpRepr::parse(&packet).map_err(|_| DropReason::BadHeader)?;
        if request.client_hardware_address != EthernetAddress(self.mac.0) {
            return Err(DropReason::SpoofedMac);
        }
        let Some(kind) = self.answer_kind(&request) else { return Ok(None) };
        let mtu = self.mtu.to_be_bytes();
        let (options, mut told) = self.options(&mtu);
        let mut body = [0u8; MESSAGE_MAX];
        // What the client has no place for is left out, from the end (RFC 2131 §4.1).
        let room = request.max_size.map_or(0, |size| usize::from(size).saturating_sub(28)).clamp(CLIENT_MAX, 1400);
        while told > 1 && self.reply(&request, kind, &options[..told]).buffer_len() > room {
            told -= 1;
        }
        let reply = self.reply(&request, kind, &options[..told]);
        let len = reply.buffer_len();
        let buffer = body.get_mut(..len).ok_or(DropReason::Oversized)?;
        reply.emit(&mut DhcpPacket::new_unchecked(buffer)).map_err(|_| DropReason::BadHeader)?;
        // The client has no address yet, or asks for a broadcast (RFC 2131 §4.1); its MAC is known in any case.
        let to = if kind == DhcpMessageType::Nak || request.client_ip.is_unspecified() {
            Ipv4Addr::BROADCAST
        } else {
            request.client_ip
        };
        let envelope = Envelope {
            src_mac: self.gateway_mac,
            dst_mac: if to.is_broadcast() { MacAddr::BROADCAST } else { self.mac },
            src: IpAddr::V4(self.gateway),
            dst: IpAddr::V4(to),
        };
        Ok(udp_frame(&envelope, (67, 68), &body[..len], out))
    }

    /// What goes beyond addresses, the more important first, and how many of these options there are.
    fn options<'b>(&'b self, mtu: &'b [u8]) -> ([DhcpOption<'b>; 4], usize) {
        let mut options = [DhcpOption { kind: OPTION_MTU, data: mtu }; 4];
        let texts = [
            (OPTION_HOST, self.hostname.as_bytes()),
            (OPTION_DOMAIN, self.names.domain.as_bytes()),
            (OPTION_SEARCH, &self.names.search),
        ];
        let mut told = 1;
        for (kind, data) in texts.into_iter().filter(|(_, data)| !data.is_empty()) {
            options[told] = DhcpOption { kind, data };
            told += 1;
        }
        (options, told)
    }

    /// RFC 2131 §4.3.
    fn answer_kind(&self, request: &DhcpRepr<'_>) -> Option<DhcpMessageType> {
        match request.message_type {
            DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
            DhcpMessageType::Request => {
                if request.server_identifier.is_some_and(|server| server != self.gateway) {
                    return None;
                }
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                Some(if wanted == self.address { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
            }
            DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
            _ => None,
        }
    }

    fn reply<'b>(&self, request: &DhcpRepr<'_>, kind: DhcpMessageType, options: &'b [DhcpOption<'b>]) -> DhcpRepr<'b> {
        let grants = kind != DhcpMessageType::Nak;
        let leases = grants && request.message_type != DhcpMessageType::Inform;
        DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: if kind == DhcpMessageType::Ack { request.client_ip } else { Ipv4Addr::UNSPECIFIED },
            your_ip: if leases { self.address } else { Ipv4Addr::UNSPECIFIED },
            server_ip: self.gateway,
            router: grants.then_some(self.gateway),
            subnet_mask: grants.then_some(self.mask),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.gateway),
            parameter_request_list: None,
            dns_servers: (grants && self.serves_names).then(|| [self.gateway].into_iter().collect()),
            max_size: None,
            lease_duration: leases.then_some(LEASE),
            renew_duration: None,
            rebind_duration: None,
            additional_options: if grants { options } else { &[] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vonic_frame::{Frame, HEADER_MAX};

    fn names() -> Names {
        let search = vonic_frame::encode_domains(["example.org", "x"]);
        Names { resolvers: None, domain: "example.org".into(), search }
    }

    fn lease(names: &Names) -> Lease<'_> {
        Lease {
            address: [192, 0, 2, 2].into(),
            mask: [255, 255, 255, 0].into(),
            gateway: [192, 0, 2, 1].into(),
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mac: MacAddr([2, 0, 0, 0, 0, 2]),
            mtu: 1400,
            hostname: "web1",
            names,
            serves_names: true,
        }
    }

    fn ask(kind: DhcpMessageType, wanted: Option<Ipv4Addr>, mac: [u8; 6]) -> Result<Option<Vec<u8>>, DropReason> {
        ask_of(&lease(&names()), (kind, wanted, mac), None)
    }

    fn ask_of(
        lease: &Lease<'_>,
        (kind, wanted, mac): (DhcpMessageType, Option<Ipv4Addr>, [u8; 6]),
        max_size: Option<u16>,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let request = DhcpRepr {
            message_type: kind,
            transaction_id: 77,
            secs: 0,
            client_hardware_address: EthernetAddress(mac),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: wanted,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).unwrap();
        let mut out = [0; MESSAGE_MAX];
        lease.answer(&bytes, &mut out).map(|n| n.map(|n| out[..n].to_vec()))
    }

    fn read(frame: &[u8]) -> (DhcpMessageType, Ipv4Addr) {
        Frame::parse(&frame[..frame.len().min(HEADER_MAX)], frame.len() as u32).unwrap();
        let packet = DhcpPacket::new_checked(&frame[42..]).unwrap();
        let reply = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(reply.transaction_id, 77);
        (reply.message_type, reply.your_ip)
    }

    #[test]
    fn discover_and_request_give_the_guests_own_address() {
        let own = lease(&names()).address;
        let mac = lease(&names()).mac.0;
        let offer = ask(DhcpMessageType::Discover, None, mac).unwrap().unwrap();
        assert_eq!(read(&offer), (DhcpMessageType::Offer, own));
        let packet = DhcpPacket::new_checked(&offer[42..]).unwrap();
        let mtu = packet.options().find(|o| o.kind == OPTION_MTU).unwrap();
        assert_eq!(mtu.data, 1400u16.to_be_bytes());
        let ack = ask(DhcpMessageType::Request, Some(own), mac).unwrap().unwrap();
        assert_eq!(read(&ack), (DhcpMessageType::Ack, own));
    }

    #[test]
    fn names_are_told_as_far_as_the_client_has_room() {
        let mac = [2, 0, 0, 0, 0, 2];
        let told = |lease: &Lease<'_>, max_size| {
            let frame = ask_of(lease, (DhcpMessageType::Discover, None, mac), max_size).unwrap().unwrap();
            let packet = DhcpPacket::new_checked(&frame[42..]).unwrap();
            let all: Vec<(u8, Vec<u8>)> = packet.options().map(|o| (o.kind, o.data.to_vec())).collect();
            let find = |kind| all.iter().find(|(other, _)| *other == kind).map(|(_, data)| data.clone());
            ([6, 12, 15, 119].map(find), frame.len() - 42)
        };
        let names = names();
        let (all, _) = told(&lease(&names), None);
        let texts = [&[192, 0, 2, 1][..], b"web1", b"example.org", b"\x07example\x03org\0\x01x\0"];
        assert_eq!(all, texts.map(|text| Some(text.to_vec())));
        let silent = Names::default();
        let (none, _) = told(&Lease { hostname: "", serves_names: false, ..lease(&silent) }, None);
        assert_eq!(none, [None, None, None, None]);
        let long = Names { search: vec![1; 255], domain: "x".repeat(253), ..Names::default() };
        for (max_size, options) in
            [(None, [true, true, false, false]), (Some(900), [true; 4]), (Some(3), [true, true, false, false])]
        {
            let (found, len) = told(&Lease { hostname: &"x".repeat(63), ..lease(&long) }, max_size);
            assert_eq!(found.map(|option| option.is_some()), options, "{max_size:?}");
            assert!(len <= usize::from(max_size.unwrap_or(0).max(576)) - 28, "{len}");
        }
    }

    #[test]
    fn another_address_is_refused_and_another_mac_dropped() {
        let nak = ask(DhcpMessageType::Request, Some([192, 0, 2, 3].into()), lease(&names()).mac.0).unwrap().unwrap();
        assert_eq!(read(&nak), (DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED));
        assert_eq!(ask(DhcpMessageType::Discover, None, [2, 0, 0, 0, 0, 9]), Err(DropReason::SpoofedMac));
        assert_eq!(ask(DhcpMessageType::Release, None, lease(&names()).mac.0), Ok(None));
        assert_eq!(lease(&names()).answer(&[0; 100], &mut [0; 1500]), Err(DropReason::BadHeader));
    }
}
